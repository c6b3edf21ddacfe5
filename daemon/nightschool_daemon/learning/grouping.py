"""Groups of near-duplicate prompts, of which each stands on one side of the split for good.

A prompt is taken into the first group that has a near-duplicate of it. Groups without a side that it connects become
one. A prompt that connects the training side with the held-out side belongs to neither: learned from, it would give
the exam away; asked in the exam, it would not be new. It connects nothing else: what is like it alone is free.

Prompts come in order of arrival, so that it does not matter how many nights they came in.

What is near is said in one place, `NearPrompts`, for the groups, for folds, and for all that is kept from an exam. Of
what was learned or asked once, and whose events are gone since, a fingerprint stands in the place of the text.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from nightschool_daemon.config import Settings
from nightschool_daemon.jobs import EventRow, PromptRow
from nightschool_daemon.learning.duplicates import (
    NO_PAIRS,
    Pairs,
    confirmed,
    digits_of,
    near_fingerprints,
    near_texts,
    near_vectors,
    near_wordings,
)
from nightschool_daemon.secret import read_secret
from nightschool_daemon.wording import fingerprint_of, fold
from nightschool_hookspecs.records import Side
from nightschool_hookspecs.services import Embed, Measure

logger = logging.getLogger(__name__)

MOST_COSINES = 40_000_000_000
"""Pairs up to which all cosines are computed; above it the wording alone finds candidates."""


@dataclass(frozen=True, kw_only=True)
class Gone:
    """A prompt whose text is not kept."""

    fingerprint: str


AnyPrompt: TypeAlias = str | Gone
"""A folded text, or what is left of it."""
FindNear = Callable[[Sequence[AnyPrompt], int], Iterable[tuple[int, int]]]
"""Pairs of indices of near-duplicates, lower first, with at least one at or behind a given index."""


def place(prompts: Sequence[PromptRow], find_near: FindNear) -> dict[str, str | None]:
    """The group of every prompt that has none yet, by its key. None: it is close to both sides, and goes to neither."""
    settled = [prompt for prompt in prompts if prompt.side is not None and prompt.group is not None]
    fresh = [prompt for prompt in prompts if not prompt.placed]
    neighbours = _neighbours(settled, fresh, find_near)
    groups = _Groups()
    for prompt in settled:
        groups.add_settled(prompt)
    for number, prompt in enumerate(fresh, start=len(settled)):
        groups.add(prompt, sorted(neighbours.get(number, ())))
    return groups.found()


def _neighbours(settled: Sequence[PromptRow], fresh: Sequence[PromptRow], find_near: FindNear) -> dict[int, set[int]]:
    """What each fresh prompt is near to of those before it, by their places among all.

    What is held out is looked for by itself too: behind a crowd that is learned from it might not be found.
    """
    found: dict[int, set[int]] = {}
    held_out = [number for number, prompt in enumerate(settled) if prompt.side is Side.HELD_OUT]
    for known in ([*range(len(settled))], *([held_out] if 0 < len(held_out) < len(settled) else ())):
        places = [*known, *range(len(settled), len(settled) + len(fresh))]
        prompts = [prompt_of(one) for one in (*(settled[number] for number in known), *fresh)]
        for low, high in find_near(prompts, len(known)):
            found.setdefault(places[high], set()).add(places[low])
    return found


def prompt_of(row: PromptRow) -> AnyPrompt:
    """What is compared of a prompt."""
    return fold(row.text) if row.text is not None else Gone(fingerprint=row.fingerprint or "")


def regroup(
    rows: Sequence[EventRow], groups: Mapping[str, str | None], sides: Mapping[str, Side]
) -> tuple[EventRow, ...]:
    """Rows with the groups and sides that were found for their prompts."""
    return tuple(_regrouped(row, groups, sides) for row in rows)


def _regrouped(row: EventRow, groups: Mapping[str, str | None], sides: Mapping[str, Side]) -> EventRow:
    if row.side is not None or row.group is None or row.group not in groups:
        return row
    group = groups[row.group]
    return replace(row, group=group, side=sides.get(group) if group is not None else None)


def kept_aside(
    prompts: Iterable[PromptRow], groups: Mapping[str, str | None], sides: Mapping[str, Side]
) -> tuple[PromptRow, ...]:
    """Prompts of the type that are held out, whatever base they were put to. `groups` and `sides` are of the split."""
    placed = [(prompt, groups.get(prompt.key, prompt.group)) for prompt in prompts]
    decided = {group: prompt.side for prompt, group in placed if prompt.side is not None} | dict(sides)
    return tuple(prompt for prompt, group in placed if decided.get(group) is Side.HELD_OUT)


class _Groups:
    """Groups as they grow. Those without a side may still become one."""

    def __init__(self) -> None:
        self._of_prompt: list[str | None] = []
        self._sides: dict[str, Side] = {}
        self._merged: dict[str, str] = {}
        self._fresh: dict[str, int] = {}

    def add_settled(self, prompt: PromptRow) -> None:
        self._of_prompt.append(prompt.group)
        if prompt.group is not None and prompt.side is not None:
            self._sides[prompt.group] = prompt.side

    def add(self, prompt: PromptRow, neighbours: Sequence[int]) -> None:
        """Place a prompt beside those that came before it."""
        near = [group for one in neighbours if (group := self._of_prompt[one]) is not None]
        roots = list(dict.fromkeys(self._root(group) for group in near))
        sided = [root for root in roots if root in self._sides]
        self._fresh[prompt.key] = len(self._of_prompt)
        if len({self._sides[root] for root in sided}) > 1:
            self._of_prompt.append(None)
            return
        home = next(iter(sided or roots), prompt.key)
        self._merged.update({root: home for root in roots if root not in self._sides and root != home})
        self._of_prompt.append(home)

    def found(self) -> dict[str, str | None]:
        """The groups of the prompts that were added, as they are in the end."""
        places = ((key, self._of_prompt[number]) for key, number in self._fresh.items())
        return {key: self._root(group) if group is not None else None for key, group in places}

    def _root(self, group: str) -> str:
        while group in self._merged:
            group = self._merged[group]
        return group


# --------------------------------------------------------------------------- what is near


class NearPrompts:
    """`FindNear`, and the one word on which two prompts are near-duplicates.

    Texts are where they differ by slips of the pen alone, or where the similarity plugins together measure at least
    `lowest`. A prompt that is gone is near whatever its fingerprint takes for the same, by the `secret` that it was
    made with; empty: nothing is gone.
    """

    def __init__(self, measure: Measure, embed: Embed, lowest: float, secret: bytes = b"") -> None:
        self._measure, self._embed, self._lowest, self._secret = measure, embed, lowest, secret

    @classmethod
    def of(cls, measure: Measure, embed: Embed, settings: Settings) -> "NearPrompts":
        """As an installation is configured, with its secret."""
        return cls(measure, embed, settings.similarity.near_duplicate, read_secret(settings.state_directory))

    def __call__(self, prompts: Sequence[AnyPrompt], since: int) -> list[tuple[int, int]]:
        return self._found(prompts, since, across=False)

    def across(self, prompts: Sequence[AnyPrompt], since: int) -> list[tuple[int, int]]:
        """The same of pairs of which one prompt lies before `since` and one does not. No others are looked at."""
        return self._found(prompts, since, across=True)

    def _found(self, prompts: Sequence[AnyPrompt], since: int, *, across: bool) -> list[tuple[int, int]]:
        places = [place for place, prompt in enumerate(prompts) if isinstance(prompt, str)]
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        near = self._near_texts(texts, bisect_left(places, since), across=across)
        found = [np.array(places, np.int64)[near], self._near_gone(prompts, since, across=across)]
        return [(int(low), int(high)) for low, high in np.unique(np.concatenate(found), axis=0)]

    def _near_texts(self, texts: Sequence[str], since: int, *, across: bool) -> Pairs:
        if since == len(texts) or (across and since == 0):
            return NO_PAIRS
        found = (
            near_texts(texts, since=since, across=across),
            near_wordings(texts, self._lowest, since=since, across=across),
            self._alike(texts, since, across=across),
        )
        return confirmed(np.unique(np.concatenate(found), axis=0), texts, self._measure, self._lowest)

    def _alike(self, texts: Sequence[str], since: int, *, across: bool) -> Pairs:
        new = len(texts) - since
        if new * (since if across else len(texts)) > MOST_COSINES:
            logger.warning("%d new prompts are too many to be compared with all others by their embeddings", new)
            return NO_PAIRS
        found = self._embed(texts)
        if found is None:
            return NO_PAIRS
        vectors = np.frombuffer(found.values, dtype=np.float32).reshape(found.rows, found.columns)
        return near_vectors(vectors, self._lowest, digits=digits_of(texts), since=since, across=across)

    def _near_gone(self, prompts: Sequence[AnyPrompt], since: int, *, across: bool) -> Pairs:
        """Pairs of which at least one is gone: of a crowd each new prompt with its nearest."""
        gone = [place for place, prompt in enumerate(prompts) if isinstance(prompt, Gone)]
        texts = [place for place, prompt in enumerate(prompts[:since]) if isinstance(prompt, str)]
        known = bisect_left(gone, since)
        found = (
            self._by_fingerprints(prompts, gone[:known] if across else gone, range(since, len(prompts))),
            self._by_fingerprints(prompts, texts, gone[known:]),
        )
        pairs = np.sort(np.concatenate(found), axis=1)
        return pairs[pairs[:, 0] < pairs[:, 1]]

    def _by_fingerprints(self, prompts: Sequence[AnyPrompt], others: Sequence[int], new: Sequence[int]) -> Pairs:
        """Pairs of a prompt that is new and another, by their places among all."""
        if not others or not new:
            return NO_PAIRS
        left, right = ([self._print_of(prompts[place]) for place in places] for places in (others, new))
        pairs = near_fingerprints(left, right)
        return np.stack([np.array(others, np.int64)[pairs[:, 0]], np.array(new, np.int64)[pairs[:, 1]]], axis=1)

    def _print_of(self, prompt: AnyPrompt) -> str:
        return prompt.fingerprint if isinstance(prompt, Gone) else fingerprint_of(prompt, self._secret)
