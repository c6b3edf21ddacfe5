"""Steps `examine` and `judge`: items, answers and the verdict go into the ledger."""

from nightschool_daemon.jobs import JudgeResult, PrepareResult, Step
from nightschool_daemon.runs.context import StepContext
from nightschool_hookspecs.records import ItemRole, Specialty


def accept(context: StepContext) -> None:
    """Store the exam's items and answers, and when all that was learned before was asked."""
    answers = context.directory.exam_answers()
    asked = {answer.item_id for answer in answers}
    items = tuple(item for item in context.directory.exam_items() if item.id in asked)
    context.ledger.exams.store(context.info.id, items, answers)
    if context.result(Step.PREPARE, PrepareResult).asks_all_learned:
        context.ledger.facts.put(regression_key(context.info.specialty), context.info.started_at.isoformat())


def regression_key(specialty: Specialty) -> str:
    """The fact that says when all that a specialty has learned was asked for the last time."""
    return f"regression:{specialty.base}/{specialty.artifact_type}"


def accept_verdict(context: StepContext) -> None:
    """Store the verdict, and what the exam adds to the evidence of the nights to come."""
    run_id, verdict = context.info.id, context.result(Step.JUDGE, JudgeResult).verdict
    asked = [item.key for item in context.ledger.exams.items(run_id) if item.role is ItemRole.GAIN]
    ranked = [pair.key for pair in context.directory.ranked_pairs()]
    context.ledger.exams.store_verdict(run_id, verdict)
    context.ledger.evidence.store(
        run_id,
        context.info.specialty,
        context.result(Step.PREPARE, PrepareResult).incumbent,
        log_e_value=verdict.log_e_value,
        asked=[*asked, *ranked],
        counted=verdict.counted,
    )
