"""Which of the directories that unfinished trainings by hand left can be gone on with, and which are kept."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightschool_daemon.config import (
    DeliveryChoice,
    DeliverySettings,
    ExamSettings,
    LogSettings,
    OllamaSettings,
    Settings,
    TrainingSettings,
)
from nightschool_daemon.jobs import Losses, RunDirectory, Step, VerifyResult
from nightschool_daemon.locking import StateLock
from nightschool_daemon.runs import going_on

NOW = datetime(2026, 1, 20, tzinfo=UTC)
VERIFIED = VerifyResult(
    positions=96,
    pairs=900,
    live=1.0,
    expected=1.0,
    noise=0.1,
    disagreement=0.1,
    held_out=Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=2.0),
    held_out_texts=0,
    prompts_equal=True,
    passed=True,
    reason="",
)


def left(directory: Path, *, made_of: str = "this", age: timedelta = timedelta()) -> Path:
    """What a training left in whose midst it was killed."""
    train = directory / "runs" / "one" / Step.TRAIN
    checkpoint = train / "checkpoints" / "step-3-epoch-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "form.safetensors").touch()
    (directory / going_on.MADE_OF).write_text(made_of)
    then = (NOW - age).timestamp()
    os.utime(train, (then, then))
    return directory


def verified(directory: Path, result: VerifyResult) -> None:
    run = RunDirectory(path=directory / "runs" / "one")
    run.step(Step.VERIFY).mkdir()
    run.finish(Step.VERIFY, result)


def test_of_all_that_was_left_the_same_is_taken_up_and_is_locked_then(tmp_path: Path) -> None:
    others = [left(tmp_path / "a", made_of="that"), tmp_path / "b", left(tmp_path / "c"), left(tmp_path / "d")]
    going_on_now = StateLock.take(others[2])
    found = going_on.taken_up(others, "this")
    assert found is not None
    directory, lock = found
    assert directory == others[3]
    assert going_on.taken_up(others, "this") is None
    lock.release()
    going_on_now.release()


def test_what_learned_nothing_yet_cannot_be_gone_on_with_and_does_not_stay(tmp_path: Path) -> None:
    """Else trainings that are refused as they begin would take the place of hours of work."""
    directory = left(tmp_path / "a")
    (file,) = directory.rglob("*.safetensors")
    file.unlink()
    assert going_on.taken_up([directory], "this") is None
    going_on.leave(directory)
    assert not directory.exists()


@pytest.mark.parametrize(
    ("passed", "is_last_word", "stays"), [(True, False, True), (False, True, False), (False, False, True)]
)
def test_what_was_learned_goes_where_it_is_itself_at_fault(
    tmp_path: Path, *, passed: bool, is_last_word: bool, stays: bool
) -> None:
    """One that is live had no time to get its name; and what another server would serve waits for that."""
    directory = left(tmp_path / "a")
    verified(directory, replace(VERIFIED, passed=passed, is_last_word=is_last_word))
    assert going_on.can_go_on(directory) is stays
    going_on.leave(directory)
    assert directory.exists() is stays


def test_what_is_made_again_from_what_was_trained_does_not_stay(tmp_path: Path) -> None:
    directory = left(tmp_path / "a")
    run = directory / "runs" / "one"
    for step in (Step.SELECT, Step.EXPORT, Step.REGISTER, Step.VERIFY):
        (run / step).mkdir()
    going_on.leave(directory)
    assert sorted(one.name for one in run.iterdir()) == [Step.SELECT, Step.TRAIN]


def test_a_few_are_kept_for_some_days(tmp_path: Path) -> None:
    hours = (30, 1, 20, 10, 2)
    found = {count: left(tmp_path / f"{count}", age=timedelta(hours=count)) for count in hours}
    old = left(tmp_path / "old", age=going_on.KEPT_FOR)
    assert going_on.worth_keeping([*found.values(), old], NOW) == {found[1], found[2], found[10]}
    assert going_on.worth_keeping([old, found[30]], NOW) == {found[30]}


def test_a_training_is_made_of_base_data_settings_and_what_it_begins_from(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(b"1")
    settings = Settings(training=TrainingSettings(start_from=adapter))
    first = going_on.made_of(settings, "a:1b", "base", "data")
    assert going_on.made_of(settings, "a:1b", "base", "data") == first
    others = [
        going_on.made_of(settings, "a:1b", "other", "data"),
        going_on.made_of(settings, "a:1b", "base", "other"),
        going_on.made_of(settings, "a:latest", "base", "data"),
        going_on.made_of(replace(settings, training=replace(settings.training, seed=1)), "a:1b", "base", "data"),
    ]
    weights.write_bytes(b"12")
    assert len({first, *others, going_on.made_of(settings, "a:1b", "base", "data")}) == 6


def test_it_is_told_why_what_was_left_of_the_same_base_and_data_is_not_gone_on_with(tmp_path: Path) -> None:
    settings = Settings(training=TrainingSettings(start_from=tmp_path / "adapter"))
    seeded = replace(settings, training=replace(settings.training, seed=1))
    elsewhere = replace(settings, training=replace(settings.training, start_from=tmp_path))
    directories = [
        left(tmp_path / str(number), made_of=made_of)
        for number, made_of in enumerate(
            (
                going_on.made_of(seeded, "a:1b", "base", "data"),
                going_on.made_of(elsewhere, "a:1b", "base", "data"),
                going_on.made_of(settings, "a:1b", "other", "data"),
                going_on.made_of(settings, "a:1b", "base", "other"),
                "as an earlier release wrote it",
            )
        )
    ]
    first, second = going_on.why_not(directories, going_on.made_of(settings, "a:1b", "base", "data"))
    assert first == (
        "It begins anew: an unfinished training on the same base and data had another --method or configuration. "
        f"What it left is in {directories[0]} for 7 days at most."
    )
    assert "had another --from." in second
    lock = StateLock.take(directories[0])
    assert list(going_on.why_not(directories[:1], going_on.made_of(settings, "a:1b", "base", "data"))) == []
    lock.release()


def test_what_acts_behind_a_training_may_be_set_otherwise_when_it_goes_on() -> None:
    """As where a delivery was refused for its size, behind hours of training."""
    first = going_on.made_of(Settings(), "a:1b", "base", "data")
    for other in (
        Settings(delivery=DeliverySettings(max_version_mb=500.0, min_free_gb=0.1, min_kept=0.9)),
        Settings(ollama=OllamaSettings(host="http://127.0.0.1:9")),
        Settings(exam=ExamSettings(max_items=5, verify_positions=32), file=Path("other.toml")),
        Settings(log=LogSettings(level="debug"), plugin_tables={"notify_email": {"to": "me"}}),
    ):
        assert going_on.made_of(other, "a:1b", "base", "data") == first
    for other in (
        Settings(delivery=DeliverySettings(form=DeliveryChoice.ADAPTER)),
        Settings(exam=ExamSettings(judge_model="other:1b")),
        Settings(plugin_tables={"tuning_fixed": {"lora_r": 4}}),
    ):
        assert going_on.made_of(other, "a:1b", "base", "data") != first
