"""The bench of searches: both sides begin alike, and a loss that was not reached is not counted as reached."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest

from benchmarks import tuning
from benchmarks.tuning import Counted, Curve, Mark, Sides, Trainer, by_peer, compared, row_of
from nightschool_hookspecs import Hyperparameters, Judge, SearchTask, TrainedForm
from nightschool_plugins.tuning_optuna import Space

GIVEN = Hyperparameters(form=TrainedForm.LORA, learning_rate=2e-3, batch_size=8, num_epochs=3)


@dataclass(frozen=True, kw_only=True)
class Computed(Trainer):
    """Trains nothing: the loss follows from rate and epochs."""

    @cached_property
    def space(self) -> Space:
        task = SearchTask(
            specialty=tuning.SPECIALTY,
            base_digest="",
            events=32,
            examples=32,
            tried_on=24,
            given=GIVEN,
            neuron_step=0,
            fixed=(),
            directory=self.work,
        )
        return Space.of(self.size.plugin, task)

    @cached_property
    def epoch_tokens(self) -> int:
        return 100

    @cached_property
    def measured_tokens(self) -> int:
        return 30

    def carried(self, settings: Hyperparameters, judge: Judge) -> Curve:
        marks = tuple(
            Mark(epochs=one, step=round(one * 10), loss=_loss(settings, one))
            for one in self.size.plugin.marks(24, settings)
        )
        whole = Curve(
            steps_an_epoch=10,
            steps=10 * settings.num_epochs,
            marks=marks,
            loss=_loss(settings, settings.num_epochs),
            is_whole=True,
        )
        stopped = next((at for at, mark in enumerate(marks) if not judge(mark.epochs, mark.loss)), None)
        return whole if stopped is None else whole.up_to(stopped)


def _loss(settings: Hyperparameters, epochs: float) -> float:
    return 1 + abs(math.log10(settings.learning_rate / 1e-3)) + 1 / epochs


@pytest.fixture
def trainer(tmp_path: Path) -> Computed:
    return Computed(size=tuning.QUICK, seed=1, deadline=math.inf, work=tmp_path)


def test_the_peer_begins_where_ours_does(trainer: Computed) -> None:
    given = _loss(GIVEN, GIVEN.num_epochs)
    warm, cold = by_peer(trainer, [trainer.space.given]), by_peer(trainer, [])
    assert warm.told[0].loss == given != cold.told[0].loss
    assert len(warm.told) == len(cold.told) == trainer.size.trainings


def test_ours_reaches_the_loss_of_the_peer_or_it_is_told(trainer: Computed) -> None:
    found = compared(trainer, [trainer.space.given])
    peer = by_peer(trainer, [trainer.space.given])
    assert peer.loss is not None
    assert found.peer == peer.spent_until(tuning.ALIKE * peer.loss)
    never = replace(found, is_reached=False)
    assert row_of("x", [found], 10.0)["holds"] is found.is_reached is True
    # however little it took
    assert row_of("x", [found, never], 10.0)["holds"] is False
    assert row_of("x", [found, never], None)["holds"] is None
    assert row_of("x", [Sides(peer=10.0, ours=5.0, is_reached=True)], 0.4)["holds"] is False


def test_a_loss_that_was_not_reached_is_not_counted_as_reached(
    trainer: Computed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours has spent as much as the peer in all, and has come to nothing."""
    monkeypatch.setattr(
        tuning, "by_ours", lambda _trainer, _known, counted: replace(counted, told=[tuning.Told(spent=9e9, loss=None)])
    )
    found = compared(trainer, ())
    assert (found.ours, found.is_reached) == (9e9, False)
    assert Counted(trainer=trainer).loss is None
