"""What plugins that make preference pairs have in common: which of several scored answers stands over which."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PairingSettings:
    """Settings of a plugin that makes pairs of scored answers. Its own class inherits them."""

    smallest_gap: float = 10.0
    """Points of 0..100; two scored answers must be more than that apart."""
    most_worse: int = 8
    """Answers to a prompt that each better one stands over at most."""

    def __post_init__(self) -> None:
        if not self.smallest_gap >= 0:
            raise ValueError("smallest_gap must be 0 or more")
        if self.most_worse < 1:
            raise ValueError("most_worse must be 1 or more")

    def pair_up(self, scored: Iterable[tuple[float, T]]) -> Iterator[tuple[T, T, float]]:
        """The better one, the worse one and the margin, gap / 100, of answers to one prompt with their scores, 0..100.

        Each stands over a few of those far enough below it: all pairs of a prompt that was answered often would be too
        many.
        """
        ordered = sorted(scored, key=_score)
        for score, better in reversed(ordered):
            end = bisect_left(ordered, -self.smallest_gap, key=lambda one: one[0] - score)
            for lower, worse in self.spread(ordered[:end]):
                yield better, worse, (score - lower) / 100

    def spread(self, worse: Sequence[T]) -> list[T]:
        """At most so many as each stands over, at even distances, the last of them included."""
        most = self.most_worse
        if len(worse) <= most:
            return list(worse)
        return [worse[(place + 1) * len(worse) // most - 1] for place in range(most)]


def _score(one: tuple[float, object]) -> float:
    return one[0]
