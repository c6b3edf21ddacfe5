"""Steps `examine` and `judge`: items, answers and the verdict go into the ledger."""

from nightschool_daemon.jobs import JudgeResult, PrepareResult, Step, read_lines
from nightschool_daemon.runs.context import StepContext
from nightschool_hookspecs.records import ExamAnswer, ExamItem, ItemRole


def accept(context: StepContext) -> None:
    """Store the exam's items and answers."""
    answers = tuple(read_lines(context.directory.step(Step.EXAMINE) / "answers.jsonl", ExamAnswer))
    asked = {answer.item_id for answer in answers}
    items = tuple(
        item for item in read_lines(context.directory.step(Step.SELECT) / "items.jsonl", ExamItem) if item.id in asked
    )
    context.ledger.exams.store(context.info.id, items, answers)


def accept_verdict(context: StepContext) -> None:
    """Store the verdict, and what the exam adds to the evidence of the nights to come."""
    run_id, verdict = context.info.id, context.result(Step.JUDGE, JudgeResult).verdict
    context.ledger.exams.store_verdict(run_id, verdict)
    context.ledger.evidence.store(
        run_id,
        context.info.specialty,
        context.result(Step.PREPARE, PrepareResult).incumbent,
        log_e_value=verdict.log_e_value,
        asked=[item.key for item in context.ledger.exams.items(run_id) if item.role is ItemRole.GAIN],
        counted=verdict.counted,
    )
