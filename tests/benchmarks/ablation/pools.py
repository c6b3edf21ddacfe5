"""What a cell of the ablation bench learns from and is asked: it follows from the task, the size and the seed."""

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import tasks
from benchmarks.selection import typo
from benchmarks.tasks import Pair
from nightschool_daemon.jobs import PromptRow
from nightschool_daemon.learning.duplicates import near_texts
from nightschool_daemon.learning.grouping import AnyPrompt, place
from nightschool_hookspecs.records import FeedbackType

WRONG = 0.2
"""Share of the dirty pool whose answer is that to another prompt."""
REPEATED = 0.25
"""Share of it that repeats an earlier prompt with a slip of the pen."""
COMMON = 0.85
"""Share of its other prompts that are common ones."""
LIKED = 0.15
"""Share of it that says no more than that an answer was good; wrong ones among them."""
DISLIKED = 0.1
"""Share of it that says no more than that an answer was bad."""
NEARLY = 0.4
"""Share of the common prompts that the incumbent nearly knows: its answer is the right one with parts missing."""
MISSING = (0.25, 0.5, 0.75)
"""Shares of the parts that are missing then."""
RETRIES = 2
"""Times that somebody asked again before they corrected an answer to a rare prompt."""
LONGEST_DIAGRAM = 1100
"""Characters of a schema and its diagram together: a longer one would be most of a night's tokens."""
ARTIFACT_TYPES: Mapping[str, str] = {"shell": "shell", "diagrams": "erd"}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much there is of a task."""

    pool: int
    """Corrections that came in."""
    night: int
    """Of them, those that a night learns from."""
    tokens: int
    """That it learns from, all epochs together: `components.PASSES` of them over a random sample."""
    batch: int
    """Examples an optimiser step, so few that there are about thirty steps: with fewer an answer has no end."""
    held_out: int
    """Prompts whose wanted answers the losses are taken on."""
    asked: int
    """The first of them, which are put to the served model."""
    slipped: int
    """The first of these, which are put to it with a slip of the pen besides."""
    answer_tokens: int
    """Of an answer at most."""
    said_tokens: int
    """Of an answer that the incumbent gave before there was feedback on it."""
    general: int
    """General prompts, whose answers by the base are kept to see what is forgotten."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A piece of feedback of a pool."""

    source: Pair
    """The prompt before any slip of the pen, and its right answer."""
    prompt: str
    answer: str
    feedback: FeedbackType = FeedbackType.USER_CORRECTION
    """Where it is a like or a dislike, the answer is what is liked, or what nobody told."""
    retries: int = 0

    @classmethod
    def of(cls, pair: Pair) -> "Row":
        """As it should be."""
        return cls(source=pair, prompt=pair.prompt, answer=pair.answer)

    @property
    def pair(self) -> Pair:
        """As it is learned from."""
        return Pair(prompt=self.prompt, answer=self.answer)

    @property
    def is_wrong(self) -> bool:
        """Whether the answer is that to another prompt."""
        return self.answer != self.source.answer

    @property
    def is_repeated(self) -> bool:
        """Whether the prompt was there before."""
        return self.prompt != self.source.prompt


@dataclass(frozen=True, kw_only=True)
class Material:
    """What cells of a task and a seed have in common."""

    dirty: tuple[Row, ...]
    clean: tuple[Row, ...]
    """What an oracle would have collected: as many corrections, right ones of different prompts drawn evenly."""
    held_out: tuple[Pair, ...]
    slipped: tuple[Pair, ...]
    """The first of these with a slip of the pen."""
    nearly: Mapping[str, str]
    """What the incumbent answered to those prompts of the dirty pool that it nearly knows."""

    @property
    def corrected(self) -> tuple[Pair, ...]:
        """What the incumbent was asked before there was feedback, and what was right. Of the clean pool a random sample
        is learned from, whatever was said before."""
        return tuple(dict.fromkeys(row.source for row in self.dirty))


def material_of(task: str, size: Size, seed: int) -> Material:
    """Hold out whole groups of prompts, and fill both pools from the others."""
    held_out, others = held_apart(pairs_of(task), size.held_out, seed)
    slips = random.Random(f"{seed}/slips")
    slipped = [replace(one, prompt=slip(one.prompt, slips)) for one in held_out[: size.slipped]]
    dirty = dirty_pool(others, size.pool, seed, IS_COMMON[task])
    return Material(
        dirty=dirty,
        clean=clean_pool(others, size.pool, seed),
        held_out=held_out,
        slipped=tuple(slipped),
        nearly=nearly_known(dirty, seed, IS_COMMON[task]),
    )


def pairs_of(task: str) -> list[Pair]:
    """Every pair of a task, in the same order at all times."""
    pairs = tasks.TASKS[task](0, sys.maxsize, 0).learned
    return [one for one in pairs if task != "diagrams" or len(one.prompt) + len(one.answer) < LONGEST_DIAGRAM]


# --------------------------------------------------------------------------- what is common


def _is_find(pair: Pair) -> bool:
    return pair.answer.startswith("find ")


def _is_small(pair: Pair) -> bool:
    return len(pair.prompt) + len(pair.answer) < 750


IS_COMMON: Mapping[str, Callable[[Pair], bool]] = {"shell": _is_find, "diagrams": _is_small}
"""The easy and frequent: `find`, which is six commands in ten, and the smaller half of the schemas. The others are a
task's edge cases."""


# --------------------------------------------------------------------------- what is held out


def held_apart(pairs: Sequence[Pair], count: int, seed: int) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Pairs that are held out, one a group, and the pairs of all other groups."""
    groups = groups_of(pairs)
    order = random.Random(f"{seed}/held out").sample(range(len(pairs)), len(pairs))
    held: dict[str, Pair] = {}
    for number in order:
        if len(held) < count:
            held.setdefault(groups[number], pairs[number])
    others = (one for one, group in zip(pairs, groups, strict=True) if group not in held)
    return tuple(held.values()), tuple(others)


def groups_of(pairs: Sequence[Pair]) -> list[str]:
    """The group of each pair: prompts that share most of their wording, or that want the same answer."""
    rows = [
        PromptRow(key=str(number), text=one.prompt, placed=False, group=None, side=None)
        for number, one in enumerate(pairs)
    ]

    def alike(prompts: Sequence[AnyPrompt], since: int) -> Iterator[tuple[int, int]]:
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        yield from ((int(low), int(high)) for low, high in near_texts(texts, since=since))
        last: dict[str, int] = {}
        for number, one in enumerate(pairs):
            if one.answer in last:
                yield last[one.answer], number
            last[one.answer] = number

    found = place(rows, alike)
    return [found[row.key] or row.key for row in rows]


# --------------------------------------------------------------------------- pools


def clean_pool(pairs: Sequence[Pair], count: int, seed: int) -> tuple[Row, ...]:
    """Right answers to different prompts, drawn evenly."""
    drawn = random.Random(f"{seed}/clean").sample(list(pairs), count)
    return tuple(map(Row.of, drawn))


def dirty_pool(pairs: Sequence[Pair], count: int, seed: int, is_common: Callable[[Pair], bool]) -> tuple[Row, ...]:
    """Skewed to what is common, with repetitions, wrong answers, likes and dislikes, each in its exact share."""
    chance = random.Random(f"{seed}/dirty")
    repeated = round(REPEATED * count)
    drawn = _skewed(pairs, count - repeated, is_common, chance)
    rows = list(map(Row.of, drawn))
    rows += _repetitions(rows, repeated, chance)
    rows = _mislabelled(chance.sample(rows, count), round(WRONG * count), chance)
    return tuple(_reacted(rows, is_common, chance))


def _skewed(pairs: Sequence[Pair], count: int, is_common: Callable[[Pair], bool], chance: random.Random) -> list[Pair]:
    """So many different pairs, most of them common. What there is too little of the other kind makes up for."""
    common = [one for one in pairs if is_common(one)]
    rare = [one for one in pairs if not is_common(one)]
    most = min(len(common), max(math.floor(COMMON * count + 0.5), count - len(rare)))
    return chance.sample(common, most) + chance.sample(rare, count - most)


def _repetitions(rows: Sequence[Row], count: int, chance: random.Random) -> list[Row]:
    """A few prompts come over and over: the n-th of them as often as Zipf has it."""
    weights = [1 / rank for rank in range(1, len(rows) + 1)]
    return [replace(one, prompt=slip(one.prompt, chance)) for one in chance.choices(rows, weights, k=count)]


def _mislabelled(rows: Sequence[Row], count: int, chance: random.Random) -> list[Row]:
    """The same with some answers that are those to other prompts."""
    found = list(rows)
    for number in chance.sample(range(len(rows)), count):
        others = [one.answer for one in rows if one.answer != rows[number].answer]
        found[number] = replace(rows[number], answer=chance.choice(others))
    return found


def _reacted(rows: Sequence[Row], is_common: Callable[[Pair], bool], chance: random.Random) -> Iterator[Row]:
    """The same with some likes and dislikes; what is rare was asked for several times."""
    right = [number for number, row in enumerate(rows) if not row.is_wrong]
    disliked = set(chance.sample(right, round(DISLIKED * len(rows))))
    others = [number for number in range(len(rows)) if number not in disliked]
    liked = set(chance.sample(others, round(LIKED * len(rows))))
    for number, row in enumerate(rows):
        if number in liked:
            yield replace(row, feedback=FeedbackType.EXPLICIT_POSITIVE)
        elif number in disliked:
            yield replace(row, feedback=FeedbackType.EXPLICIT_NEGATIVE)
        else:
            yield replace(row, retries=0 if is_common(row.source) else RETRIES)


def nearly_known(rows: Sequence[Row], seed: int, is_common: Callable[[Pair], bool]) -> dict[str, str]:
    """Answers with parts missing to some of the common prompts, by them."""
    chance = random.Random(f"{seed}/nearly")
    common = [pair for pair in dict.fromkeys(row.source for row in rows) if is_common(pair)]
    known = chance.sample(common, round(NEARLY * len(common)))
    return {
        pair.prompt: with_parts_missing(pair.answer, MISSING[number % len(MISSING)], chance)
        for number, pair in enumerate(known)
    }


def with_parts_missing(answer: str, share: float, chance: random.Random) -> str:
    """An answer without so many of its parts, one at least: attributes and relations of a diagram, words of a command.

    What holds it together stays: its first part, and lines that open or close an entity.
    """
    separator = "\n" if "\n" in answer else " "
    parts = answer.split(separator)
    loose = [place for place, part in enumerate(parts) if place and part.strip() not in ("", "}") and part[-1] != "{"]
    missing = set(chance.sample(loose, min(len(loose), max(1, round(share * len(loose))))))
    return separator.join(part for place, part in enumerate(parts) if place not in missing)


def slip(text: str, chance: random.Random) -> str:
    """The text with a slip of the pen in its first line: names in a schema below it are to be copied as they are."""
    first, newline, rest = text.partition("\n")
    # two equal letters that change places change nothing
    while (found := typo(first, chance)) == first:
        pass
    return found + newline + rest
