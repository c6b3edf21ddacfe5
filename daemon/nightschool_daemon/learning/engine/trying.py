"""Trainings that are tried out: they go as any other, and nothing is left of them but what they came to.

It is the same loop, over the same curriculum, and it ends as it would; a judge or the clock may end it before. Nothing
is written: one that is killed is tried out again.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from nightschool_daemon.jobs import StretchMark
from nightschool_daemon.learning.engine.adam import Adam
from nightschool_daemon.learning.engine.checkpoints import State, put
from nightschool_daemon.learning.engine.examples import Split, first_judged
from nightschool_daemon.learning.engine.loop import Course, Diverged, Learner, Plan, Report, S, watched_loss
from nightschool_daemon.learning.engine.trajectories import AnswerLoss, PassLoss
from nightschool_hookspecs.records import Hyperparameters, TrainingTrial, TrialEnd, TriedOut
from nightschool_hookspecs.services import Judge, TrainingError

Ids = tuple[int, ...]
IsLate = Callable[[], bool]
"""Whether the time is over."""
Follow = Callable[[Sequence[Ids]], list[int]]
"""The token that a network finds likeliest behind each text."""
P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who looks on while a training is tried out."""

    trial: TrainingTrial
    judge: Judge
    report: Report
    score: Callable[[Follow, IsLate], float | None] | None = None
    """Asks the trained network, 0..100; None: the time was over before it had answered."""


@dataclass(frozen=True, kw_only=True)
class Slices(Generic[P]):
    """What a training that is tried out learns from, and what it is measured on."""

    learned: tuple[P, ...]
    measured: tuple[P, ...]


@dataclass(frozen=True, kw_only=True)
class Pupil(Generic[S]):
    """What is trained and watches the measured slice, how it goes, and how it is asked."""

    learner: Learner[S]
    plan: Plan
    follow: Follow


class Unfit(TrainingError):
    """These hyperparameters cannot be trained by here; others may."""


class Trials(ABC, Generic[S]):
    """Trainings beside a base that is opened once for all of them."""

    def __init__(self, slices: Slices[S]) -> None:
        self.slices = slices
        self._base_loss: float | None = None

    @abstractmethod
    def epoch_seconds(self, settings: Hyperparameters) -> float:
        """How long an epoch over what is learned from may take by these, which need not fit into memory.

        Raises `TrainingError` where nothing does.
        """

    @abstractmethod
    def pupil(self, settings: Hyperparameters) -> AbstractContextManager[Pupil[S]]:
        """What is trained by these; it is gone when the block is left. Raises `Unfit`."""

    def try_out(self, watch: Watch) -> TriedOut:
        """Train and forget. What stands in the way of these hyperparameters alone is told by the result."""
        try:
            with self.pupil(watch.trial.hyperparameters) as pupil:
                attempt = Attempt(pupil, self.slices, watch, self._base_loss)
                self._base_loss = attempt.base_loss
                return attempt.outcome()
        except Unfit as error:
            return TriedOut(end=TrialEnd.UNFIT, loss=None, tokens=0, measured_tokens=0, seconds=0.0, problem=str(error))


class Attempt(Generic[S]):
    """A training that is tried out."""

    def __init__(self, pupil: Pupil[S], slices: Slices[S], watch: Watch, base_loss: float | None) -> None:
        """`base_loss`: of the base on the measured slice, where it is known."""
        self._began = time.monotonic()
        self._pupil, self._watch = pupil, watch
        self._learner = Measured(pupil.learner, slices.measured)
        settings = pupil.plan.hyperparameters
        split = Split(
            learned=slices.learned,
            watched=slices.measured,
            held=True,
            first_judged=first_judged(len(slices.learned), settings),
        )
        keeper = InMemory(base_loss, keeps_best=watch.score is not None)
        self._course = Course(self._learner, split, pupil.plan, watch.report, keeper)
        self._marks = steps_of(watch.trial.marks, self._course.steps, settings.num_epochs)

    @property
    def base_loss(self) -> float:
        """Of the base, on the measured slice."""
        return self._course.state.base_loss

    def outcome(self) -> TriedOut:
        """Take it as far as it goes."""
        loss = score = None
        problem = ""
        try:
            end = self._learn()
            if end is TrialEnd.COMPLETE:
                loss = self._course.end().trained_loss
                if self._watch.score is not None:
                    score = self._watch.score(self._pupil.follow, self._is_late)
                    if score is None:
                        end, problem = TrialEnd.LATE, "The time was over before it had answered."
        except Diverged as error:
            end, problem = TrialEnd.UNFIT, str(error)
        return TriedOut(
            end=end,
            loss=loss,
            score=score,
            tokens=self._course.state.tokens,
            measured_tokens=self._learner.tokens,
            seconds=time.monotonic() - self._began,
            problem=problem,
        )

    def _learn(self) -> TrialEnd:
        while self._course.goes_on():
            for batch in self._course.batches_left():
                self._course.learn(batch)
                if (end := self._ended()) is not None:
                    return end
            self._course.end_stretch()
        return TrialEnd.COMPLETE

    def _ended(self) -> TrialEnd | None:
        """In which way the clock or the judge ends it here, if one of them does."""
        step = self._course.state.step
        if step == self._course.steps:
            return None
        if self._is_late():
            return TrialEnd.LATE
        mark = self._marks.get(step)
        if mark is None or self._watch.judge(mark, watched_loss(self._learner)):
            return None
        return TrialEnd.STOPPED

    def _is_late(self) -> bool:
        return time.monotonic() - self._began > self._watch.trial.seconds


class Measured(Generic[S]):
    """A learner whose loss is taken at most once a step."""

    def __init__(self, learner: Learner[S], measured: Sequence[S]) -> None:
        self._learner, self._a_measure = learner, sum(map(len, measured))
        self._loss: float | None = None
        self.tokens = 0
        """That went through it to be measured."""

    def named(self) -> Mapping[str, Tensor]:
        return self._learner.named()

    def losses(self, batch: Sequence[S]) -> Iterator[PassLoss]:
        self._loss = None
        return self._learner.losses(batch)

    def learning(self) -> AbstractContextManager[None]:
        return self._learner.learning()

    def loss_before(self) -> float:
        self.tokens += self._a_measure
        return self._learner.loss_before()

    def watched_loss(self) -> float:
        if self._loss is None:
            self._loss = self._learner.watched_loss()
            self.tokens += self._a_measure
        return self._loss


class InMemory:
    """`Keeper` of a training that leaves nothing behind."""

    def __init__(self, base_loss: float | None, *, keeps_best: bool) -> None:
        self._base_loss, self._keeps_best = base_loss, keeps_best
        self._best: Mapping[str, Tensor] = {}

    def restored(self, learner: Learner[S], optimizer: Adam) -> State:
        return State(base_loss=learner.loss_before() if self._base_loss is None else self._base_loss)

    def tell(self, values: Mapping[str, float]) -> None:
        pass

    def tell_answers(self, answers: Sequence[AnswerLoss], state: State) -> None:
        pass

    def tell_stretch(self, mark: StretchMark) -> None:
        pass

    def keep(self, learner: Learner[S], optimizer: Adam, state: State) -> None:
        pass

    def keep_best(self, learner: Learner[S]) -> None:
        if self._keeps_best:
            self._best = {name: one.detach().clone() for name, one in learner.named().items()}

    def take_best(self, learner: Learner[S]) -> None:
        if self._keeps_best:
            put(learner.named(), self._best)


def steps_of(marks: Sequence[float], steps: int, epochs: int) -> dict[int, float]:
    """The steps after which the marks lie, in epochs; of several at one step the last, and none behind the end."""
    at = {max(1, round(mark * steps / epochs)): mark for mark in sorted(marks)}
    return {step: mark for step, mark in at.items() if step < steps}


def answered(
    follow: Follow, prompts: Sequence[Ids], closing: Ids, limits: Sequence[int], is_late: IsLate
) -> list[Ids] | None:
    """What a network says to each prompt: the likeliest token each time, up to `closing`, which is left out.

    An answer that does not end is cut at its limit. None where the time was over before all were given.
    """
    said: list[list[int]] = [[] for _ in prompts]
    speaking = list(range(len(prompts)))
    while speaking:
        if is_late():
            return None
        following = follow([(*prompts[one], *said[one]) for one in speaking])
        for one, token in zip(speaking, following, strict=True):
            said[one].append(token)
        speaking = [one for one in speaking if not _ends(said[one], closing) and len(said[one]) < limits[one]]
    return [tuple(one[: -len(closing)] if _ends(one, closing) else one) for one in said]


def _ends(said: Sequence[int], closing: Ids) -> bool:
    return tuple(said[-len(closing) :]) == closing
