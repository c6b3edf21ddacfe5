"""What a lesson is delivered by, without a run around it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from nightschool_daemon.config import DeliverySettings, Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import DeliveredFile, RunDirectory, Step
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.forms import Neurons
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.export import Parcel, write_fused
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import Lesson, read_lesson
from nightschool_daemon.learning.peft_files import save_form
from nightschool_daemon.learning.rounding import Demand
from nightschool_daemon.learning.worker import WorkerContext
from support.step_results import run_info

Write = Callable[[Parcel], tuple[DeliveredFile, ...]]


def with_neurons(network: Network, count: int, directory: Path) -> Lesson:
    """Added neurons that say something, beside the network, and as the lesson that a training of them would leave."""
    generator = torch.Generator().manual_seed(0)
    form = Neurons(network.architecture, count=count, spread=network.spread, generator=generator)
    for one in form.parameters.values():
        torch.nn.init.normal_(one, std=0.1, generator=generator)
    network.form = form
    save_form(form, network.file, directory)
    return read_lesson(directory, network.file)


def delivered(lesson: Lesson, directory: Path, write: Write = write_fused) -> GgufFile:
    """The file of a version, in types that lose least."""
    parcel = Parcel(
        lesson=lesson,
        name="tiny",
        directory=directory,
        demand=Demand(allowed_noise=0.0),
        report=lambda _done, _of, _what: None,
    )
    return gguf_file.read(write(parcel)[0].path)


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
