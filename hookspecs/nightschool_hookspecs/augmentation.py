"""Hooks of augmentation: more examples from those there are."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import TrainingExample
from nightschool_hookspecs.services import Generate, Measure


@hookspec
def nightschool_augment_examples(
    examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
) -> tuple[TrainingExample, ...] | None:
    """Make variants of training examples.

    Called once in a run, in the worker, with the selected examples of the training side only. Return
    the variants alone, each with `parent` set to the `event_id` of its original. The variants of all
    plugins are added to the originals, at most three times as many in all; a variant without a known
    parent is refused, and so is one that came too close to a prompt of the exam. None: no variants.
    `nightschool_hookspecs.variants` tells what a variant must keep of its original.
    """
