"""Lays out what a worker reads for work that belongs to no run, in a directory that is gone afterwards."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.config import Settings
from nightschool_daemon.jobs import EventRow, Job, RunDirectory, Step
from nightschool_hookspecs.records import RunInfo, Specialty

SEED = 1
"""Of work for which the configuration names none: chance decides little of what a training takes, and which prompts
are asked should not change from one comparison to the next."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What is worked on."""

    rows: Sequence[EventRow]
    store: Mapping[str, str] = field(default_factory=dict)
    """What plugins keep for the specialty."""


@contextmanager
def desk(
    settings: Settings,
    specialty: Specialty,
    job: Job,
    request: object,
    feedback: Feedback | None,
    now: datetime,
    reason: str = "",
) -> Iterator[RunDirectory]:
    """A directory as a run has one, with the request of a job and the feedback that it is about.

    `reason`: of the run that it stands for, where that makes a difference.
    """
    with tempfile.TemporaryDirectory(prefix=f"nightschool-{job.value}-") as text:
        directory = RunDirectory(path=Path(text))
        info = RunInfo(
            id=job.value,
            specialty=specialty,
            seed=settings.training.seed or SEED,
            started_at=now,
            reason=reason or job.value,
            directory=directory.path,
        )
        for step in (Step.PREPARE, job):
            directory.step(step).mkdir()
        directory.settings.write_text(codec.to_json(settings), encoding="utf-8")
        directory.info.write_text(codec.to_json(info), encoding="utf-8")
        (directory.step(job) / "request.json").write_text(codec.to_json(request), encoding="utf-8")
        if feedback is not None:
            lines = "".join(codec.to_json(row) + "\n" for row in feedback.rows)
            (directory.step(Step.PREPARE) / "events.jsonl").write_text(lines, encoding="utf-8")
            store = codec.to_json(dict(feedback.store))
            (directory.step(Step.PREPARE) / "store.json").write_text(store, encoding="utf-8")
        yield directory
