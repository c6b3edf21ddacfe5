"""Whether a base can be trained here, and by what, as far as its file tells before anything dear is begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from nightschool_daemon.config import EngineChoice
from nightschool_daemon.learning.base_file import ADVICE
from nightschool_daemon.learning.engine.architecture import FAMILIES, is_known
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.gguf_file import GgufFile, shown
from nightschool_daemon.learning.older_layout import is_other_network
from nightschool_daemon.plans import Route
from nightschool_hookspecs.records import Hyperparameters, MethodChoice, TrainedForm, TrainingJob, TrainingMethod
from nightschool_hookspecs.services import TrainingError

KNOWN = f'{", ".join(FAMILIES)}, with training.engine = "auto"'
NOT_ADAPTED = frozenset({"mamba"})
"""Architectures that transformers loads, and of whose linear layers PEFT refuses some."""


def require_trainable(file: GgufFile, engine: EngineChoice) -> None:
    """Raise `TrainingError` with what stands in the way of every training of this base, whatever is learned."""
    if _route_by_header(file, engine) is Route.PACKED:
        # every tensor that computes is looked for; of the weights, norms and biases alone are read
        Network(file, Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1))


def route_of(file: GgufFile, engine: EngineChoice, method: TrainingMethod, settings: Hyperparameters) -> Route:
    """What trains this base. Raises `TrainingError` with what stands in the way, as far as the header tells."""
    route = _route_by_header(file, engine)
    if route is Route.PACKED:
        return route
    if settings.form is not TrainedForm.LORA:
        raise TrainingError(
            f"The form '{settings.form}' needs the packed engine, which does not train this base: it knows {KNOWN}. "
            'Set form = "lora" in [plugins.tuning_fixed].'
        )
    if method is not TrainingMethod.SFT:
        raise TrainingError(
            f"The method '{method}' needs the packed engine, which does not train this base: it knows {KNOWN}. "
            'Set training.method = "sft".'
        )
    return route


def without_what_it_cannot(
    job: TrainingJob, file: GgufFile, engine: EngineChoice, note: Callable[[str], None]
) -> TrainingJob:
    """The same without pairs where "auto" would learn these on top of wanted answers, and nothing here could.

    `note` hears of it. What stands in the way of every training is left to `route_of` to tell.
    """
    on_top = job.method is MethodChoice.AUTO and job.material.examples and job.material.pairs
    try:
        if not on_top or _route_by_header(file, engine) is Route.PACKED:
            return job
    except TrainingError:
        return job
    note(
        f"Wanted answers alone are learned, and {job.material.pairs} pairs of answers are not: these need the packed "
        f"engine, which does not train this base: it knows {KNOWN}."
    )
    return replace(job, material=replace(job.material, pairs=0))


def _route_by_header(file: GgufFile, engine: EngineChoice) -> Route:
    if file.number("expert_count"):
        raise TrainingError(
            f"Models with experts (MoE), as this {file.architecture}, cannot be trained. Choose a dense base, or add "
            "this one to specialties.ignore."
        )
    if engine is EngineChoice.AUTO and is_known(file):
        return Route.PACKED
    if is_other_network(file):
        raise TrainingError(
            "This base has the keys of Ollama's own converter, which transformers reads otherwise than Ollama. Set "
            'training.engine = "auto".'
        )
    _require_loadable(file)
    return Route.TRANSFORMERS


def _require_loadable(file: GgufFile) -> None:
    """Ask transformers whether it makes a model that answers of such a file."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = file.architecture
    loads = name in GGUF_SUPPORTED_ARCHITECTURES and name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not loads or name in NOT_ADAPTED:
        raise TrainingError(
            f"Neither transformers with PEFT nor the packed engine trains a base of the architecture '{shown(name)}': "
            f"the engine knows {KNOWN}. Choose another base, or add this one to specialties.ignore."
        )
    if not file.number("block_count"):
        raise TrainingError(f"The GGUF lacks {name}.block_count. {ADVICE}")
