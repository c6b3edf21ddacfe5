"""Step `train`: the packed engine where it knows the base's architecture, else transformers and PEFT."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from nightschool_daemon.config import EngineChoice
from nightschool_daemon.jobs import PrepareResult, SelectResult, SplitResult, Step
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.defaults import settled
from nightschool_daemon.learning.engine.architecture import FAMILIES, is_known
from nightschool_daemon.learning.engine.route import fine_tune as fine_tune_packed
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import load_base, load_tokens
from nightschool_daemon.learning.peft_route import fine_tune
from nightschool_daemon.learning.threads import limit_threads
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.plans import Route
from nightschool_hookspecs.records import (
    Hyperparameters,
    Material,
    TrainedForm,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.services import TrainingError


def run(context: WorkerContext) -> None:
    """Train the adapter of a run and leave `TrainingResult`."""
    # before a plugin is asked: a damaged base is no fault of the one that trains
    file = open_base(context.run.result(Step.PREPARE, PrepareResult).base.gguf)
    job = make_job(context)
    hyperparameters = settled(job.hyperparameters, file, context.settings, brought_to(job), context.note)
    job = replace(job, hyperparameters=hyperparameters)
    cache, arrange = context.settings.state_directory / "cache", context.hooks.arrange_stretch

    def train(job: TrainingJob, *, method: TrainingMethod, hyperparameters: Hyperparameters) -> TrainingResult:
        limit_threads(context.settings.training.threads)
        context.progress(0, 1, "load the base model")
        # a plugin may have made its own
        wanted = settled(hyperparameters, file, context.settings, brought_to(job))
        if route_of(file, context.settings.training.engine, method, wanted) is Route.PACKED:
            tokens = load_tokens(file, job.base_digest, cache)
            return fine_tune_packed(
                file, tokens, job, method, wanted, context.progress, note=context.note, arrange=arrange
            )
        base = load_base(job.base_gguf, job.base_digest, cache)
        return fine_tune(base, job, wanted, context.progress, arrange=arrange)

    result = context.hooks.train_adapter(job=job, train=train)
    if result is None:
        raise TrainingError("No plugin trains this base. Take training_sft out of plugins.disabled.")
    context.run.finish(Step.TRAIN, result)


def route_of(file: GgufFile, engine: EngineChoice, method: TrainingMethod, settings: Hyperparameters) -> Route:
    """What trains this base. Raises `TrainingError` with what stands in the way, as far as the header tells."""
    if file.number("expert_count"):
        raise TrainingError(
            f"Models with experts (MoE), as this {file.architecture}, cannot be trained. Choose a dense base, or add "
            "this one to specialties.ignore."
        )
    if engine is EngineChoice.AUTO and is_known(file):
        return Route.PACKED
    knows = f'it knows {", ".join(FAMILIES)}, with training.engine = "auto"'
    if settings.form is not TrainedForm.LORA:
        raise TrainingError(
            f"The form '{settings.form}' needs the packed engine, which does not train this base: {knows}. "
            'Set form = "lora" in [plugins.tuning_fixed].'
        )
    if method is not TrainingMethod.SFT:
        raise TrainingError(
            f"The method '{method}' needs the packed engine, which does not train this base: {knows}. "
            'Set training.method = "sft".'
        )
    return Route.TRANSFORMERS


def brought_to(job: TrainingJob) -> Path | None:
    """The adapter that the training must begin from."""
    return job.warm_start if job.requires_start else None


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
    )


def _decisive(own: Material, of_candidate: Material | None) -> Material:
    """What a method is chosen by: for a trial candidate the counts of the candidate, whose recipe it is to prove.

    What it has nothing of by itself it cannot learn from, whatever the candidate does.
    """
    if of_candidate is None:
        return own
    there = asdict(own)
    return Material(**{kind: count if there[kind] else 0 for kind, count in asdict(of_candidate).items()})
