"""Random-weight models of a few megabytes, one for each architecture that the engine trains.

They carry the tiny model's tokenizer, so that a character is a token. A variant differs from its
architecture's default in what it is named after: tensors of the same name hold the same values, and who leaves
the feature out gets clearly other logits. Rope bases are small and windows short: forty tokens are enough.

What is easily got wrong, as llama.cpp has it (functions of src/llama-model.cpp and src/llama-context.cpp
unless said otherwise):

- Rope turns neighbours (2i, 2i + 1) in llama and mistral3, halves (i, i + n/2) elsewhere; with
  `rope.dimension_count` below the head's size the rest of the head stays (`llama_model_rope_type`).
- Frequency factors divide angles, before any scaling (`rope_yarn`, ggml-cpu/ops.cpp). A file with
  `rope.scaling.factor` and no type is scaled linearly (`load_hparams`).
- YaRN: cosine and sine grow by 1 + 0.1 ln(factor), or by that over 1 + 0.1 m ln(factor) with the key
  `yarn_log_multiplier` m. Only mistral3 reads m and the betas; elsewhere they are 0, 32 and 1.
- `rope.scaling.attn_factor` multiplies cosine and sine in every architecture and with every scaling.
- Long factors apply where the engine's whole context is longer than the original one, short factors
  elsewhere, however long the prompt (`get_rope_factors`); the context is rounded up to multiples of 256.
- mistral3 multiplies queries by 1 + t ln(floor(position / original context) + 1).
- A window of n holds n keys, the query's own among them (`is_masked_swa`). gemma2's even layers slide, and all
  but every sixth of gemma3; phi3 ignores its window.
- gemma3's sliding layers have a rope base of their own and no scaling; gemma2's are like its others.
- Absent caps are 50 and 30 in gemma2, and none in gemma3. A gemma's embedding is multiplied by the root of the
  width; its GELU is the tanh approximation, rounded to 16 bits; its norm weights already hold the one.
- phi3's `ffn_up` holds the gate's rows first. A model called phi3 must have tokens like <|endoftext|>
  (`load`, src/llama-vocab.cpp), so that all of these are called tiny.
- The engine rounds activations to the weights' partner type (8 bits with quantised weights, 16 with F16 and
  BF16) and keys, values and queries to 16 bits: only F32 weights show semantics without that noise.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from nightschool_daemon.learning.ggml import library
from support.tiny_gguf import SILENT, TOKENS, TURN, add_tokenizer

WIDTH, FEED_FORWARD, HEADS, CONTEXT = 256, 512, 4, 512
ORIGINAL_CONTEXT = 256
"""What the `longrope` variants were made for: a longer context in the engine takes the long factors."""
KINDS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    *("F16", "BF16", "F32"),
)
"""The types a model's matrices may have."""
FLOATS = ("F16", "BF16", "F32")
QUIET = 0.1
"""Control and byte tokens are so much smaller than others, that none wins: random bytes break llama-server's stream."""

Keys = Mapping[str, int | float | str]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a model has beyond its sizes."""

    layers: int = 2
    key_heads: int = 2
    head_size: int = 64
    keys: Keys = field(default_factory=dict)
    """Metadata, without the architecture's prefix."""
    vectors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Evenly spaced values from the first to the second, one for each pair that rope turns."""
    biases: tuple[str, ...] = ()
    """The matrices of a block that have one."""
    untied: bool = False
    head_norms: bool = False
    gemma: bool = False
    """Norms behind attention and feed-forward, and a scaled embedding."""
    fused: bool = False
    """One tensor for q, k and v, one for gate and up."""
    experts: int = 0

    @property
    def rotated(self) -> int:
        """Values of a head that rope turns."""
        return int(self.keys.get("rope.dimension_count", self.head_size))


ROPE: Keys = {"rope.freq_base": 500.0}
LINEAR: Keys = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
YARN: Keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16}
MISTRAL: Keys = {
    **YARN,
    "rope.scaling.yarn_beta_fast": 2.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.5,
    "attention.temperature_scale": 0.5,
}
GEMMA2: Keys = {"attention.sliding_window": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}
GEMMA3: Keys = {"attention.sliding_window": 8, "rope.freq_base_swa": 50.0}
QKV = ("attn_q", "attn_k", "attn_v")

DEFAULTS: Mapping[str, Recipe] = {
    "llama": Recipe(keys=ROPE),
    "mistral3": Recipe(head_size=128, keys={**ROPE, **MISTRAL}),
    "qwen2": Recipe(keys=ROPE, biases=QKV),
    "qwen3": Recipe(keys=ROPE, head_size=128, head_norms=True),
    "gemma2": Recipe(layers=4, head_size=128, gemma=True, keys={**ROPE, **GEMMA2}),
    "gemma3": Recipe(layers=7, key_heads=1, head_size=128, gemma=True, head_norms=True, keys={**ROPE, **GEMMA3}),
    "phi3": Recipe(fused=True, untied=True, keys={**ROPE, "rope.dimension_count": 48, "attention.sliding_window": 8}),
    "qwen3moe": Recipe(layers=1, keys=ROPE, head_norms=True, experts=2),
}
"""By `general.architecture`. qwen3moe is there to be refused."""


def _with(architecture: str, **keys: int | float | str) -> Recipe:
    """An architecture's default with other metadata; names have double underscores for dots."""
    recipe = DEFAULTS[architecture]
    return replace(recipe, keys={**recipe.keys, **{key.replace("__", "."): value for key, value in keys.items()}})


def _scaled(architecture: str, scaling: Keys) -> Recipe:
    recipe = DEFAULTS[architecture]
    return replace(recipe, keys={**recipe.keys, **scaling})


def _without(architecture: str, *dropped: str) -> Recipe:
    recipe = DEFAULTS[architecture]
    return replace(recipe, keys={key: value for key, value in recipe.keys.items() if key not in dropped})


def _longrope() -> Recipe:
    scaling = {"rope.scaling.attn_factor": 1.2, "rope.scaling.original_context_length": ORIGINAL_CONTEXT}
    factors = {"rope_factors_long.weight": (1.0, 16.0), "rope_factors_short.weight": (1.0, 3.0)}
    return replace(_scaled("phi3", scaling), vectors=factors)


BLOCK = (*QKV, "attn_output", "ffn_gate", "ffn_up", "ffn_down")
VARIANTS: Mapping[str, Mapping[str, Recipe]] = {
    "llama": {
        "rope_freqs": replace(DEFAULTS["llama"], vectors={"rope_freqs.weight": (1.0, 8.0)}),
        "rope_linear": _scaled("llama", LINEAR),
        "rope_untyped": _with("llama", rope__scaling__factor=4.0),
        "rope_yarn": _scaled("llama", {**YARN, "rope.scaling.yarn_beta_fast": 2.0}),
        "rope_attention_factor": _with("llama", rope__scaling__attn_factor=1.2),
        "untied": replace(DEFAULTS["llama"], untied=True),
        "bias": replace(DEFAULTS["llama"], biases=BLOCK),
    },
    "mistral3": {
        "plain": replace(DEFAULTS["mistral3"], keys=ROPE),
        "yarn": replace(DEFAULTS["mistral3"], keys={**ROPE, **YARN}),
        "untied": replace(DEFAULTS["mistral3"], untied=True),
    },
    "qwen2": {
        "unbiased": replace(DEFAULTS["qwen2"], biases=()),
        "untied": replace(DEFAULTS["qwen2"], untied=True),
        "rope_yarn": _scaled("qwen2", YARN),
    },
    "qwen3": {"untied": replace(DEFAULTS["qwen3"], untied=True), "rope_yarn": _scaled("qwen3", YARN)},
    "gemma2": {
        "attention_cap_absent": _without("gemma2", "attn_logit_softcapping"),
        "final_cap_absent": _without("gemma2", "final_logit_softcapping"),
        "window_absent": _without("gemma2", "attention.sliding_window"),
        "local_base": _with("gemma2", rope__freq_base_swa=50.0),
        "period": _with("gemma2", attention__sliding_window_pattern=3),
        "rope_linear": _scaled("gemma2", LINEAR),
    },
    "gemma3": {
        "rope_linear": _scaled("gemma3", {**LINEAR, "rope.scaling.factor": 8.0}),
        "local_base_absent": _without("gemma3", "rope.freq_base_swa"),
        "window_absent": _without("gemma3", "attention.sliding_window"),
        "final_cap": _with("gemma3", final_logit_softcapping=4.0),
        "period": _with("gemma3", attention__sliding_window_pattern=3),
        "untied": replace(DEFAULTS["gemma3"], untied=True),
    },
    "phi3": {
        "longrope": _longrope(),
        "tied": replace(DEFAULTS["phi3"], untied=False),
        "rotated_whole": _without("phi3", "rope.dimension_count"),
    },
    "qwen3moe": {},
}
"""By architecture; each name is a `variant`."""


def write_tiny_architecture(
    path: Path, architecture: str, *, seed: int = 0, kind: str = "Q8_0", variant: str = ""
) -> Path:
    """Write a model; the same arguments give the same bytes.

    `kind` is the ggml type of its matrices, one of `KINDS`; `variant` is one of `VARIANTS`, or empty.
    Raises `KeyError` for what is in none of these.
    """
    recipe = VARIANTS[architecture][variant] if variant else DEFAULTS[architecture]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    _write_sizes(writer, recipe)
    for key, value in recipe.keys.items():
        _add(writer, f"{architecture}.{key}", value)
    add_tokenizer(writer)
    quantization = gguf.GGMLQuantizationType[kind]
    for name, values in _tensors(recipe, seed):
        if values.ndim == 1 or name.endswith("ffn_gate_inp.weight"):
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantized(values, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantized(values: NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> NDArray[np.generic]:
    """Blocks of a matrix, by ggml's own C; (…, columns) becomes (…, bytes a row)."""
    if kind.name in FLOATS:
        floats: NDArray[np.generic] = gguf.quantize(values, kind)
        return floats
    ggml = library()
    if ggml is None:
        raise FileNotFoundError("ggml's library is missing: install libggml-python.")
    blocks = ggml.quantized(values.reshape(-1, values.shape[-1]), kind)
    return blocks.reshape(*values.shape[:-1], -1)


def _write_sizes(writer: gguf.GGUFWriter, recipe: Recipe) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(recipe.layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(recipe.key_heads)
    writer.add_key_length(recipe.head_size)
    writer.add_value_length(recipe.head_size)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(TOKENS))
    if recipe.experts:
        writer.add_expert_count(recipe.experts)
        writer.add_expert_used_count(1)
        writer.add_expert_feed_forward_length(FEED_FORWARD)


def _add(writer: gguf.GGUFWriter, key: str, value: int | float | str) -> None:
    """Write a key as converters do: whole numbers unsigned, all of 32 bits."""
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _tensors(recipe: Recipe, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor's name and values, rows first."""
    # a scaled embedding stays as large as what a layer adds; the last norm makes up for it in the logits
    size = 0.05 if recipe.gemma else 0.125
    yield "token_embd.weight", _vocabulary(seed, "token_embd.weight", size)
    if recipe.untied:
        yield "output.weight", _vocabulary(seed, "output.weight", size)
    yield "output_norm.weight", _norm(seed, "output_norm.weight", WIDTH, 0.125 / size)
    for name, (first, last) in recipe.vectors.items():
        yield name, np.linspace(first, last, recipe.rotated // 2, dtype=np.float32)
    for layer in range(recipe.layers):
        yield from _block(recipe, seed, f"blk.{layer}")


def _block(recipe: Recipe, seed: int, block: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    norms = {"attn_norm": WIDTH, "ffn_norm": WIDTH}
    if recipe.gemma:
        norms |= {"post_attention_norm": WIDTH, "post_ffw_norm": WIDTH}
    if recipe.head_norms:
        norms |= {"attn_q_norm": recipe.head_size, "attn_k_norm": recipe.head_size}
    for name, length in norms.items():
        full = f"{block}.{name}.weight"
        yield full, _norm(seed, full, length, 1.5 if length == recipe.head_size else 1.0)
    for name, shape in _matrices(recipe).items():
        full = f"{block}.{name}.weight"
        # outputs of size 1.4 for inputs of size 1: attention is neither flat nor a single token's
        yield full, _normal(seed, full, shape) * np.float32(1.4 / np.sqrt(shape[-1]))
        if name in recipe.biases:
            yield f"{block}.{name}.bias", _normal(seed, f"{block}.{name}.bias", shape[:1])


def _matrices(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Names and shapes, rows first, of a block's matrices."""
    queries, keys = HEADS * recipe.head_size, recipe.key_heads * recipe.head_size
    shapes: dict[str, tuple[int, ...]] = {"attn_output": (WIDTH, queries)}
    if recipe.fused:
        shapes |= {"attn_qkv": (queries + 2 * keys, WIDTH)}
    else:
        shapes |= {"attn_q": (queries, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH)}
    if recipe.experts:
        gate, down = (recipe.experts, FEED_FORWARD, WIDTH), (recipe.experts, WIDTH, FEED_FORWARD)
        return shapes | {
            "ffn_gate_inp": (recipe.experts, WIDTH),
            "ffn_gate_exps": gate,
            "ffn_up_exps": gate,
            "ffn_down_exps": down,
        }
    shapes |= {"ffn_down": (WIDTH, FEED_FORWARD)}
    if recipe.fused:
        return shapes | {"ffn_up": (2 * FEED_FORWARD, WIDTH)}
    return shapes | {"ffn_gate": (FEED_FORWARD, WIDTH), "ffn_up": (FEED_FORWARD, WIDTH)}


def _vocabulary(seed: int, name: str, size: float) -> NDArray[np.float32]:
    values = _normal(seed, name, (len(TOKENS), WIDTH)) * np.float32(size)
    values[:SILENT] *= QUIET
    values[-len(TURN) :] *= QUIET
    return values


def _norm(seed: int, name: str, length: int, middle: float) -> NDArray[np.float32]:
    values = _generator(seed, name).uniform(0.5 * middle, 1.5 * middle, length)
    return values.astype(np.float32)


def _normal(seed: int, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return _generator(seed, name).standard_normal(shape).astype(np.float32)


def _generator(seed: int, name: str) -> np.random.Generator:
    """One for each tensor: a variant's other tensors stay as they were."""
    return np.random.default_rng((seed, zlib.crc32(name.encode())))
