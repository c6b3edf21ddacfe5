"""Runs of which the steps up to the choice of what is learned from are done, without a daemon around them."""

from collections.abc import Sequence
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.config import DeliverySettings, OllamaSettings, Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import RunDirectory, Step
from nightschool_daemon.learning.rows import FILES
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_hookspecs.records import TrainingMethod, TrainingText
from support.step_results import SELECTED, prepare_and_split, run_info


def at_step(
    step: Step,
    directory: Path,
    gguf: Path,
    delivery: DeliverySettings | None = None,
    texts: Sequence[TrainingText] = (),
) -> WorkerContext:
    """A later step of a run whose base is a file and that learns from texts. Nobody listens where Ollama should."""
    run = RunDirectory(path=directory / "run")
    prepare_and_split(run, gguf, gguf.stem)
    for one in {Step.SELECT, step}:
        run.step(one).mkdir()
    run.finish(Step.SELECT, SELECTED)
    lines = "".join(f"{codec.to_json(one)}\n" for one in texts)
    (run.step(Step.SELECT) / FILES[TrainingMethod.SFT]).write_text(lines, encoding="utf-8")
    (run.step(Step.SELECT) / "items.jsonl").touch()
    return WorkerContext(
        step=step,
        run=run,
        info=run_info(run.path),
        settings=Settings(
            ollama=OllamaSettings(host="http://127.0.0.1:9"),
            state=StateSettings(directory=directory / "state"),
            delivery=delivery or DeliverySettings(),
        ),
        hooks=Hooks.load(plugin_directory=None, tables={}),
    )
