"""One question of an exam to one model."""

import time
from collections.abc import Callable
from typing import Protocol

from nightschool_daemon.evaluation.patience import patiently
from nightschool_daemon.ollama.errors import OllamaInterrupted, OllamaRefused
from nightschool_daemon.ollama.library import ChatAnswer
from nightschool_hookspecs.records import AnswerScore, ExamAnswer, ExamItem, Message, Sitting


class Ask(Protocol):
    """Asks a model by its name. Raises `OllamaInterrupted`, `OllamaRefused` and `OllamaUnreachable`."""

    def __call__(self, name: str, messages: tuple[Message, ...]) -> ChatAnswer: ...


Score = Callable[[ExamItem, str], AnswerScore]


def sit(
    item: ExamItem,
    sitting: Sitting,
    model: str,
    *,
    ask: Ask,
    score: Score,
    pause: Callable[[float], None] = time.sleep,
) -> ExamAnswer:
    """Ask a model one item and have its answer scored."""
    try:
        said = patiently(lambda: ask(model, item.messages), pause)
    except (OllamaInterrupted, OllamaRefused) as error:
        return ExamAnswer(
            item_id=item.id,
            sitting=sitting,
            model=model,
            text="",
            score=0.0,
            detail=str(error),
            failed=True,
            latency_s=0.0,
            tokens=0,
            done_reason=None,
        )
    found = score(item, said.text)
    return ExamAnswer(
        item_id=item.id,
        sitting=sitting,
        model=model,
        text=said.text,
        score=found.score,
        detail=found.detail,
        failed=False,
        latency_s=said.latency_s,
        tokens=said.tokens,
        done_reason=said.done_reason,
        generation_s=said.generation_s,
        reading_s=said.reading_s,
        is_relative=found.is_relative,
    )
