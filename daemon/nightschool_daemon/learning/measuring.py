"""How much of a lesson a network has, by our own forward pass over what was learned, as each method means it.

A wanted answer is learned where it became likely; a pair where the better answer gained on the worse one; a thumb where
a liked answer became likely and a disliked one unlikely.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from nightschool_daemon.jobs import (
    SMALLEST_LESSON,
    UNITS,
    BaseSnapshot,
    ExportResult,
    Losses,
    LossKind,
    SelectResult,
    Step,
    read_lines,
)
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.loop import LOWER_RATE
from nightschool_daemon.learning.lesson import Lesson
from nightschool_daemon.learning.loading import Tokens
from nightschool_daemon.learning.packed_route import read_examples
from nightschool_daemon.learning.rows import Row, rows_of, within
from nightschool_daemon.learning.threads import limit_threads
from nightschool_daemon.learning.training import make_job
from nightschool_daemon.learning.variants import Variant, Variants, open_variants
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_hookspecs.records import ExamItem, TrainingMethod, TrainingResult, TrainingText
from nightschool_hookspecs.services import TrainingError

T = TypeVar("T")

MEASURED = 40
"""So many examples of a method are measured on, and so many held-out references."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """A mean of answers' log-probabilities, counted for or against a network."""

    kind: LossKind
    rows: tuple[Row, ...]
    signs: tuple[int, ...]
    """Of each row: 1 where its answer is to be likely, -1 where it is to be unlikely."""
    units: int
    """What the mean is taken over: answer tokens, pairs or answers."""

    def loss(self, variants: Variants) -> float:
        """Of the network that is in use."""
        return -float(np.dot(self.signs, variants.answer_sums(self.rows))) / self.units


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What base and trained network come to by a yardstick."""

    yardstick: Yardstick
    base: float
    trained: float

    def left_in(self, delivered: Variants) -> Losses:
        """With what the network in use comes to."""
        return Losses(
            base_loss=self.base,
            trained_loss=self.trained,
            delivered_loss=self.yardstick.loss(delivered),
            kind=self.yardstick.kind,
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What base and trained network make of what was learned, and what a delivery leaves of the difference."""

    variants: Variants
    learned: Sequence[Mark]
    held_out: Mark | None = None
    """By references of held-out prompts, where there are some."""

    @classmethod
    def of(cls, context: WorkerContext, base: BaseSnapshot, lesson: Lesson) -> Measure:
        """Measure base and trained network. Raises `TrainingError` where nothing was learned that could be kept."""
        limit_threads(context.settings.training.threads)
        variants = open_variants(lesson, base.weights_digest, context.settings)
        of_references = _of_references(context, variants.tokens, base.pin)
        yardsticks = [*_yardsticks(context, variants), *([] if of_references is None else [of_references])]
        before = [one.loss(variants) for one in yardsticks]
        variants.use(Variant.TRAINED)
        marks = [
            Mark(yardstick=one, base=loss, trained=one.loss(variants))
            for one, loss in zip(yardsticks, before, strict=True)
        ]
        held_out = None if of_references is None else marks.pop()
        for one in marks:
            require_lesson(one.yardstick.kind, one.base, one.trained)
        return cls(variants=variants, learned=marks, held_out=held_out)

    def of_delivered(self, export: ExportResult) -> ExportResult:
        """The same with what was measured of its files. Of several methods, the one of which least is left."""
        self.variants.use(Variant.DELIVERED, export)
        held_in = min((one.left_in(self.variants) for one in self.learned), key=lambda one: one.kept)
        if self.held_out is None:
            return replace(export, held_in=held_in)
        held_out, texts = self.held_out.left_in(self.variants), len(self.held_out.yardstick.rows)
        return replace(export, held_in=held_in, held_out=held_out, held_out_texts=texts)


def _of_references(context: WorkerContext, tokens: Tokens, pin: str) -> Yardstick | None:
    """By held-out prompts with their references, as far as they are no longer than what is learned; None: of none."""
    directory, selected = context.run.step(Step.SELECT), context.run.result(Step.SELECT, SelectResult)
    items = list(read_lines(directory / "items.jsonl", ExamItem))[:MEASURED]
    with contextlib.closing(OllamaHttp(context.settings.ollama)) as http:
        texts = [
            TrainingText(
                event_id=one.id, prompt=http.render(pin, one.messages), completion=one.reference + selected.closing
            )
            for one in items
            if one.reference
        ]
    rows = tuple(within(rows_of(texts, tokens), selected.hyperparameters.max_length))
    units = sum(len(one.completion) for one in rows)
    return Yardstick(kind=LossKind.ANSWERS, rows=rows, signs=(1,) * len(rows), units=units) if rows else None


def require_lesson(kind: LossKind, before: float, after: float) -> None:
    """Raise where a training made worse what it learned from, as it does at too high a rate."""
    if not after <= before + SMALLEST_LESSON:
        raise TrainingError(
            f"The training made worse what it learned from: {before:.3f} before, {after:.3f} after ({UNITS[kind]}). "
            f"{LOWER_RATE}."
        )


def yardstick_of(method: TrainingMethod, examples: Sequence[Example]) -> Yardstick:
    """What is learned of examples by a method: of some of them, spread over all of the lesson."""
    if method is TrainingMethod.SFT:
        lesson = [one for one in examples if not one.beside]
        wanted = [(one, one.answers[0], 1) for one in spread(lesson, MEASURED)]
        return _yardstick(LossKind.ANSWERS, wanted, sum(len(answer.tokens) for _, answer, _ in wanted))
    if method is TrainingMethod.DPO:
        pairs = spread(examples, MEASURED)
        both = [(one, answer, sign) for one in pairs for answer, sign in zip(one.answers, (1, -1), strict=True)]
        return _yardstick(LossKind.PAIRS, both, len(pairs))
    # thumbs of the rarer kind count as well
    of_kind = [[one for one in examples if one.answers[0].liked is liked] for liked in (True, False)]
    thumbs = [one for kind in of_kind for one in spread(kind, MEASURED // 2)]
    signed = [(one, one.answers[0], 1 if one.answers[0].liked else -1) for one in thumbs]
    return _yardstick(LossKind.THUMBS, signed, len(thumbs))


def spread(values: Sequence[T], count: int) -> list[T]:
    """At most so many, evenly over all of them."""
    taken = min(count, len(values))
    return [values[number * len(values) // taken] for number in range(taken)]


def _yardstick(kind: LossKind, signed: Sequence[tuple[Example, Answer, int]], units: int) -> Yardstick:
    rows = [Row(prompt=example.prompt, completion=answer.tokens, weight=1.0) for example, answer, _ in signed]
    return Yardstick(kind=kind, rows=tuple(rows), signs=tuple(sign for *_, sign in signed), units=units)


def _yardsticks(context: WorkerContext, variants: Variants) -> Iterator[Yardstick]:
    """One for each method that trained."""
    job = make_job(context)
    max_length = context.run.result(Step.SELECT, SelectResult).hyperparameters.max_length
    for method in context.run.result(Step.TRAIN, TrainingResult).methods:
        examples, _ = read_examples(job, method, variants.tokens, max_length)
        yield yardstick_of(method, examples)
