"""Which specialties are due, and whom a name means."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import IncomingEvent, Ledger
from nightschool_daemon.ollama import names
from nightschool_daemon.reasons import FRESH_FEEDBACK, RETRAIN
from nightschool_daemon.runs.planner import Planner, due_key, problem_key
from nightschool_hookspecs import Event, FeedbackType, RunEnd, Specialty
from support.run_rows import RUN_ROW

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SHELL = Specialty(base="tiny:1b", artifact_type="shell")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def planner(ledger: Ledger) -> Planner:
    return Planner(settings=Settings(), ledger=ledger, hooks=Hooks.load(plugin_directory=None, tables={}))


def teach(ledger: Ledger, count: int, *, at: datetime = NOON, specialty: Specialty = SHELL, first: int = 0) -> None:
    """Corrections of one specialty."""
    events = [
        Event(
            id=f"{specialty}-{number}",
            timestamp=at,
            feedback_type=FeedbackType.USER_CORRECTION,
            input_data=f"prompt {number}",
            artifact_type=specialty.artifact_type,
            ai_output="a",
            corrected_output=f"b {number}",
        )
        for number in range(first, first + count)
    ]
    ledger.events.add(
        [
            IncomingEvent(event=one, base=specialty.base, answered_by=None, group=one.input_data, arrived_at=at)
            for one in events
        ]
    )


def run(ledger: Ledger, end: RunEnd, *, at: datetime, specialty: Specialty = SHELL) -> None:
    """A run that ended without having looked at its events."""
    row = replace(RUN_ROW, id=f"run-{at:%H%M}", specialty=specialty, reason=FRESH_FEEDBACK, started_at=at)
    ledger.runs.create(row)
    ledger.runs.finish(row.id, end, "so it ended", at + timedelta(minutes=1))


def due(planner: Planner) -> list[Specialty]:
    return [one.specialty for one in planner.due(NOON + timedelta(days=1))]


def test_too_little_feedback_is_not_due(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 11)
    assert due(planner) == []
    teach(ledger, 1, first=11)
    assert due(planner) == [SHELL]


def test_run_that_found_too_little_is_not_repeated_until_something_comes(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 20)
    run(ledger, RunEnd.NOT_ENOUGH, at=NOON + timedelta(hours=1))
    assert due(planner) == []
    teach(ledger, 1, at=NOON + timedelta(hours=2), first=20)
    assert due(planner) == [SHELL]


@pytest.mark.parametrize("end", [RunEnd.FAILED, RunEnd.CANCELLED])
def test_run_that_came_to_no_end_is_tried_again(planner: Planner, ledger: Ledger, end: RunEnd) -> None:
    teach(ledger, 20)
    run(ledger, end, at=NOON + timedelta(hours=1))
    assert due(planner) == [SHELL]


def test_asked_for_comes_before_fresh_feedback(planner: Planner, ledger: Ledger) -> None:
    other = Specialty(base="tiny:1b", artifact_type="erd")
    teach(ledger, 20)
    teach(ledger, 1, specialty=other)
    ledger.facts.put(due_key(other), RETRAIN)
    assert due(planner) == [other, SHELL]


def test_base_that_is_gone_learns_nothing(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 20)
    ledger.facts.put(problem_key(SHELL.base), "it was removed")
    assert due(planner) == []


LONG = Specialty(base="m:" + "t" * 50, artifact_type="a-type-that-has-to-be-cut")


@pytest.mark.parametrize("specialty", [SHELL, LONG])
def test_specialty_is_found_by_each_of_its_names(planner: Planner, ledger: Ledger, specialty: Specialty) -> None:
    teach(ledger, 1, specialty=specialty)
    for text in (
        names.alias_of(specialty),
        names.alias_of(specialty).upper(),
        names.version_of(specialty, 12),
        f"{specialty.base}/{specialty.artifact_type}",
        str(specialty),
        specialty.base,
    ):
        assert planner.find(text) == specialty, text
    assert planner.find("nobody:1b") is None


def test_base_with_two_types_is_no_name_of_either(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 1)
    teach(ledger, 1, specialty=Specialty(base=SHELL.base, artifact_type="erd"))
    assert planner.find(SHELL.base) is None
