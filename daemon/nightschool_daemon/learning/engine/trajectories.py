"""How wanted answers are learned: the loss of each, every time before the step that learns from it.

A forward pass has these losses anyway, so they cost nothing. They are told of what a person said alone: not of what
stands beside the lesson, which the network knows already, or which comes from no event. A variant is told as one, so
that nobody takes its loss for that of the example which the person gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from nightschool_daemon import codec
from nightschool_daemon.disk import sync
from nightschool_daemon.jobs import TRAJECTORIES, TrajectoryPoint, remembered_lines, write_lines
from nightschool_daemon.learning.engine.checkpoints import State


class Told(Protocol):
    """An example, and what it is beside its texts."""

    @property
    def event_id(self) -> str:
        """`source/id`; empty: it comes from no event."""
        ...

    @property
    def variant(self) -> bool: ...

    @property
    def beside(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class AnswerLoss:
    """A wanted answer's own loss, before the step in which it is learned from."""

    event_id: str
    variant: bool
    nats: float
    """Per token, with its weight left out."""


@dataclass(frozen=True, kw_only=True)
class PassLoss:
    """What one pass adds to a batch's loss."""

    total: Tensor
    answers: tuple[AnswerLoss, ...] = ()
    """Of the lesson's examples in the pass; none where answers are not simply wanted (DPO, KTO)."""


def told(examples: Sequence[Told], nats: Sequence[float]) -> tuple[AnswerLoss, ...]:
    """The losses that are told, of examples and the mean loss of each one's answer tokens."""
    return tuple(
        AnswerLoss(event_id=one.event_id, variant=one.variant, nats=loss)
        for one, loss in zip(examples, nats, strict=True)
        if one.event_id and not one.beside
    )


class TrajectoryLog:
    """`trajectories.jsonl`: a line each time that an answer is learned from. What stands behind the checkpoint goes."""

    def __init__(self, directory: Path, state: State) -> None:
        self._file = directory / TRAJECTORIES
        kept = [one for one in remembered_lines(self._file, TrajectoryPoint) if one.step <= state.step]
        write_lines(self._file, kept)

    def write(self, answers: Sequence[AnswerLoss], state: State) -> None:
        """Add the losses of the step that was just done."""
        points = (
            TrajectoryPoint(
                event_id=one.event_id,
                variant=one.variant,
                epoch=state.epoch + 1,
                stretch=len(state.losses) + 1,
                step=state.step,
                loss=one.nats,
            )
            for one in answers
        )
        with self._file.open("a", encoding="utf-8") as stream:
            stream.writelines(codec.to_json(one) + "\n" for one in points)

    def flush(self) -> None:
        """Wait until the lines are on the disk: who goes on from a checkpoint does not write its steps again."""
        sync(self._file)
