"""Where an event stands, and of which nights something is told."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from nightschool_daemon.explaining import NIGHTS, _night, _standing, nights_of
from nightschool_daemon.jobs import (
    FINDINGS,
    EventRow,
    LeftOut,
    NoiseRow,
    RunDirectory,
    Step,
    write_lines,
)
from nightschool_daemon.ledger import Ledger
from nightschool_hookspecs.records import NoiseFinding, Side
from nightschool_hookspecs.testing import sample_event
from support.run_rows import RUN_ROW
from support.step_results import SELECTED

ROW = EventRow(event=sample_event(), group="g", side=None, trained_on=False, arrival=1)


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


@pytest.mark.parametrize("side", Side)
def test_why_it_looked_wrong_is_told(tmp_path: Path, ledger: Ledger, side: Side) -> None:
    directory = RunDirectory(path=tmp_path)
    directory.begin(Step.SELECT)
    key = ROW.event.key
    left_out = (LeftOut(event_id=key, reason="it did not fit"),) if side is Side.TRAINING else ()
    directory.finish(Step.SELECT, replace(SELECTED, left_out=left_out))
    doubt = NoiseRow(finding=NoiseFinding(event_id=key, factor=0.4, reason="others want more"), side=side)
    row = replace(RUN_ROW, directory=tmp_path)
    before = _night(ROW, row, ledger.exams)
    write_lines(directory.step(Step.SELECT) / FINDINGS, [doubt])
    night = _night(ROW, row, ledger.exams)
    other = _night(replace(ROW, event=replace(ROW.event, id="other")), row, ledger.exams)
    assert (before is None) == (side is Side.HELD_OUT)
    assert before is None or before.noise is None
    assert night is not None
    meaning = {
        Side.TRAINING: "This run learns nothing from it.",
        Side.HELD_OUT: "It is kept for the exam, where it counts as it is.",
    }
    assert night.noise == doubt
    assert night.suspicion == f"others want more. {meaning[side]}"
    said = {Side.TRAINING: "It was left out: it did not fit.", Side.HELD_OUT: "It was neither learned from nor asked."}
    assert night.fate == said[side]
    assert other is None


@pytest.mark.parametrize("broken", ["{", '{"new_key": 1}'])
def test_a_run_whose_files_cannot_be_read_hides_no_other(tmp_path: Path, ledger: Ledger, broken: str) -> None:
    directory = RunDirectory(path=tmp_path)
    directory.begin(Step.SELECT)
    directory.finish(Step.SELECT, None)
    (directory.step(Step.SELECT) / "result.json").write_text(broken, encoding="utf-8")
    night = _night(ROW, replace(RUN_ROW, directory=tmp_path), ledger.exams)
    assert night is not None
    assert night.fate == "The files of this run cannot be read."


def test_nights_of_other_specialties_hide_none_of_its_own(tmp_path: Path, ledger: Ledger) -> None:
    """However many there are: of its own as many are told as are told at most, the newest."""
    own = [number for number in range(3 * NIGHTS) if number % 3 == 0]
    for number in range(3 * NIGHTS):
        directory = RunDirectory(path=tmp_path / str(number))
        directory.begin(Step.SELECT)
        key = ROW.event.key if number in own else f"{ROW.event.key}-other"
        directory.finish(Step.SELECT, replace(SELECTED, left_out=(LeftOut(event_id=key, reason="it did not fit"),)))
        started_at = RUN_ROW.started_at + timedelta(days=number)
        ledger.runs.create(replace(RUN_ROW, id=str(number), started_at=started_at, directory=directory.path))
    assert [night.run for night in nights_of(ledger, ROW)] == [str(number) for number in reversed(own)]
    for number in range(3 * NIGHTS, 5 * NIGHTS):
        ledger.runs.create(replace(RUN_ROW, id=str(number), directory=tmp_path / "gone"))
    assert len(nights_of(ledger, ROW)) == NIGHTS
