"""Guards that answers are about as long as people want them.

    length     characters, without space around the answer
    ratio      (length of an answer + 20) / (length of the wanted one + 20)
    fault      a ratio outside 1/3 .. 3, or an answer that was cut off at the limit and is longer than the wanted one

An answer without a wanted one beside it can only be cut off. On the items that both sat

    only = items where the candidate's answer alone has the fault
    p    = P(X >= only), X ~ binomial(items where one of the two has it, 1/2)      (exact McNemar test)
    held   the candidate's share of such answers <= incumbent's worse sitting + 0.02, or p > 0.1

It is the wanted answers that say what is too long: a lesson may teach to be brief, or to go into detail.
"""

from dataclasses import dataclass

from nightschool_hookspecs import Exam, ExamAnswer, GuardResult, hookimpl
from nightschool_hookspecs.paired import compare_faults

SLACK_CHARACTERS = 20
"""A word more or less of a short answer says nothing."""
CUT_OFF = "length"
"""Ollama's `done_reason` of an answer that reached the limit of tokens."""


@dataclass(frozen=True, kw_only=True)
class GuardLength:
    """`[plugins.guard_length]`"""

    largest_factor: float = 3.0
    tolerated_share: float = 0.02
    level: float = 0.1
    """More such answers than the incumbent's break the guard where chance makes so many this rarely."""

    def __post_init__(self) -> None:
        if not self.largest_factor >= 1:
            raise ValueError("largest_factor must be 1 or more")
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        wanted = {item.id: item.reference for item in exam.items}
        out_of_bounds = {
            (one.sitting, one.item_id): self._is_out_of_bounds(one, wanted[one.item_id])
            for one in exam.answers
            if not one.failed
        }
        found = compare_faults(exam, out_of_bounds, tolerated_share=self.tolerated_share, level=self.level)
        if found is None:
            return None
        return GuardResult(
            guard="length",
            held=found.held,
            reason=f"{found.candidate:.0%} of the candidate's answers are far longer or shorter than the wanted ones, "
            f"or do not end; the incumbent's share is {found.incumbent:.0%}.",
        )

    def _is_out_of_bounds(self, answer: ExamAnswer, wanted: str | None) -> bool:
        is_cut_off = answer.done_reason == CUT_OFF
        if wanted is None:
            return is_cut_off
        length, aim = len(answer.text.strip()), len(wanted.strip())
        ratio = (length + SLACK_CHARACTERS) / (aim + SLACK_CHARACTERS)
        return not 1 / self.largest_factor <= ratio <= self.largest_factor or (is_cut_off and length > aim)


@hookimpl
def nightschool_register_settings() -> type[GuardLength]:
    return GuardLength
