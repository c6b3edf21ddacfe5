"""Guards that answers do not run in circles.

An answer repeats itself where it has 12 words or more and, of its sequences of 4 words, more than half came before in
it, or where it has 200 bytes or more and fits into a tenth of them (zlib). On the items that both sat

    only = items where the candidate's answer alone repeats itself
    p    = P(X >= only), X ~ binomial(items where one of the two does, 1/2)      (exact McNemar test)
    held   the candidate's share of such answers <= incumbent's worse sitting + 0.02, or p > 0.1

An item whose wanted answer repeats itself too, as a list or a table does, is left out: nothing can be told by it.
"""

from dataclasses import dataclass

from nightschool_hookspecs import Exam, GuardResult, hookimpl
from nightschool_hookspecs.circling import runs_in_circles
from nightschool_hookspecs.paired import compare_faults


@dataclass(frozen=True, kw_only=True)
class GuardRepetition:
    """`[plugins.guard_repetition]`"""

    words: int = 4
    """Of a sequence."""
    fewest_words: int = 12
    """Shorter answers do not repeat themselves."""
    largest_share: float = 0.5
    """Of sequences that came before."""
    tolerated_share: float = 0.02
    level: float = 0.1
    """More such answers than the incumbent's break the guard where chance makes so many this rarely."""

    def __post_init__(self) -> None:
        if self.words < 1 or self.fewest_words < self.words:
            raise ValueError("words must be 1 or more, and fewest_words as many or more")
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        by_nature = {item.id for item in exam.items if self.repeats(item.reference or "")}
        circles = {
            (one.sitting, one.item_id): self.repeats(one.text)
            for one in exam.answers
            if not one.failed and one.item_id not in by_nature
        }
        found = compare_faults(exam, circles, tolerated_share=self.tolerated_share, level=self.level)
        if found is None:
            return None
        return GuardResult(
            guard="repetition",
            held=found.held,
            reason=f"{found.candidate:.0%} of the candidate's answers run in circles; "
            f"the incumbent's share is {found.incumbent:.0%}.",
        )

    def repeats(self, text: str) -> bool:
        """Whether most of an answer came before in it."""
        return runs_in_circles(text, words=self.words, fewest_words=self.fewest_words, largest_share=self.largest_share)


@hookimpl
def nightschool_register_settings() -> type[GuardRepetition]:
    return GuardRepetition
