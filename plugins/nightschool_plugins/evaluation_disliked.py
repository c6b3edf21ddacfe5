"""Scores an answer where only a bad one is known: by how far it is from that.

score = 100 * (1 - combined similarity to the disliked answer)

Asked before the validators, which look for what a good answer must have, and after a model that judges, where one is
switched on. It shows that a bad answer came back, never that a better one was found: such items guard.
"""

from nightschool_hookspecs import AnswerScore, ExamItem, Measure, hookimpl


@hookimpl(tryfirst=True)
def nightschool_validate_answer(item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
    if item.disliked is None:
        return None
    similarity = measure([answer.strip()], [item.disliked.strip()]).values[0]
    score = 100.0 * (1 - min(1.0, max(0.0, similarity)))
    return AnswerScore(score=score, validator="disliked", detail="it was disliked before" if score == 0 else "")
