"""Which specialty an event belongs to."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from nightschool_daemon.ollama import names
from nightschool_hookspecs.records import Event

ANY_TYPE = "*"
SPACE = re.compile(r"\s+")
CLOSING = ".!?:;, "


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
    """Digest of the folded prompt: prompts of one digest are one. The split finds near-duplicates among them."""
    return hashlib.sha256(fold(event.input_data).encode("utf-8", "surrogatepass")).hexdigest()


def fold(prompt: str) -> str:
    """A prompt without what does not tell it from others: case, white space, closing punctuation."""
    return SPACE.sub(" ", prompt.casefold()).strip(CLOSING)
