"""Trainings that are tried out: they go as any other, and nothing is left of them but what they came to.

They take the same steps as a training that is kept, and end as it ends; a judge may end them before. Nothing is
written: one that is killed is tried out again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from nightschool_daemon.learning.engine.checkpoints import put
from nightschool_daemon.learning.engine.examples import first_judged
from nightschool_daemon.learning.engine.loop import Diverged, Learner, Lessons, Report, S, watched_loss
from nightschool_hookspecs.records import Hyperparameters, TriedOut
from nightschool_hookspecs.services import Judge

Ids = tuple[int, ...]
Follow = Callable[[Sequence[Ids]], list[int]]
"""The token that a network finds likeliest behind each text."""
P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who looks on while a training is tried out."""

    marks: Sequence[float]
    """Epochs after which the judge is asked."""
    judge: Judge
    seconds: float
    """After which it is ended."""
    report: Report
    score: Callable[[Follow], float] | None = None
    """Asks the trained network, 0..100."""


@dataclass(frozen=True, kw_only=True)
class Slices(Generic[P]):
    """What a training that is tried out learns from, and what it is measured on."""

    learned: tuple[P, ...]
    measured: tuple[P, ...]


class Trials(Protocol):
    """Trainings beside a base that is opened once for all of them."""

    def epoch_seconds(self) -> float:
        """How long an epoch over what is learned from may take. Raises `TrainingError` where nothing fits."""
        ...

    def try_out(self, settings: Hyperparameters, watch: Watch) -> TriedOut:
        """Train and forget. What stands in the way of these settings alone is told by the result."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pupil(Generic[S]):
    """What is trained, and how it is asked. It watches the measured slice."""

    learner: Learner[S]
    follow: Follow


class Attempt(Generic[S]):
    """A training that is tried out."""

    def __init__(self, pupil: Pupil[S], slices: Slices[S], settings: Hyperparameters, seed: int, watch: Watch) -> None:
        self._pupil, self._slices, self._settings, self._watch = pupil, slices, settings, watch
        self._lessons = Lessons(pupil.learner, slices.learned, settings, seed)
        self._first_judged = first_judged(len(slices.learned), settings)
        self._marks = steps_of(watch.marks, self._lessons.steps, settings.num_epochs)
        self._began = time.monotonic()
        self._step = self._tokens = self._measured_tokens = 0
        self._measured_at, self._loss = -1, 0.0
        self._best: float | None = None
        self._best_parameters: Mapping[str, Tensor] = {}

    def outcome(self) -> TriedOut:
        """Take it as far as it goes."""
        loss = score = None
        problem = ""
        try:
            if self._comes_to_its_end():
                loss, score = self._best, self._score()
        except Diverged:
            problem = "The loss became no number."
        return TriedOut(
            loss=loss,
            score=score,
            tokens=self._tokens,
            measured_tokens=self._measured_tokens,
            seconds=time.monotonic() - self._began,
            problem=problem,
        )

    def _comes_to_its_end(self) -> bool:
        for epoch in range(self._settings.num_epochs):
            for batch in self._lessons.batches(epoch):
                self._learn(batch, epoch)
                if not self._goes_on():
                    return False
            if self._ends_with(epoch):
                break
        return True

    def _learn(self, batch: Sequence[S], epoch: int) -> None:
        loss = self._lessons.learn(batch, self._step)
        self._step += 1
        self._tokens += sum(map(len, batch))
        text = f"epoch {epoch + 1} of {self._settings.num_epochs}, loss {loss:.3f}"
        self._watch.report(self._step, self._lessons.steps, text)

    def _goes_on(self) -> bool:
        """Whether neither the judge nor the clock ends it here."""
        if self._step == self._lessons.steps:
            return True
        if time.monotonic() - self._began > self._watch.seconds:
            return False
        mark = self._marks.get(self._step)
        return mark is None or self._watch.judge(mark, self._measured())

    def _ends_with(self, epoch: int) -> bool:
        """As a training that is kept ends: after a judged epoch that is worse than the best one."""
        if epoch + 1 < min(self._first_judged, self._settings.num_epochs):
            return False
        loss = self._measured()
        if self._best is not None and loss >= self._best:
            return True
        self._best = loss
        if self._watch.score is not None:
            self._best_parameters = {name: one.detach().clone() for name, one in self._pupil.learner.named().items()}
        return False

    def _measured(self) -> float:
        if self._measured_at != self._step:
            self._loss, self._measured_at = watched_loss(self._pupil.learner), self._step
            self._measured_tokens += sum(map(len, self._slices.measured))
        return self._loss

    def _score(self) -> float | None:
        if self._watch.score is None:
            return None
        put(self._pupil.learner.named(), self._best_parameters)
        return self._watch.score(self._pupil.follow)


def steps_of(marks: Sequence[float], steps: int, epochs: int) -> dict[int, float]:
    """The steps after which the marks lie, in epochs; of several at one step the last, and none behind the end."""
    at = {max(1, round(mark * steps / epochs)): mark for mark in sorted(marks)}
    return {step: mark for step, mark in at.items() if step < steps}


def answered(follow: Follow, prompts: Sequence[Ids], closing: Ids, limits: Sequence[int]) -> list[Ids]:
    """What a network says to each prompt: the likeliest token each time, up to `closing`, which is left out.

    An answer that does not end is cut at its limit.
    """
    said: list[list[int]] = [[] for _ in prompts]
    speaking = list(range(len(prompts)))
    while speaking:
        following = follow([(*prompts[one], *said[one]) for one in speaking])
        for one, token in zip(speaking, following, strict=True):
            said[one].append(token)
        speaking = [one for one in speaking if not _ends(said[one], closing) and len(said[one]) < limits[one]]
    return [tuple(one[: -len(closing)] if _ends(one, closing) else one) for one in said]


def _ends(said: Sequence[int], closing: Ids) -> bool:
    return tuple(said[-len(closing) :]) == closing
