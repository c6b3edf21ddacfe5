"""A training by hand that ended before its time: the same call goes on with it."""

import signal
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from nightschool_daemon import codec, config
from nightschool_daemon.config import DeliveryChoice
from nightschool_daemon.installation import load_hooks
from nightschool_daemon.jobs import Progress, Step
from nightschool_daemon.ollama.errors import OllamaUnreachable
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_daemon.runs import pipeline
from nightschool_daemon.runs.alone import Order, TrainedAlone, train_alone
from nightschool_daemon.runs.errors import RunRefused
from nightschool_daemon.runs.feedback_file import read_file
from nightschool_daemon.runs.listener import SilentListener
from support.kills import FORK
from support.night import TINY, Night, greetings, import_tiny, wait_until
from support.ollama_server import OllamaServer

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
EPOCHS, EPOCH = 8, 3
"""How many, and steps of each: of 12 corrections four are a batch."""


@dataclass
class Heard(SilentListener):
    """What was told, up to a step before which somebody presses Ctrl-C."""

    ends_at: Step | None = None
    notes: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    """Of the training."""

    def step_began(self, run_id: str, step: Step) -> None:
        if step is self.ends_at:
            raise KeyboardInterrupt

    def progress(self, run_id: str, step: Step, done: int, total: int, text: str) -> None:
        if step is Step.TRAIN and total > 1:
            self.steps.append(done)

    def note(self, run_id: str, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    import_tiny(fresh_ollama, tiny_gguf)
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)


def train(
    night: Night,
    name: str,
    heard: Heard,
    max_version_mb: float | None = None,
    form: DeliveryChoice = DeliveryChoice.AUTO,
) -> TrainedAlone:
    """The same training each time, whatever its result is called, may cost and is delivered as."""
    settings = config.load(night.configuration)
    delivery = replace(settings.delivery, form=form)
    if max_version_mb is not None:
        delivery = replace(delivery, max_version_mb=max_version_mb)
    settings = replace(settings, delivery=delivery)
    hooks = load_hooks(settings, None, safe_mode=False)
    data = night.directory / "data.jsonl"
    if not data.exists():
        night.drop(greetings(12)).rename(data)
    order = Order(model=TINY, feedback=read_file(data, hooks), data_digest=sha256_of(data), name=name)
    return train_alone(settings, order, hooks=hooks, listener=heard, now=NOW)


def left(night: Night) -> list[Path]:
    """Directories of trainings."""
    return list(night.state.glob("train-*"))


def steps(night: Night) -> int:
    """How many the training that goes on has told."""
    found = list(night.state.glob("train-*/runs/*/train/progress.json"))
    return max((codec.from_json(one.read_bytes(), Progress).done for one in found), default=0)


def test_a_training_that_was_killed_goes_on_from_its_checkpoint_and_ends_as_the_uninterrupted_one(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    whole = train(night, "whole", Heard())
    assert left(night) == []
    training = FORK.Process(target=partial(train, night, "cut", Heard()))
    training.start()
    wait_until(lambda: steps(night) > 3 * EPOCH, 120)
    training.kill()
    training.join()
    assert training.exitcode == -signal.SIGKILL
    (directory,) = left(night)
    heard = Heard()
    cut = train(night, "cut", heard)
    assert f"It goes on with what was left in {directory}; --anew begins anew." in heard.notes
    assert 3 * EPOCH <= min(heard.steps) - 1 < EPOCHS * EPOCH
    assert cut.curves == whole.curves
    assert [step for step, _ in cut.curves[0].losses] == list(range(1, EPOCHS * EPOCH + 1))
    assert cut.export.held_in == whole.export.held_in
    assert left(night) == []
    assert set(fresh_ollama.tags()) == {TINY, "whole:latest", "cut:latest"}


def test_what_was_trained_is_delivered_by_the_next_call_though_the_first_ended_before(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    """Under whatever name. What is as large as the base does not lie about meanwhile, nor anything in Ollama."""
    with pytest.raises(RunRefused, match="Call it again to go on"):
        train(night, "early", Heard(ends_at=Step.VERIFY))
    (directory,) = left(night)
    assert set(fresh_ollama.tags()) == {TINY}
    assert list(directory.glob("runs/*/train/adapter"))
    assert not list(directory.rglob("*.gguf"))
    heard = Heard()
    train(night, "late", heard)
    assert heard.steps == []
    assert left(night) == []
    assert set(fresh_ollama.tags()) == {TINY, "late:latest"}


@dataclass
class Stopping(Heard):
    """Ends Ollama as a step begins."""

    server: OllamaServer | None = None

    def step_began(self, run_id: str, step: Step) -> None:
        if step is self.ends_at and self.server is not None:
            self.server.stop()


@pytest.mark.parametrize("step", [Step.PREPARE, Step.SELECT, Step.TRAIN, Step.EXPORT, Step.REGISTER, Step.VERIFY])
def test_where_ollama_goes_away_and_stays_away_the_same_call_goes_on_once_it_is_back(
    night: Night, fresh_ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """What it had there by then goes with that call."""
    monkeypatch.setattr(pipeline, "SERVER_WAIT_S", 0.1)
    with pytest.raises((OllamaUnreachable, RunRefused), match="Ollama"):
        train(night, "early", Stopping(ends_at=step, server=fresh_ollama))
    was_learned = bool(learned(night))
    assert was_learned is (step in (Step.EXPORT, Step.REGISTER, Step.VERIFY))
    fresh_ollama.start()
    heard = Heard()
    train(night, "early", heard)
    assert any(one.startswith("It goes on with what was left") for one in heard.notes) is was_learned
    assert left(night) == []
    assert set(fresh_ollama.tags()) == {TINY, "early:latest"}


def learned(night: Night) -> list[Path]:
    """What trainings that were left have learned."""
    return list(night.state.glob("train-*/runs/*/train/adapter/*.safetensors"))


def test_a_training_that_ends_before_it_learned_anything_promises_nothing(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    with pytest.raises(RunRefused, match=r"nothing was learned yet\.$"):
        train(night, "early", Heard(ends_at=Step.SELECT))
    assert left(night) == []
    assert set(fresh_ollama.tags()) == {TINY}


def test_what_was_left_by_other_settings_stays_and_it_is_told_why(night: Night) -> None:
    with pytest.raises(RunRefused):
        train(night, "one", Heard(ends_at=Step.EXPORT))
    (directory,) = left(night)
    heard = Heard()
    train(night, "one", heard, form=DeliveryChoice.FUSED)
    assert [
        one
        for one in heard.notes
        if f"--method or configuration. What it left is in {directory} for 7 days at most." in one
    ]
    assert heard.steps
    assert left(night) == [directory]


def test_what_was_trained_stays_where_a_setting_is_changed_that_does_not_decide_of_it(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    with pytest.raises(RunRefused, match="Call it again to go on"):
        train(night, "dear", Heard(ends_at=Step.EXPORT), max_version_mb=999.0)
    heard = Heard()
    train(night, "dear", heard, max_version_mb=1000.0)
    assert heard.steps == []
    assert not [one for one in heard.notes if "taken again" in one]
    assert set(fresh_ollama.tags()) == {TINY, "dear:latest"}


def test_a_version_that_costs_more_than_it_may_is_refused_before_anything_is_trained(night: Night) -> None:
    heard = Heard()
    with pytest.raises(RunRefused, match=r"^train: A version may cost 0\.001 MB \(delivery\.max_version_mb\)"):
        train(night, "dear", heard, max_version_mb=0.001)
    assert heard.steps == []
