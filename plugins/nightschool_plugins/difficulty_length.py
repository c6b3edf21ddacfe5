"""How hard an event is, by the length of what the model had to read.

difficulty = 0.6 min(1, len(input) / 5000) + 0.4 min(1, len(context) / 10000)

Lengths in characters; the context is system text, earlier messages and chunks.
"""

from dataclasses import dataclass

from nightschool_hookspecs import Event, hookimpl


@dataclass(frozen=True, kw_only=True)
class DifficultyLength:
    """`[plugins.difficulty_length]`"""

    input_weight: float = 0.6
    context_weight: float = 0.4
    hard_input_characters: int = 5000
    hard_context_characters: int = 10000

    def __post_init__(self) -> None:
        if min(self.input_weight, self.context_weight) < 0 or self.input_weight + self.context_weight > 1:
            raise ValueError("input_weight and context_weight must not be negative and add up to 1 at most")
        if min(self.hard_input_characters, self.hard_context_characters) < 1:
            raise ValueError("hard_input_characters and hard_context_characters must be 1 or more")

    @hookimpl
    def nightschool_score_difficulty(self, event: Event) -> float:
        given = min(1.0, len(event.input_data) / self.hard_input_characters)
        before = min(1.0, event.context_characters / self.hard_context_characters)
        return min(1.0, self.input_weight * given + self.context_weight * before)


@hookimpl
def nightschool_register_settings() -> type[DifficultyLength]:
    return DifficultyLength
