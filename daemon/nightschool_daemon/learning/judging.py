"""Step `judge`: the guards look at the exam, and the judge decides."""

from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.examiner import exam_of
from nightschool_daemon.jobs import JudgeResult, Step
from nightschool_hookspecs.records import Exam


class JudgingError(Exception):
    """There is no judge; the message says what to do next."""


def run(context: WorkContext) -> None:
    """Have the exam judged and write `JudgeResult`."""
    exam = exam_of(context, context.run.exam_answers())
    context.run.finish(Step.JUDGE, judged(context, exam))


def judged(context: WorkContext, exam: Exam) -> JudgeResult:
    """What the guards saw, and the verdict. Raises `JudgingError` where there is no judge."""
    guards = context.hooks.guard_promotion(exam=exam, seed=context.info.seed)
    verdict = context.hooks.judge_exam(exam=exam, guards=guards, seed=context.info.seed)
    if verdict is None:
        raise JudgingError("No plugin judges exams. Take judge_paired out of plugins.disabled.")
    return JudgeResult(guards=guards, verdict=verdict)
