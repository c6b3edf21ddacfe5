"""What a lesson is delivered by, without a run around it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.config import DeliverySettings, Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import RunDirectory, Step
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_hookspecs.records import RunInfo, Specialty


def delivering(directory: Path, delivery: DeliverySettings) -> WorkerContext:
    """The step `export` of a run in a directory, with the built-in plugins, on however full a disk."""
    run = RunDirectory(path=directory / "run")
    run.step(Step.EXPORT).mkdir(parents=True)
    return WorkerContext(
        step=Step.EXPORT,
        run=run,
        info=RunInfo(
            id="r",
            specialty=Specialty(base="tiny:1m", artifact_type="greeting"),
            seed=1,
            started_at=datetime(2026, 1, 2, tzinfo=UTC),
            reason="test",
            directory=run.path,
        ),
        settings=Settings(delivery=replace(delivery, min_free_gb=0)),
        hooks=Hooks.load(plugin_directory=None, tables={}),
    )
