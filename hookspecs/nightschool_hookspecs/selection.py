"""Hooks of selection: which events a run learns from, and which of them again and harder."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Budget, ScoredEvent
from nightschool_hookspecs.services import Embed, Measure


@hookspec(firstresult=True)
def nightschool_select_events(
    events: tuple[ScoredEvent, ...], budget: Budget, measure: Measure, embed: Embed, seed: int
) -> tuple[str, ...] | None:
    """Choose the events of the training side that a run learns from.

    Called once in a run, in the worker, with everything accepted in the specialty that is on the
    training side and has something to learn. Return their `source/id` keys, best first, within
    `budget`; the same for the same seed. None: no opinion; the first answer counts. Where all say
    None, nothing is selected and the run ends. Where a training is only planned, `embed` has no model.
    """


@hookspec(firstresult=True)
def nightschool_choose_shots(events: tuple[ScoredEvent, ...], budget: Budget, seed: int) -> tuple[str, ...] | None:
    """Choose the corrections that a candidate of the recipe `examples` shows its base before every conversation.

    Called once in a run of that recipe, in the worker, with the corrections, demonstrations and preferences of the
    training side. Return their `source/id` keys within `budget`, in the order in which they are to be shown; the
    same for the same seed. None: no opinion; the first answer counts. Where all say None, or nothing, the run ends.
    """


@hookspec(firstresult=True)
def nightschool_select_negatives(
    events: tuple[ScoredEvent, ...], measure: Measure, embed: Embed, seed: int
) -> tuple[tuple[str, float], ...] | None:
    """Find the hard negatives: events near to what the incumbent fails at.

    Called once in a run, in the worker, after selection and with the selected events only. Return
    (`source/id`, factor) pairs; each factor above 0 multiplies the weight of that event's examples.
    None: no opinion; the first answer counts. Where a training is only planned, `embed` has no model.
    """
