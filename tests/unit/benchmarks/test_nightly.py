"""Seasons of nights: what breaks in one costs that one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import nightly
from benchmarks.nightly import Ended, installation, require_ended
from benchmarks.results import CellFailed
from nightschool_daemon.ollama.errors import OllamaUnreachable
from nightschool_hookspecs.records import Recipe, RunEnd, RunInfo, RunReport, Specialty
from support.ollama_server import OllamaServer

REPORT = RunReport(
    run=RunInfo(
        id="r",
        specialty=Specialty(base="tiny:1b", artifact_type="shell"),
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        seed=1,
        reason="due",
        directory=Path("r"),
    ),
    end=RunEnd.NOT_ENOUGH,
    reason="Too little.",
)


@contextmanager
def served(_: object, directory: Path) -> Iterator[OllamaServer]:
    directory.mkdir()
    server = OllamaServer("0", directory=directory, binary=Path(__file__))
    server.log.write_text("loading\nout of memory\n", encoding="utf-8")
    yield server


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("`nightschool exam` ended with 1"),
        subprocess.TimeoutExpired("nightschool", 7200),
        OllamaUnreachable("Ollama does not answer"),
        CellFailed("a run failed"),
    ],
)
def test_what_breaks_in_a_season_is_told_with_the_end_of_the_servers_log(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(nightly, "_served", served)
    with pytest.raises(CellFailed, match="out of memory") as told, installation("smollm2"):
        raise error
    assert str(error) in str(told.value)


def test_a_run_that_failed_or_waits_makes_no_season() -> None:
    require_ended([REPORT], [])
    with pytest.raises(CellFailed, match="a run failed: Too little"):
        require_ended([REPORT, replace(REPORT, end=RunEnd.FAILED)], [])
    with pytest.raises(CellFailed, match="the run r-7 waits"):
        require_ended([REPORT], ["r-7"])


def test_a_run_without_a_verdict_is_kept_without_figures() -> None:
    assert Ended.of(3, REPORT) == Ended(
        day=3,
        recipe=Recipe.TRAINING,
        end=RunEnd.NOT_ENOUGH,
        reason="Too little.",
        outcome=None,
        gain=None,
        interval=None,
    )
