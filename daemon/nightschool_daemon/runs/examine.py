"""Steps `examine` and `judge`: items, answers and the verdict go into the ledger."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from nightschool_daemon import codec
from nightschool_daemon.jobs import JudgeResult, Step
from nightschool_daemon.runs.context import StepContext
from nightschool_hookspecs.records import ExamAnswer, ExamItem

T = TypeVar("T")


def accept(context: StepContext) -> None:
    """Store the exam's items and answers."""
    answers = tuple(_lines(context.directory.step(Step.EXAMINE) / "answers.jsonl", ExamAnswer))
    asked = {answer.item_id for answer in answers}
    items = tuple(
        item for item in _lines(context.directory.step(Step.SELECT) / "items.jsonl", ExamItem) if item.id in asked
    )
    context.ledger.exams.store(context.info.id, items, answers)


def accept_verdict(context: StepContext) -> None:
    """Store the verdict."""
    context.ledger.exams.store_verdict(context.info.id, context.result(Step.JUDGE, JudgeResult).verdict)


def _lines(file: Path, kind: type[T]) -> Iterator[T]:
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield codec.from_json(line, kind)
