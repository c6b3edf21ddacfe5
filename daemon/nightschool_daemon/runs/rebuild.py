"""Step `train`: a new training, or, where only the base's template changed, the lesson there is."""

import shutil
from pathlib import Path

from nightschool_daemon.disk import whole_directory
from nightschool_daemon.jobs import PrepareResult, RunDirectory, Step, write_durably
from nightschool_daemon.ledger import VersionRow
from nightschool_daemon.reasons import REBUILD
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.room import run_with_room
from nightschool_hookspecs.records import TrainingResult

REUSED = "reused.txt"
"""Names the run whose adapter was taken."""


def train_or_reuse(context: StepContext) -> None:
    """Train in a worker; a rebuild takes the adapter of the serving version where it fits the base's weights."""
    source = _lesson_to_reuse(context) if context.info.reason == REBUILD else None
    if source is None:
        run_with_room(context, Step.TRAIN)
    else:
        take_over(source, context.directory)


def take_over(source: RunDirectory, directory: RunDirectory) -> None:
    """Finish a run's training with the lesson of an earlier run."""
    first = reused_lesson(source) or source
    write_durably(directory.step(Step.TRAIN) / REUSED, str(first.path))
    adapter = directory.step(Step.TRAIN) / "adapter"
    earlier = source.result(Step.TRAIN, TrainingResult)
    with whole_directory(adapter) as place:
        shutil.copytree(earlier.adapter, place, dirs_exist_ok=True)
    directory.finish(
        Step.TRAIN,
        TrainingResult(
            adapter=adapter,
            methods=earlier.methods,
            steps=earlier.steps,
            tokens=earlier.tokens,
            examples=earlier.examples,
            left_out=earlier.left_out,
            base_loss=earlier.base_loss,
            trained_loss=earlier.trained_loss,
            seconds=0.0,
            epoch_losses=earlier.epoch_losses,
            learned_events=earlier.learned_events,
            watched_events=earlier.watched_events,
            hyperparameters=earlier.hyperparameters,
        ),
    )


def reused_lesson(directory: RunDirectory) -> RunDirectory | None:
    """The run that first learned what this one delivers again; None where it learned its own."""
    file = directory.step(Step.TRAIN) / REUSED
    return RunDirectory(path=Path(file.read_text(encoding="utf-8"))) if file.is_file() else None


def _lesson_to_reuse(context: StepContext) -> RunDirectory | None:
    prepared = context.result(Step.PREPARE, PrepareResult)
    version = context.ledger.versions.get(prepared.incumbent)
    if version is None or version.base_weights_digest != prepared.base.weights_digest:
        return None
    return _directory_of(context, version)


def _directory_of(context: StepContext, version: VersionRow) -> RunDirectory | None:
    run = context.ledger.runs.get(version.run_id)
    if run is None:
        return None
    directory = RunDirectory(path=run.directory)
    return directory if directory.is_done(Step.TRAIN) else None
