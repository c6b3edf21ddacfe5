"""Hooks of the curriculum: how hard an event is, and in which order examples are seen."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Event, TrainingExample
from nightschool_hookspecs.services import Store


@hookspec(firstresult=True)
def nightschool_score_difficulty(event: Event) -> float | None:
    """Score how hard an event is, from 0 (easy) to 1 (hard).

    Called for every event of a specialty when a run selects, in the worker. None: no opinion; the
    first answer counts. Where all say None, it is 0.5.
    """


@hookspec(firstresult=True)
def nightschool_arrange_examples(
    examples: tuple[TrainingExample, ...], store: Store, seed: int
) -> tuple[TrainingExample, ...] | None:
    """Put the examples of a run into the order in which an epoch sees them.

    Called once in a run, in the worker, after augmentation. Examples may be left out for a later
    stage, never added. The same order for the same seed. None: no opinion; the first answer counts.
    Where all say None, the order of selection stays.
    """
