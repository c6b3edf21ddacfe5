"""How events were learned when they were new crosses from one run to the next, for the search for noise.

A training leaves the loss of each answer in each epoch. What it says of an event depends on what the network knew
before: one that goes on from the model in use knows by heart what that learned, wrong or right. So the trajectory that
is kept of an event is that of the first training that learned it, until one begins from the base again. Each run
inherits what the run before it knew, and adds what that one's own training found.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping

from nightschool_daemon import codec
from nightschool_daemon.jobs import (
    TRAJECTORIES,
    EventRow,
    RunDirectory,
    Step,
    TrajectoryPoint,
    read_lines,
    write_lines,
)
from nightschool_daemon.ledger import RunRow
from nightschool_daemon.runs.context import StepContext
from nightschool_hookspecs.records import Event, LossTrajectory, Recipe, TrainingResult

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
    found = trajectories_of(directory, run_id)
    # the last of an event counts
    ordered = (*found, *before) if directory.result(Step.TRAIN, TrainingResult).warm_start else (*before, *found)
    of_event = {one.event_id: one for one in ordered}
    same = frozenset(_unchanged(directory, {key: events[key] for key in of_event if key in events}))
    return tuple(one for key, one in of_event.items() if key in same)


def trajectories_of(directory: RunDirectory, run_id: str) -> Iterator[LossTrajectory]:
    """How the training of a run learned wanted answers; variants count with their original."""
    of_event: dict[str, dict[int, list[float]]] = {}
    for file in sorted(directory.step(Step.TRAIN).rglob(TRAJECTORIES)):
        for point in read_lines(file, TrajectoryPoint):
            of_event.setdefault(point.event_id, {}).setdefault(point.epoch, []).append(point.loss)
    for key, of_epoch in of_event.items():
        losses = tuple(sum(of_epoch[epoch]) / len(of_epoch[epoch]) for epoch in sorted(of_epoch))
        yield LossTrajectory(event_id=key, training=run_id, losses=losses)


def _unchanged(directory: RunDirectory, events: Mapping[str, Event]) -> Iterator[str]:
    """The keys of those events that the run was prepared with as they are now."""
    for row in read_lines(directory.step(Step.PREPARE) / "events.jsonl", EventRow):
        if events.get(row.event.key) == row.event:
            yield row.event.key
