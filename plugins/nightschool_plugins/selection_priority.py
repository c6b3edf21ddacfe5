"""Which events a run learns from: those of the highest priority, as many as fit.

tokens of an event = (len(input) + len(context) + len(target)) / 3

What no run has chosen yet comes first, so that a history that is larger than a night's budget has its turn over the
nights; what is left of the budget goes to the rest again. Of each the best event first; one that no longer fits into
the token budget is passed over for smaller ones after it. Of equal priorities the latest, then by `source/id`, so that
the choice is always the same.
"""

import math
from dataclasses import dataclass

from nightschool_hookspecs import Budget, ScoredEvent, hookimpl


@dataclass(frozen=True, kw_only=True)
class SelectionPriority:
    """`[plugins.selection_priority]`"""

    characters_per_token: float = 3.0
    """An estimate on the safe side: the tokenizer is not at hand here."""

    def __post_init__(self) -> None:
        if not self.characters_per_token > 0:
            raise ValueError("characters_per_token must be above 0")

    @hookimpl
    def nightschool_select_events(
        self, events: tuple[ScoredEvent, ...], budget: Budget
    ) -> tuple[tuple[str, float], ...]:
        chosen: list[tuple[str, float]] = []
        tokens_left = budget.tokens
        for scored in sorted(events, key=_turn):
            tokens = math.ceil(scored.characters / self.characters_per_token)
            if len(chosen) < budget.events and tokens <= tokens_left:
                chosen.append((scored.event.key, scored.priority))
                tokens_left -= tokens
        return tuple(chosen)


def _turn(scored: ScoredEvent) -> tuple[bool, float, float, str]:
    return not scored.is_fresh, -scored.priority, -scored.event.timestamp.timestamp(), scored.event.key


@hookimpl
def nightschool_register_settings() -> type[SelectionPriority]:
    return SelectionPriority
