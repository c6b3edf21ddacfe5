"""The packed engine as a training of a run: from frozen texts to an adapter in PEFT's form."""

from __future__ import annotations

import hashlib

import torch

from nightschool_daemon import codec
from nightschool_daemon.learning.engine import machine
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.forms import GROUP, Form, LowRank, Neurons
from nightschool_daemon.learning.engine.loop import Plan, Report, train
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.peft_files import load_form, save_form
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import block_of_neurons
from nightschool_daemon.learning.loading import Tokens
from nightschool_daemon.learning.rows import read_rows
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingJob, TrainingMethod, TrainingResult
from nightschool_hookspecs.services import TrainingError

TOKENS_A_PASS = 2048
SHARE_OF_NEURONS = 8
"""Where nothing else is asked for, one unit is added for so many that there are."""


def fine_tune(
    file: GgufFile,
    tokens: Tokens,
    job: TrainingJob,
    method: TrainingMethod,
    settings: Hyperparameters,
    report: Report,
) -> TrainingResult:
    """Train on all linear layers and save the best epoch's adapter. Goes on from a checkpoint if one fits.

    Raises `TrainingError`.
    """
    if method is not TrainingMethod.SFT:
        raise TrainingError(f"The method '{method}' needs pairs, and a run brings none yet. Use 'sft'.")
    rows, left_out = read_rows(job.dataset, tokens, settings.max_length)
    examples = [Example(prompt=row.prompt, answers=(Answer(tokens=row.completion, weight=row.weight),)) for row in rows]
    network = Network(file, machine.bench())
    form = make_form(network, settings, job.seed)
    if job.warm_start is not None:
        load_form(form, file, job.warm_start)
    plan = Plan(
        method=method,
        hyperparameters=settings,
        seed=job.seed,
        tokens_a_pass=TOKENS_A_PASS,
        output=job.output,
        signature=_signature(job, method, settings),
    )
    outcome = train(network, form, examples, plan, report)
    save_form(form, file, job.output / "adapter")
    return TrainingResult(
        adapter=job.output / "adapter",
        steps=outcome.steps,
        tokens=outcome.tokens,
        examples=outcome.examples,
        left_out=left_out,
        base_loss=outcome.base_loss,
        trained_loss=outcome.trained_loss,
        seconds=outcome.seconds,
    )


def make_form(network: Network, settings: Hyperparameters, seed: int) -> Form:
    """What is trained beside the base. Raises `TrainingError` where the base does not take this form."""
    generator = torch.Generator().manual_seed(seed)
    if settings.form is TrainedForm.NEURONS:
        count = _neurons(network, settings.neurons)
        form: Form = Neurons(network.architecture, count=count, spread=network.spread, generator=generator)
    else:
        form = LowRank(
            network.linears(),
            rank=settings.lora_r,
            alpha=settings.lora_alpha,
            group=GROUP if settings.form is TrainedForm.GROUPED else 1,
            generator=generator,
            dropout=settings.lora_dropout,
        )
    return form.on(network.bench.device)


def _neurons(network: Network, asked: int) -> int:
    """So many as asked for, else an eighth of what there is: whole blocks in any case, at least one."""
    block = block_of_neurons(network.file)
    wanted = asked or network.architecture.feed_forward // SHARE_OF_NEURONS
    if asked % block:
        raise TrainingError(f"Neurons are added to this base in multiples of {block}, not {asked}.")
    return max(block, wanted // block * block)


def _signature(job: TrainingJob, method: TrainingMethod, settings: Hyperparameters) -> str:
    """What a checkpoint must have been made from to be gone on with."""
    digest = hashlib.sha256(job.dataset.read_bytes())
    digest.update(f"{job.base_digest} {job.seed} {method} {job.warm_start} {codec.to_json(settings)}".encode())
    return digest.hexdigest()
