"""What a GGUF's metadata say of its network, in llama.cpp's terms, for the architectures that the engine trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from nightschool_daemon.learning.base_file import ADVICE, is_split, require_one_file
from nightschool_daemon.learning.gguf_file import EMBEDDING, Field, GgufFile, numbers, shown
from nightschool_daemon.learning.older_layout import as_ollama_reads
from nightschool_hookspecs.services import TrainingError

DEFAULT_CONTEXT = 4096
"""Tokens that Ollama runs a model with where nobody says otherwise."""


class Activation(StrEnum):
    """Of the gate in the feed-forward block."""

    SILU = "silu"
    GELU = "gelu"
    """Its tanh approximation."""


class Pairing(StrEnum):
    """Which two values of a head a rotation turns."""

    NEIGHBOURS = "neighbours"
    """2i and 2i + 1: llama.cpp's NORM."""
    HALVES = "halves"
    """i and i + n/2: llama.cpp's NEOX."""


class Scaling(StrEnum):
    """How rotations are stretched for long contexts."""

    NONE = "none"
    LINEAR = "linear"
    YARN = "yarn"
    LONGROPE = "longrope"


@dataclass(frozen=True, kw_only=True)
class Rope:
    """The rotary embedding of a kind of layer."""

    base: float
    dimensions: int
    """Values of a head that are turned, from the first."""
    scaling: Scaling = Scaling.NONE
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0
    """Multiplies cosine and sine."""
    yarn_log_multiplier: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Family:
    """What an architecture has in common, whatever its size."""

    pairing: Pairing
    activation: Activation = Activation.SILU
    scaled_embedding: bool = False
    """Token vectors are multiplied by the root of the width."""
    local_by: int = 0
    """Of so many layers all but the last attend within a window, where the file does not say; 0: none do."""
    window: int = 0
    """Tokens of that window, where the file does not say."""
    attention_cap: float = 0.0
    """Where the file does not say; 0: none."""
    final_cap: float = 0.0
    fused: bool = False
    """One tensor holds q, k and v, another gate and up."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family(pairing=Pairing.NEIGHBOURS),
    "mistral3": Family(pairing=Pairing.NEIGHBOURS),
    "qwen2": Family(pairing=Pairing.HALVES),
    "qwen3": Family(pairing=Pairing.HALVES),
    "gemma2": Family(
        pairing=Pairing.HALVES,
        activation=Activation.GELU,
        scaled_embedding=True,
        local_by=2,
        window=4096,
        attention_cap=50.0,
        final_cap=30.0,
    ),
    "gemma3": Family(pairing=Pairing.HALVES, activation=Activation.GELU, scaled_embedding=True, local_by=6),
    "phi3": Family(pairing=Pairing.HALVES, fused=True),
}
"""The architectures that the engine trains, by `general.architecture`."""

LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose queries are scaled by the width a head and not by the head's size."""
LOCAL_BASE = 10_000.0
"""Rope base of Gemma 3's local layers, where the file does not say."""
YARN_KEYS = frozenset({"mistral3"})
"""Architectures whose own YaRN keys llama.cpp reads; for the others its defaults hold."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network's shape and arithmetic."""

    name: str
    family: Family
    layers: int
    width: int
    heads: int
    key_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    epsilon: float
    rope: Rope
    local_rope: Rope
    window: int
    """Tokens that a local layer sees, itself included."""
    query_scale: float
    attention_cap: float | None
    final_cap: float | None
    temperature: float
    """Queries far on in a long context are made sharper; 0: they are not (mistral3)."""
    local_by: int
    """Of so many layers all but the last attend within the window."""

    def is_local(self, layer: int) -> bool:
        """Whether a layer attends within the window only."""
        return self.window > 0 and self.local_by > 0 and _is_local(layer, self.local_by)


def is_known(file: GgufFile) -> bool:
    """Whether the engine trains this file's architecture."""
    return file.architecture in FAMILIES and not file.number("expert_count") and not is_split(file)


def is_fused(file: GgufFile) -> bool:
    """Whether one tensor holds q, k and v, and `ffn_up` the gate above its own rows."""
    family = FAMILIES.get(file.architecture)
    return family is not None and family.fused


def read_architecture(file: GgufFile) -> Architecture:
    """Read the shape of a network. Raises `TrainingError` with what stands in the way."""
    _refuse_unknown(file)
    file = as_ollama_reads(file)
    family = FAMILIES[file.architecture]
    width, heads = _required(file, "embedding_length"), _required(file, "attention.head_count")
    head_size = _head_size(file, width, heads)
    layers = _required(file, "block_count")
    rope = _rope(file, head_size)
    whole = LARGEST_GEMMA.get(file.architecture) == layers
    window = _window(file, family)
    return Architecture(
        name=file.architecture,
        family=family,
        layers=layers,
        width=width,
        heads=heads,
        key_heads=_key_heads(file, heads),
        head_size=head_size,
        feed_forward=_required(file, "feed_forward_length"),
        vocabulary=file.tensors[EMBEDDING].shape[0],
        epsilon=_float(file, "attention.layer_norm_rms_epsilon", 1e-5),
        rope=rope,
        local_rope=_local_rope(file, rope),
        window=window,
        query_scale=1 / math.sqrt(width / heads if whole else head_size),
        attention_cap=_cap(file, "attn_logit_softcapping", family.attention_cap) if family.attention_cap else None,
        final_cap=_cap(file, "final_logit_softcapping", family.final_cap) if family.scaled_embedding else None,
        temperature=_temperature(file, rope),
        local_by=_local_by(file, family, window, layers),
    )


def _head_size(file: GgufFile, width: int, heads: int) -> int:
    sizes = {key: _at_least_one(file, f"attention.{key}_length", width // heads) for key in ("key", "value")}
    if sizes["key"] != sizes["value"]:
        raise TrainingError("Heads whose keys and values differ in size cannot be trained. Choose another base.")
    if not sizes["key"]:
        raise _impossible(file, "attention.head_count", heads)
    return sizes["key"]


def _key_heads(file: GgufFile, heads: int) -> int:
    key_heads = _at_least_one(file, "attention.head_count_kv", heads)
    if heads % key_heads:
        raise _impossible(file, "attention.head_count_kv", key_heads)
    return key_heads


def _window(file: GgufFile, family: Family) -> int:
    if not family.local_by:
        return 0
    there = _count(file, "attention.sliding_window")
    return family.window if there is None else there


def _local_by(file: GgufFile, family: Family, window: int, layers: int) -> int:
    """Of so many layers all but the last attend within the window.

    In place of this number a file may list who does, as Ollama's converter wrote it. By its version llama.cpp heeds the
    list, or leaves it aside for the number that the architecture has by itself: both are the same, or nobody can say
    what is served.
    """
    period = family.local_by
    there = file.fields.get(f"{file.architecture}.{LOCAL}")
    if there is None or there.scalar is not None or not window:
        return _count(file, LOCAL) or period
    if _listed(there)[:layers] != [_is_local(layer, period) for layer in range(layers)]:
        raise TrainingError(
            f"The GGUF lists in {there.key} which layers attend within a window, and they are not the first "
            f"{period - 1} of every {period}, as usual. Some versions of Ollama heed such a list and some do not, so "
            "it is not known what they compute. Choose another base."
        )
    return period


def _listed(there: Field) -> list[bool]:
    try:
        return [bool(one) for one in numbers(there)]
    except ValueError as error:
        raise TrainingError(f"The GGUF is damaged: {error}. {ADVICE}") from error


def _is_local(layer: int, period: int) -> bool:
    return layer % period < period - 1


def _temperature(file: GgufFile, rope: Rope) -> float:
    """Positions are divided by the original context, where there is a temperature."""
    temperature = _float(file, "attention.temperature_scale", 0.0)
    if temperature and not rope.original_context:
        raise _impossible(file, "rope.scaling.original_context_length", 0)
    return temperature


def _refuse_unknown(file: GgufFile) -> None:
    if file.architecture not in FAMILIES:
        raise TrainingError(
            f"The engine does not know the architecture '{shown(file.architecture)}' (it knows {', '.join(FAMILIES)})."
        )
    if file.number("expert_count"):
        raise TrainingError("Models with experts (MoE) cannot be trained. Choose a dense base.")
    require_one_file(file)
    uneven = [key for key in BY_LAYER if _is_array(file, key)]
    if uneven:
        raise TrainingError(f"Models whose {uneven[0]} differs by layer cannot be trained. Choose another base.")
    if EMBEDDING not in file.tensors:
        raise TrainingError(f"The GGUF has no {EMBEDDING}, so it is no language model. {ADVICE}")


LOCAL = "attention.sliding_window_pattern"
BY_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
"""Keys that may be one number, or one a layer."""


def _is_array(file: GgufFile, key: str) -> bool:
    name = f"{file.architecture}.{key}"
    return name in file.fields and file.fields[name].scalar is None


def _rope(file: GgufFile, head_size: int) -> Rope:
    name = file.scalar(f"{file.architecture}.rope.scaling.type")
    known = [one.value for one in Scaling]
    if name is not None and name not in known:
        raise TrainingError(
            f"Rope scaling '{shown(str(name))}' is not known (known are {', '.join(known)}). Choose another base."
        )
    scaling = Scaling(str(name)) if name is not None else Scaling.LINEAR
    own = file.architecture in YARN_KEYS
    factor = _float(file, "rope.scaling.factor", 0.0) or _float(file, "rope.scale_linear", 0.0) or 1.0
    made = Rope(
        base=_base(file, "rope.freq_base", 10_000.0),
        dimensions=_at_least_one(file, "rope.dimension_count", head_size),
        scaling=scaling,
        factor=1.0 if scaling is Scaling.NONE else factor,
        original_context=_count(file, "rope.scaling.original_context_length") or _count(file, "context_length") or 0,
        attention_factor=_float(file, "rope.scaling.attn_factor", 1.0),
        yarn_log_multiplier=_float(file, "rope.scaling.yarn_log_multiplier", 0.0) if own else 0.0,
        beta_fast=_float(file, "rope.scaling.yarn_beta_fast", 32.0) if own else 32.0,
        beta_slow=_float(file, "rope.scaling.yarn_beta_slow", 1.0) if own else 1.0,
    )
    if made.dimensions % 2 or made.dimensions > head_size:
        raise _impossible(file, "rope.dimension_count", made.dimensions)
    if scaling is Scaling.YARN and not made.original_context:
        raise _impossible(file, "rope.scaling.original_context_length", 0)
    if not made.beta_fast or not made.beta_slow:
        raise _impossible(file, "rope.scaling.yarn_beta_fast", min(made.beta_fast, made.beta_slow))
    return made


def _local_rope(file: GgufFile, rope: Rope) -> Rope:
    """Gemma 3's local layers are not stretched, Gemma 2's are like the others but for a base of their own."""
    base = _base(file, "rope.freq_base_swa", LOCAL_BASE if file.architecture == "gemma3" else rope.base)
    if file.architecture == "gemma3":
        return Rope(base=base, dimensions=rope.dimensions, attention_factor=rope.attention_factor)
    return replace(rope, base=base)


def _required(file: GgufFile, key: str) -> int:
    value = _count(file, key)
    if not value:
        raise TrainingError(f"The GGUF lacks {file.architecture}.{key}. {ADVICE}")
    return value


def _at_least_one(file: GgufFile, key: str, default: int) -> int:
    value = _count(file, key)
    if value == 0:
        raise _impossible(file, key, value)
    return default if value is None else value


def _count(file: GgufFile, key: str) -> int | None:
    """A whole number from 0 on, None where the file has none."""
    value = file.number(key)
    if value is not None and value < 0:
        raise _impossible(file, key, value)
    return value


def _cap(file: GgufFile, key: str, default: float) -> float | None:
    return _float(file, key, default) or None


def _base(file: GgufFile, key: str, default: float) -> float:
    """Of rotations; YaRN divides by its logarithm."""
    value = _float(file, key, default)
    if value <= 1:
        raise _impossible(file, key, value)
    return value


def _float(file: GgufFile, key: str, default: float) -> float:
    """A number from 0 on."""
    found = file.scalar(f"{file.architecture}.{key}")
    value = float(found) if isinstance(found, int | float) else default
    if not 0 <= value < math.inf:
        raise _impossible(file, key, value)
    return value


def _impossible(file: GgufFile, key: str, value: float) -> TrainingError:
    return TrainingError(f"The GGUF's {file.architecture}.{key} is {value:g}, which no model can have. {ADVICE}")
