"""What a training puts through a network, in which passes, and how it may be cut so that it fits."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nightschool_daemon.learning.engine.curriculum import Arrange, Curriculum, nobody_arranges
from nightschool_daemon.learning.engine.examples import Example, Split, batches, divided, passes
from nightschool_daemon.learning.engine.layout import distinct
from nightschool_hookspecs.records import Hyperparameters, Stretch, TrainingMethod


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How much of a network is trained, how much of that is computed twice, and how much is kept unpacked."""

    checkpointed: int
    trained_from: int = 0
    unpacked: int = 0
    """Layers, from the last."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Passes by what they come to, and those of them that stand out."""

    count: int
    tokens: int
    """That all of them compute."""
    labels: int
    """Tokens that all of them predict."""
    lengths: frozenset[int]
    """Tokens that one of them computes."""
    narrowest: Sequence[Example]
    """Of the fewest tokens to compute."""
    widest: Sequence[Example]
    """Of the most."""
    most_padded: Sequence[Example]
    """Of the most tokens with padding."""
    most_masked: Sequence[Example]
    """Of the largest masks."""

    @classmethod
    def of(cls, some: Iterable[Sequence[Example]], *, pads: bool) -> Passes:
        """There must be one at least. `pads`: attention takes padded rows, as `Network.pads` says."""
        found = list(some)
        tokens = [computed(one, pads=pads) for one in found]
        return cls(
            count=len(found),
            tokens=sum(tokens),
            labels=sum(example.labels for one in found for example in one),
            lengths=frozenset(tokens),
            narrowest=found[tokens.index(min(tokens))],
            widest=found[tokens.index(max(tokens))],
            most_padded=max(found, key=places),
            most_masked=max(found, key=pairs),
        )


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What is to be trained on, and how."""

    examples: Sequence[Example]
    method: TrainingMethod
    settings: Hyperparameters
    seed: int
    pads: bool = True
    """Whether attention takes padded rows, by `Network.pads`."""
    arrange: Arrange = nobody_arranges
    goes_on: bool = False
    """Whether it begins from what an earlier training of the specialty learned."""
    has_start: bool = False
    """Whether it begins from anything but the base."""

    @functools.cached_property
    def split(self) -> Split[Example]:
        """What is learned from, and what is watched."""
        return divided(self.examples, self.seed, self.settings)

    @functools.cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """What is learned from between evaluations. Of a curriculum it is one of many ways: it depends on losses."""
        curriculum = Curriculum(
            learned=self.split.learned,
            method=self.method,
            settings=self.settings,
            seed=self.seed,
            arrange=self.arrange,
            goes_on=self.goes_on,
        )
        return tuple(curriculum.expected())

    def learning(self, tokens: int) -> Passes:
        """What is learned from, in passes of so many tokens."""
        if tokens not in self._learning:
            self._learning[tokens] = Passes.of(self._learned(tokens), pads=self.pads)
        return self._learning[tokens]

    @functools.cached_property
    def _learning(self) -> dict[int, Passes]:
        """By the tokens of a pass: there are many, and they are asked for again and again."""
        return {}

    def _learned(self, tokens: int) -> Iterator[list[Example]]:
        for stretch in self.stretches:
            arranged = [self.split.learned[place] for place in stretch.places]
            for batch in batches(arranged, self.settings.batch_size):
                yield from passes(batch, tokens, padded=self.pads)

    def longest(self, tokens: int) -> Iterator[list[Example]]:
        """Of the batches that a curriculum may come to: the longest examples, and the longest one several times.

        The longer are the rows of these, but those have no stem in common that is computed and kept once.
        """
        if any(stretch.stage for stretch in self.stretches):
            longest = sorted(self.split.learned, key=len, reverse=True)[: self.settings.batch_size]
            for batch in (longest, longest[:1] * self.settings.batch_size):
                yield from passes(batch, tokens, padded=self.pads)

    def watching(self, tokens: int) -> Passes:
        """What is watched, in such passes."""
        return self._together(self.split.watched, tokens)

    def asking(self, tokens: int) -> Passes:
        """Each example once, in such passes."""
        return self._together(tuple(dict.fromkeys((*self.split.learned, *self.split.watched))), tokens)

    def _together(self, examples: Sequence[Example], tokens: int) -> Passes:
        return Passes.of(passes(examples, tokens, padded=self.pads), pads=self.pads)

    def computed(self, examples: Sequence[Example]) -> int:
        """Tokens that a pass over these computes."""
        return computed(examples, pads=self.pads)


def computed(examples: Sequence[Example], *, pads: bool) -> int:
    """Tokens that a pass over these computes: where attention takes padded rows, what they begin with alike once."""
    return distinct([one.branches() for one in examples]) if pads else length(examples)


def length(examples: Sequence[Example]) -> int:
    """Tokens of these."""
    return sum(map(len, examples))


def places(examples: Sequence[Example]) -> int:
    """Tokens with padding."""
    return len(examples) * max(map(len, examples))


def pairs(examples: Sequence[Example]) -> int:
    """Which token sees which."""
    return len(examples) * max(map(len, examples)) ** 2
