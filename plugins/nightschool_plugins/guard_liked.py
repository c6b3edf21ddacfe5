"""Guards answers that were liked: they must not get worse.

loss = mean score of the incumbent - mean score of the candidate, over guard items
held: loss <= 5 points + mean difference between the incumbent's own two sittings

With fewer than 3 guard items nothing can be said, and the guard is silent.
"""

from dataclasses import dataclass
from statistics import fmean

from nightschool_hookspecs import Exam, GuardResult, ItemRole, Sitting, hookimpl


@dataclass(frozen=True, kw_only=True)
class GuardLiked:
    """`[plugins.guard_liked]`"""

    margin: float = 5.0
    """Points of 0..100."""
    fewest_items: int = 3

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        scores = {(answer.sitting, answer.item_id): answer.score for answer in exam.answers}
        sat = [
            item.id
            for item in exam.items
            if item.role is ItemRole.GUARD and all((sitting, item.id) in scores for sitting in Sitting)
        ]
        if len(sat) < max(1, self.fewest_items):
            return None
        loss = fmean(scores[Sitting.INCUMBENT, one] - scores[Sitting.CANDIDATE, one] for one in sat)
        noise = fmean(abs(scores[Sitting.INCUMBENT, one] - scores[Sitting.INCUMBENT_AGAIN, one]) for one in sat)
        return GuardResult(
            guard="liked",
            held=loss <= self.margin + noise,
            reason=f"Liked answers changed by {-loss:+.1f} points over {len(sat)} items; "
            f"{self.margin + noise:.1f} points less are tolerated.",
        )


@hookimpl
def nightschool_register_settings() -> type[GuardLiked]:
    return GuardLiked
