"""Guards that answers do not come slower.

    seconds   of an answer, over the tokens it has; an answer of examples in the tag pays for its longer prompt
    ratio     (candidate's) / (incumbent's slower sitting), of each item that all three answered
    held      median ratio <= 1.5, or no significant excess: p > 0.1, one-sided sign test of ratios above 1.5

A ratio of one item says little, as machines have other things to do; so it takes the median, and several items. With
fewer than 4 nothing can be significant, and the guard is silent.
"""

from dataclasses import dataclass
from statistics import median

from nightschool_hookspecs import Exam, GuardResult, Sitting, hookimpl


@dataclass(frozen=True, kw_only=True)
class GuardSpeed:
    """`[plugins.guard_speed]`"""

    largest_factor: float = 1.5
    level: float = 0.1
    fewest_items: int = 4

    def __post_init__(self) -> None:
        if not self.largest_factor >= 1:
            raise ValueError("largest_factor must be 1 or more")
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")
        if self.fewest_items < 2:
            raise ValueError("fewest_items must be 2 or more")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        ratios = _ratios(exam)
        if len(ratios) < self.fewest_items:
            return None
        ratio = median(ratios)
        return GuardResult(
            guard="speed",
            held=ratio <= self.largest_factor or self._chance_of(ratios) > self.level,
            reason=f"A token of the candidate takes {ratio:.2f} times as long; {self.largest_factor:g} are tolerated.",
        )

    def _chance_of(self, ratios: list[float]) -> float:
        """How likely so many ratios are above the bound where it is their median."""
        from scipy import stats

        above = sum(one > self.largest_factor for one in ratios)
        return float(stats.binom.sf(above - 1, len(ratios), 0.5))


def _ratios(exam: Exam) -> list[float]:
    seconds = {
        (one.sitting, one.item_id): one.latency_s / one.tokens
        for one in exam.answers
        if not one.failed and one.tokens > 0 and one.latency_s > 0
    }
    sat = [item.id for item in exam.items if all((sitting, item.id) in seconds for sitting in Sitting)]
    return [
        seconds[Sitting.CANDIDATE, one] / max(seconds[Sitting.INCUMBENT, one], seconds[Sitting.INCUMBENT_AGAIN, one])
        for one in sat
    ]


@hookimpl
def nightschool_register_settings() -> type[GuardSpeed]:
    return GuardSpeed
