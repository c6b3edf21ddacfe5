"""Step `train`: the packed engine where it knows the base's architecture, else transformers and PEFT."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from nightschool_daemon import disk
from nightschool_daemon.config import DeliveryChoice
from nightschool_daemon.disk import delivered_bytes
from nightschool_daemon.jobs import PrepareResult, SelectResult, SplitResult, Step
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.defaults import settled_for, settled_to_begin
from nightschool_daemon.learning.delivery import Expected, ExportError, chosen, require_possible, require_taken
from nightschool_daemon.learning.engine import machine
from nightschool_daemon.learning.engine.trying import Slices
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import Base, load_base, load_tokens
from nightschool_daemon.learning.packed_route import PackedTrials, learn, neurons_of, prepare
from nightschool_daemon.learning.peft_route import LoadedTrials, fine_tune, require_known_layout
from nightschool_daemon.learning.probing import probed
from nightschool_daemon.learning.rows import rows_of, within
from nightschool_daemon.learning.searching import SEARCH, searched, taken
from nightschool_daemon.learning.threads import limit_threads
from nightschool_daemon.learning.trainable import route_of, without_what_it_cannot
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.plans import Route
from nightschool_hookspecs.records import (
    Hyperparameters,
    Material,
    ServerAbilities,
    TrainedForm,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    TrainingText,
)
from nightschool_hookspecs.services import TrainingError

logger = logging.getLogger(__name__)

LEARNING_SHARE = 0.9
"""Of the time that a step may take, in which steps of the optimiser begin; the rest is for evaluating and saving."""
FAILURES: tuple[type[Exception], ...] = (OSError, RuntimeError, MemoryError, SafetensorError)
"""Of the disk, of torch and of memory, beside `TrainingError`."""


def run(context: WorkerContext) -> None:
    """Train the adapter of a run and leave `TrainingResult`."""
    # before a plugin is asked: a damaged base is no fault of the one that trains
    base = context.run.result(Step.PREPARE, PrepareResult).base
    file = open_base(base.gguf)
    require_possible(file, context.settings.delivery)
    passed_over = machine.passed_over()
    if passed_over is not None:
        context.note(passed_over)
    job = without_what_it_cannot(make_job(context), file, context.settings.training.engine, context.note)
    hyperparameters = settled_to_begin(job, file, context.settings, context.note)
    delivery = context.settings.delivery
    server = None
    if delivery.form is not DeliveryChoice.AUTO or delivery.max_version_mb:
        # hours of training are not to end in a refusal
        server = probed(context, context.run.step(Step.TRAIN), base.pin, base.architecture)
        require_taken(server, delivery, hyperparameters.form)
    job = replace(job, hyperparameters=hyperparameters)
    engine = Engine(context, file, server)
    search = searched(context, job, file, engine.trials)
    if search is not None:
        job = taken(job, search)
    result = context.hooks.train_adapter(job=job, train=engine)
    if result is None:
        raise TrainingError("No plugin trains this base. Take training_sft out of plugins.disabled.")
    context.run.finish(Step.TRAIN, replace(result, search=search))


def _told(error: Exception, output: Path) -> str:
    """A failure as a sentence with what can be done."""
    if isinstance(error, OSError):
        return disk.told(error, output, ", or lower neurons or lora_r in [plugins.tuning_fixed]")
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in text:
        return (
            f"Memory ran out: {text}. Lower max_length in [plugins.tuning_fixed], close what "
            "uses memory, or choose a smaller base."
        )
    return f"The training failed with {type(error).__name__}: {text}. Its log has the details."


class Engine:
    """`Train`, and what trainings are tried out by. The base is loaded with the first that needs it."""

    def __init__(self, context: WorkerContext, file: GgufFile, server: ServerAbilities | None = None) -> None:
        """`server`: what it takes, where a delivery may be refused for its form or its bytes."""
        self._context, self._file, self._server = context, file, server
        self._until = time.monotonic() + LEARNING_SHARE * context.time_s
        self._cache, self._arrange = context.settings.state_directory / "cache", context.hooks.arrange_stretch
        self._base: Base | None = None
        self._known_layers: set[tuple[str, ...]] = set()

    def __call__(self, job: TrainingJob, *, method: TrainingMethod, hyperparameters: Hyperparameters) -> TrainingResult:
        try:
            return self._trained(job, method, hyperparameters)
        except TrainingError:
            raise
        except FAILURES as error:
            # no fault of the plugin that asked, whose failures are counted
            logger.exception("The training failed.")
            raise TrainingError(_told(error, job.output)) from error

    def _trained(self, job: TrainingJob, method: TrainingMethod, hyperparameters: Hyperparameters) -> TrainingResult:
        context, file = self._context, self._file
        self._begin()
        # a plugin may have made its own
        wanted = settled_for(job, hyperparameters, file, context.settings)
        route = self._route(method, wanted)
        job = replace(
            job,
            spared_bytes=spared_bytes(context, job.base_gguf, version_bytes(file, wanted, context)),
            time_left_s=self._until - time.monotonic(),
        )
        if route is Route.PACKED:
            tokens = load_tokens(file, job.base_digest, self._cache)
            prepared = prepare(file, tokens, job, method, wanted, note=context.note, arrange=self._arrange)
            self._require_delivery(wanted, prepared.memory.trained_from)
            return learn(prepared, context.progress, context.note)
        self._require_delivery(wanted)
        base = self._loaded(job, wanted)
        return fine_tune(base, job, wanted, context.progress, note=context.note, arrange=self._arrange)

    def _require_delivery(self, settings: Hyperparameters, trained_from: int = 0) -> None:
        """Raise `TrainingError` where a version, even in the types of the base, would cost more than it may."""
        if self._server is None:
            return
        target = expected(self._file, settings, trained_from).target(self._file, self._server, widest=False)
        try:
            chosen(self._context.hooks.choose_delivery(target=target), self._context.settings.delivery, target)
        except ExportError as error:
            raise TrainingError(str(error)) from error

    def trials(self, job: TrainingJob, texts: Slices[TrainingText]) -> PackedTrials | LoadedTrials:
        """Where wanted answers are tried out. Raises `TrainingError`."""
        self._begin()
        given = job.hyperparameters
        tokens = load_tokens(self._file, job.base_digest, self._cache)
        slices = Slices(
            learned=tuple(within(rows_of(texts.learned, tokens), given.max_length)),
            measured=tuple(within(rows_of(texts.measured, tokens), given.max_length)),
        )
        if not (slices.learned and slices.measured):
            raise TrainingError(
                f"Too few examples fit into {given.max_length} tokens to try out hyperparameters. Raise max_length in "
                "[plugins.tuning_fixed]."
            )
        if self._route(TrainingMethod.SFT, given) is Route.PACKED:
            return PackedTrials(self._file, job, given, slices, job.output / SEARCH, arrange=self._arrange)
        return LoadedTrials(self._loaded(job, given), job, slices, arrange=self._arrange)

    def _begin(self) -> None:
        limit_threads(self._context.settings.training.threads)
        self._context.progress(0, 1, "load the base model")

    def _route(self, method: TrainingMethod, settings: Hyperparameters) -> Route:
        return route_of(self._file, self._context.settings.training.engine, method, settings)

    def _loaded(self, job: TrainingJob, settings: Hyperparameters) -> Base:
        """The base, once its weights were compared with those of the file in the layers that are trained."""
        if self._base is None:
            self._base = load_base(job.base_gguf, job.base_digest, self._cache)
        if settings.lora_layers not in self._known_layers:
            require_known_layout(self._base, settings)
            self._known_layers.add(settings.lora_layers)
        return self._base


def make_job(context: WorkerContext) -> TrainingJob:
    """Gather what a training needs, so that it could be handed to any process."""
    brought = context.settings.training.start_from
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    base = prepared.base
    selected = context.run.result(Step.SELECT, SelectResult)
    return TrainingJob(
        base_gguf=base.gguf,
        base_digest=base.weights_digest,
        architecture=base.architecture,
        dataset=context.run.step(Step.SELECT),
        output=context.run.step(Step.TRAIN),
        material=_decisive(selected.material, context.run.result(Step.SPLIT, SplitResult).material),
        method=context.settings.training.method,
        hyperparameters=selected.hyperparameters,
        seed=context.info.seed,
        context=context.settings.exam.context_tokens,
        warm_start=prepared.warm_start or (brought.expanduser() if brought is not None else None),
        requires_start=prepared.warm_start is None,
        # what a version is larger by is known when its form is
        spared_bytes=spared_bytes(context, base.gguf, base.gguf.stat().st_size),
    )


def spared_bytes(context: WorkerContext, base: Path, version: int) -> int:
    """What a training leaves free of the run's disk: for a version of so many bytes, and as the settings ask."""
    reserve = int(context.settings.delivery.min_free_gb * 1e9)
    return delivered_bytes(context.run.path, context.run.path, base, version) + reserve


def version_bytes(file: GgufFile, settings: Hyperparameters, context: WorkerContext) -> int:
    """What a version may take of a disk, once it was trained by these."""
    return expected(file, settings).version_bytes(file, context.settings.delivery.form)


def expected(file: GgufFile, settings: Hyperparameters, trained_from: int = 0) -> Expected:
    """What a training by these touches. `trained_from`: layers below are left as they are."""
    neurons = neurons_of(file, settings.neurons) if settings.form is TrainedForm.NEURONS else 0
    return Expected(settings=settings, trained_from=trained_from, neurons=neurons)


def _decisive(own: Material, of_candidate: Material | None) -> Material:
    """What a method is chosen by: for a trial candidate the counts of the candidate, whose recipe it is to prove.

    What it has nothing of by itself it cannot learn from, whatever the candidate does.
    """
    if of_candidate is None:
        return own
    there = asdict(own)
    return Material(**{kind: count if there[kind] else 0 for kind, count in asdict(of_candidate).items()})
