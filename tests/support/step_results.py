"""What the steps of a run leave, where a test looks at a field or two of it: `replace` sets these."""

from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.jobs import BaseSnapshot, PrepareResult, RunDirectory, SelectResult, SplitResult, Step
from nightschool_hookspecs.records import (
    Hyperparameters,
    Material,
    RunInfo,
    Specialty,
    TrainingMethod,
    TrainingResult,
)

SELECTED = SelectResult(
    material=Material(examples=1, better_known=0, pairs=0, liked=0, disliked=0),
    variants=0,
    items=0,
    guard_items=0,
    hyperparameters=Hyperparameters(),
    closing="",
    sources={},
    left_out=(),
)
TRAINED = TrainingResult(
    adapter=Path("adapter"),
    methods=(TrainingMethod.SFT,),
    steps=1,
    tokens=1,
    examples=1,
    left_out=0,
    base_loss=2.0,
    trained_loss=1.0,
    seconds=1.0,
)


def run_info(directory: Path) -> RunInfo:
    """A run of the tiny model."""
    return RunInfo(
        id="r",
        specialty=Specialty(base="tiny:1m", artifact_type="greeting"),
        seed=1,
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        reason="test",
        directory=directory,
    )


def prepare_and_split(run: RunDirectory, gguf: Path, weights_digest: str, *, events: int = 1) -> None:
    """Leave what these steps do of a base that is a file, with nothing held out."""
    for step in (Step.PREPARE, Step.SPLIT):
        run.step(step).mkdir(parents=True)
    base = BaseSnapshot(
        name="tiny:1m",
        tag_digest="",
        weights_digest=weights_digest,
        architecture="llama",
        capabilities=(),
        pin="tiny:pin",
        gguf=gguf,
    )
    run.finish(Step.PREPARE, PrepareResult(base=base, incumbent="", undo_tag="", undo_digest="", events=events))
    run.finish(Step.SPLIT, SplitResult(choices=(), training_events=0, held_out_events=0))
