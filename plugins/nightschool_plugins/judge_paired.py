"""Judges by the paired differences between candidate and incumbent on the items that count.

    d         (score of the candidate - score of the incumbent) / 100, of each item
    evidence  E = mean over the stakes s of  product over the items of  1 + tanh(s d)
    test      one-sided permutation test on tonight's mean difference, signs flipped (exact for few items)
    interval  every m for which neither E over tonight's d - m nor E over m - d has reached 40
    noise     absolute difference between the means of the incumbent's two sittings
    needed    the fewest m for which the best stake reaches the proof, if it goes on growing as it did:
              m = (log(proof) + log(stakes) - sum of log(1 + tanh(s d))) / mean of log(1 + tanh(s d))
              and what is missing of 6 items; none where something else than their number stands in the way

    worse        a guard is broken, or E over tonight's -d reaches 40
    proven       E >= 40, tonight's p <= 0.2 and gain above the noise, at least 6 items
    provisional  p <= 0.2
    else         not enough to tell

E is the capital of a player who bets on the candidate, item by item, and began with 1. Where the two models are
equally good, d and -d are equally likely whatever the size of d, tanh is odd, and so a bet is fair; where the
candidate is worse by a shift it loses. Hence E is a nonnegative supermartingale, and by Ville's inequality it ever
reaches 40 with a chance of at most 1/40, however often one looks (Ramdas et al. 2020, "Admissible anytime-valid
sequential inference must rely on nonnegative martingales", on symmetry; Waudby-Smith and Ramdas 2024, "Estimating means
of bounded random variables by betting", on capital and on mixing stakes). Each factor is below 2: fewer than six items
prove nothing.

The null is the permutation test's, and neither bounds what is not symmetric. A candidate that gains 5 points on nine
items of ten and loses 90 on the tenth is worse on average, and proven by the first 11 items wherever the loss is not
among them: with a chance of 0.9^11 = 31 %. A bet that is fair for every distribution in -100..100 with mean 0 would
have to fear a loss of 100 points on each item, and needs more than twice the items for a gain of 10 points. What holds
without symmetry is that log(1 + tanh) is concave, so that no stake gains in the long run where the mean does not: who
is deceived so is nearly always deceived early.

So the interval is a confidence sequence where differences are symmetric around their mean: it holds the true gain with
95 % wherever an exam ends, also as soon as it is proven, which happens where the gain looks larger than it is (an
interval for a fixed number of items holds a gain of 5 points in fewer than half of the exams that prove it). Of losses
that are too rare to be among the items it knows nothing. By the concavity it always has the mean that was seen.

An exam need not be asked to its end: it is decided when the candidate is proven or worse, or when the items to come
would prove it with a chance below one in five, even if they gained 10 points on average, spread as tonight's are. What
was not asked stays new for a later candidate.

Over the nights e-values multiply: E runs over the items of all exams since the last promotion, so that tonight's
e-value is E now / E before, and its stakes begin with what the earlier nights taught. An item counts once against an
incumbent: the same prompt on another night is no new evidence.

What is bounded is the chance of a wrong promotion in a season, from a promotion to the next, of one specialty and one
recipe: evidence is kept for each apart. With m of these side by side, however many a night has time for, the proof
takes E >= max(40, m / 0.05), so that the chance of any wrong promotion among them is at most 5 % (union bound). So one
specialty alone keeps the 40: 2.5 % where one recipe is judged, 2 x 2.5 % where both are, training and examples. m is
that of the night: who adds specialties adds their chances to what was judged by fewer before.

A pair of answers that was ranked counts like an item, with d = tanh(margin of the candidate - margin of the incumbent).
Nobody is asked, so that the incumbent's second sitting is its first. Preferring what was liked makes up for no worse
answers, nor the other way round: each kind of item alone must not speak against the candidate.

    worse        also where E over the -d of one kind alone reaches 40
    not proven   where the mean of one kind is below 0 with p <= 0.2

An item that the incumbent could not answer, because the server failed, says nothing and is left out; where the
candidate fails, that counts. The test is scipy's.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from nightschool_hookspecs import CountedItem, Exam, GuardResult, ItemRole, Outcome, Sitting, Verdict, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy
    from numpy.typing import NDArray

    Scores = NDArray[numpy.float64]
    """Shape (items,), 0..100."""
    Capital = NDArray[numpy.float64]
    """Natural logarithm of capital that was 1 before the first item."""

INTERVAL_LOG_E = math.log(40)
"""Each end of the interval is wrong with a chance of 1/40."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The items that count and can be compared, in order."""

    keys: tuple[str, ...]
    incumbent: "Scores"
    candidate: "Scores"
    again: "Scores"
    pairs: int
    """So many of them, the last, are pairs that were ranked."""

    @property
    def by_kind(self) -> "tuple[Scores, ...]":
        """The candidate's gains on questions, and on pairs; none where all are of one kind."""
        gains, questions = self.candidate - self.incumbent, len(self.keys) - self.pairs
        return (gains[:questions], gains[questions:]) if questions and self.pairs else ()


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What the items that never counted before add to the evidence."""

    counted: tuple[CountedItem, ...]
    log_e_value: float
    log_e_needed: float
    items_needed: int | None
    is_hopeless: bool
    """Not even a worthwhile gain on what is to come would prove it tonight."""

    @property
    def proves(self) -> bool:
        return self.log_e_value >= self.log_e_needed

    def __str__(self) -> str:
        return f"evidence {_shown(self.log_e_value)} of {_shown(self.log_e_needed)}"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What tonight's items say by themselves."""

    incumbent_mean: float
    candidate_mean: float
    gain: float
    interval: tuple[float, float]
    p_value: float
    noise: float
    items: int
    is_loss: bool
    """The evidence that the candidate is worse, over all or over a kind of item, is as strong as proof."""
    is_contradicted: bool
    """A kind of item alone looks worse."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What proof takes that is not there yet."""

    items: int | None
    """So many new ones; None: the number of items is not what is missing, or no effect says how many."""
    obstacle: str
    """What stands in the way instead, in a sentence; empty: nothing that is known."""

    def __str__(self) -> str:
        if self.items is None:
            return f" {self.obstacle}" if self.obstacle else ""
        return f" For a gain like this about {self.items} new items are still needed."


@dataclass(frozen=True, kw_only=True)
class JudgePaired:
    """`[plugins.judge_paired]`"""

    proven_level: float = 0.025
    """Chance of a wrong promotion that one recipe of a specialty may take from a promotion to the next."""
    family_level: float = 0.05
    """The same for all specialties and recipes together."""
    provisional_level: float = 0.2
    worthwhile_gain: float = 10.0
    """Points. An exam is not asked to its end where a gain like this would hardly be proven any more tonight."""
    least_chance: float = 0.2
    """0..1, of that proof; below it nothing more is asked."""
    fewest_items: int = 6
    stakes: tuple[float, ...] = (0.5, 1.5, 4.5, 13.5)
    """Each is best for another kind of gain: the first for few wins of 100 points, the last for many of 5."""
    resamples: int = 9999

    def __post_init__(self) -> None:
        if not 0 < self.proven_level <= self.provisional_level < 1:
            raise ValueError("0 < proven_level <= provisional_level < 1 is needed")
        if not self.proven_level <= self.family_level < 1:
            raise ValueError("family_level must lie within proven_level..1")
        if not 0 < self.worthwhile_gain <= 100:
            raise ValueError("worthwhile_gain must lie within 0..100 points")
        if not 0 < self.least_chance < 1:
            raise ValueError("least_chance must lie between 0 and 1")
        if not self.stakes or not all(0 < stake < math.inf for stake in self.stakes):
            raise ValueError("stakes must be one or more numbers above 0")
        if self.fewest_items < 2 or self.resamples < 999:
            raise ValueError("fewest_items must be 2 or more, resamples 999 or more")

    @hookimpl
    def nightschool_judge_exam(self, exam: Exam, guards: tuple[GuardResult, ...], seed: int) -> Verdict:
        paired = _paired(exam)
        figures = self._measure(paired, seed)
        evidence = self._evaluate(exam, paired)
        missing = self._missing(figures, evidence)
        outcome, reason = self._decide(figures, evidence, missing, guards)
        is_open = outcome in (Outcome.NOT_ENOUGH, Outcome.PROVISIONAL)
        return Verdict(
            outcome=outcome,
            incumbent_mean=figures.incumbent_mean,
            candidate_mean=figures.candidate_mean,
            gain=figures.gain,
            interval=figures.interval,
            p_value=figures.p_value,
            noise=figures.noise,
            items=figures.items,
            pairs=paired.pairs,
            items_needed=missing.items if is_open else None,
            guards=guards,
            reason=reason,
            log_e_value=evidence.log_e_value,
            log_e_needed=evidence.log_e_needed,
            counted=evidence.counted,
            decided=evidence.is_hopeless or outcome in (Outcome.PROVEN, Outcome.WORSE),
            obstacle=missing.obstacle if is_open else "",
        )

    def _decide(
        self, figures: Figures, evidence: Evaluated, missing: Missing, guards: tuple[GuardResult, ...]
    ) -> tuple[Outcome, str]:
        broken = [guard for guard in guards if not guard.held]
        seen = f"{figures.gain:+.1f} points over {figures.items} items (p = {figures.p_value:.4f}, {evidence})"
        enough = figures.items >= self.fewest_items
        looks_better = figures.gain > 0 and figures.p_value <= self.provisional_level
        if enough and figures.is_loss:
            return Outcome.WORSE, f"The candidate is worse: {seen}."
        if broken:
            return Outcome.WORSE, f"The guard '{broken[0].guard}' is broken: {broken[0].reason}"
        if looks_better and figures.is_contradicted:
            return Outcome.NOT_ENOUGH, f"Questions and ranked pairs say opposite things: {seen}."
        if enough and looks_better and evidence.proves and figures.gain > figures.noise:
            low, high = figures.interval
            return Outcome.PROVEN, f"The candidate is better: {seen}, 95 % interval {low:+.1f} to {high:+.1f}."
        if looks_better:
            return Outcome.PROVISIONAL, f"The candidate looks better, but it is not proven: {seen}.{missing}"
        return Outcome.NOT_ENOUGH, _not_enough(figures, missing, seen)

    def _missing(self, figures: Figures, evidence: Evaluated) -> Missing:
        if obstacle := self._obstacle(figures, evidence):
            return Missing(items=None, obstacle=obstacle)
        if evidence.items_needed is None:
            return Missing(items=None, obstacle="")
        return Missing(items=max(evidence.items_needed, self.fewest_items - figures.items), obstacle="")

    def _obstacle(self, figures: Figures, evidence: Evaluated) -> str:
        """What stands in the way of proof, whatever the number of items; empty: nothing."""
        if not figures.items:
            return ""
        if figures.gain <= 0:
            return "No gain was seen this time: what another candidate gained before counts for one that gains too."
        if figures.is_contradicted:
            return "Questions and ranked pairs say opposite things."
        return self._doubt(figures) if evidence.proves and figures.items >= self.fewest_items else ""

    def _doubt(self, figures: Figures) -> str:
        """Why a gain is no proof, though the evidence of all nights would do."""
        if figures.p_value > self.provisional_level:
            return "With what earlier candidates showed it would do, but what this one gained may be chance."
        if figures.gain <= figures.noise:
            return f"The same model, asked twice, differs by as much as the gain ({figures.noise:.1f} points)."
        return ""

    # ----------------------------------------------------------------------- evidence

    def _evaluate(self, exam: Exam, paired: Paired) -> Evaluated:
        before = [one.gain for one in exam.evidence.counted]
        counted = _fresh(paired, frozenset(exam.evidence.used))
        gains = [*before, *(one.gain for one in counted)]
        needed = self._log_e_needed(exam.judged_together)
        return Evaluated(
            counted=counted,
            log_e_value=exam.evidence.log_e_value + self.log_e_value(gains) - self.log_e_value(before),
            log_e_needed=needed,
            items_needed=self._items_needed(gains, needed),
            is_hopeless=self.is_hopeless(gains, paired.candidate - paired.incumbent, exam.to_come, needed),
        )

    def is_hopeless(
        self, gains: "Sequence[float] | Scores", tonight: "Scores", to_come: int, log_e_needed: float
    ) -> bool:
        """Whether each stake has less than `least_chance` to reach the proof by the items to come.

        These gain a worthwhile mean, spread as tonight's; what a stake makes of so many is normal.
        """
        import numpy

        if len(tonight) < self.fewest_items:
            return False
        worthwhile = tonight + max(0.0, self.worthwhile_gain - float(tonight.mean()))
        so_far = self._log_capital(gains)[:, -1] if len(gains) else 0.0
        growth = numpy.diff(self._log_capital(worthwhile), axis=1, prepend=0.0)
        luck = NormalDist().inv_cdf(1 - self.least_chance) * growth.std(axis=1, ddof=1)
        reached = so_far + to_come * growth.mean(axis=1) + math.sqrt(to_come) * luck - math.log(len(self.stakes))
        return bool(reached.max() < log_e_needed)

    def log_e_value(self, gains: "Sequence[float] | Scores") -> float:
        """Natural logarithm of E over these gains, in points. 0 for none."""
        return float(self.log_e_path(gains)[-1]) if len(gains) else 0.0

    def log_e_path(self, gains: "Sequence[float] | Scores") -> "Capital":
        """The same after each of them, shape (gains,): what someone sees who looks at every item."""
        import numpy

        return numpy.asarray(numpy.logaddexp.reduce(self._log_capital(gains), axis=0) - math.log(len(self.stakes)))

    def _log_capital(self, gains: "Sequence[float] | Scores") -> "Capital":
        """What each stake alone made of 1 after each item, shape (stakes, gains)."""
        import numpy

        bets = numpy.outer(self.stakes, numpy.asarray(gains, dtype=numpy.float64) / 100)
        # log(1 + tanh(x)), which stays finite where tanh(x) rounds to -1
        factors: NDArray[numpy.float64] = math.log(2) - numpy.logaddexp(0, -2 * bets)
        return numpy.asarray(factors.cumsum(axis=1))

    def _log_e_needed(self, judged_together: int) -> float:
        return math.log(max(1 / self.proven_level, judged_together / self.family_level))

    def _items_needed(self, gains: "Sequence[float]", log_e_needed: float) -> int | None:
        if not len(gains):
            return None
        capital = self._log_capital(gains)[:, -1]
        growing = capital[capital > 0]
        if not len(growing):
            return None
        missing = log_e_needed + math.log(len(self.stakes)) - growing
        return max(1, math.ceil(float((missing * len(gains) / growing).min())))

    # ----------------------------------------------------------------------- tonight

    def _measure(self, paired: Paired, seed: int) -> Figures:
        items = len(paired.keys)
        difference, kinds = paired.candidate - paired.incumbent, paired.by_kind
        return Figures(
            incumbent_mean=float(paired.incumbent.mean()) if items else 0.0,
            candidate_mean=float(paired.candidate.mean()) if items else 0.0,
            gain=float(difference.mean()) if items else 0.0,
            interval=self.interval(difference),
            p_value=self._p_value(difference, seed),
            noise=abs(float((paired.again - paired.incumbent).mean())) if items else 0.0,
            items=items,
            is_loss=any(self.log_e_value(-one) >= self._log_e_needed(1) for one in (difference, *kinds)),
            is_contradicted=any(self._p_value(-one, seed) <= self.provisional_level for one in kinds),
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

    def interval(self, difference: "Scores") -> tuple[float, float]:
        """Bounds of the mean gain, in points of -100..100, which no looking at it on the way makes too narrow."""
        if not len(difference):
            return (-100.0, 100.0)
        mean = float(difference.mean())

        def refutes_less(bound: float) -> float:
            return self.log_e_value(difference - bound) - INTERVAL_LOG_E

        def refutes_more(bound: float) -> float:
            return self.log_e_value(bound - difference) - INTERVAL_LOG_E

        return (_root(refutes_less, -100.0, mean), _root(refutes_more, 100.0, mean))


def _root(refutes: "Callable[[float], float]", end: float, mean: float) -> float:
    """Where it stops to be refuted on the way from an end of the scale to the mean, which never is."""
    from scipy import optimize

    if refutes(end) <= 0:
        return end
    return float(optimize.root_scalar(refutes, bracket=(end, mean), method="brentq", xtol=0.001).root)


def _mean(sample: "Scores", axis: int) -> "Scores":
    import numpy

    return numpy.asarray(sample.mean(axis=axis))


def _paired(exam: Exam) -> Paired:
    import numpy

    scores = {
        (answer.sitting, answer.item_id): answer.score
        for answer in exam.answers
        if answer.sitting is Sitting.CANDIDATE or not answer.failed
    }
    sat = [
        item
        for item in exam.items
        if item.role is ItemRole.GAIN and all((sitting, item.id) in scores for sitting in Sitting)
    ]

    def of(sitting: Sitting) -> "Scores":
        return numpy.array([scores[sitting, item.id] for item in sat], dtype=numpy.float64)

    # in the middle of the scale, for it is the difference alone that says something
    ranked = numpy.array([one.gain / 2 for one in exam.ranked], dtype=numpy.float64)
    return Paired(
        keys=(*(item.key for item in sat), *(one.key for one in exam.ranked)),
        incumbent=numpy.concatenate((of(Sitting.INCUMBENT), 50 - ranked)),
        candidate=numpy.concatenate((of(Sitting.CANDIDATE), 50 + ranked)),
        again=numpy.concatenate((of(Sitting.INCUMBENT_AGAIN), 50 - ranked)),
        pairs=len(ranked),
    )


def _fresh(paired: Paired, used: frozenset[str]) -> tuple[CountedItem, ...]:
    """The items that no earlier exam against this incumbent asked; of one key the first."""
    gains: dict[str, float] = {}
    for key, incumbent, candidate in zip(paired.keys, paired.incumbent, paired.candidate, strict=True):
        if key not in used:
            gains.setdefault(key, float(candidate - incumbent))
    return tuple(CountedItem(key=key, gain=gain) for key, gain in gains.items())


def _not_enough(figures: Figures, missing: Missing, seen: str) -> str:
    if figures.items == 0:
        return "There is nothing to judge by: no held-out item that counts was answered by both models."
    if figures.gain <= 0:
        return f"No gain was seen: {seen}."
    return f"Not enough to tell: {seen}.{missing}"


def _shown(log_e_value: float) -> str:
    """An e-value for people; beyond a million its size says nothing more."""
    return f"{math.exp(log_e_value):.3g}" if log_e_value < math.log(1e6) else "over a million"


@hookimpl
def nightschool_register_settings() -> type[JudgePaired]:
    return JudgePaired
