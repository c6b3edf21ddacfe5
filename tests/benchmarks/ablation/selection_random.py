"""Which events a run learns from: a random sample. A drop-in file, which every other choice is held against."""

import random

from nightschool_hookspecs import Budget, ScoredEvent, hookimpl


@hookimpl
def nightschool_select_events(events: tuple[ScoredEvent, ...], budget: Budget, seed: int) -> tuple[str, ...]:
    """As many as the night takes. Tokens are not counted here: the bench makes them equal afterwards."""
    keys = sorted(one.event.key for one in events)
    return tuple(random.Random(f"{seed}/sample").sample(keys, min(budget.events, len(keys))))
