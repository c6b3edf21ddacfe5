"""Judges by the paired differences between candidate and incumbent on the items that count.

    test      one-sided permutation test on the mean difference, signs flipped (exact for few items)
    interval  95 % bootstrap interval of the mean difference, BCa (Efron 1987)
    noise     absolute difference between the means of the incumbent's two sittings
    needed    n = ((z(1 - 0.025) + z(0.8)) * sd / gain)^2        items for the effect seen, at 80 % power

    worse        a guard is broken, or the loss is significant at 0.025
    proven       p <= 0.025, the gain is above the noise, at least 6 items
    provisional  p <= 0.2
    else         not enough to tell

An item that the incumbent could not answer, because the server failed, says nothing and is left out; where the
candidate fails, that counts. Each night is judged by itself: the level holds for one exam. Test and interval
are scipy's.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightschool_hookspecs import Exam, GuardResult, ItemRole, Outcome, Sitting, Verdict, hookimpl

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Scores = NDArray[numpy.float64]
    """Shape (items,), 0..100."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the statistics say, before it is judged."""

    incumbent_mean: float
    candidate_mean: float
    gain: float
    interval: tuple[float, float]
    p_gain: float
    p_loss: float
    noise: float
    items: int
    items_needed: int | None


@dataclass(frozen=True, kw_only=True)
class JudgePaired:
    """`[plugins.judge_paired]`"""

    proven_level: float = 0.025
    provisional_level: float = 0.2
    fewest_items: int = 6
    """With five, no result could be proven at 0.025: 2^-5 is above it."""
    power: float = 0.8
    resamples: int = 9999

    def __post_init__(self) -> None:
        if not 0 < self.proven_level <= self.provisional_level < 1:
            raise ValueError("0 < proven_level <= provisional_level < 1 is needed")
        if not 0 < self.power < 1:
            raise ValueError("power must lie between 0 and 1")
        if self.fewest_items < 2 or self.resamples < 999:
            raise ValueError("fewest_items must be 2 or more, resamples 999 or more")

    @hookimpl
    def nightschool_judge_exam(self, exam: Exam, guards: tuple[GuardResult, ...], seed: int) -> Verdict:
        figures = self._measure(*_scores(exam), seed)
        outcome, reason = self._decide(figures, guards)
        return Verdict(
            outcome=outcome,
            incumbent_mean=figures.incumbent_mean,
            candidate_mean=figures.candidate_mean,
            gain=figures.gain,
            interval=figures.interval,
            p_value=figures.p_gain,
            noise=figures.noise,
            items=figures.items,
            items_needed=figures.items_needed if outcome in (Outcome.NOT_ENOUGH, Outcome.PROVISIONAL) else None,
            guards=guards,
            reason=reason,
        )

    def _decide(self, figures: Figures, guards: tuple[GuardResult, ...]) -> tuple[Outcome, str]:
        broken = [guard for guard in guards if not guard.held]
        seen = f"{figures.gain:+.1f} points over {figures.items} items (p = {figures.p_gain:.4f})"
        enough = figures.items >= self.fewest_items
        if broken:
            return Outcome.WORSE, f"The guard '{broken[0].guard}' is broken: {broken[0].reason}"
        if enough and figures.p_loss <= self.proven_level:
            return Outcome.WORSE, f"The candidate is worse: {seen}."
        if enough and figures.p_gain <= self.proven_level and figures.gain > figures.noise:
            low, high = figures.interval
            return Outcome.PROVEN, f"The candidate is better: {seen}, 95 % interval {low:+.1f} to {high:+.1f}."
        if figures.gain > 0 and figures.p_gain <= self.provisional_level:
            return (
                Outcome.PROVISIONAL,
                f"The candidate looks better, but it is not proven: {seen}. To prove a gain like this about "
                f"{figures.items_needed} items are needed.",
            )
        return Outcome.NOT_ENOUGH, self._not_enough(figures, seen)

    def _not_enough(self, figures: Figures, seen: str) -> str:
        if figures.items == 0:
            return "There is nothing to judge by: no held-out item that counts was answered by both models."
        if figures.items_needed is None:
            return f"No gain was seen: {seen}."
        return f"Not enough to tell: {seen}. For a gain like this about {figures.items_needed} items are needed."

    def _measure(self, incumbent: "Scores", candidate: "Scores", again: "Scores", seed: int) -> Figures:
        items = len(candidate)
        difference = candidate - incumbent
        gain = float(difference.mean()) if items else 0.0
        return Figures(
            incumbent_mean=float(incumbent.mean()) if items else 0.0,
            candidate_mean=float(candidate.mean()) if items else 0.0,
            gain=gain,
            interval=self._interval(difference, seed),
            p_gain=self._p_value(difference, seed),
            p_loss=self._p_value(-difference, seed),
            noise=abs(float((again - incumbent).mean())) if items else 0.0,
            items=items,
            items_needed=self._items_needed(difference, gain),
        )

    def _p_value(self, difference: "Scores", seed: int) -> float:
        """How often a difference with its signs flipped at random has this mean or more."""
        import numpy
        from scipy import stats

        if not difference.any():
            return 1.0
        if len(difference) == 1:  # scipy wants two at least
            return 0.5 if difference[0] > 0 else 1.0
        test = stats.permutation_test(
            (difference,),
            _mean,
            permutation_type="samples",
            alternative="greater",
            vectorized=True,
            n_resamples=self.resamples,
            rng=numpy.random.default_rng(seed),
        )
        return float(test.pvalue)

    def _interval(self, difference: "Scores", seed: int) -> tuple[float, float]:
        import numpy

        if len(difference) < 2 or numpy.ptp(difference) == 0:
            only = float(difference[0]) if len(difference) else 0.0
            return (only, only)
        interval = self._bootstrap(difference, "BCa", seed)
        # BCa has no answer where the bootstrap distribution is degenerate, as with one odd item out
        return interval if all(map(math.isfinite, interval)) else self._bootstrap(difference, "percentile", seed)

    def _bootstrap(self, difference: "Scores", method: str, seed: int) -> tuple[float, float]:
        import numpy
        from scipy import stats

        found = stats.bootstrap(
            (difference,),
            _mean,
            confidence_level=0.95,
            method=method,
            vectorized=True,
            n_resamples=self.resamples,
            rng=numpy.random.default_rng(seed),
        )
        return (float(found.confidence_interval.low), float(found.confidence_interval.high))

    def _items_needed(self, difference: "Scores", gain: float) -> int | None:
        from scipy import stats

        if gain <= 0:
            return None
        if len(difference) < 2:
            return self.fewest_items
        quantiles = float(stats.norm.ppf(1 - self.proven_level) + stats.norm.ppf(self.power))
        needed = (quantiles * float(difference.std(ddof=1)) / gain) ** 2
        return max(self.fewest_items, math.ceil(needed), len(difference) + 1)


def _mean(sample: "Scores", axis: int) -> "Scores":
    import numpy

    return numpy.asarray(sample.mean(axis=axis))


def _scores(exam: Exam) -> tuple["Scores", "Scores", "Scores"]:
    """Scores of incumbent, candidate and incumbent again on the items that count and that can be compared."""
    import numpy

    scores = {
        (answer.sitting, answer.item_id): answer.score
        for answer in exam.answers
        if answer.sitting is Sitting.CANDIDATE or not answer.failed
    }
    sat = [
        item.id
        for item in exam.items
        if item.role is ItemRole.GAIN and all((sitting, item.id) in scores for sitting in Sitting)
    ]
    rows = (
        numpy.array([scores[sitting, identifier] for identifier in sat], dtype=numpy.float64)
        for sitting in (Sitting.INCUMBENT, Sitting.CANDIDATE, Sitting.INCUMBENT_AGAIN)
    )
    incumbent, candidate, again = rows
    return incumbent, candidate, again


@hookimpl
def nightschool_register_settings() -> type[JudgePaired]:
    return JudgePaired
