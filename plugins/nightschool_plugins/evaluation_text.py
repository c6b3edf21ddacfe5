"""Scores an answer by how alike it is to the reference.

score = 100 * combined similarity of all metrics at hand

It serves every artifact type that has no validator of its own, so it is asked last. White space
around the texts does not count, nor does a fence around the whole answer where the reference has
none. Without a reference an answer is only asked to be there; where it should be tested, nothing is said of it.
"""

import re
from dataclasses import dataclass

from nightschool_hookspecs import GOOD_SCORE, AnswerScore, ExamItem, Measure, hookimpl

FENCED = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class EvaluationText:
    """`[plugins.evaluation_text]`"""

    good_score: float = GOOD_SCORE
    """0..100; below it the report says that the answer differs."""

    @hookimpl(trylast=True)
    def nightschool_validate_answer(self, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        if item.reference is None and item.tests is not None:
            return None
        if item.reference is None:
            there = bool(answer.strip())
            return self._score(100.0 if there else 0.0, "" if there else "the answer is empty")
        reference = _normalize(item.reference)
        given = _normalize(answer)
        bare = FENCED.match(given)
        if bare and not FENCED.match(reference):
            given = bare.group(1).strip()
        similarity = measure([given], [reference]).values[0]
        score = 100.0 * min(1.0, max(0.0, similarity))
        return self._score(score, "" if score >= self.good_score else "the answer differs from the reference")

    def _score(self, score: float, detail: str) -> AnswerScore:
        return AnswerScore(score=score, validator="text", detail=detail)


def _normalize(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@hookimpl
def nightschool_register_settings() -> type[EvaluationText]:
    return EvaluationText
