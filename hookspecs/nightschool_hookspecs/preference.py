"""Hooks of preferences: pairs of a better and a worse answer, and answers that were liked or disliked alone."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import LabelledAnswer, PreferencePair, ScoredEvent


@hookspec
def nightschool_build_preference_pairs(events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...] | None:
    """Build preference pairs from the selected events, and from disliked answers of the training side.

    Called in the worker with events of the training side only, from whose pairs is learned. Then with events
    of whose prompts no wanted answer is known, once with those that the exam has and once with those that
    trial candidates are to be asked: their pairs are ranked, those whose texts are answers that were given.
    The pairs of all plugins are joined; equal ones count once. None: no pairs.
    """


@hookspec
def nightschool_label_answers(events: tuple[ScoredEvent, ...]) -> tuple[LabelledAnswer, ...] | None:
    """Say which answers were liked or disliked by themselves.

    Called once in a run, in the worker, with the same events. The labels of all plugins are joined;
    the first one of an answer counts. None: no labels.
    """
