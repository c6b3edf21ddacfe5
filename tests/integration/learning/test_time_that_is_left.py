"""A training that has not the time for all of its steps comes to an end with what it has learned."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.loop import ADAPTER, Course
from nightschool_daemon.learning.engine.peft_files import load_form
from nightschool_daemon.learning.engine.route import fine_tune, ready
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod, TrainingResult
from nightschool_hookspecs.services import TrainingError
from support.training_jobs import greetings, training_job, unheard

SETTINGS = Hyperparameters(form=TrainedForm.LORA, learning_rate=3e-3, lora_r=4, batch_size=4, num_epochs=3)
"""Of twelve greetings three steps an epoch."""


def trained(directory: Path, gguf: Path, time_left_s: float = math.inf) -> TrainingResult:
    torch.set_num_threads(1)
    file = gguf_file.read(gguf)
    tokens = load_tokens(file, sha256_of(gguf), directory / "cache")
    job = replace(training_job(directory, gguf, SETTINGS, texts=greetings()), time_left_s=time_left_s)
    return fine_tune(file, tokens, job, TrainingMethod.SFT, SETTINGS, unheard)


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


def test_who_has_the_time_is_not_told(tmp_path: Path, tiny_gguf: Path) -> None:
    result = trained(tmp_path, tiny_gguf, time_left_s=3600.0)
    assert (result.not_learned, result.steps) == ("", 9)


def test_without_any_time_nothing_is_trained(tmp_path: Path, tiny_gguf: Path) -> None:
    with pytest.raises(TrainingError, match=r"no time left for it\. Raise training\.time_limit_minutes"):
        trained(tmp_path, tiny_gguf, time_left_s=-1.0)
    assert not (tmp_path / ADAPTER).exists()
