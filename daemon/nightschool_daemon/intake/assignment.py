"""Which specialty an event belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass

from nightschool_daemon.ollama import names
from nightschool_daemon.wording import key_of
from nightschool_hookspecs.records import Event

ANY_TYPE = "*"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Where an event counts."""

    base: str | None
    """None: to every base that is trained for its type."""
    answered_by: str | None
    """The version or alias of ours that gave the answer, if one did."""


def assign(event: Event, default_base: Mapping[str, str]) -> Assignment:
    """Find the base of an event.

    A base counts for itself; an alias, a version or a pin of ours for the base it was made from. Without a
    model the configured default base of its type counts, else the default of all types, else none.
    """
    if event.model:
        name = names.normalise(event.model)
        own = names.parse(name)
        return Assignment(base=own.base if own else name, answered_by=name if own else None)
    default = default_base.get(event.artifact_type or "", default_base.get(ANY_TYPE))
    return Assignment(base=names.normalise(default) if default else None, answered_by=None)


def group_of(event: Event) -> str:
    """The key of its prompt: prompts of one key are one. The split finds near-duplicates among them."""
    return key_of(event.input_data)
