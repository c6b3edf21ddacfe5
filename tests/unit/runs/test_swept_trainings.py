"""What is removed of trainings by hand that were killed, and what of it goes on."""

import multiprocessing
import multiprocessing.synchronize
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from nightschool_daemon.jobs import Step
from nightschool_daemon.ledger import FILE_NAME, Ledger, LedgerError, VersionRow
from nightschool_daemon.locking import StateLock, is_locked
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs import alone, going_on, retention
from support.kills import FORK
from support.memory_ollama import MemoryOllama
from support.run_rows import RUN_ROW, VERSION_ROW

NOW = datetime.now(UTC)
BASE = RUN_ROW.specialty.base
CANDIDATE = "tiny-nightschool:1b.manual-a.v1"


@pytest.fixture
def ollama(tmp_path: Path, tiny_gguf: Path) -> MemoryOllama:
    return MemoryOllama(tmp_path / "models", tiny_gguf, BASE)


def killed(state: Path, ollama: MemoryOllama) -> Path:
    """What a training left that was killed as it verified its candidate."""
    directory = begun(state / f"{retention.MANUAL_PREFIX}a")
    for step in (Step.TRAIN, Step.EXPORT, Step.REGISTER):
        (directory / "runs" / "r" / step).mkdir(parents=True)
        (directory / "runs" / "r" / step / "result.json").touch()
    (directory / "runs" / "r" / Step.TRAIN / "adapter_model.safetensors").touch()
    ledger = Ledger.open(directory / FILE_NAME)
    ledger.versions.add(candidate(ollama.add(CANDIDATE)))
    ledger.close()
    return directory


def begun(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / going_on.MADE_OF).write_text("this")
    (directory / retention.PINS_BEFORE).touch()
    ledger = Ledger.open(directory / FILE_NAME)
    ledger.runs.create(replace(RUN_ROW, directory=directory / "runs" / "r"))
    ledger.close()
    return directory


def candidate(digest: str) -> VersionRow:
    return replace(VERSION_ROW, tag=CANDIDATE, tag_digest=digest)


def test_whose_candidate_is_gone_registers_it_again_though_another_training_needs_the_base(
    tmp_path: Path, ollama: MemoryOllama
) -> None:
    state = tmp_path / "state"
    directory = killed(state, ollama)
    other = StateLock.take(begun(state / f"{retention.MANUAL_PREFIX}b"))
    assert retention.sweep_trainings(state, ollama, NOW) == ()
    other.release()
    assert {one.name for one in ollama.tags()} == {BASE}
    assert [one.name for one in (directory / "runs" / "r").iterdir()] == [Step.TRAIN]
    assert going_on.can_go_on(directory)


def test_what_is_in_ollama_still_is_found_by_the_next_sweep(tmp_path: Path, ollama: MemoryOllama) -> None:
    """Where its removal was interrupted: pins are given free, and the note that tells of it stays."""
    directory = killed(tmp_path / "state", ollama)
    assert retention.give_pins_free(directory, BASE, ollama)
    assert (directory / retention.PINS_BEFORE).is_file()
    ollama.delete(CANDIDATE)
    assert retention.give_pins_free(directory, BASE, ollama)
    assert not (directory / retention.PINS_BEFORE).exists()


def test_probes_go_where_nothing_is_at_work(tmp_path: Path, ollama: MemoryOllama) -> None:
    state, probe = tmp_path / "state", "nightschool-probe:0123456789ab"
    ollama.add(probe)
    other = begun(state / f"{retention.MANUAL_PREFIX}b")
    for at_work in (other, state):
        lock = StateLock.take(at_work)
        retention.sweep_trainings(state, ollama, NOW)
        assert probe in {one.name for one in ollama.tags()}
        lock.release()
    assert f"The probe {probe} of an interrupted run was removed." in retention.sweep_trainings(state, ollama, NOW)
    assert probe not in {one.name for one in ollama.tags()}


def test_a_ledger_that_cannot_be_opened_keeps_nobody_from_the_others(tmp_path: Path, ollama: MemoryOllama) -> None:
    """Nor one that is damaged farther behind."""
    state = tmp_path / "state"
    directory, second, damaged = killed(state, ollama), begun(state / "train-b"), begun(state / "train-c")
    (directory / FILE_NAME).write_bytes(b"no ledger" * 1000)
    with (damaged / FILE_NAME).open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"x" * 10**6)
    told = retention.sweep_trainings(state, ollama, NOW)
    assert [one for one in (directory, second, damaged) if one.exists()] == []
    assert len(told) == 3
    assert "What it had in Ollama is not known, and stays there" in told[0]


def test_a_ledger_that_cannot_be_read_at_present_is_no_reason_to_lose_what_was_learned(
    tmp_path: Path, ollama: MemoryOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    directory = killed(state, ollama)

    def full(_path: Path) -> Ledger:
        raise LedgerError("it cannot be opened") from sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Ledger, "open", full)
    (told,) = retention.sweep_trainings(state, ollama, NOW)
    assert "cannot be read at present" in told
    assert going_on.can_go_on(directory)


def test_what_another_release_found_of_its_model_is_no_reason_to_stop(tmp_path: Path, ollama: MemoryOllama) -> None:
    state = tmp_path / "state"
    directory = killed(state, ollama)
    verify = directory / "runs" / "r" / Step.VERIFY
    verify.mkdir()
    (verify / "result.json").write_text('{"passed": "so it was called once"}')
    assert not going_on.can_go_on(directory)
    assert len(retention.sweep_trainings(state, ollama, NOW)) == 1
    assert not directory.exists()


class Empty:
    """An Ollama that has nothing."""

    def tags(self) -> tuple[()]:
        return ()


def _sweeping(state: Path, told: "multiprocessing.Queue[str]", is_over: "multiprocessing.synchronize.Event") -> None:
    """Sweep as a training does that begins, again and again, and look for others as it does."""
    ollama = cast("OllamaHttp", Empty())
    try:
        while not is_over.is_set():
            for _ in range(20):
                retention.sweep_trainings(state, ollama, NOW)
                retention.trainings_beside(state / "train-none")
    except Exception as error:  # noqa: BLE001 - whatever it is, the test must hear of it
        told.put(repr(error))
    told.put("")


def test_trainings_begin_and_end_while_another_one_sweeps(tmp_path: Path) -> None:
    """None of them has anything in Ollama."""
    told, is_over = FORK.Queue(), FORK.Event()
    sweeper = FORK.Process(target=_sweeping, args=(tmp_path, told, is_over), daemon=True)
    sweeper.start()
    for _ in range(300):
        with alone._directory(tmp_path, "this", alone.End(), anew=False, note=lambda _text: None) as directory:
            for step in Step:
                (directory / "runs" / "r" / step).mkdir(parents=True)
                (directory / "runs" / "r" / step / "result.json").touch()
    is_over.set()
    assert told.get(timeout=60) == ""
    sweeper.join()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cache", "trainings.lock"]


def test_whoever_asks_for_a_lock_makes_no_directory(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "train-gone")
    assert list(tmp_path.iterdir()) == []
