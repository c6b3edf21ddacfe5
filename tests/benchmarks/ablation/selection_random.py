"""Which events a run learns from: a random sample. A drop-in file, which every other choice is held against."""

from hashlib import blake2b

from nightschool_hookspecs import Budget, ScoredEvent, hookimpl


@hookimpl
def nightschool_select_events(events: tuple[ScoredEvent, ...], budget: Budget, seed: int) -> tuple[str, ...]:
    """As many as the night takes. Tokens are not counted here: the bench makes them equal afterwards.

    Where some events are not there others come in their place, and the rest of the sample stays.
    """
    keys = sorted((one.event.key for one in events), key=lambda key: blake2b(f"{seed}/{key}".encode()).digest())
    return tuple(keys[: budget.events])
