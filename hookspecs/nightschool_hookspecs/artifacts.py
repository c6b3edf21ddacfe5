"""What validators have in common: where the artifact stands in an answer, and how alike two bags of parts are.

Answers come wrapped in Markdown fences and with words around them. Nothing here parses an artifact: it offers
the texts that may be one, most likely first, and a validator takes the first that its parser accepts.
"""

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import TypeVar

FENCE = re.compile(r"^[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^\n]*\n", re.MULTILINE)
THINKING = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
TICKS = re.compile(r"\A`([^`\n]+)`\Z")
MOST_CUTS = 4
"""Paragraphs behind an artifact without a fence that are given up one after the other."""
Part = TypeVar("Part", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of Markdown. `language` is in lower case, empty where none is named."""

    language: str
    text: str


def blocks(answer: str) -> tuple[Block, ...]:
    """The fenced blocks of an answer in their order. The last one may lack its end."""
    found: list[Block] = []
    position = 0
    while opening := FENCE.search(answer, position):
        mark = re.escape(opening["mark"])
        closing = re.compile(rf"^[ \t]*{mark}[`~]*[ \t]*$", re.MULTILINE).search(answer, opening.end())
        end = closing.start() if closing else len(answer)
        found.append(Block(language=opening["language"].lower(), text=answer[opening.end() : end]))
        position = closing.end() if closing else len(answer)
    return tuple(found)


def without_thinking(answer: str) -> str:
    """The answer without what a model thought before it."""
    return THINKING.sub("", answer, count=1).strip()


def candidates(
    answer: str, languages: Collection[str], start: re.Pattern[str] | None = None, *, other_fences: bool = True
) -> Iterator[str]:
    """The texts of an answer that may be the artifact, most likely first, none of them twice.

    Blocks of one of `languages`, other blocks (those of other languages with `other_fences`), then the bare text:
    from the first match of `start` on where that is given, first whole, then without its last paragraphs.
    """
    answer = without_thinking(answer)
    fenced = blocks(answer)
    bare = [_bare(answer, start)] if start or not fenced else []
    offered = [
        *(one.text for one in fenced if one.language in languages),
        *(one.text for one in fenced if one.language not in languages and (other_fences or not one.language)),
        *(text for text in bare if text is not None),
    ]
    seen: set[str] = set()
    for text in offered:
        if text.strip() and text not in seen:
            seen.add(text)
            yield text
    if bare and bare[0] is not None and not fenced:
        yield from _cut(bare[0])


def _bare(answer: str, start: re.Pattern[str] | None) -> str | None:
    ticks = TICKS.match(answer)
    text = ticks[1] if ticks else answer
    match = start.search(text) if start else None
    if start is not None:
        return text[match.start() :] if match else None
    return text


def _cut(text: str) -> Iterator[str]:
    """The text without its last paragraph, its last two, ..."""
    for _ in range(MOST_CUTS):
        text = re.split(r"\n[ \t]*\n(?!.*\n[ \t]*\n)", text.rstrip(), maxsplit=1, flags=re.DOTALL)[0]
        if not text.strip():
            return
        yield text


def f1(given: Counter[Part], reference: Counter[Part]) -> float | None:
    """Harmonic mean of precision and recall over multisets, 0..1; None where both are empty."""
    total = given.total() + reference.total()
    return 2 * (given & reference).total() / total if total else None


def weighted_f1(parts: Collection[tuple[float, float | None]]) -> float | None:
    """Weighted mean of (weight, F1); a kind of part that neither side has drops out. None where all do."""
    known = [(weight, share) for weight, share in parts if share is not None]
    total = sum(weight for weight, _ in known)
    return sum(weight * share for weight, share in known) / total if total > 0 else None


def missing(given: Counter[str], reference: Counter[str], *, most: int = 5) -> str:
    """A few words that name what the reference has and the answer lacks, or has too much; empty where equal."""
    for word, parts in (("missing", reference - given), ("too much", given - reference)):
        if parts:
            names = sorted(parts)
            more = f" and {len(names) - most} more" if len(names) > most else ""
            return f"{word}: {', '.join(name[:60] for name in names[:most])}{more}"
    return ""
