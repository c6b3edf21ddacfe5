"""What a PEFT adapter changes in the tensors of its base: one delta a tensor, in the layout of the file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import tensor_of, to_file_layout
from nightschool_hookspecs.services import TrainingError

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """A delta of rank r in the layout of the file: `scale * up @ down`."""

    module: str
    """The module in transformers, `model.layers.0.mlp.up_proj`."""
    down: NDArray[np.float32]
    """LoRA's A, shape (r, in)."""
    up: NDArray[np.float32]
    """LoRA's B, shape (out, r), rows in the file's order."""
    scale: float

    def delta(self) -> NDArray[np.float32]:
        """Shape (out, in)."""
        return np.asarray(self.scale * (self.up @ self.down), np.float32)


def read_lesson(adapter: Path, file: GgufFile) -> Mapping[str, LowRank]:
    """Tensor name -> what the adapter adds to it. Tensors that it leaves alone are left out.

    Raises `TrainingError` for adapters that are no plain LoRA.
    """
    from safetensors.numpy import load_file

    configuration = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    _require_plain(configuration)
    weights = load_file(adapter / "adapter_model.safetensors")
    scale = configuration["lora_alpha"] / configuration["r"]
    lesson: dict[str, LowRank] = {}
    for key, down in sorted(weights.items()):
        if key.endswith(".lora_B.weight"):
            continue
        if not key.endswith(".lora_A.weight"):
            raise TrainingError(f"The adapter holds {key}, which is no plain LoRA, so it cannot be delivered.")
        module = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        up = weights[key.replace(".lora_A.", ".lora_B.")].astype(np.float32)
        if not up.any() or not down.any():
            continue
        name = tensor_of(file, module)
        lesson[name] = LowRank(
            module=module, down=down.astype(np.float32), up=to_file_layout(file, name, up), scale=scale
        )
    return lesson


SPECIAL = ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern")
"""What makes an adapter more than plain LoRA, in PEFT's names."""


def _require_plain(configuration: Mapping[str, object]) -> None:
    special = [key for key in SPECIAL if configuration.get(key)]
    if configuration.get("peft_type") != "LORA" or special:
        raise TrainingError(
            f"The adapter is no plain LoRA ({configuration.get('peft_type')} {' '.join(special)}), so it cannot be "
            "delivered. Train a plain one."
        )
