"""What scores and feedback say of an answer: whether it is good, whether it failed, how much a correction changes."""

import re

from nightschool_hookspecs.records import AnswerScore, Event, ExamAnswer, FirstScore

GOOD_SCORE = 70.0
"""0..100; an answer is good above it, wherever nobody set another bound."""
EQUAL_SCORE = 50.0
"""A relative score from which an answer is as good as what it was compared with."""
PROSE = frozenset({"other", "architecture", "api_docs"})
"""Artifact types whose text is read by people. In every other type a letter may be the whole lesson."""
CODE = re.compile(r"^```(?s:.*?)^```|^~~~(?s:.*?)^~~~|`[^`\n]+`|^(?: {4}|\t).*$|^[ \t]*\|.*$", re.MULTILINE)
"""In prose: fenced, quoted and indented code, and the rows of tables."""
DATA = re.compile(r"\A\s*(?:[{\[<]|---\s|(?:openapi|swagger|info|paths)\s*:)", re.IGNORECASE)
"""How a text begins that is data from end to end."""
SPACE = re.compile(r"\s+")
CLOSING = ".!?:;, "


def is_good(found: AnswerScore | ExamAnswer | FirstScore, good_score: float = GOOD_SCORE) -> bool:
    """Whether an answer scores above `good_score`, or, where its score is relative, is as good as its reference."""
    return found.score >= EQUAL_SCORE if found.is_relative else found.score > good_score


def is_failure(event: Event, lowest_score: float) -> bool:
    """Whether an answer of a model was disliked, corrected in more than its looks, or has no better score than this.

    A demonstration corrects no answer. `lowest_score`: 0..100.
    """
    score = event.validation_score
    is_low = score is not None and score <= lowest_score
    is_corrected = event.is_correction and event.ai_output is not None and not is_minor(event)
    return is_low or is_corrected or event.feedback_type.is_dislike


def is_minor(event: Event) -> bool:
    """Whether a correction of prose changes nothing but white space, case or closing punctuation.

    Never so outside prose, nor in the code that stands within it: one changed flag in a long command is the whole
    lesson, however alike the two texts are. False for what is no correction of an answer.
    """
    given, better = event.ai_output, event.corrected_output
    if given is None or better is None or event.artifact_type not in PROSE:
        return False
    if any(DATA.match(text) for text in (given, better)):
        return given == better
    return _code_of(given) == _code_of(better) and _folded(given) == _folded(better)


def _code_of(text: str) -> list[str]:
    return [found.group() for found in CODE.finditer(text)]


def _folded(text: str) -> str:
    # what stands before the first word, as the dot of a file's name, is no closing punctuation
    return SPACE.sub(" ", text.casefold()).strip().rstrip(CLOSING)
