"""A training that has not the time for all of its steps comes to an end with what it has learned."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.checkpoints import PARAMETERS
from nightschool_daemon.learning.engine.loop import ADAPTER, BEST, CHECKPOINTS, Course, OnDisk
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.learning.packed_route import ready
from nightschool_daemon.learning.peft_files import load_form
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod, TrainingResult
from nightschool_hookspecs.services import TrainingError
from support.training_jobs import fine_tune, greetings, training_job, unheard

SETTINGS = Hyperparameters(form=TrainedForm.LORA, learning_rate=3e-3, lora_r=4, batch_size=4, num_epochs=3)
"""Of twelve greetings three steps an epoch."""


def trained(
    directory: Path,
    gguf: Path,
    time_left_s: float = math.inf,
    *,
    settings: Hyperparameters = SETTINGS,
    count: int = 12,
) -> TrainingResult:
    torch.set_num_threads(1)
    file = gguf_file.read(gguf)
    tokens = load_tokens(file, sha256_of(gguf), directory / "cache")
    job = replace(training_job(directory, gguf, settings, texts=greetings(count)), time_left_s=time_left_s)
    return fine_tune(file, tokens, job, TrainingMethod.SFT, settings, unheard)


@pytest.mark.parametrize(("step", "epochs"), [(2, 1), (3, 1), (4, 2), (8, 3)])
def test_what_was_learned_by_then_is_taken(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, step: int, epochs: int
) -> None:
    monkeypatch.setattr(Course, "is_late", lambda course: course.state.step >= step)
    result = trained(tmp_path, tiny_gguf)
    assert result.not_learned == (
        f"Its time was over after {step} of 9 steps. Raise training.time_limit_minutes, or lower training.max_tokens."
    )
    assert (result.steps, len(result.epoch_losses)) == (step, epochs)
    assert result.trained_loss == result.epoch_losses[-1] < result.base_loss
    # the adapter is that of the step: nothing of a whole training is left to be taken
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(one["step"] for one in lines) == step
    file = gguf_file.read(tiny_gguf)
    job = training_job(tmp_path / "again", tiny_gguf, SETTINGS, texts=greetings())
    form = ready(file, job, TrainingMethod.SFT, SETTINGS, []).form
    load_form(form, file, tmp_path / ADAPTER)
    assert any(one.any() for name, one in form.parameters.items() if name.endswith(".lora_b"))


def test_what_was_cut_short_is_told_by_who_goes_on_from_its_end(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind its last checkpoint, and before its result was written."""
    monkeypatch.setattr(Course, "is_late", lambda course: course.state.step >= 4)
    with monkeypatch.context() as killed:
        killed.setattr(Course, "end", lambda _course: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, tiny_gguf)
    result = trained(tmp_path, tiny_gguf)
    assert (result.steps, result.not_learned.split(".")[0]) == (4, "Its time was over after 4 of 9 steps")


HELD = replace(SETTINGS, num_epochs=5)
"""Of 48 greetings some are kept aside; three epochs of eleven steps each are not judged."""


def cut_in_the_fourth_epoch(directory: Path, gguf: Path) -> TrainingResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Course, "is_late", lambda course: course.state.step >= 40)
        return trained(directory, gguf, settings=HELD, count=48)


def test_the_best_is_of_no_later_step_than_the_one_that_is_gone_on_from(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the end that its time came to is kept: the next call may have more of it."""
    monkeypatch.setattr(OnDisk, "keep", killing(OnDisk.keep, 4))
    with pytest.raises(KeyboardInterrupt):
        cut_in_the_fourth_epoch(tmp_path, tiny_gguf)
    (kept,) = tmp_path.glob(f"{CHECKPOINTS}/step-*-epoch-3/{PARAMETERS}")
    assert sha256_of(tmp_path / BEST) == sha256_of(kept)


def test_the_best_that_was_not_kept_any_more_is_taken_from_its_checkpoint(tmp_path: Path, tiny_gguf: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = cut_in_the_fourth_epoch(whole, tiny_gguf)
    assert expected.watched_events
    assert expected.trained_loss == expected.epoch_losses[3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnDisk, "keep_best", killing(OnDisk.keep_best, 4))
        with pytest.raises(KeyboardInterrupt):
            cut_in_the_fourth_epoch(killed, tiny_gguf)
    result = trained(killed, tiny_gguf, settings=HELD, count=48)
    assert (result.steps, result.trained_loss) == (40, expected.trained_loss)
    weights = [sha256_of(one / ADAPTER / "adapter_model.safetensors") for one in (whole, killed)]
    assert weights[0] == weights[1]


def killing(usual: Callable[..., None], at: int) -> Callable[..., None]:
    """The same, but that the process ends as it is called so often."""
    calls = itertools.count(1)

    def called(*arguments: object) -> None:
        if next(calls) == at:
            raise KeyboardInterrupt
        usual(*arguments)

    return called


def test_who_has_the_time_is_not_told(tmp_path: Path, tiny_gguf: Path) -> None:
    result = trained(tmp_path, tiny_gguf, time_left_s=3600.0)
    assert (result.not_learned, result.steps) == ("", 9)


def test_without_any_time_nothing_is_trained(tmp_path: Path, tiny_gguf: Path) -> None:
    with pytest.raises(TrainingError, match=r"no time left for it\. Raise training\.time_limit_minutes"):
        trained(tmp_path, tiny_gguf, time_left_s=-1.0)
    assert not (tmp_path / ADAPTER).exists()
