"""How events were learned when they were new crosses from one run to the next, for the search for noise.

A training leaves the loss of each wanted answer every time that it learns from it. What it says of an event depends on
what the network knew before: one that goes on from the model in use knows by heart what that learned, wrong or right,
and resists whatever says otherwise to the same question. And what weighed less because it looked wrong resists because
it weighed less: taken for a proof, that would confirm itself from night to night. So the trajectory that is kept of an
event is that of the newest training to whose network its question was new and in which it had its whole weight. Each
run inherits what the run before it knew, and adds what that one's own training found.

It is that of the event's own example. A variant is asked in words that nobody used; it counts among what was seen.
Which losses can be compared where a curriculum has some examples learned later or more often than others is for whoever
judges them to say (`LossTrajectory`): here is told when each was taken.
"""

import logging
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping

from nightschool_daemon import codec
from nightschool_daemon.jobs import (
    MARKS,
    TRAJECTORIES,
    EventMark,
    EventRow,
    RunDirectory,
    SplitResult,
    Step,
    TrajectoryPoint,
    read_lines,
    write_lines,
)
from nightschool_daemon.ledger import RunRow
from nightschool_daemon.runs.context import StepContext
from nightschool_hookspecs.records import Event, LossPoint, LossTrajectory, Recipe, TrainingResult

logger = logging.getLogger(__name__)

RUNS = 20
"""Newest runs of the specialty among which the last that trained is looked for."""


def freeze(context: StepContext, rows: Iterable[EventRow]) -> None:
    """Write what is known for the workers of this run."""
    newest = context.ledger.runs.latest(RUNS, context.info.specialty, Recipe.TRAINING)
    earlier = (one for one in newest if one.id != context.info.id)
    found = known(earlier, {row.event.key: row.event for row in rows})
    write_lines(context.directory.step(Step.PREPARE) / TRAJECTORIES, found)


def known(newest_first: Iterable[RunRow], events: Mapping[str, Event]) -> tuple[LossTrajectory, ...]:
    """What the last run that trained knew and found out, of events that are what they were then."""
    for run in newest_first:
        directory = RunDirectory(path=run.directory)
        if not directory.is_done(Step.TRAIN):
            continue
        try:
            return _left_by(directory, run.id, events)
        except (OSError, codec.CodecError) as error:
            logger.warning("How run %s learned cannot be read, so it tells nothing of noise: %s", run.id, error)
    return ()


def _left_by(directory: RunDirectory, run_id: str, events: Mapping[str, Event]) -> tuple[LossTrajectory, ...]:
    inherited = directory.step(Step.PREPARE) / TRAJECTORIES
    before = read_lines(inherited, LossTrajectory) if inherited.is_file() else ()
    learned = {row.event.key: row for row in read_lines(directory.step(Step.PREPARE) / "events.jsonl", EventRow)}
    telling = _new_to(directory, learned.values()) - _weighed_down(directory)
    found = (one for one in trajectories_of(directory, run_id) if one.event_id in telling)
    # the last of an event counts
    of_event = {one.event_id: one for one in (*before, *found)}
    return tuple(
        one for key, one in of_event.items() if key in events and key in learned and events[key] == learned[key].event
    )


def _new_to(directory: RunDirectory, rows: Collection[EventRow]) -> frozenset[str]:
    """What the network that the run trained had learned no answer to before, not even another one."""
    goes_on = directory.result(Step.TRAIN, TrainingResult).warm_start
    # a prompt that was new to the run had no group before it was split
    found = directory.result(Step.SPLIT, SplitResult).groups
    groups = {row.event.key: found.get(row.group, row.group) if row.group else None for row in rows}
    known_to_it = frozenset(groups[row.event.key] for row in rows if goes_on and row.inherited)
    return frozenset(key for key, group in groups.items() if group not in known_to_it)


def _weighed_down(directory: RunDirectory) -> frozenset[str]:
    """What weighed less in the run because it looked wrong."""
    marks = read_lines(directory.step(Step.SELECT) / MARKS, EventMark)
    return frozenset(one.event_id for one in marks if one.noise_factor < 1)


def trajectories_of(directory: RunDirectory, run_id: str) -> Iterator[LossTrajectory]:
    """How the training of a run learned wanted answers."""
    train = directory.step(Step.TRAIN)
    of_event: dict[str, list[TrajectoryPoint]] = {}
    for file in (*sorted(train.glob(f"*/{TRAJECTORIES}")), *train.glob(TRAJECTORIES)):
        for point in read_lines(file, TrajectoryPoint):
            of_event.setdefault(point.event_id, []).append(point)
    for key, points in of_event.items():
        found = tuple(_as_learned(points))
        if found:
            yield LossTrajectory(event_id=key, training=run_id, points=found)


def _as_learned(points: Iterable[TrajectoryPoint]) -> Iterator[LossPoint]:
    """Those of the event's own example, of all that is told of the event."""
    in_order = sorted(points, key=lambda one: one.step)
    steps = [one.step for one in in_order]
    for one in in_order:
        if not one.variant:
            # what is learned from in the same step was not seen before it
            yield LossPoint(stretch=one.stretch, seen=bisect_left(steps, one.step), loss=one.loss)
