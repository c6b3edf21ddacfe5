"""Files of real models' shapes, with a hole where their weights would be: for what follows from sizes alone."""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from nightschool_daemon.learning.rounding import fits, size_of


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a model's header says of its sizes."""

    architecture: str = "llama"
    layers: int
    width: int
    feed_forward: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    untied: bool = False
    """With a head of its own."""

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Of a layer: rows and columns."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        return {
            "attn_q": (queries, self.width),
            "attn_k": (keys, self.width),
            "attn_v": (keys, self.width),
            "attn_output": (self.width, queries),
            "ffn_gate": (self.feed_forward, self.width),
            "ffn_up": (self.feed_forward, self.width),
            "ffn_down": (self.width, self.feed_forward),
        }


SHAPES = {
    "SmolLM2 135M": Shape(
        layers=30, width=576, feed_forward=1536, heads=9, key_heads=3, head_size=64, vocabulary=49_152
    ),
    "Gemma 3 270M": Shape(
        architecture="gemma3",
        layers=18,
        width=640,
        feed_forward=2048,
        heads=4,
        key_heads=1,
        head_size=256,
        vocabulary=262_144,
    ),
    "Llama 3.2 1B": Shape(
        layers=16, width=2048, feed_forward=8192, heads=32, key_heads=8, head_size=64, vocabulary=128_256
    ),
    "Llama 3.2 3B": Shape(
        layers=28, width=3072, feed_forward=8192, heads=24, key_heads=8, head_size=128, vocabulary=128_256
    ),
    "Llama 3.1 8B": Shape(
        layers=32,
        width=4096,
        feed_forward=14_336,
        heads=32,
        key_heads=8,
        head_size=128,
        vocabulary=128_256,
        untied=True,
    ),
}
"""As their configurations have them."""


def write_hollow_gguf(path: Path, shape: Shape, kind: Kind) -> Path:
    """Write a model whose matrices are of a type, or of eight bits where its blocks do not fit; all weights are 0."""
    writer = gguf.GGUFWriter(str(path), shape.architecture)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head_size)
    hole = 0

    def add(name: str, of: tuple[int, ...], own: Kind) -> None:
        nonlocal hole
        own = own if fits(of[-1], own) else Kind.Q8_0
        size = size_of(of, own)
        writer.add_tensor_info(f"{name}.weight", of, np.dtype(np.float32), size, raw_dtype=own)
        hole += -(-size // writer.data_alignment) * writer.data_alignment

    table = (shape.vocabulary, shape.width)
    add("token_embd", table, kind)
    add("output_norm", (shape.width,), Kind.F32)
    if shape.untied:
        add("output", table, kind)
    for layer in range(shape.layers):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}", (shape.width,), Kind.F32)
        for name, of in shape.matrices().items():
            add(f"blk.{layer}.{name}", of, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as stream:
        length = path.stat().st_size
        stream.truncate(-(-length // writer.data_alignment) * writer.data_alignment + hole)
    return path
