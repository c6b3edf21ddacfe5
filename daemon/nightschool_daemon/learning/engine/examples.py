"""What the loop trains on, as token ids, and how a batch is cut into passes."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from nightschool_daemon.learning.engine.layout import Branches
from nightschool_hookspecs.records import Hyperparameters

T = TypeVar("T")
S = TypeVar("S", bound=Sized)


class Grouped(Protocol):
    """What answers a prompt of some group."""

    @property
    def prompt(self) -> tuple[int, ...] | str:
        """Token ids, or the text."""
        ...

    @property
    def group(self) -> str:
        """Of near-duplicate prompts; empty: the prompt by itself."""
        ...

    @property
    def beside(self) -> bool:
        """It is no part of the lesson, and learned beside it."""
        ...


G = TypeVar("G", bound=Grouped)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that is learned, or unlearned."""

    tokens: tuple[int, ...]
    weight: float = 1.0
    liked: bool = True


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt with one answer (SFT, KTO), or with the better one and the worse one (DPO)."""

    prompt: tuple[int, ...]
    answers: tuple[Answer, ...]
    margin: float = 0.0
    group: str = ""
    """Of near-duplicate prompts."""
    event_id: str = field(default="", compare=False)
    """As `LearnedExample` has it, and so difficulty and score: where equal texts come from makes no difference."""
    worse_event_id: str = field(default="", compare=False)
    """Of the worse answer, where that is another event's."""
    difficulty: float | None = field(default=None, compare=False)
    score: float | None = field(default=None, compare=False)
    variant: bool = field(default=False, compare=False)
    beside: bool = False
    """It is no part of the lesson, and learned beside it."""

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(one.tokens) for one in self.answers)

    @property
    def events(self) -> tuple[str, ...]:
        """Those that its answers are of."""
        return tuple(filter(None, (self.event_id, self.worse_event_id)))

    @property
    def weight(self) -> float:
        """Of its first answer."""
        return self.answers[0].weight

    @property
    def labels(self) -> int:
        """Tokens that are predicted."""
        return sum(len(one.tokens) for one in self.answers)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.prompt) + max(len(one.tokens) for one in self.answers)

    def with_answers(self, answers: Sequence[Answer], longest: int) -> Example:
        """The same prompt with other answers, each cut to so many tokens with it, but not to none."""
        room = max(1, longest - len(self.prompt))
        return replace(self, answers=tuple(replace(one, tokens=one.tokens[:room]) for one in answers))

    def branches(self) -> Branches:
        """Its row in a pass."""
        return Branches(stem=self.prompt, answers=tuple(one.tokens for one in self.answers))


@dataclass(frozen=True, kw_only=True)
class Split(Generic[T]):
    """What is learned from, and what is watched."""

    learned: tuple[T, ...]
    watched: tuple[T, ...]
    held: bool
    """Whether the watched examples are held out of the updates."""
    first_judged: int
    """The epoch, counted from 1, that is kept whatever is watched; later ones must be better to be kept."""


WATCHED_SHARE = 10
"""One example in so many is kept out of the updates to watch for overfitting, where there are enough."""
WATCHED_FROM = 40
"""Fewer examples than that are all learned from."""
UNJUDGED_EPOCHS, UNJUDGED_STEPS = 3, 30
"""After fewer epochs or steps a training is not stopped: an answer's loss is least before the model has learned to end
it, and before the rate has come down. Either way what is served runs in circles (docs/learning.md), so these are no
settings: up to `num_epochs = 3` nothing is stopped, and none does better with less."""
WATCHED_SHOWN = 32
"""Without a watched slice, losses are taken on so many of the training examples."""
MEASURED_SHARE = 5
"""One example in so many is kept apart where trainings are tried out, and shows what each of them is worth."""


def divided(examples: Sequence[G], seed: int, settings: Hyperparameters) -> Split[G]:
    """Decide what is watched. Where there is no epoch to choose, all is learned.

    Near-duplicates, variants and all answers to a prompt are on one side: what was learned shows nothing. What
    stands beside the lesson is always learned from, and never watched: the lesson alone says when it is learned.
    """
    lesson = [one for one in examples if not one.beside]
    begins = first_judged(len(lesson), settings)
    has_choice = len(lesson) >= WATCHED_FROM and settings.num_epochs > begins
    learned, watched = _apart(examples, WATCHED_SHARE, f"{seed}/watched") if has_choice else (tuple(examples), ())
    if not watched:
        shown = tuple(lesson[:WATCHED_SHOWN])
        return Split(learned=learned, watched=shown, held=False, first_judged=begins)
    return Split(learned=learned, watched=watched, held=True, first_judged=begins)


def first_judged(examples: int, settings: Hyperparameters) -> int:
    """The epoch from which on a training of so many examples may be stopped."""
    steps = math.ceil(examples / settings.batch_size)
    return max(UNJUDGED_EPOCHS, math.ceil(UNJUDGED_STEPS / max(1, steps)))


def parted(examples: Sequence[G], seed: int) -> tuple[tuple[G, ...], tuple[G, ...]]:
    """What trainings that are tried out learn from, and what they are measured on; nothing where no group is small.

    Near-duplicates are on one side, and what stands beside the lesson is learned from, as in `divided`.
    """
    return _apart(examples, MEASURED_SHARE, f"{seed}/measured")


def _apart(examples: Sequence[G], share: int, seed: str) -> tuple[tuple[G, ...], tuple[G, ...]]:
    """What stays, and of the lesson one in `share`: groups by chance that fit; none where each is larger."""
    lesson = [one for one in examples if not one.beside]
    sizes = Counter(_group(one) for one in lesson)
    groups = list(sizes)
    random.Random(seed).shuffle(groups)  # noqa: S311 - no secret
    chosen, left = set[object](), len(lesson) // share
    for group in groups:
        if sizes[group] <= left:
            chosen.add(group)
            left -= sizes[group]
    return (
        tuple(one for one in examples if one.beside or _group(one) not in chosen),
        tuple(one for one in lesson if _group(one) in chosen),
    )


def _group(one: Grouped) -> object:
    return one.group or one.prompt


def order_of(count: int, epoch: int, seed: int) -> tuple[int, ...]:
    """The places of an epoch that nobody arranges: the first as they are in the dataset, later ones shuffled."""
    order = list(range(count))
    if epoch:
        random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 - no secret
    return tuple(order)


def batches(examples: Sequence[T], size: int) -> list[list[T]]:
    """The optimiser steps over these, in their order."""
    return [list(examples[start : start + size]) for start in range(0, len(examples), size)]


def passes(batch: Sequence[S], tokens: int, *, padded: bool = True) -> Iterator[list[S]]:
    """Cut a batch into passes of at most `tokens` tokens each, or of one example; rows of like length together.

    `padded`: attention takes each row as long as the longest, so that padding counts too.
    """
    part: list[S] = []
    held = 0
    for one in sorted(batch, key=len):
        if part and (len(one) * (len(part) + 1) if padded else held + len(one)) > tokens:
            yield part
            part, held = [], 0
        part.append(one)
        held += len(one)
    if part:
        yield part


def mean_weight(answers: Iterable[tuple[float, int]]) -> float:
    """Of an answer token, by the weights of all answers of an epoch and their tokens."""
    weighed = list(answers)
    return sum(weight * tokens for weight, tokens in weighed) / max(1, sum(tokens for _, tokens in weighed))
