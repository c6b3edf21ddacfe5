"""What the cells say of an arm beside another: figures, their intervals, and the test that decides.

A *block* is a base, a task and a seed: its cells share the pool, what is held out, and all chance. A *share* is an
arm's mean in a block (`records.Kind` has which), figures are ratios or differences of the means of shares over blocks.
Their intervals (95 %, percentiles) come of a two-level bootstrap: blocks are drawn with replacement, then in each its
held-out texts, the same ones for all arms, so that all is paired.

The test. Of four blocks no bootstrap and no sign test tells much (2^-4 is 1/16), but all arms are run on the same
blocks, so the noise from one training to the next is taken from all of them together (randomised complete blocks;
Fisher 1935, "The Design of Experiments", chapter 4):

    share(arm, block) = effect(arm) + effect(block) + noise,        by least squares over the cells that there are
    t = (effect(arm) - effect(peer)) / standard error,              with (cells - arms - blocks + 1) degrees of freedom

Each block is scaled to a mean share of 1 before, or a task with large shares would decide alone. An arm that learns
from other examples than the raw pool differs from it by more chance than one that learns from the same: where the
paired differences of the two vary more than the noise of all arms, that error counts, with (blocks - 1) degrees of
freedom.

So many components are held against one raw pool that some look good by luck: their p-values are adjusted by Holm's rule
(Holm 1979, "A simple sequentially rejective multiple test procedure").
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

A = TypeVar("A", bound=Hashable)
B = TypeVar("B", bound=Hashable)

POWER = 0.8
ROUNDING = 1e-9
"""Of shares whose mean is 1: a smaller error is that of sums, and says nothing."""
RESAMPLES = 2000
LEVEL = 0.95
Floats = NDArray[np.float64]
Statistic = Callable[[Floats], float]
"""Of the mean shares of some arms, shape (arms,)."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: Sequence[float]) -> "Figure":
        """With the interval that resamples give. It has no end where they divided by nothing."""
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
        return cls(value=value, low=float(low), high=float(high))

    def text(self, digits: int = 2) -> str:
        """`1.23 (1.10 to 1.41)`."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the shares of some arms in a block are made of."""

    values: Floats
    """Shape (arms, texts)."""
    units: Floats
    """Shape (texts,): a share is the sum of an arm's values over the sum of these."""

    def shares(self, counts: Floats) -> Floats:
        """Shape (draws, arms), where in each draw each text came so often; `counts` has the shape (draws, texts)."""
        return np.asarray((counts @ self.values.T) / (counts @ self.units)[:, np.newaxis])

    @property
    def whole(self) -> Floats:
        """The shares where each text came once, shape (arms,)."""
        return np.asarray(self.values.sum(axis=1) / self.units.sum())


def figure(blocks: Sequence[Parts], statistic: Statistic, seed: int = 0) -> Figure | None:
    """A statistic of the mean shares of arms, with its interval; None where it is no number. One block is needed."""
    value = statistic(np.mean([block.whole for block in blocks], axis=0))
    drawn = [statistic(shares) for shares in _resampled(blocks, np.random.default_rng(seed))]
    return Figure.of(value, drawn) if math.isfinite(value) else None


def _resampled(blocks: Sequence[Parts], chance: np.random.Generator) -> Floats:
    """Mean shares of draws of as many blocks as there are, and of as many texts in each; shape (draws, arms)."""
    found = np.zeros((RESAMPLES, len(blocks[0].values)))
    for place in chance.integers(len(blocks), size=(len(blocks), RESAMPLES)):
        for number, block in enumerate(blocks):
            draws, texts = np.flatnonzero(place == number), len(block.units)
            counts = chance.multinomial(texts, np.full(texts, 1 / texts), size=len(draws))
            found[draws] += block.shares(counts.astype(np.float64))
    return found / len(blocks)


def ratio(shares: Floats) -> float:
    """The first arm's over the second's; without bound where the second has nothing."""
    return float(shares[0] / shares[1]) if shares[1] > 0 else math.inf


def difference(shares: Floats) -> float:
    """The first arm's less the second's."""
    return float(shares[0] - shares[1])


# --------------------------------------------------------------------------- the test


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """An arm beside its peer."""

    difference: float
    """Of their shares, as multiples of the mean of all arms."""
    error: float
    """Its standard error."""
    freedom: int
    blocks: int
    """That have both."""

    def p_above(self, least: float = 0.0) -> float:
        """How often chance makes an arm look so much better that differs by no more than `least`. One-sided."""
        if self.freedom < 1 or not self.error > ROUNDING:
            return 1.0
        return float(student.sf((self.difference - least) / self.error, self.freedom))

    def p_below(self) -> float:
        """How often chance makes an arm look so much worse that is not. One-sided."""
        if self.freedom < 1 or not self.error > ROUNDING:
            return 1.0
        return float(student.cdf(self.difference / self.error, self.freedom))

    def detectable(self, level: float) -> float:
        """The smallest difference that is found at a level in four of five such benches. One-sided."""
        if self.freedom < 1:
            return math.inf
        return float(student.isf(level, self.freedom) + student.ppf(POWER, self.freedom)) * self.error


class Layout:
    """Shares of arms in blocks, some of which may be missing, and the least squares through them."""

    def __init__(self, shares: Mapping[tuple[str, B], float]) -> None:
        self._scaled = scaled = _scaled(shares)
        self._arms = {arm: number for number, arm in enumerate(dict.fromkeys(arm for arm, _ in scaled))}
        blocks = {block: number for number, block in enumerate(dict.fromkeys(block for _, block in scaled))}
        table = np.zeros((len(scaled), len(self._arms) + len(blocks)))
        for row, (arm, block) in enumerate(scaled):
            table[row, self._arms[arm]] = table[row, len(self._arms) + blocks[block]] = 1.0
        values = np.array(list(scaled.values()))
        self._inverse = np.linalg.pinv(table.T @ table)
        self._effects = self._inverse @ table.T @ values
        self._freedom = len(scaled) - int(np.linalg.matrix_rank(table)) if len(scaled) else 0
        left = values - table @ self._effects
        self._variance = float(left @ left) / self._freedom if self._freedom else 0.0

    def contrast(self, arm: str, peer: str) -> Contrast | None:
        """None where one of them was never run."""
        if arm not in self._arms or peer not in self._arms:
            return None
        weights = np.zeros(len(self._effects))
        weights[self._arms[arm]] += 1
        weights[self._arms[peer]] -= 1
        beside = [
            share - self._scaled[peer, block]
            for (name, block), share in self._scaled.items()
            if name == arm and (peer, block) in self._scaled
        ]
        pooled = math.sqrt(max(0.0, float(weights @ self._inverse @ weights)) * self._variance)
        paired = float(np.std(beside, ddof=1)) / math.sqrt(len(beside)) if len(beside) > 1 else 0.0
        return Contrast(
            difference=float(weights @ self._effects),
            error=max(pooled, paired),
            freedom=self._freedom if pooled >= paired else len(beside) - 1,
            blocks=len(beside),
        )


def _scaled(shares: Mapping[tuple[str, B], float]) -> dict[tuple[str, B], float]:
    """Each as a multiple of the mean of its block; a block in which nothing was learned is left out."""
    of_block: dict[B, list[float]] = {}
    for (_, block), share in shares.items():
        of_block.setdefault(block, []).append(share)
    means = {block: sum(values) / len(values) for block, values in of_block.items()}
    return {key: share / means[key[1]] for key, share in shares.items() if means[key[1]] > 0}


def adjusted(p_values: Mapping[A, float]) -> dict[A, float]:
    """The p-values of all tests together, by Holm's rule."""
    found: dict[A, float] = {}
    largest = 0.0
    for number, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda one: one[1])):
        largest = max(largest, min(1.0, (len(p_values) - number) * p_value))
        found[name] = largest
    return found
