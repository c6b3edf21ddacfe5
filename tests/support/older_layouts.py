"""Tiny models with the keys of Ollama's own converter, beside the same weights with llama.cpp's.

What is older about them is what Ollama's published files show: its converter of 0.34.0 (`convert/convert_gemma3.go`,
`convert/convert_mistral.go`) and those before it, of which `llama/compat/llama-ollama-compat.cpp` tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from support.rewritten_gguf import Told, rewritten
from support.tiny_architectures import write_tiny_architecture
from support.tiny_gguf import TOKEN_TYPES, TOKENS

Keys = Mapping[str, Told | None]
USUAL = [True, True, True, True, True, False, True]
"""Which layers of a Gemma 3 attend within a window."""
SURPLUS = ["<image_soft_token>", "<end_of_image>"]
"""Tokens that the embedding has no vectors of."""


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """How an architecture's default differs in each; None: the key is not there."""

    architecture: str
    newer: Keys = field(default_factory=dict)
    older: Keys
    has_pictures: bool = False


LAYOUTS: Mapping[str, Layouts] = {
    "gemma3": Layouts(
        architecture="gemma3",
        older={
            "gemma3.attention.layer_norm_rms_epsilon": None,
            "gemma3.rope.freq_base": None,
            "gemma3.rope.freq_base_swa": None,
            "gemma3.rope.global.freq_base": 500.0,
            "gemma3.rope.local.freq_base": 50.0,
        },
    ),
    "gemma3 with a list of who is local": Layouts(
        architecture="gemma3",
        older={
            "gemma3.rope.freq_base_swa": None,
            "gemma3.rope.local.freq_base": 50.0,
            "gemma3.attention.sliding_window_pattern": USUAL,
        },
    ),
    "gemma3 with pictures": Layouts(
        architecture="gemma3",
        newer={
            "gemma3.context_length": 131_072,
            "gemma3.rope.freq_base": 1_000_000.0,
            "gemma3.rope.freq_base_swa": 10_000.0,
            "gemma3.rope.scaling.type": "linear",
            "gemma3.rope.scaling.factor": 8.0,
        },
        older={
            "gemma3.attention.layer_norm_rms_epsilon": None,
            "gemma3.rope.freq_base": None,
            "gemma3.rope.freq_base_swa": None,
            "gemma3.rope.scaling.type": None,
            "gemma3.rope.scaling.factor": None,
            "gemma3.mm.tokens_per_image": 256,
            "tokenizer.ggml.tokens": [*TOKENS, *SURPLUS],
            "tokenizer.ggml.scores": [-float(index) for index in range(len(TOKENS) + len(SURPLUS))],
            "tokenizer.ggml.token_type": [*TOKEN_TYPES, *[3] * len(SURPLUS)],
        },
        has_pictures=True,
    ),
    "mistral3": Layouts(
        architecture="mistral3",
        older={
            "mistral3.rope.scaling.yarn_beta_fast": None,
            "mistral3.rope.scaling.yarn_beta_slow": None,
            "mistral3.rope.scaling.yarn_log_multiplier": None,
            "mistral3.attention.temperature_scale": None,
            "mistral3.rope.scaling.beta_fast": 2.0,
            "mistral3.rope.scaling.beta_slow": 1.0,
            "mistral3.rope.scaling.mscale_all_dim": 0.5,
            "mistral3.rope.scaling_beta": 0.5,
        },
    ),
}


def write_layouts(directory: Path, which: str) -> tuple[Path, Path]:
    """The older one and the newer one, of 32-bit floats."""
    layouts = LAYOUTS[which]
    plain = write_tiny_architecture(directory / "plain.gguf", layouts.architecture, kind="F32")
    newer = rewritten(plain, directory / "newer.gguf", keys=layouts.newer)
    pictures = {
        "v.blk.0.attn_q.weight": np.ones((8, 8), np.float32),
        "mm.mm_input_projection.weight": np.ones((8, 8), np.float32),
    }
    tensors = pictures if layouts.has_pictures else {}
    return rewritten(newer, directory / "older.gguf", keys=layouts.older, tensors=tensors), newer
