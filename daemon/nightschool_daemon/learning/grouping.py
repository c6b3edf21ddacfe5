"""Groups of near-duplicate prompts, of which each stands on one side of the split for good.

A prompt is taken into the first group that has a near-duplicate of it. Groups without a side that it connects become
one. A prompt that connects the training side with the held-out side belongs to neither: learned from, it would give
the exam away; asked in the exam, it would not be new. It connects nothing else: what is like it alone is free.

Prompts come in order of arrival, so that it does not matter how many nights they came in.

Of what was learned or asked once, and whose events are gone since, a fingerprint is compared.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from nightschool_daemon.jobs import EventRow, PromptRow
from nightschool_daemon.learning.duplicates import Pairs, confirmed, near_texts, near_vectors, near_wordings
from nightschool_daemon.wording import are_near, fingerprint_of, fold
from nightschool_hookspecs.records import Side
from nightschool_hookspecs.services import Embed, Measure

MOST_VECTORS = 200_000
"""Prompts up to which all cosines are computed; above it the wording alone finds candidates."""

FindNear = Callable[[Sequence[str], int], Iterable[tuple[int, int]]]
"""Pairs of indices of near-duplicates, lower first, with at least one at or behind a given index."""


def place(prompts: Sequence[PromptRow], find_near: FindNear) -> dict[str, str | None]:
    """The group of every prompt that has none yet, by its key. None: it is close to both sides, and goes to neither."""
    settled = [prompt for prompt in prompts if prompt.side is not None and prompt.group is not None]
    fresh = [prompt for prompt in prompts if not prompt.placed]
    neighbours: dict[int, list[int]] = {}
    for low, high in near_prompts((*settled, *fresh), len(settled), find_near):
        neighbours.setdefault(high, []).append(low)
    groups = _Groups()
    for prompt in settled:
        groups.add_settled(prompt)
    for number, prompt in enumerate(fresh, start=len(settled)):
        groups.add(prompt, sorted(neighbours.get(number, ())))
    return groups.found()


def near_prompts(prompts: Sequence[PromptRow], since: int, find_near: FindNear) -> Iterator[tuple[int, int]]:
    """The same as `FindNear` of prompts, by their fingerprints where they have no text."""
    places = [place for place, prompt in enumerate(prompts) if prompt.text is not None]
    texts = [fold(prompt.text) for prompt in prompts if prompt.text is not None]
    for low, high in find_near(texts, sum(place < since for place in places)):
        yield places[low], places[high]
    gone = [place for place, prompt in enumerate(prompts) if prompt.text is None]
    others = range(since, len(prompts)) if gone else ()
    prints = {place: _fingerprint(prompts[place]) for place in (*gone, *others)}
    for place, other in product(gone, others):
        if place != other and are_near(prints[place], prints[other]):
            yield min(place, other), max(place, other)


def _fingerprint(prompt: PromptRow) -> str:
    return prompt.fingerprint or fingerprint_of(prompt.text or "")


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
    """`FindNear`: sketch, edits and cosines find candidates, the similarity plugins confirm them."""

    def __init__(self, measure: Measure, embed: Embed, lowest: float) -> None:
        self._measure, self._embed, self._lowest = measure, embed, lowest

    def __call__(self, texts: Sequence[str], since: int) -> list[tuple[int, int]]:
        return self._confirmed(texts, self._candidates(texts, since))

    def across(self, texts: Sequence[str], since: int) -> list[tuple[int, int]]:
        """The same of pairs of which one text lies before `since` and one does not."""
        pairs = self._candidates(texts, since)
        return self._confirmed(texts, pairs[pairs[:, 0] < since])

    def _candidates(self, texts: Sequence[str], since: int) -> Pairs:
        if since == len(texts):
            return np.empty((0, 2), np.int64)
        found = (near_texts(texts, since=since), near_wordings(texts, self._lowest, since=since))
        return np.unique(np.concatenate([*found, self._alike(texts, since)]), axis=0)

    def _confirmed(self, texts: Sequence[str], pairs: Pairs) -> list[tuple[int, int]]:
        near = confirmed(pairs, texts, self._measure, self._lowest)
        return [(int(low), int(high)) for low, high in near]

    def _alike(self, texts: Sequence[str], since: int) -> Pairs:
        found = self._embed(texts) if len(texts) <= MOST_VECTORS else None
        if found is None:
            return np.empty((0, 2), np.int64)
        vectors = np.frombuffer(found.values, dtype=np.float32).reshape(found.rows, found.columns)
        return near_vectors(vectors, self._lowest, since=since)
