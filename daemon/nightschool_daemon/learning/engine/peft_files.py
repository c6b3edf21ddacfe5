"""What was trained, as files: LoRA in PEFT's own, which people bring and take away; neurons in safetensors."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nightschool_daemon.learning.engine.forms import Form, LowRank, Neurons
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import DESCRIPTION, NEURONS, PREFIX, require_plain
from nightschool_daemon.learning.loading import from_file_layout, to_file_layout
from nightschool_hookspecs.services import TrainingError

MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_qkv": "self_attn.qkv_proj",
}
"""A layer's tensors by their names in transformers."""
FUSED_UP = "mlp.gate_up_proj"
"""`ffn_up` where it holds the gate too (phi3)."""


def module_of(file: GgufFile, tensor: str) -> str:
    """`blk.3.attn_q` to `model.layers.3.self_attn.q_proj`."""
    _, layer, part = tensor.split(".")
    fused = part == "ffn_up" and f"blk.{layer}.ffn_gate.weight" not in file.tensors
    return f"model.layers.{layer}.{FUSED_UP if fused else MODULES[part]}"


def save_form(form: Form, file: GgufFile, directory: Path) -> None:
    """Write what was trained: whole, or not there."""
    if isinstance(form, LowRank):
        save_peft(form, file, directory)
    elif isinstance(form, Neurons):
        save_neurons(form, directory)
    else:
        raise TypeError(f"{type(form).__name__} is not saved")


def load_form(form: Form, file: GgufFile, directory: Path) -> None:
    """Begin from what an earlier training left. Raises `TrainingError` where it does not fit."""
    from safetensors.torch import load_file

    if isinstance(form, LowRank) and not (directory / NEURONS).is_file():
        load_peft(form, file, directory)
    elif isinstance(form, Neurons) and (directory / NEURONS).is_file():
        form.put(load_file(directory / NEURONS))
    else:
        raise TrainingError("The earlier lesson has another form, so training cannot begin from it.")


def save_neurons(form: Neurons, directory: Path) -> None:
    """Write `neurons.safetensors`, named and laid out as the tensors of the GGUF that they extend."""
    from safetensors.torch import save_file

    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: one.detach().cpu().contiguous() for name, one in form.parameters.items()}, temporary / NEURONS)
    (temporary / DESCRIPTION).write_text(json.dumps({"form": "neurons", "count": form.count}), encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def save_peft(form: LowRank, file: GgufFile, directory: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`: whole, or not there."""
    from safetensors.torch import save_file

    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {}
    targets = set()
    for name, down, up in form.low_rank():
        module = module_of(file, name)
        targets.add(module.rsplit(".", 1)[-1])
        weights[f"{PREFIX}{module}.lora_A.weight"] = down.cpu().contiguous()
        rows = from_file_layout(file, f"{name}.weight", up.cpu().numpy())
        weights[f"{PREFIX}{module}.lora_B.weight"] = torch.from_numpy(rows.copy())
    save_file(weights, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
    configuration = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": form.rank,
        "lora_alpha": form.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(targets),
    }
    (temporary / "adapter_config.json").write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    description = {"form": "grouped_lora" if form.group > 1 else "lora", "group": form.group}
    (temporary / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def load_peft(form: LowRank, file: GgufFile, directory: Path) -> None:
    """Begin from a saved adapter: of the same rank or a lower one, on the same layers or some of them.

    What it does not have begins as in a new adapter. Raises `TrainingError` where it does not fit.
    """
    configuration, weights = _read_peft(directory)
    require_plain(configuration)
    described = directory / DESCRIPTION
    group = json.loads(described.read_text(encoding="utf-8"))["group"] if described.is_file() else 1
    rank = configuration["r"]
    if rank > form.rank or group % form.group:
        raise TrainingError(
            f"The earlier adapter has rank {rank} over groups of {group}, and one of rank {form.rank} over groups of "
            f"{form.group} is trained here. Set lora_r and form in [plugins.tuning_fixed] to its own."
        )
    # the same product of other factors
    stretch = configuration["lora_alpha"] / rank / form.scale
    values = form.copy()
    for key in form.parameters:
        name = key.rsplit(".", 1)[0]
        stem = f"{PREFIX}{module_of(file, name)}"
        if key.endswith(".lora_a") and (down := weights.pop(f"{stem}.lora_A.weight", None)) is not None:
            _put(values[key][:rank], down.float()[:, :: form.group] * math.sqrt(form.group), stem)
        elif key.endswith(".lora_b") and (up := weights.pop(f"{stem}.lora_B.weight", None)) is not None:
            rows = to_file_layout(file, f"{name}.weight", up.float().numpy())
            _put(values[key][:, :rank], torch.from_numpy(rows.copy()) * stretch, stem)
    if weights:
        raise TrainingError(
            f"The earlier adapter changes {next(iter(weights))}, which is not trained here, so training cannot begin "
            "from it."
        )
    form.put(values)


def _read_peft(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        configuration = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        return configuration, load_file(directory / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f"{directory} is no PEFT adapter: {error}.") from error


def _put(place: Tensor, value: Tensor, name: str) -> None:
    if place.shape != value.shape:
        raise TrainingError(
            f"The earlier adapter's {name} is of shape {tuple(value.shape)} where this base wants "
            f"{tuple(place.shape)}: it was trained for another base."
        )
    place.copy_(value)
