"""Guards that the candidate answers at all.

An answer is missing where it failed, is empty, or refuses what the wanted answer does not. On the items that both sat

    only = items where the candidate's answer alone is missing
    p    = P(X >= only), X ~ binomial(items where one of the two is missing, 1/2)      (exact McNemar test)
    held   the candidate's share of missing answers <= incumbent's worse sitting + 0.02, or p > 0.1

so that a single empty answer, which happens to any model, breaks nothing.
"""

from dataclasses import dataclass

from nightschool_hookspecs import Exam, GuardResult, hookimpl
from nightschool_hookspecs.paired import compare_faults

BEGINNING_CHARACTERS = 200
"""A refusal stands at the beginning; further on, the same words may be the answer's own."""


@dataclass(frozen=True, kw_only=True)
class GuardAnswers:
    """`[plugins.guard_answers]`"""

    tolerated_share: float = 0.02
    level: float = 0.1
    """More missing answers than the incumbent's break the guard where chance makes so many this rarely."""
    refusal_phrases: tuple[str, ...] = (
        "as an ai",
        "as a language model",
        "i cannot help",
        "i can't help",
        "i cannot assist",
        "i can't assist",
        "i'm sorry, but",
        "i am sorry, but",
        "i'm unable to",
        "i am unable to",
    )
    """In lower case."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        refused = {item.id for item in exam.items if self._refuses(item.reference or "")}
        missing = {
            (one.sitting, one.item_id): one.failed
            or not one.text.strip()
            or (one.item_id not in refused and self._refuses(one.text))
            for one in exam.answers
        }
        found = compare_faults(exam, missing, tolerated_share=self.tolerated_share, level=self.level)
        if found is None:
            return None
        return GuardResult(
            guard="answers",
            held=found.held,
            reason=f"{found.candidate:.0%} of the candidate's answers failed, were empty or refused; "
            f"the incumbent's share is {found.incumbent:.0%}.",
        )

    def _refuses(self, text: str) -> bool:
        beginning = text[:BEGINNING_CHARACTERS].lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        return any(phrase in beginning for phrase in self.refusal_phrases)


@hookimpl
def nightschool_register_settings() -> type[GuardAnswers]:
    return GuardAnswers
