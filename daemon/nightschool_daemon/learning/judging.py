"""Step `judge`: the guards look at the exam, and the judge decides.

The judge is asked first without guards: those that put questions to the models take minutes, which are spent only where
the exam alone would have the candidate put into use.
"""

from dataclasses import replace

from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.decision import is_good_enough
from nightschool_daemon.evaluation.earlier_answers import EarlierAnswers
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.exam_models import ExamModels, answers_directory
from nightschool_daemon.evaluation.examiner import exam_of
from nightschool_daemon.evaluation.predecessor import judge_unproven
from nightschool_daemon.evaluation.similarity import CombinedMeasure
from nightschool_daemon.jobs import JudgeResult, Step
from nightschool_hookspecs.records import Exam, GuardResult, Verdict
from nightschool_hookspecs.services import Measure, Models


class JudgingError(Exception):
    """There is no judge; the message says what to do next."""


def run(context: WorkContext) -> None:
    """Have the exam judged and write `JudgeResult`."""
    exam = exam_of(context, context.run.exam_answers())
    measure = CombinedMeasure(context.hooks, open_embed(context.settings))
    mode = context.settings.promotion.promote
    is_wanted = is_good_enough(_verdict(context, exam).outcome, mode, context.info.reason)
    of_incumbent = judge_unproven(context, exam)
    models = ExamModels(context.settings, EarlierAnswers(answers_directory(context.settings))) if is_wanted else None
    result = judged(context, exam, measure=measure, models=models)
    context.run.finish(Step.JUDGE, replace(result, of_incumbent=of_incumbent))


def judged(context: WorkContext, exam: Exam, *, measure: Measure, models: Models | None = None) -> JudgeResult:
    """What the guards saw, and the verdict. Raises `JudgingError` where there is no judge."""
    guards = context.hooks.guard_promotion(exam=exam, seed=context.info.seed, measure=measure, models=models)
    return JudgeResult(guards=guards, verdict=_verdict(context, exam, guards))


def _verdict(context: WorkContext, exam: Exam, guards: tuple[GuardResult, ...] = ()) -> Verdict:
    verdict = context.hooks.judge_exam(exam=exam, guards=guards, seed=context.info.seed)
    if verdict is None:
        raise JudgingError("No plugin judges exams. Take judge_paired out of plugins.disabled.")
    return verdict
