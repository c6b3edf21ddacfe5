"""Hooks of the reward: what an event is worth."""

from datetime import datetime

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Event, Peers, RewardScore


@hookspec(firstresult=True)
def nightschool_score_reward(
    event: Event, difficulty: float, peers: Peers, now: datetime, correction_score: float | None
) -> RewardScore | None:
    """Score what an event is worth for learning.

    Called for every event of a specialty when a run selects, in the worker. `difficulty` in 0..1
    comes from `nightschool_score_difficulty`. Finite for any input, monotone in the event's
    validation score. The weight that the application gave, `event.metadata.weight`, is for the reward to count: nobody
    counts it besides. `correction_score`, 0..100, is what a validator of its type makes of the corrected text by
    itself, as whether it parses; None: nothing was corrected, or nobody has looked. Return None for no opinion; the
    first answer counts. Where all say None, it is 0.
    """
