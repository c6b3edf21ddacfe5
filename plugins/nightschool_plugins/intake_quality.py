"""The quality gates: what would be learned must be good, and must be an answer.

An answer that is to be learned as it is needs a validation score above `lowest_score`, where it has one. The
text to be learned, a correction included, must not be placeholder text, an apology or refusal, talk about
being a model, an echo of its prompt, or cut off. Negative feedback has nothing to be learned and passes.
"""

import re
from dataclasses import dataclass

from nightschool_hookspecs import GOOD_SCORE, Event, Refusal, hookimpl

PLACEHOLDER = re.compile(
    r"lorem ipsum|\bTODO: (write|implement|fill)|(?<!\w)\[((insert|your) [^\]]*|placeholder)\]|<(insert|your)[^>]*here>"
    r"|\byour (code|text|answer) here\b",
    re.IGNORECASE,
)
"""An index into a list, as in `slots[your_turn]`, is none."""
ABOUT_ITSELF = re.compile(r"\bas an? (ai|artificial intelligence|(large )?language model)\b", re.IGNORECASE)
CANNOT = (
    r"(cannot|can't|can not|could not|couldn't|am unable to|'m unable to|am not able to|'m not able to"
    r"|won't be able to)"
)
APOLOGY = r"(i('m| am) (really |very |so )?sorry|sorry|i apologi[sz]e|my apologies)"
REFUSAL = re.compile(
    rf"^\W*(({APOLOGY}|unfortunately)\b[^.!?\n]{{0,40}}\bi ?{CANNOT}"
    rf"|i ?{CANNOT} (help|assist|do that|comply|fulfil|answer|provide)"
    rf"|{APOLOGY}\b[^,.;:!?\n]{{0,60}}\W*$)",
    re.IGNORECASE,
)
"""An apology alone, or one for what is not done. One for a delay is an answer."""
CUT_OFF = re.compile(r"(\[\.\.\.\]|\[truncated\]|\(truncated\)|\.\.\. ?\(continued\))\s*$", re.IGNORECASE)
OPEN_FENCE = re.compile(r"^```", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class IntakeQuality:
    """`[plugins.intake_quality]`"""

    lowest_score: float = GOOD_SCORE
    """0..100. A liked answer whose validation score is not above it is refused."""
    refuse_generic: bool = True
    """Refuse placeholder text, apologies, refusals, echoes and cut-off answers."""

    def __post_init__(self) -> None:
        if not 0 <= self.lowest_score <= 100:
            raise ValueError("lowest_score must lie within 0..100")

    @hookimpl
    def nightschool_validate_event(self, event: Event) -> Refusal | None:
        target = event.target
        if target is None or event.metadata.deleted:
            return None
        score = event.validation_score
        if not event.is_correction and score is not None and score <= self.lowest_score:
            return _refusal(
                f"it is liked, but its validation_score of {score:g} is not above {self.lowest_score:g}. Send it as a "
                "validation_failure, or with a corrected_output"
            )
        problem = generic_content(target, event.input_data) if self.refuse_generic else None
        return _refusal(problem) if problem else None


def generic_content(target: str, prompt: str) -> str | None:
    """Why a text is no answer worth learning; None where it is one."""
    text = target.strip()
    problems = (
        (not text, "is empty. Send what the model should have said"),
        (PLACEHOLDER.search(text), "holds placeholder text. Send the finished answer"),
        (ABOUT_ITSELF.search(text), "talks about being a model. Send the answer alone"),
        (REFUSAL.match(text), "is an apology or a refusal. Send the answer that was wanted"),
        (text.casefold() == prompt.strip().casefold(), "repeats its prompt. Send the answer"),
        (CUT_OFF.search(text) or len(OPEN_FENCE.findall(text)) % 2, "is cut off. Send the whole answer"),
    )
    return next((f"the text to be learned {problem}" for found, problem in problems if found), None)


def _refusal(reason: str) -> Refusal:
    return Refusal(reason=f"{reason[0].upper()}{reason[1:]}.", code="quality")


@hookimpl
def nightschool_register_settings() -> type[IntakeQuality]:
    return IntakeQuality
