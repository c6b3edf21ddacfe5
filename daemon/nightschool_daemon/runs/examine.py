"""Steps `examine` and `judge`: items, answers and the verdict go into the ledger."""

from nightschool_daemon.jobs import JudgeResult, Step, read_lines
from nightschool_daemon.runs.context import StepContext
from nightschool_hookspecs.records import ExamAnswer, ExamItem


def accept(context: StepContext) -> None:
    """Store the exam's items and answers."""
    answers = tuple(read_lines(context.directory.step(Step.EXAMINE) / "answers.jsonl", ExamAnswer))
    asked = {answer.item_id for answer in answers}
    items = tuple(
        item for item in read_lines(context.directory.step(Step.SELECT) / "items.jsonl", ExamItem) if item.id in asked
    )
    context.ledger.exams.store(context.info.id, items, answers)


def accept_verdict(context: StepContext) -> None:
    """Store the verdict."""
    context.ledger.exams.store_verdict(context.info.id, context.result(Step.JUDGE, JudgeResult).verdict)
