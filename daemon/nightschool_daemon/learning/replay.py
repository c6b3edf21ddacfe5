"""What is learned again beside a lesson: how much of it there may be, what it weighs, and where it stands."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from nightschool_hookspecs.records import Message, OwnAnswer, Role, TrainingExample

T = TypeVar("T")

LARGEST_SHARE = 0.25
"""Of all examples of a run, and of their loss."""
ROUNDING = 1e-9
"""Relative, of sums of floats."""


def pull(example: TrainingExample) -> float:
    """What an example counts in the loss, up to a factor that all have: the length of its answer, weighed.

    Characters stand for tokens, as the tokenizer is not at hand where examples are chosen.
    """
    return example.weight * len(example.target)


def as_example(answer: OwnAnswer, lesson: Sequence[TrainingExample]) -> TrainingExample:
    """An answer of the base's own, of no event, that counts no more in the loss than the mean example of the lesson.

    Nor does it by the token: among long lessons a short answer would be pressed hard.
    """
    mean_pull = math.fsum(map(pull, lesson)) / len(lesson)
    mean_weight = math.fsum(one.weight for one in lesson) / len(lesson)
    return TrainingExample(
        event_id="",
        messages=(Message(role=Role.USER, content=answer.prompt),),
        target=answer.text,
        weight=min(mean_weight, mean_pull / len(answer.text)),
        prompt=answer.prompt,
    )


def bounded(lesson: Sequence[TrainingExample], replayed: Iterable[TrainingExample]) -> tuple[TrainingExample, ...]:
    """The first ones that fit: with the lesson they make up at most a quarter of the examples, and of the loss."""
    share = LARGEST_SHARE / (1 - LARGEST_SHARE)
    most, left = math.floor(share * len(lesson)), share * math.fsum(map(pull, lesson)) * (1 + ROUNDING)
    kept: list[TrainingExample] = []
    for one in replayed:
        if len(kept) < most and pull(one) <= left:
            kept.append(one)
            left -= pull(one)
    return tuple(kept)


def interleaved(lesson: Sequence[T], replayed: Sequence[T]) -> tuple[T, ...]:
    """Both in their order, with what is replayed spread evenly over the lesson."""
    placed = [((number + 0.5) / len(part), one) for part in (lesson, replayed) for number, one in enumerate(part)]
    return tuple(one for _, one in sorted(placed, key=lambda one: one[0]))
