"""What is removed of trainings by hand that were killed, and what of it goes on."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon.jobs import Step
from nightschool_daemon.ledger import FILE_NAME, Ledger, VersionRow, VersionState
from nightschool_daemon.locking import StateLock
from nightschool_daemon.runs import going_on, retention
from support.memory_ollama import MemoryOllama
from support.run_rows import RUN_ROW

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
    return VersionRow(
        tag=CANDIDATE,
        specialty=RUN_ROW.specialty,
        number=1,
        run_id=RUN_ROW.id,
        form=None,
        tag_digest=digest,
        weights_digest="",
        base_tag_digest="",
        base_weights_digest="",
        state=VersionState.CANDIDATE,
        created_at=NOW,
    )


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
