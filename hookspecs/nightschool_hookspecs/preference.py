"""Hooks of preferences: pairs of a better and a worse answer."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import PreferencePair, ScoredEvent


@hookspec
def nightschool_build_preference_pairs(events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...] | None:
    """Build preference pairs from the selected events.

    Called once in a run, in the worker, with events of the training side only. The pairs of all
    plugins are joined; equal ones count once. None: no pairs.
    """
