"""What a lesson is delivered by, without a run around it."""

from dataclasses import replace
from pathlib import Path

from nightschool_daemon.config import DeliverySettings, Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import RunDirectory, Step
from nightschool_daemon.learning.worker import WorkerContext
from support.step_results import run_info


def delivering(directory: Path, delivery: DeliverySettings) -> WorkerContext:
    """The step `export` of a run in a directory, with the built-in plugins, on however full a disk."""
    run = RunDirectory(path=directory / "run")
    run.step(Step.EXPORT).mkdir(parents=True)
    return WorkerContext(
        step=Step.EXPORT,
        run=run,
        info=run_info(run.path),
        settings=Settings(delivery=replace(delivery, min_free_gb=0)),
        hooks=Hooks.load(plugin_directory=None, tables={}),
    )
