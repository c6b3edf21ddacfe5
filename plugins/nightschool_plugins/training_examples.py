"""Which corrections a candidate shows its base before every conversation, while a specialty is young.

The most valuable one of each group of near-duplicates, by priority, as many as fit; the best stands last, next to the
question (what is nearest to it weighs most: Lu et al. 2022, "Fantastically Ordered Prompts").

tokens of a correction = (len(input) + len(target)) / 3
"""

import math
from dataclasses import dataclass

from nightschool_hookspecs import Budget, Event, ScoredEvent, hookimpl


@dataclass(frozen=True, kw_only=True)
class TrainingExamples:
    """`[plugins.training_examples]`"""

    characters_per_token: float = 3.0
    """An estimate on the safe side: the tokenizer is not at hand here."""

    def __post_init__(self) -> None:
        if not self.characters_per_token > 0:
            raise ValueError("characters_per_token must be above 0")

    @hookimpl
    def nightschool_choose_shots(self, events: tuple[ScoredEvent, ...], budget: Budget, seed: int) -> tuple[str, ...]:
        chosen: list[str] = []
        groups: set[str] = set()
        tokens_left = budget.tokens
        for scored in sorted(events, key=lambda one: (-one.priority, one.event.key)):
            tokens = self._tokens(scored.event)
            if len(chosen) < budget.events and tokens <= tokens_left and scored.group not in groups:
                chosen.append(scored.event.key)
                groups.add(scored.group)
                tokens_left -= tokens
        return tuple(reversed(chosen))

    def _tokens(self, event: Event) -> int:
        return math.ceil((len(event.input_data) + len(event.target or "")) / self.characters_per_token)


@hookimpl
def nightschool_register_settings() -> type[TrainingExamples]:
    return TrainingExamples
