"""Guards what was liked and disliked: liked answers must not get worse, disliked ones must not come back.

    loss = mean score of the incumbent's two sittings - score of the candidate, of each guard item
    held   mean loss <= 5 points, or a mean above that is likely by chance: p > 0.1

p comes from the one-sided permutation test of (loss - 5), signs flipped (scipy). With fewer than 4 guard items
nothing can be significant, and the guard is silent. A liked answer scores by how good an answer is beside it, a
disliked one by how far an answer is from it. That disliked answers stay away makes up for no liked one that is lost,
nor the other way round: all items together must hold, and each kind with enough items by itself.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightschool_hookspecs import Exam, ExamItem, GuardResult, ItemRole, Sitting, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy
    from numpy.typing import NDArray

    Losses = NDArray[numpy.float64]
    """Shape (items,), points."""


@dataclass(frozen=True, kw_only=True)
class GuardLiked:
    """`[plugins.guard_liked]`"""

    margin: float = 5.0
    """Points of 0..100."""
    level: float = 0.1
    """A loss above the margin breaks the guard where chance makes one this rarely."""
    fewest_items: int = 4
    resamples: int = 9999

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")
        if self.fewest_items < 2 or self.resamples < 999:
            raise ValueError("fewest_items must be 2 or more, resamples 999 or more")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam, seed: int) -> GuardResult | None:
        import numpy

        liked, disliked = _losses_by_kind(exam)
        both = numpy.concatenate((liked, disliked))
        if len(both) < self.fewest_items:
            return None
        changes = (
            f"by {-losses.mean():+.1f} points over {_count(len(losses), f'{kind} item')}"
            for kind, losses in (("liked", liked), ("disliked", disliked))
            if len(losses)
        )
        return GuardResult(
            guard="liked",
            held=all(self._holds(one, seed) for one in (both, liked, disliked)),
            reason=f"Scores changed {', and '.join(changes)}; {self.margin:.1f} points less are tolerated.",
        )

    def _holds(self, losses: "Losses", seed: int) -> bool:
        if len(losses) < self.fewest_items:
            return True
        return float(losses.mean()) <= self.margin or self._p_value(losses - self.margin, seed) > self.level

    def _p_value(self, excess: "Losses", seed: int) -> float:
        import numpy
        from scipy import stats

        test = stats.permutation_test(
            (excess,),
            _mean,
            permutation_type="samples",
            alternative="greater",
            vectorized=True,
            n_resamples=self.resamples,
            rng=numpy.random.default_rng(seed),
        )
        return float(test.pvalue)


def _mean(sample: "Losses", axis: int) -> "Losses":
    import numpy

    return numpy.asarray(sample.mean(axis=axis))


def _losses_by_kind(exam: Exam) -> "tuple[Losses, Losses]":
    """Of what was liked, and of what was disliked."""
    import numpy

    scores = {
        (answer.sitting, answer.item_id): answer.score
        for answer in exam.answers
        if answer.sitting is Sitting.CANDIDATE or not answer.failed
    }
    sat = [
        item
        for item in exam.items
        if item.role is ItemRole.GUARD and all((sitting, item.id) in scores for sitting in Sitting)
    ]

    def of(items: "Iterable[ExamItem]") -> "Losses":
        rows = (
            (scores[Sitting.INCUMBENT, one.id] + scores[Sitting.INCUMBENT_AGAIN, one.id]) / 2
            - scores[Sitting.CANDIDATE, one.id]
            for one in items
        )
        return numpy.fromiter(rows, dtype=numpy.float64)

    return of(one for one in sat if one.disliked is None), of(one for one in sat if one.disliked is not None)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@hookimpl
def nightschool_register_settings() -> type[GuardLiked]:
    return GuardLiked
