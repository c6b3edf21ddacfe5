"""Step `judge`: the guards look at the exam, and the judge decides."""

from typing import TypeVar

from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.jobs import JudgeResult, PrepareResult, RegisterResult, Step, read_lines
from nightschool_hookspecs.records import Exam, ExamAnswer, ExamItem

T = TypeVar("T")


class JudgingError(Exception):
    """There is no judge; the message says what to do next."""


def run(context: WorkContext) -> None:
    """Have the exam judged and write `JudgeResult`."""
    exam = read_exam(context)
    guards = context.hooks.guard_promotion(exam=exam, seed=context.info.seed)
    verdict = context.hooks.judge_exam(exam=exam, guards=guards, seed=context.info.seed)
    if verdict is None:
        raise JudgingError("No plugin judges exams. Take judge_paired out of plugins.disabled.")
    context.run.finish(Step.JUDGE, JudgeResult(guards=guards, verdict=verdict))


def read_exam(context: WorkContext) -> Exam:
    """Put items and answers together; items that the caps of the night left out are not part of it."""
    answers = tuple(read_lines(context.run.step(Step.EXAMINE) / "answers.jsonl", ExamAnswer))
    asked = {answer.item_id for answer in answers}
    items = read_lines(context.run.step(Step.SELECT) / "items.jsonl", ExamItem)
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    return Exam(
        specialty=context.info.specialty,
        incumbent=prepared.incumbent,
        candidate=context.run.result(Step.REGISTER, RegisterResult).tag,
        items=tuple(item for item in items if item.id in asked),
        answers=answers,
        evidence=prepared.evidence,
        judged_together=prepared.judged_together,
    )
