"""A training whose loss only rises ends before its time, says why, and leaves nothing to go on from."""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nightschool_daemon.jobs import Step
from nightschool_daemon.learning import gguf_file, training
from nightschool_daemon.learning.engine.examples import Answer, Example, Split
from nightschool_daemon.learning.engine.loop import BEST, CHECKPOINTS, FAR_STEPS, Diverged, Outcome, Plan, teach
from nightschool_daemon.learning.engine.trajectories import PassLoss
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod
from nightschool_hookspecs.services import TrainingError
from support.selected_runs import at_step
from support.training_jobs import greetings, keep_every_step, unheard

STEPS, BASE = 400, 2.0
EXAMPLE = Example(prompt=(1,), answers=(Answer(tokens=(2,)),))


class Rising:
    """Its losses are what a test says they are, by the number of batches that were learned from."""

    def __init__(self, batch: float, watched: float) -> None:
        self._batch, self._watched = batch, watched
        self._number = torch.zeros(1, requires_grad=True)
        self.steps = 0

    def named(self) -> Mapping[str, Tensor]:
        return {"one": self._number}

    def losses(self, batch: Sequence[Example]) -> Iterator[PassLoss]:
        self.steps += 1
        yield PassLoss(total=self._number.sum() * 0 + self._batch, answers=())

    def learning(self) -> AbstractContextManager[None]:
        return nullcontext()

    def loss_before(self) -> float:
        return BASE

    def watched_loss(self) -> float:
        return self._watched


def taught(learner: Rising, output: Path, steps: int = STEPS, epochs: int = 1, *, held: bool = False) -> Outcome:
    settings = Hyperparameters(learning_rate=0.5, batch_size=1, num_epochs=epochs, warmup_ratio=0.05)
    split = Split(learned=(EXAMPLE,) * steps, watched=(EXAMPLE,), held=held, first_judged=0)
    plan = Plan(
        method=TrainingMethod.SFT, hyperparameters=settings, seed=7, tokens_a_pass=8, output=output, signature=""
    )
    return teach(learner, split, plan, unheard)


def test_a_loss_that_stays_far_above_the_base_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_every_step(monkeypatch)
    learner = Rising(batch=9.0, watched=8.0)
    with pytest.raises(
        Diverged, match=r"At a learning rate of 0\.5 the loss rose from 2\.00 to 8\.00.*learning_rate in"
    ):
        taught(learner, tmp_path)
    assert learner.steps == STEPS * 0.05 + FAR_STEPS
    assert not (tmp_path / CHECKPOINTS).exists()


def test_hard_batches_alone_do_not_end_it(tmp_path: Path) -> None:
    """Examples that are learned beside the lesson, or a curriculum's last stage, may be far harder than it."""
    learner = Rising(batch=9.0, watched=1.0)
    assert taught(learner, tmp_path).trained_loss == 1.0
    assert learner.steps == STEPS


def test_one_that_was_too_short_for_that_is_told_at_its_end(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="learning_rate"):
        taught(Rising(batch=9.0, watched=8.0), tmp_path, steps=3, epochs=2)
    assert not (tmp_path / BEST).exists()
    assert [json.loads(one)["step"] for one in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1] == 6


@pytest.mark.parametrize("watched", [2.5, 3.9])
def test_a_loss_that_is_somewhat_higher_is_none(tmp_path: Path, watched: float) -> None:
    """By what is kept aside: a loss of its own that rises says that the rest was learned by heart."""
    assert taught(Rising(batch=watched, watched=watched), tmp_path, held=True).trained_loss == watched


def test_a_scale_that_is_no_number_ends_the_step_before_it_learns(tmp_path: Path, tiny_gguf: Path) -> None:
    """And before anything could be sent: what the step leaves is no adapter."""
    torch.set_num_threads(1)
    damaged = tmp_path / "nan.gguf"
    damaged.write_bytes(tiny_gguf.read_bytes())
    tensor = gguf_file.read(tiny_gguf).tensors["blk.1.attn_v.weight"]
    with damaged.open("r+b") as stream:
        # a block of Q8_0 begins with its scale, a half
        stream.seek(tensor.start)
        stream.write(struct.pack("<e", math.nan))
    context = at_step(Step.TRAIN, tmp_path, damaged, texts=greetings())
    lora = Hyperparameters(form=TrainedForm.LORA, learning_rate=1e-3, lora_r=2)
    job = replace(training.make_job(context), hyperparameters=lora)
    with pytest.raises(TrainingError, match="its weights are damaged"):
        context.hooks.train_adapter(job=job, train=training.Engine(context, gguf_file.read(damaged)))
    assert not list(context.run.step(Step.TRAIN).rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("held", "watched", "is_hopeless"), [(False, 2.5, True), (False, 2.2, False), (True, 2.5, False)]
)
def test_what_was_learned_from_must_not_end_worse_than_it_began(
    tmp_path: Path, *, held: bool, watched: float, is_hopeless: bool
) -> None:
    """At a rate of 1e30 all logits are alike, and the loss is not even far above the base's."""
    learner = Rising(watched, watched)
    if not is_hopeless:
        taught(learner, tmp_path, steps=4, held=held)
        return
    with pytest.raises(Diverged, match=r"the loss rose from 2\.00 to 2\.50, so nothing is learned\. Lower"):
        taught(learner, tmp_path, steps=4, held=held)
    assert not (tmp_path / CHECKPOINTS).exists()
