"""A candidate that waits for approval until a newer one comes: it goes, and its run says which one that was."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon.ledger import FILE_NAME, Ledger, VersionRow, VersionState
from nightschool_daemon.runs import retention
from nightschool_hookspecs import RunEnd, Specialty
from support.memory_ollama import MemoryOllama
from support.run_rows import RUN_ROW

BASE = RUN_ROW.specialty.base
NOON, LATER = datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 2, 12, tzinfo=UTC)
OTHER = Specialty(base=BASE, artifact_type="erd")


@pytest.fixture
def ollama(tmp_path: Path, tiny_gguf: Path) -> MemoryOllama:
    return MemoryOllama(tmp_path / "models", tiny_gguf, BASE)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / FILE_NAME)
    yield opened
    opened.close()


def ended(
    ledger: Ledger, ollama: MemoryOllama, number: int, end: RunEnd, specialty: Specialty = RUN_ROW.specialty
) -> VersionRow:
    """The candidate of a run that ended so."""
    run_id = f"{specialty.artifact_type}{number}"
    ledger.runs.create(replace(RUN_ROW, id=run_id, specialty=specialty))
    ledger.runs.finish(run_id, end, "It was judged.", NOON)
    tag = f"tiny-nightschool:1b.{specialty.artifact_type}.v{number}"
    version = VersionRow(
        tag=tag,
        specialty=specialty,
        number=number,
        run_id=run_id,
        form=None,
        tag_digest=ollama.add(tag),
        weights_digest="",
        base_tag_digest="",
        base_weights_digest="",
        state=VersionState.CANDIDATE,
        created_at=NOON,
    )
    ledger.versions.add(version)
    return version


def test_who_waited_says_which_one_overtook_it(ledger: Ledger, ollama: MemoryOllama) -> None:
    older, newer = (ended(ledger, ollama, number, RunEnd.WAITING) for number in (1, 2))
    retention.discard_superseded(ledger, ollama, newer, LATER)
    first, second = (ledger.runs.get(one.run_id) for one in (older, newer))
    assert first is not None
    assert second is not None
    assert (first.end, first.outcome_reason) == (RunEnd.OVERTAKEN, f"It was overtaken by {newer.tag}.")
    assert (first.finished_at, second.end, second.finished_at) == (LATER, RunEnd.WAITING, NOON)
    assert [one.tag for one in ledger.versions.in_state(VersionState.CANDIDATE)] == [newer.tag]
    assert older.tag not in {one.name for one in ollama.tags()}


def test_nobody_is_overtaken_by_an_older_one_or_that_of_another_specialty(ledger: Ledger, ollama: MemoryOllama) -> None:
    waiting = [ended(ledger, ollama, 3, RunEnd.WAITING), ended(ledger, ollama, 1, RunEnd.WAITING, OTHER)]
    newer = ended(ledger, ollama, 2, RunEnd.PROMOTED)
    retention.discard_superseded(ledger, ollama, newer, LATER)
    runs = [ledger.runs.get(one.run_id) for one in waiting]
    assert [one.end for one in runs if one is not None] == [RunEnd.WAITING] * 2


def test_what_somebody_keeps_by_another_name_stays_and_waits_no_more(ledger: Ledger, ollama: MemoryOllama) -> None:
    older, newer = (ended(ledger, ollama, number, RunEnd.WAITING) for number in (1, 2))
    ollama.copy(older.tag, "mine:latest")
    retention.discard_superseded(ledger, ollama, newer, LATER)
    run = ledger.runs.get(older.run_id)
    assert run is not None
    assert run.end is RunEnd.OVERTAKEN
    assert older.tag in {one.name for one in ollama.tags()}
