"""What a run inherits of how events were learned when they were new."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightschool_daemon.jobs import (
    TRAJECTORIES,
    EventRow,
    RunDirectory,
    Step,
    TrajectoryPoint,
    write_lines,
)
from nightschool_daemon.ledger import RunRow
from nightschool_daemon.runs.trajectories import known, trajectories_of
from nightschool_hookspecs import Event, LossTrajectory, Specialty, TrainingMethod, TrainingResult
from nightschool_hookspecs.records import Recipe
from nightschool_hookspecs.testing import sample_event

EVENTS = {event.key: event for event in map(sample_event, "abc")}
A, B, C = EVENTS


def points(key: str, *losses: float) -> list[TrajectoryPoint]:
    return [
        TrajectoryPoint(event_id=key, epoch=epoch, step=epoch, loss=loss) for epoch, loss in enumerate(losses, start=1)
    ]


def learned(key: str, training: str, *losses: float) -> LossTrajectory:
    return LossTrajectory(event_id=key, training=training, losses=losses)


def run(
    place: Path,
    name: str,
    found: Sequence[TrajectoryPoint],
    *,
    inherited: Sequence[LossTrajectory] = (),
    events: Sequence[Event] = tuple(EVENTS.values()),
    warm_start: bool = False,
    is_trained: bool = True,
) -> RunRow:
    """A run that has trained."""
    directory = RunDirectory(path=place / name)
    for step in (Step.PREPARE, Step.TRAIN):
        directory.begin(step)
    rows = [EventRow(event=one, group=one.id, side=None, trained_on=False, arrival=1) for one in events]
    write_lines(directory.step(Step.PREPARE) / "events.jsonl", rows)
    write_lines(directory.step(Step.PREPARE) / TRAJECTORIES, inherited)
    write_lines(directory.step(Step.TRAIN) / TRAJECTORIES, found)
    result = TrainingResult(
        adapter=place,
        methods=(TrainingMethod.SFT,),
        steps=1,
        tokens=1,
        examples=1,
        left_out=0,
        base_loss=1.0,
        trained_loss=1.0,
        seconds=1.0,
        warm_start=warm_start,
    )
    if is_trained:
        directory.finish(Step.TRAIN, result)
    return RunRow(
        id=name,
        specialty=Specialty(base="tiny:1b", artifact_type="shell"),
        seed=1,
        reason="test",
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        finished_at=None,
        end=None,
        outcome_reason="",
        directory=directory.path,
        recipe=Recipe.TRAINING,
    )


def test_the_losses_of_an_event_are_those_of_all_its_examples_epoch_by_epoch(tmp_path: Path) -> None:
    """A variant has the name of its original, and preferences may be learned on top."""
    row = run(tmp_path, "r", [*points(A, 3.0, 1.0), *points(A, 1.0, 2.0), *points(B, 4.0, 3.0)])
    within = row.directory / "train" / "sft"
    within.mkdir()
    write_lines(within / TRAJECTORIES, points(C, 9.0))
    assert set(trajectories_of(RunDirectory(path=row.directory), "r")) == {
        learned(A, "r", 2.0, 1.5),
        learned(B, "r", 4.0, 3.0),
        learned(C, "r", 9.0),
    }


@pytest.mark.parametrize("warm_start", [True, False])
def test_what_is_kept_is_how_an_event_was_learned_when_it_was_new(tmp_path: Path, warm_start: bool) -> None:
    before = (learned(A, "first", 5.0), learned(B, "first", 6.0))
    row = run(tmp_path, "last", [*points(A, 0.1), *points(C, 4.0)], inherited=before, warm_start=warm_start)
    of_a = learned(A, "first", 5.0) if warm_start else learned(A, "last", 0.1)
    assert set(known([row], EVENTS)) == {of_a, learned(B, "first", 6.0), learned(C, "last", 4.0)}


def test_what_was_said_otherwise_since_is_new_again(tmp_path: Path) -> None:
    before = (learned(A, "first", 5.0),)
    row = run(tmp_path, "last", [*points(B, 1.0), *points(C, 4.0)], inherited=before)
    changed = {key: replace(event, corrected_output="ls -A") for key, event in EVENTS.items() if key in (A, B)}
    assert known([row], EVENTS | changed) == (learned(C, "last", 4.0),)
    assert known([row], {}) == ()


def test_the_newest_run_that_trained_and_can_be_read_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, torn = (run(tmp_path, name, points(A, loss)) for name, loss in (("whole", 1.0), ("torn", 2.0)))
    (torn.directory / "train" / TRAJECTORIES).write_text('{"event_id": ', encoding="utf-8")
    gone = run(tmp_path, "gone", points(A, 3.0))
    (gone.directory / "prepare" / "events.jsonl").unlink()
    untrained = run(tmp_path, "untrained", points(A, 4.0), is_trained=False)
    assert known([untrained, gone, torn, whole], EVENTS) == (learned(A, "whole", 1.0),)
    assert "run gone" in caplog.text
    assert "run torn" in caplog.text
    assert known([untrained], EVENTS) == ()


def test_over_many_nights_each_event_keeps_its_first(tmp_path: Path) -> None:
    inherited: tuple[LossTrajectory, ...] = ()
    for night, key in enumerate(EVENTS, start=1):
        present = dict(list(EVENTS.items())[:night])
        found = [point for one in present for point in points(one, 1.0 / night if one != key else 3.0)]
        row = run(tmp_path, f"night{night}", found, inherited=inherited, warm_start=night > 1)
        row = replace(row, started_at=row.started_at + timedelta(days=night))
        inherited = known([row], present)
    assert set(inherited) == {learned(key, f"night{night}", 3.0) for night, key in enumerate(EVENTS, start=1)}
