"""Runs of which the steps up to the choice of what is learned from are done, without a daemon around them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.config import DeliverySettings, OllamaSettings, Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import BaseSnapshot, PrepareResult, RunDirectory, SelectResult, SplitResult, Step
from nightschool_daemon.learning.rows import FILES
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_hookspecs.records import Hyperparameters, Material, RunInfo, Specialty, TrainingMethod, TrainingText


def at_step(
    step: Step,
    directory: Path,
    gguf: Path,
    delivery: DeliverySettings | None = None,
    texts: Sequence[TrainingText] = (),
) -> WorkerContext:
    """A later step of a run whose base is a file and that learns from texts. Nobody listens where Ollama should."""
    run = RunDirectory(path=directory / "run")
    for one in {Step.PREPARE, Step.SPLIT, Step.SELECT, step}:
        run.step(one).mkdir(parents=True)
    base = BaseSnapshot(
        name="tiny:1m",
        tag_digest="",
        weights_digest=gguf.stem,
        architecture="llama",
        capabilities=(),
        pin="tiny:pin",
        gguf=gguf,
    )
    run.finish(Step.PREPARE, PrepareResult(base=base, incumbent="", undo_tag="", undo_digest="", events=1))
    run.finish(Step.SPLIT, SplitResult(choices=(), training_events=0, held_out_events=0))
    selected = SelectResult(
        material=Material(examples=1, better_known=0, pairs=0, liked=0, disliked=0),
        variants=0,
        items=0,
        guard_items=0,
        hyperparameters=Hyperparameters(),
        closing="",
        sources={},
        left_out=(),
    )
    run.finish(Step.SELECT, selected)
    lines = "".join(f"{codec.to_json(one)}\n" for one in texts)
    (run.step(Step.SELECT) / FILES[TrainingMethod.SFT]).write_text(lines, encoding="utf-8")
    (run.step(Step.SELECT) / "items.jsonl").touch()
    return WorkerContext(
        step=step,
        run=run,
        info=RunInfo(
            id="r",
            specialty=Specialty(base="tiny:1m", artifact_type="greeting"),
            seed=1,
            started_at=datetime(2026, 1, 2, tzinfo=UTC),
            reason="test",
            directory=run.path,
        ),
        settings=Settings(
            ollama=OllamaSettings(host="http://127.0.0.1:9"),
            state=StateSettings(directory=directory / "state"),
            delivery=delivery or DeliverySettings(),
        ),
        hooks=Hooks.load(plugin_directory=None, tables={}),
    )
