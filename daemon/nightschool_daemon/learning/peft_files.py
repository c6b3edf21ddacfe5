"""What was trained, as files: LoRA in PEFT's own, which people bring and take away; neurons in safetensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nightschool_daemon.disk import whole_directory
from nightschool_daemon.learning.engine.forms import Form, LowRank, Neurons, group_of
from nightschool_daemon.learning.gguf_file import GgufFile, shown
from nightschool_daemon.learning.lesson import DESCRIPTION, NEURONS, PREFIX, TEXT_MODEL, by_itself, require_plain
from nightschool_daemon.learning.loading import from_file_layout, to_file_layout
from nightschool_hookspecs.records import Hyperparameters, TrainedForm
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
SOURCE = "general.source.repo_url"
"""What a file was converted from. `general.base_model` is what that was fine-tuned from, and `general.repo_url` may be
one of converted files."""
REPOSITORY = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+?)/?")
CONFIGURATION, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LARGEST_JSON = 1 << 20
"""Characters. A configuration has some hundred."""
LARGEST_HEADER_BYTES = 10 << 20
"""Of safetensors; an adapter of a hundred layers has a tenth of a megabyte."""
FUSED_UP = "mlp.gate_up_proj"
"""`ffn_up` where it holds the gate too (phi3)."""
SEEING = frozenset({"mistral3"})
"""Architectures whose models are published within one that sees pictures, whatever is in the file."""
PICTURES = "v."
"""How names of tensors begin that see."""


def module_of(file: GgufFile, tensor: str) -> str:
    """`blk.3.attn_q` to `model.layers.3.self_attn.q_proj`."""
    _, layer, part = tensor.split(".")
    fused = part == "ffn_up" and f"blk.{layer}.ffn_gate.weight" not in file.tensors
    return f"model.layers.{layer}.{FUSED_UP if fused else MODULES[part]}"


def published_name(file: GgufFile, module: str) -> str:
    """A module as the published model has it, where PEFT looks for it: it leaves out what has another name."""
    sees = file.architecture in SEEING or any(name.startswith(PICTURES) for name in file.tensors)
    return f"{TEXT_MODEL}{module.removeprefix('model.')}" if sees else module


def base_name(file: GgufFile) -> str:
    """The repository on Hugging Face that the file says it was made of, else what it calls itself; empty: neither.

    What is no repository has a space, so that nobody looks for it there.
    """
    source = REPOSITORY.fullmatch(str(file.scalar(SOURCE)))
    if source is not None:
        return source[1]
    name = file.scalar("general.name")
    return f"{shown(name)} (GGUF)" if isinstance(name, str) and name else ""


def _targets(modules: Collection[str]) -> list[str] | str:
    """What PEFT finds modules by: their last names, or an expression where what sees has modules of the same names."""
    last = sorted({one.rsplit(".", 1)[-1] for one in modules})
    if any(one.startswith(TEXT_MODEL) for one in modules):
        return rf"{re.escape(TEXT_MODEL)}layers\.\d+\.\w+\.({'|'.join(last)})"
    return last


def save_form(form: Form, file: GgufFile, directory: Path) -> None:
    """Write what was trained: whole and on the disk, or not there."""
    if isinstance(form, LowRank):
        save_peft(form, file, directory)
    elif isinstance(form, Neurons):
        save_neurons(form, directory)
    else:
        raise TypeError(f"{type(form).__name__} is not saved")


def load_form(form: Form, file: GgufFile, directory: Path) -> None:
    """Begin from what an earlier training left. Raises `TrainingError` where it does not fit."""
    if isinstance(form, LowRank) and not (directory / NEURONS).is_file():
        load_peft(form, file, directory)
    elif isinstance(form, Neurons) and (directory / NEURONS).is_file():
        count = neurons_in(directory)
        if count not in (0, form.count):
            raise TrainingError(
                f"The earlier lesson has {count} neurons a layer, and {form.count} are trained here. Set neurons in "
                "[plugins.tuning_fixed] to its own."
            )
        form.put(_read_weights(directory / NEURONS))
    else:
        raise TrainingError(_other_form(directory))


def require_adapter(directory: Path) -> None:
    """Raise `TrainingError` where nothing that was trained lies there."""
    if not any((directory / name).is_file() for name in (NEURONS, CONFIGURATION)):
        raise TrainingError(
            f"{directory} holds no adapter: neither a PEFT adapter ({CONFIGURATION}) nor added neurons ({NEURONS}). "
            "Name the directory that an earlier --adapter was given."
        )


def _other_form(directory: Path) -> str:
    form = "added neurons" if (directory / NEURONS).is_file() else "LoRA"
    return (
        f"The earlier lesson has another form ({form}, in {directory}), so training cannot begin from it. Set form in "
        "[plugins.tuning_fixed] to its own, or leave it out."
    )


def require_start(directory: Path, settings: Hyperparameters) -> None:
    """Raise `TrainingError` where a training by these cannot begin from what lies there, as far as its form tells.

    Whether its tensors fit is seen with the base.
    """
    if (directory / NEURONS).is_file() is not (settings.form is TrainedForm.NEURONS):
        raise TrainingError(_other_form(directory))
    if settings.form is not TrainedForm.NEURONS:
        _require_fit(_adapter_in(directory), settings.lora_r, group_of(settings.form))


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What a saved adapter says of itself."""

    rank: int
    alpha: float
    group: int


def _adapter_in(directory: Path) -> Adapter:
    """Raises `TrainingError` where there is none, or one that is more than plain or group-wise LoRA."""
    configuration = _read_object(directory / CONFIGURATION)
    require_plain(configuration)
    described = directory / DESCRIPTION
    group = _whole_number(_read_object(described), "group", described) if described.exists() else 1
    rank = _whole_number(configuration, "r", directory / CONFIGURATION)
    alpha = configuration.get("lora_alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise TrainingError(f"{directory / CONFIGURATION} is no PEFT adapter's: lora_alpha is no number.")
    return Adapter(rank=rank, alpha=alpha, group=group)


def _require_fit(earlier: Adapter, rank: int, group: int) -> None:
    if earlier.rank > rank or earlier.group % group:
        raise TrainingError(
            f"The earlier adapter has rank {earlier.rank} over groups of {earlier.group}, and one of rank {rank} over "
            f"groups of {group} is trained here. Set lora_r and form in [plugins.tuning_fixed] to its own."
        )


def neurons_in(directory: Path) -> int:
    """How many neurons a layer an earlier lesson has; 0: it does not say. Raises `TrainingError`."""
    described = directory / DESCRIPTION
    if not ((directory / NEURONS).is_file() and described.exists()):
        return 0
    return _whole_number(_read_object(described), "count", described)


def save_neurons(form: Neurons, directory: Path) -> None:
    """Write `neurons.safetensors`, named and laid out as the tensors of the GGUF that they extend."""
    from safetensors.torch import save_file

    weights = {name: one.detach().cpu().contiguous() for name, one in form.parameters.items()}
    with whole_directory(directory) as place:
        save_file(weights, place / NEURONS)
        (place / DESCRIPTION).write_text(json.dumps({"form": "neurons", "count": form.count}), encoding="utf-8")


def save_peft(form: LowRank, file: GgufFile, directory: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`: whole and on the disk, or not there."""
    from safetensors.torch import save_file

    weights, modules = {}, set()
    for name, down, up in form.low_rank():
        module = published_name(file, module_of(file, name))
        modules.add(module)
        weights[f"{PREFIX}{module}.lora_A.weight"] = down.cpu().contiguous()
        rows = from_file_layout(file, f"{name}.weight", up.cpu().numpy())
        weights[f"{PREFIX}{module}.lora_B.weight"] = torch.from_numpy(rows.copy())
    configuration = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name(file),
        "r": form.rank,
        "lora_alpha": form.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": _targets(modules),
    }
    description = {"form": "grouped_lora" if form.group > 1 else "lora", "group": form.group}
    with whole_directory(directory) as place:
        save_file(weights, place / WEIGHTS, metadata={"format": "pt"})
        (place / CONFIGURATION).write_text(json.dumps(configuration, indent=2), encoding="utf-8")
        (place / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def load_peft(form: LowRank, file: GgufFile, directory: Path) -> None:
    """Begin from a saved adapter: of the same rank or a lower one, on the same layers or some of them.

    What it does not have begins as in a new adapter. Raises `TrainingError` where it does not fit.
    """
    earlier = _adapter_in(directory)
    _require_fit(earlier, form.rank, form.group)
    weights = {by_itself(key): one for key, one in _read_weights(directory / WEIGHTS).items()}
    rank = earlier.rank
    # the same product of other factors
    stretch = earlier.alpha / rank / form.scale
    values = form.copy()
    for key in form.parameters:
        name = key.rsplit(".", 1)[0]
        stem = f"{PREFIX}{module_of(file, name)}"
        if key.endswith(".lora_a") and (down := weights.pop(f"{stem}.lora_A.weight", None)) is not None:
            _require_matrix(down, stem)
            _put(values[key][:rank], down.float()[:, :: form.group] * math.sqrt(form.group), stem)
        elif key.endswith(".lora_b") and (up := weights.pop(f"{stem}.lora_B.weight", None)) is not None:
            place = values[key][:, :rank]
            _require_shape(place, up, stem)
            rows = to_file_layout(file, f"{name}.weight", up.float().numpy())
            _put(place, torch.from_numpy(rows.copy()) * stretch, stem)
    if weights:
        raise TrainingError(
            f"The earlier adapter changes {shown(next(iter(weights)))}, which is not trained here, so training cannot "
            "begin from it."
        )
    form.put(values)


def _read_object(file: Path) -> dict[str, object]:
    """A JSON object. Raises `TrainingError` for anything else, however large or deep."""
    try:
        found = json.loads(_read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"{file} is no PEFT adapter's: {error}.") from error
    if not isinstance(found, dict):
        raise TrainingError(f"{file} is no PEFT adapter's: it holds no object.")
    return found


def _read_text(file: Path) -> str:
    _require_file(file)
    with file.open(encoding="utf-8") as stream:
        text = stream.read(LARGEST_JSON + 1)
    if len(text) > LARGEST_JSON:
        raise ValueError(f"it is larger than {LARGEST_JSON} characters")
    return text


def _require_file(file: Path) -> None:
    """A pipe would never end."""
    if not file.is_file():
        raise FileNotFoundError("it is missing, or no file")


def _whole_number(configuration: Mapping[str, object], key: str, file: Path) -> int:
    value = configuration.get(key)
    if not isinstance(value, int) or value < 1:
        raise TrainingError(f"{file} is no PEFT adapter's: {key} is no whole number from 1 on.")
    return value


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors from safetensors, and from nothing else: other forms can hold code."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _require_short_header(file)
        weights: dict[str, Tensor] = load_file(file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TrainingError(f"{file} holds no safetensors: {error}.") from error
    if not weights:
        raise TrainingError(f"{file} holds no safetensors: it is empty.")
    broken = next((name for name, one in weights.items() if not torch.isfinite(one.float()).all()), None)
    if broken is not None:
        raise TrainingError(f"The earlier adapter's {shown(broken)} holds what is no number, so it is damaged.")
    return weights


def _require_short_header(file: Path) -> None:
    """The library takes headers of 100 MB, and parses them."""
    _require_file(file)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > LARGEST_HEADER_BYTES:
        raise ValueError(f"its header claims {length} bytes")


def _require_matrix(value: Tensor, name: str) -> None:
    if value.dim() != 2:
        raise TrainingError(f"The earlier adapter's {name} has {value.dim()} dimensions and is no matrix.")


def _require_shape(place: Tensor, value: Tensor, name: str) -> None:
    if place.shape != value.shape:
        raise TrainingError(
            f"The earlier adapter's {name} is of shape {tuple(value.shape)} where this base wants "
            f"{tuple(place.shape)}: it was trained for another base."
        )


def _put(place: Tensor, value: Tensor, name: str) -> None:
    _require_shape(place, value, name)
    place.copy_(value)
