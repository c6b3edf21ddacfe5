"""Hooks of selection: which events a run learns from, which of them again and harder, and which look wrong."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Budget, LossTrajectory, NoiseFinding, ScoredEvent
from nightschool_hookspecs.services import Embed, Measure


@hookspec
def nightschool_find_noise(
    events: tuple[ScoredEvent, ...], trajectories: tuple[LossTrajectory, ...], measure: Measure, embed: Embed
) -> tuple[NoiseFinding, ...] | None:
    """Find feedback that contradicts what its like says, was overtaken by later feedback, or is likely mislabelled.

    Called in each run that trains, in the worker, before selection, with everything of the training side that was not
    withdrawn, dislikes and weak signals too, in order of arrival: what people said, and nothing that was made of it, no
    variant, sampled answer or starter example. `trajectories` says of some of it how it was learned when it was new, by
    its own example alone; events whose content changed since have none. The host multiplies the weight of an example by
    its event's factor, also where it is varied or learned again, makes no pair and no label of what has a factor of 0.5
    or less, as these have no weights, shows the findings to the person, and learns nothing from what has the factor 0.
    The findings of all plugins are joined; of several on one event the one with the least factor counts, the first of
    equal ones. None: no findings.

    Called once more with what is held out for the exam, without trajectories. These findings are only shown: no
    question is changed or left out. Where a training is only planned, `embed` has no model.
    """


@hookspec(firstresult=True)
def nightschool_select_events(
    events: tuple[ScoredEvent, ...], others: tuple[ScoredEvent, ...], budget: Budget, embed: Embed, seed: int
) -> tuple[str, ...] | tuple[tuple[str, float], ...] | None:
    """Choose the events of the training side that a run learns from.

    Called once in a run, in the worker, with everything accepted in the specialty that is on the
    training side and has something to learn. Return their `source/id` keys, best first, within
    `budget`, or (`source/id`, score) pairs, where people are to be told by which score each was placed; the
    same for the same seed. `others` of the training side cannot be chosen and show where
    answers fail: disliked ones with nothing better beside them, and near-duplicates beyond those that a
    night learns from. None: no opinion; the first answer counts. Where all say None, nothing is selected
    and the run ends. Where a training is only planned, `embed` has no model.
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
    events: tuple[ScoredEvent, ...], others: tuple[ScoredEvent, ...], measure: Measure, embed: Embed, seed: int
) -> tuple[tuple[str, float], ...] | None:
    """Find the hard negatives: events near to what the incumbent fails at.

    Called once in a run, in the worker, after selection. Return (`source/id`, factor) pairs of the
    selected events; each factor above 0 multiplies the weight of that event's examples. `others` are the
    rest of the training side, disliked answers with nothing better beside them among it: it is not
    learned from and shows where answers fail. None: no opinion; the first answer counts. Where a training
    is only planned, `embed` has no model.
    """
