"""Starter examples of the artifact types that are known from the start, while a specialty has too little of its own.

examples = until - accepted, and at most as many as the run learns from of the specialty's own

So the first corrections are joined by as many starter examples, and from the tenth on by fewer with each that comes.
They were written for this project (`data/starters/`), in English, and every one passes the validator of its type.
"""

import functools
from dataclasses import dataclass, replace
from importlib import resources

from nightschool_hookspecs import StarterExample, hookimpl

ARTIFACT_TYPES = frozenset({"erd", "api_docs", "code_prototype", "architecture", "workflows"})


@dataclass(frozen=True, kw_only=True)
class TrainingStarters:
    """`[plugins.training_starters]`"""

    until: int = 20
    """Events of an artifact type with an answer worth learning, from which on it needs no starter example."""
    weight: float = 0.2
    """Above 0, at most 1: what one counts in the loss at most, as a share of the mean one of the specialty's own."""

    def __post_init__(self) -> None:
        if self.until < 0:
            raise ValueError("until must be 0 or more")
        if not 0 < self.weight <= 1:
            raise ValueError("weight must be above 0 and at most 1")

    @hookimpl
    def nightschool_offer_examples(self, artifact_type: str, accepted: int) -> tuple[StarterExample, ...] | None:
        if artifact_type not in ARTIFACT_TYPES or accepted >= self.until:
            return None
        wanted = read_starters(artifact_type)[: self.until - accepted]
        return tuple(replace(one, weight=self.weight) for one in wanted)


@functools.cache
def read_starters(artifact_type: str) -> tuple[StarterExample, ...]:
    """Those of a type, in the order of their file."""
    import tomllib

    file = resources.files("nightschool_plugins").joinpath(f"data/starters/{artifact_type}.toml")
    return tuple(
        StarterExample(prompt=one["prompt"].strip(), answer=one["answer"].strip(), language=one.get("language", ""))
        for one in tomllib.loads(file.read_text(encoding="utf-8"))["examples"]
    )


@hookimpl
def nightschool_register_settings() -> type[TrainingStarters]:
    return TrainingStarters
