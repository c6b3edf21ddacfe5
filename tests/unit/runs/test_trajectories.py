"""What a run inherits of how events were learned when they were new."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from nightschool_daemon.jobs import (
    MARKS,
    TRAJECTORIES,
    EventMark,
    EventRow,
    RunDirectory,
    SplitResult,
    Step,
    TrajectoryPoint,
    write_lines,
)
from nightschool_daemon.ledger import RunRow
from nightschool_daemon.runs.trajectories import known, trajectories_of
from nightschool_hookspecs import Event, LossPoint, LossTrajectory
from nightschool_hookspecs.testing import sample_event, sample_trajectory
from support.run_rows import RUN_ROW
from support.step_results import TRAINED

EVENTS = {event.key: event for event in map(sample_event, "abc")}
A, B, C = EVENTS


def point(key: str, step: int, loss: float, *, stretch: int = 1, variant: bool = False) -> TrajectoryPoint:
    return TrajectoryPoint(event_id=key, variant=variant, epoch=1, stretch=stretch, step=step, loss=loss)


def points(key: str, *losses: float) -> list[TrajectoryPoint]:
    return [point(key, epoch, loss, stretch=epoch) for epoch, loss in enumerate(losses, start=1)]


def learned(key: str, training: str, *losses: float) -> LossTrajectory:
    return sample_trajectory(key, *losses, training=training)


def run(
    place: Path,
    name: str,
    found: Sequence[TrajectoryPoint],
    *,
    before: Sequence[LossTrajectory] = (),
    events: Sequence[Event] = tuple(EVENTS.values()),
    inherited: Sequence[str] = (),
    doubted: Sequence[str] = (),
    one_group: Sequence[str] = (),
    split: Mapping[str, str | None] | None = None,
    warm_start: bool = False,
    is_trained: bool = True,
) -> RunRow:
    """A run that has trained."""
    directory = RunDirectory(path=place / name)
    for step in (Step.PREPARE, Step.SPLIT, Step.SELECT, Step.TRAIN):
        directory.begin(step)
    rows = [
        EventRow(
            event=one,
            group="together" if one.key in one_group else one.id,
            side=None,
            trained_on=False,
            inherited=one.key in inherited,
            arrival=1,
        )
        for one in events
    ]
    marks = [
        EventMark(
            event_id=one.key,
            priority=1.0,
            reward=1.0,
            difficulty=0.5,
            weight=1.0,
            noise_factor=0.4 if one.key in doubted else 1.0,
        )
        for one in events
    ]
    write_lines(directory.step(Step.PREPARE) / "events.jsonl", rows)
    write_lines(directory.step(Step.PREPARE) / TRAJECTORIES, before)
    write_lines(directory.step(Step.SELECT) / MARKS, marks)
    write_lines(directory.step(Step.TRAIN) / TRAJECTORIES, found)
    result = replace(TRAINED, adapter=place, base_loss=1.0, warm_start=warm_start)
    directory.finish(Step.SPLIT, SplitResult(choices=(), training_events=1, held_out_events=0, groups=split or {}))
    if is_trained:
        directory.finish(Step.TRAIN, result)
    return replace(RUN_ROW, id=name, directory=directory.path)


def test_the_losses_of_an_event_are_those_of_its_own_example_in_order(tmp_path: Path) -> None:
    """A training may be one of two, of which the other learned preferences and left no line."""
    row = run(tmp_path, "r", [*points(B, 4.0, 3.0), *points(A, 3.0, 1.0)])
    for name, found in (("dpo", []), ("sft", points(C, 9.0))):
        within = row.directory / "train" / name
        within.mkdir()
        write_lines(within / TRAJECTORIES, found)
    assert set(trajectories_of(RunDirectory(path=row.directory), "r")) == {
        learned(A, "r", 3.0, 1.0),
        learned(B, "r", 4.0, 3.0),
        learned(C, "r", 9.0),
    }


def test_a_variant_counts_as_seen_and_has_no_loss_of_its_own(tmp_path: Path) -> None:
    found = [
        point(A, 1, 9.0, variant=True),
        point(A, 3, 4.0),
        point(A, 3, 8.0, variant=True),
        point(A, 7, 2.0, stretch=2),
        point(B, 2, 5.0, variant=True),
    ]
    (only,) = trajectories_of(RunDirectory(path=run(tmp_path, "r", found).directory), "r")
    assert only.event_id == A
    assert only.points == (LossPoint(stretch=1, seen=1, loss=4.0), LossPoint(stretch=2, seen=3, loss=2.0))


@pytest.mark.parametrize("warm_start", [True, False])
def test_what_is_kept_is_how_an_event_was_learned_when_it_was_new(tmp_path: Path, warm_start: bool) -> None:
    before = (learned(A, "first", 5.0), learned(B, "first", 6.0))
    found = [*points(A, 0.1), *points(B, 0.2), *points(C, 4.0)]
    row = run(tmp_path, "last", found, before=before, inherited=[A], warm_start=warm_start)
    of_a = learned(A, "first", 5.0) if warm_start else learned(A, "last", 0.1)
    assert set(known([row], EVENTS)) == {of_a, learned(B, "last", 0.2), learned(C, "last", 4.0)}


def test_what_says_otherwise_of_a_known_question_is_not_new_to_the_network(tmp_path: Path) -> None:
    """It resists because the other answer is known by heart: whoever came first would always be right."""
    row = run(tmp_path, "last", points(B, 9.0), inherited=[A], one_group=[A, B], warm_start=True)
    assert known([row], EVENTS) == ()
    # the run itself found out that both ask the same
    placed = run(tmp_path, "placed", points(B, 9.0), inherited=[A], split={"b": "a"}, warm_start=True)
    assert known([placed], EVENTS) == ()
    of_another = run(tmp_path, "other", points(B, 9.0), inherited=[A], split={"b": "c"}, warm_start=True)
    assert known([of_another], EVENTS) == (learned(B, "other", 9.0),)


def test_what_weighed_less_because_it_looked_wrong_does_not_prove_it_by_that(tmp_path: Path) -> None:
    row = run(tmp_path, "last", [*points(A, 9.0), *points(B, 9.0)], before=[learned(A, "first", 5.0)], doubted=[A, B])
    assert known([row], EVENTS) == (learned(A, "first", 5.0),)


def test_what_was_said_otherwise_since_is_new_again(tmp_path: Path) -> None:
    before = (learned(A, "first", 5.0),)
    row = run(tmp_path, "last", [*points(B, 1.0), *points(C, 4.0)], before=before)
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


def test_over_many_nights_of_promotions_each_event_keeps_its_first(tmp_path: Path) -> None:
    before: tuple[LossTrajectory, ...] = ()
    for night, key in enumerate(EVENTS, start=1):
        present = dict(list(EVENTS.items())[:night])
        earlier = [one for one in present if one != key]
        found = [*points(key, 3.0), *(one for other in earlier for one in points(other, 1.0 / night))]
        row = run(tmp_path, f"night{night}", found, before=before, inherited=earlier, warm_start=night > 1)
        row = replace(row, started_at=row.started_at + timedelta(days=night))
        before = known([row], present)
    assert set(before) == {learned(key, f"night{night}", 3.0) for night, key in enumerate(EVENTS, start=1)}
