"""Where an event stands, and of which nights something is told."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon.explaining import _night, _standing
from nightschool_daemon.jobs import EventRow, RunDirectory, Step
from nightschool_daemon.ledger import Ledger, RunRow
from nightschool_hookspecs.records import Recipe, Side, Specialty
from nightschool_hookspecs.testing import sample_event

ROW = EventRow(event=sample_event(), group="g", side=None, trained_on=False, arrival=1)
RUN = RunRow(
    id="r",
    specialty=Specialty(base="tiny:1b", artifact_type="shell"),
    seed=1,
    reason="test",
    started_at=datetime(2026, 1, 2, tzinfo=UTC),
    finished_at=None,
    end=None,
    outcome_reason="",
    directory=Path("nowhere"),
    recipe=Recipe.TRAINING,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW, "No run has decided yet where it belongs."),
        (replace(ROW, side=Side.HELD_OUT), "no version learns from it"),
        (replace(ROW, side=Side.TRAINING), "It may be learned from."),
        (replace(ROW, side=Side.TRAINING, trained_on=True), "A version has learned from it."),
        (replace(ROW, group=None), "goes to neither"),
        (
            replace(
                ROW, side=Side.TRAINING, event=replace(ROW.event, metadata=replace(ROW.event.metadata, deleted=True))
            ),
            "It was withdrawn",
        ),
    ],
)
def test_where_an_event_stands(row: EventRow, said: str) -> None:
    assert said in _standing(row)


@pytest.mark.parametrize("broken", ["{", '{"new_key": 1}'])
def test_a_run_whose_files_cannot_be_read_hides_no_other(tmp_path: Path, ledger: Ledger, broken: str) -> None:
    directory = RunDirectory(path=tmp_path)
    directory.begin(Step.SELECT)
    directory.finish(Step.SELECT, None)
    (directory.step(Step.SELECT) / "result.json").write_text(broken, encoding="utf-8")
    night = _night(ROW, replace(RUN, directory=tmp_path), ledger.exams)
    assert night is not None
    assert night.fate == "The files of this run cannot be read."
