"""What the settings leave open of a training, decided by the base and by what the server takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nightschool_daemon.config import DeliveryChoice, EngineChoice, Settings
from nightschool_daemon.learning.engine.architecture import is_known
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import NEURONS, block_of_neurons
from nightschool_daemon.learning.peft_files import WEIGHTS, neurons_in, require_adapter, require_start
from nightschool_daemon.ollama.abilities import takes_split
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingJob
from nightschool_hookspecs.services import TrainingError

Note = Callable[[str], None]

RATES = {TrainedForm.LORA: 2e-3, TrainedForm.GROUPED: 4e-3, TrainedForm.NEURONS: 4e-3}
"""Best on two tasks, or within a hundredth of the best (docs/learning.md)."""
WIDTH = 576
"""Of the model on which these were found, SmolLM2 135M."""
RATES_BEHIND_NORMS = {TrainedForm.LORA: 1e-3, TrainedForm.GROUPED: 1e-3, TrainedForm.NEURONS: 5e-4}
"""The same where a norm follows each block, as in Gemma: what the block adds does not grow with its weights."""
WIDTH_BEHIND_NORMS = 640
"""Of Gemma 3 270M, on which that was found."""


def _unheard(_text: str) -> None:
    pass


def settled_for(
    job: TrainingJob, given: Hyperparameters, file: GgufFile, settings: Settings, note: Note = _unheard
) -> Hyperparameters:
    """`settled`, by what the training begins from."""
    return settled(given, file, settings, _brought(job), note, learned=job.warm_start)


def settled_to_begin(job: TrainingJob, file: GgufFile, settings: Settings, note: Note = _unheard) -> Hyperparameters:
    """`settled_for`, of what the job itself gives. Raises `TrainingError` where it cannot begin from what it must."""
    brought = _brought(job)
    if brought is not None:
        require_adapter(brought)
    found = settled_for(job, job.hyperparameters, file, settings, note)
    if brought is not None:
        require_start(brought, found)
    return found


def _brought(job: TrainingJob) -> Path | None:
    """What the training must begin from."""
    return job.warm_start if job.requires_start else None


def settled(
    given: Hyperparameters,
    file: GgufFile,
    settings: Settings,
    brought: Path | None,
    note: Note = _unheard,
    *,
    learned: Path | None = None,
) -> Hyperparameters:
    """The same with a form and a learning rate; where it begins from added neurons, with as many of them.

    Added neurons deliver a lesson whole at the fewest bytes. LoRA is trained where something stands in their way, and
    `note` hears what. `brought`: what the training must begin from; `learned`: what it begins from where that fits, the
    lesson of the version in use. Raises `OllamaError` where the server is needed to
    tell, and does not answer, and `TrainingError` where what was brought is damaged.
    """
    form = given.form
    if form is TrainedForm.AUTO:
        problem = _problem_of_neurons(file, settings, brought, learned)
        form = TrainedForm.NEURONS if problem is None else TrainedForm.LORA
        if problem is not None:
            note(f"LoRA is trained, not added neurons: {problem}.")
    neurons = given.neurons or (neurons_in(brought) if brought is not None and form is TrainedForm.NEURONS else 0)
    return replace(given, form=form, neurons=neurons, learning_rate=given.learning_rate or rate_of(file, form))


def _problem_of_neurons(file: GgufFile, settings: Settings, brought: Path | None, learned: Path | None) -> str | None:
    """Why added neurons cannot be trained here, or not be delivered well; None where nothing hinders."""
    if settings.training.engine is not EngineChoice.AUTO or not is_known(file):
        return "the packed engine, which neurons need, does not train this base here"
    try:
        block_of_neurons(file)
    except TrainingError as error:
        return str(error).rstrip(".")
    if brought is not None:
        return None if (brought / NEURONS).is_file() else f"training begins from {brought}, which holds no neurons"
    if learned is not None and (learned / WEIGHTS).is_file():
        return "the version in use has learned by LoRA, and training goes on from that"
    return _problem_of_delivery(settings)


def _problem_of_delivery(settings: Settings) -> str | None:
    if settings.delivery.form is DeliveryChoice.ADAPTER:
        return 'delivery.form is "adapter", and there is no adapter of added neurons'
    if settings.delivery.form is DeliveryChoice.AUTO and not _server_takes_split(settings):
        return "this Ollama takes no files in shards, and an adapter is less than a whole file a version"
    return None


def _server_takes_split(settings: Settings) -> bool:
    http = OllamaHttp(settings.ollama)
    try:
        return takes_split(http)
    finally:
        http.close()


def rate_of(file: GgufFile, form: TrainedForm) -> float:
    """The learning rate of a form beside this base."""
    width = file.number("embedding_length") or WIDTH
    return measured_rate(form, width, behind_norms="blk.0.post_ffw_norm.weight" in file.tensors)


def measured_rate(form: TrainedForm, width: int, *, behind_norms: bool) -> float:
    """AdamW's at its highest, for a network of `width` values a token, with a norm after each block or without.

    A wider network learns at smaller steps, in inverse proportion (Yang et al., Tensor Programs V, 2022, table 3). That
    was not measured here beyond the two widths of docs/learning.md.
    """
    rates, at = (RATES_BEHIND_NORMS, WIDTH_BEHIND_NORMS) if behind_norms else (RATES, WIDTH)
    return rates[form] * min(1.0, at / width)
