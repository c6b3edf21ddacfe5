"""Hooks of augmentation: more examples from those there are."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Chunk, TrainingExample
from nightschool_hookspecs.services import Generate, Measure, Retrieve


@hookspec
def nightschool_augment_examples(
    examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
) -> tuple[TrainingExample, ...] | None:
    """Make variants of training examples.

    Called once in a run, in the worker, with the selected examples of the training side only, those first near
    which the model fails most (`hardness`). Return the variants alone, best first, each with `parent` set to the
    `event_id` of its original. They are added to the originals, of each plugin one in turn, at most three times as
    many in all. Refused is a variant without a known parent, one that came too close to a prompt of the exam, and
    one whose answer a validator scores 70 or less, or below 50 where its score is relative: by itself where it is
    its original's, else by that. A variant weighs what you say, at most as much as its original. None: no variants.
    `nightschool_hookspecs.variants` tells what a variant must keep of its original.
    """


@hookspec
def nightschool_vary_context(
    example: TrainingExample, retrieve: Retrieve, measure: Measure, seed: int
) -> tuple[tuple[Chunk, ...], ...] | None:
    """Put other retrieved texts around the question of a training example.

    Called once in a run, in the worker, for each selected example of the training side that has
    `example.chunks`. `retrieve` asks `nightschool_retrieve_context` for the event with another query. Return
    the chunks of each variant, all of them and in order; they may be none. The host has its prompt built by
    `nightschool_build_example`, keeps the answer, and adds it to the variants of
    `nightschool_augment_examples`, under the same bound. None: no variants.
    """
