"""LoRA in PEFT's own files: what people bring and take away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from nightschool_daemon.learning.engine.forms import LowRank
from nightschool_daemon.learning.gguf_file import GgufFile
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
PREFIX = "base_model.model."


def module_of(file: GgufFile, tensor: str) -> str:
    """`blk.3.attn_q` to `model.layers.3.self_attn.q_proj`."""
    _, layer, part = tensor.split(".")
    fused = part == "ffn_up" and f"blk.{layer}.ffn_gate.weight" not in file.tensors
    return f"model.layers.{layer}.{FUSED_UP if fused else MODULES[part]}"


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
        weights[f"{PREFIX}{module}.lora_A.weight"] = down.contiguous()
        rows = from_file_layout(file, f"{name}.weight", up.numpy())
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
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def load_peft(form: LowRank, file: GgufFile, directory: Path) -> None:
    """Begin from a saved adapter of the same shape. Raises `TrainingError` where it does not fit."""
    from safetensors.torch import load_file

    configuration = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    if (configuration["r"], configuration["lora_alpha"]) != (form.rank, form.alpha) or form.group != 1:
        raise TrainingError("The earlier adapter has another rank or alpha, so training cannot begin from it.")
    weights = load_file(directory / "adapter_model.safetensors")
    values = {}
    for key in form.parameters:
        name = key.rsplit(".", 1)[0]
        stem = f"{PREFIX}{module_of(file, name)}"
        try:
            if key.endswith(".lora_a"):
                values[key] = weights[f"{stem}.lora_A.weight"].float()
            else:
                rows = to_file_layout(file, f"{name}.weight", weights[f"{stem}.lora_B.weight"].float().numpy())
                values[key] = torch.from_numpy(rows.copy())
        except KeyError as error:
            raise TrainingError(f"The earlier adapter lacks {error}, so training cannot begin from it.") from None
    form.put(values)
