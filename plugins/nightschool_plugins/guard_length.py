"""Guards that answers do not swell or shrink for nothing.

ratio = (characters of the candidate's answer + 1) / (characters of the incumbent's + 1)
held: median ratio within 1/3 .. 3, or the mean score rose

A median, because a single endless answer is the business of another guard.
"""

from dataclasses import dataclass
from statistics import fmean, median

from nightschool_hookspecs import Exam, ExamAnswer, GuardResult, Sitting, hookimpl


@dataclass(frozen=True, kw_only=True)
class GuardLength:
    """`[plugins.guard_length]`"""

    largest_factor: float = 3.0

    def __post_init__(self) -> None:
        if not self.largest_factor >= 1:
            raise ValueError("largest_factor must be 1 or more")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        pairs = _pairs(exam)
        if not pairs:
            return None
        ratio = median((len(candidate.text) + 1) / (len(incumbent.text) + 1) for incumbent, candidate in pairs)
        rise = fmean(candidate.score - incumbent.score for incumbent, candidate in pairs)
        within = 1 / self.largest_factor <= ratio <= self.largest_factor
        return GuardResult(
            guard="length",
            held=within or rise > 0,
            reason=f"The candidate's answers are {ratio:.2f} times as long, with {rise:+.1f} points.",
        )


def _pairs(exam: Exam) -> list[tuple[ExamAnswer, ExamAnswer]]:
    """Answers of incumbent and candidate to the same item, where both are whole."""
    whole = {(answer.sitting, answer.item_id): answer for answer in exam.answers if not answer.failed}
    found = [(whole.get((Sitting.INCUMBENT, item.id)), whole.get((Sitting.CANDIDATE, item.id))) for item in exam.items]
    return [(incumbent, candidate) for incumbent, candidate in found if incumbent and candidate]


@hookimpl
def nightschool_register_settings() -> type[GuardLength]:
    return GuardLength
