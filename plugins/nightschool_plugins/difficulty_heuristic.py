"""How hard an event is, by what is asked for and how much there is to read.

    difficulty = 0.5 artifact + 0.3 min(1, len(input) / 5000) + 0.2 min(1, len(context) / 10000)
    artifact   = erd 0.3, api_docs 0.5, workflows 0.6, architecture 0.7, code_prototype 0.8, any other 0.5

Lengths in characters of text; the context is system text, earlier messages and chunks. How well the model did is no
part of it: the reward, which takes this difficulty as a factor, counts the score already. Only the curriculum may mix
it in, where it puts examples into their order.
"""

import math
from dataclasses import dataclass

from nightschool_hookspecs import Event, hookimpl


@dataclass(frozen=True, kw_only=True)
class DifficultyHeuristic:
    """`[plugins.difficulty_heuristic]`"""

    artifact_weight: float = 0.5
    input_weight: float = 0.3
    context_weight: float = 0.2
    hard_input_characters: int = 5000
    hard_context_characters: int = 10000
    erd: float = 0.3
    """0..1, how hard an artifact of this type is by itself."""
    api_docs: float = 0.5
    workflows: float = 0.6
    architecture: float = 0.7
    code_prototype: float = 0.8
    other: float = 0.5
    """The same of every type that is not named here."""

    def __post_init__(self) -> None:
        weights = (self.artifact_weight, self.input_weight, self.context_weight)
        if not (all(weight >= 0 for weight in weights) and math.fsum(weights) <= 1):
            raise ValueError(
                "artifact_weight, input_weight and context_weight must not be negative and add up to 1 at most"
            )
        if min(self.hard_input_characters, self.hard_context_characters) < 1:
            raise ValueError("hard_input_characters and hard_context_characters must be 1 or more")
        if not all(0 <= hard <= 1 for hard in (*self._by_type().values(), self.other)):
            raise ValueError(f"{', '.join(self._by_type())} and other must lie within 0..1")

    @hookimpl
    def nightschool_score_difficulty(self, event: Event) -> float:
        artifact = self._by_type().get(event.artifact_type or "", self.other)
        given = min(1.0, len(event.input_data) / self.hard_input_characters)
        before = min(1.0, event.context_characters / self.hard_context_characters)
        return min(1.0, self.artifact_weight * artifact + self.input_weight * given + self.context_weight * before)

    def _by_type(self) -> dict[str, float]:
        return {
            "erd": self.erd,
            "api_docs": self.api_docs,
            "workflows": self.workflows,
            "architecture": self.architecture,
            "code_prototype": self.code_prototype,
        }


@hookimpl
def nightschool_register_settings() -> type[DifficultyHeuristic]:
    return DifficultyHeuristic
