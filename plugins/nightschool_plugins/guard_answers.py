"""Guards that the candidate answers at all.

held: candidate's share of failed, empty or refusing answers <= incumbent's worse sitting + 0.02
"""

from dataclasses import dataclass

from nightschool_hookspecs import Exam, ExamAnswer, GuardResult, Sitting, hookimpl

BEGINNING_CHARACTERS = 200
"""A refusal stands at the beginning; further on, the same words may be the answer's own."""


@dataclass(frozen=True, kw_only=True)
class GuardAnswers:
    """`[plugins.guard_answers]`"""

    tolerated_share: float = 0.02
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

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        shares = {sitting: self._share(exam, sitting) for sitting in Sitting}
        candidate, incumbent = shares[Sitting.CANDIDATE], shares[Sitting.INCUMBENT]
        if candidate is None or incumbent is None:
            return None
        bound = max(incumbent, shares[Sitting.INCUMBENT_AGAIN] or 0.0) + self.tolerated_share
        return GuardResult(
            guard="answers",
            held=candidate <= bound,
            reason=f"{candidate:.0%} of the candidate's answers failed, were empty or refused; "
            f"the incumbent's share is {incumbent:.0%}.",
        )

    def _share(self, exam: Exam, sitting: Sitting) -> float | None:
        answers = [answer for answer in exam.answers if answer.sitting is sitting]
        return sum(map(self._is_missing, answers)) / len(answers) if answers else None

    def _is_missing(self, answer: ExamAnswer) -> bool:
        beginning = answer.text[:BEGINNING_CHARACTERS].lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        refuses = any(phrase in beginning for phrase in self.refusal_phrases)
        return answer.failed or not answer.text.strip() or refuses


@hookimpl
def nightschool_register_settings() -> type[GuardAnswers]:
    return GuardAnswers
