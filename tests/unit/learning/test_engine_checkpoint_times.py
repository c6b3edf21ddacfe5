"""However long a checkpoint takes to write, a training learns for most of its time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nightschool_daemon.learning.engine.adam import Adam
from nightschool_daemon.learning.engine.checkpoints import State
from nightschool_daemon.learning.engine.examples import Answer, Example, Split
from nightschool_daemon.learning.engine.loop import CHECKPOINT_S, LEARNED_A_WRITE, Course, Learner, Plan, S
from nightschool_daemon.learning.engine.trajectories import PassLoss
from nightschool_daemon.learning.engine.trying import InMemory
from nightschool_hookspecs.records import Hyperparameters, TrainingMethod
from support.training_jobs import unheard

STEPS = 3000
"""Of a second each."""


class Passing:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class OneNumber:
    """Learns a number, a second a step."""

    def __init__(self, clock: Passing) -> None:
        self._clock = clock
        self._number = torch.zeros(1, requires_grad=True)

    def named(self) -> Mapping[str, Tensor]:
        return {"one": self._number}

    def losses(self, batch: Sequence[Example]) -> Iterator[PassLoss]:
        self._clock.seconds += 1
        yield PassLoss(total=(self._number - 1).square().sum(), answers=())

    def learning(self) -> AbstractContextManager[None]:
        return nullcontext()

    def loss_before(self) -> float:
        return 1.0

    def watched_loss(self) -> float:
        return 1.0


class SlowDisk(InMemory):
    """Remembers when it was written to."""

    def __init__(self, clock: Passing, write_s: float) -> None:
        super().__init__(None, keeps_best=False)
        self._clock, self._write_s = clock, write_s
        self.steps: list[int] = []

    def keep(self, learner: Learner[S], optimizer: Adam, state: State) -> None:
        self._clock.seconds += self._write_s
        self.steps.append(state.step)


@pytest.mark.parametrize(("write_s", "between"), [(0.0, 61), (2.0, 61), (42.0, 841), (100.0, 2001)])
def test_what_takes_long_to_write_is_written_seldom(tmp_path: Path, write_s: float, between: int) -> None:
    """The first after a minute, as nothing is known yet; the last at the end of the epoch."""
    clock = Passing()
    disk = SlowDisk(clock, write_s)
    example = Example(prompt=(1,), answers=(Answer(tokens=(2,)),))
    split = Split(learned=(example,) * STEPS, watched=(), held=False, first_judged=0)
    settings = Hyperparameters(learning_rate=0.1, batch_size=1, num_epochs=1)
    plan = Plan(
        method=TrainingMethod.SFT,
        hyperparameters=settings,
        seed=7,
        tokens_a_pass=8,
        output=tmp_path,
        signature="",
    )
    course = Course(OneNumber(clock), split, plan, unheard, disk, clock)
    for batch in course.batches_left():
        course.learn(batch)
    course.end_stretch()
    assert disk.steps == [*range(61, STEPS, between), STEPS]
    assert between > max(CHECKPOINT_S, LEARNED_A_WRITE * write_s)
    assert course.state.seconds == clock.seconds - write_s, "all but the last write has been counted"
