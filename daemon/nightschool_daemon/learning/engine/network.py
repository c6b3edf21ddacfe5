"""The forward pass over packed weights, after llama.cpp's graphs (`src/models/*.cpp`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from nightschool_daemon.learning.engine import head, rope
from nightschool_daemon.learning.engine.architecture import DEFAULT_CONTEXT, Architecture, read_architecture
from nightschool_daemon.learning.engine.attention import padded_attention, rows_in_line
from nightschool_daemon.learning.engine.forms import Form, Linear, Made, gated
from nightschool_daemon.learning.engine.layout import Branches, Layout, lay_out
from nightschool_daemon.learning.engine.norm import rms_norm
from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix, Weights, product
from nightschool_daemon.learning.gguf_file import EMBEDDING, GgufFile
from nightschool_hookspecs.services import TrainingError

SAMPLED_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Block:
    """One layer's frozen weights."""

    number: int
    matrices: Mapping[str, PackedMatrix]
    """By the part's name: `attn_q`, `ffn_up`."""
    biases: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]

    @property
    def is_unpacked(self) -> bool:
        """Whether its matrices are kept as floats."""
        return all(one.unpacked is not None for one in self.matrices.values())

    def unpacked(self, bench: Bench) -> Block:
        """The same, with its matrices kept as floats."""
        return replace(self, matrices={part: bench.unpacked(one) for part, one in self.matrices.items()})

    def packed(self) -> Block:
        """The same, with its blocks alone."""
        return replace(self, matrices={part: replace(one, unpacked=None) for part, one in self.matrices.items()})


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What the layers of a kind, global or local, share in a pass."""

    turn: tuple[Tensor, Tensor]
    """Cosine and sine for its tokens."""
    mask: Tensor | None
    """Which token sees which, as `padded_attention` takes it."""


@dataclass(frozen=True, kw_only=True)
class Reaches:
    """Those of both kinds: made once a pass, for a mask is as large as all its rows squared."""

    whole: Reach
    local: Reach


class Network:
    """A base in its blocks, and a form of training beside it."""

    def __init__(
        self, file: GgufFile, bench: Bench, *, context: int = DEFAULT_CONTEXT, over: GgufFile | None = None
    ) -> None:
        """`context`: tokens that the engine is run with (`num_ctx`); `over`: a delivered file of the same base."""
        self.file, self.context = file, context
        self.architecture = read_architecture(file)
        self.weights = Weights(file, over)
        self.bench = bench
        table = (self.architecture.vocabulary, self.architecture.width)
        is_tied = not self.weights.has("output.weight")
        self.embedding = self.weights.matrix(EMBEDDING, table, whole=is_tied)
        self.head = self.embedding if is_tied else self.weights.matrix("output.weight", table)
        self.final_norm = self._vector("output_norm.weight", self.architecture.width)
        # added neurons make the feed-forward blocks of a delivered file wider than the base's
        delivered = over.number("feed_forward_length") if over is not None else None
        shapes = _shapes(self.architecture, delivered or self.architecture.feed_forward)
        self.blocks = tuple(self._block(number, shapes) for number in range(self.architecture.layers))
        self.factors = self._rope_factors()
        self.form: Form | None = None
        self.computed_twice = range(0)
        """Layers that keep no activations and are computed again in the backward pass."""
        self.rows_in_line = rows_in_line(bench.device, bench.dtype, self.architecture.head_size)
        self._has_local = any(self.architecture.is_local(one.number) for one in self.blocks)

    def linears(self) -> tuple[Linear, ...]:
        """Every linear layer but the head."""
        return tuple(
            Linear(name=f"blk.{block.number}.{part}", rows=matrix.shape[0], columns=matrix.shape[1])
            for block in self.blocks
            for part, matrix in block.matrices.items()
        )

    def spread(self, name: str) -> float:
        """Standard deviation of a matrix's weights, by a sample of its rows. Raises `TrainingError`."""
        matrix = self._matrix(name)
        rows = torch.linspace(0, matrix.shape[0] - 1, min(SAMPLED_ROWS, matrix.shape[0])).long()
        found = float(matrix.rows(rows).std())
        if not math.isfinite(found):
            raise TrainingError(
                f"The weights of {name} in {self.file.path} are no numbers, so the base is damaged. "
                "Remove the model and pull it again."
            )
        return found

    def _matrix(self, name: str) -> PackedMatrix:
        """`blk.0.ffn_gate`, which may be the upper half of another's tensor."""
        _, number, part = name.split(".")
        matrices, units = self.blocks[int(number)].matrices, self.architecture.feed_forward
        if self.architecture.family.fused and part in ("ffn_gate", "ffn_up"):
            start = units if part == "ffn_up" else 0
            return matrices["ffn_up"].slice(start, start + units)
        return matrices[part]

    def keep_unpacked(self, layers: int) -> None:
        """Keep the matrices of so many layers, from the last, as floats: none of them is de-quantised again.

        Those that are kept already stay, and those that are no longer wanted go before others come.
        """
        first = len(self.blocks) - layers
        self.blocks = tuple(block if block.number >= first else block.packed() for block in self.blocks)
        self.blocks = tuple(self._kept(block) if block.number >= first else block for block in self.blocks)

    def _kept(self, block: Block) -> Block:
        if block.is_unpacked:
            return block
        kept = block.unpacked(self.bench)
        for matrix in kept.matrices.values():
            self.weights.let_go(matrix.name)
        return kept

    # ----------------------------------------------------------------------- passes

    def lay_out(self, rows: Sequence[Branches]) -> Layout:
        """Put rows into one pass, as attention takes them."""
        pads = self.pads(branching=any(len(row.answers) > 1 for row in rows))
        return lay_out(rows, self.bench.device, shares=pads)

    def hidden(self, layout: Layout) -> Tensor:
        """States after the last norm, shape (tokens, width), in the type of the bench."""
        x = self.embedding.rows(layout.ids)
        if self.architecture.family.scaled_embedding:
            x = x * math.sqrt(self.architecture.width)
        reaches = self.reaches(layout)
        for block in self.blocks:
            if block.number in self.computed_twice and torch.is_grad_enabled():
                # torch's newer way loads its compiler, 160 MB where memory is short; this one wants a gradient
                x = x if x.requires_grad else x.requires_grad_()
                x = CheckpointFunction.apply(self.layer, True, block, x, layout, reaches)
            else:
                x = self.layer(block, x, layout, reaches)
        return self._norm(x, self.final_norm)

    def log_probabilities(self, layout: Layout) -> Tensor:
        """Log-probability of each token that is to be predicted, in nats, shape (targets,)."""
        states = self.hidden(layout).index_select(0, layout.sources)
        return head.log_probabilities(states, layout.targets, self.head, self.bench, self.architecture.final_cap)

    def logits(self, layout: Layout, tokens: Tensor) -> Tensor:
        """Logits behind some tokens of a pass, 32-bit, shape (tokens, vocabulary). No gradient."""
        with torch.no_grad():
            states = self.hidden(layout).index_select(0, tokens)
            return head.logits(states, self.head, self.bench, self.architecture.final_cap)

    # ----------------------------------------------------------------------- a layer

    def layer(self, block: Block, x: Tensor, layout: Layout, reaches: Reaches) -> Tensor:
        """One layer by itself: states of shape (tokens, width) before it to those after it."""
        attended = self._attention(block, self._normed(x, block.norms["attn_norm"]), layout, reaches)
        x = x + self._norm_after(block, "post_attention_norm", attended)
        fed = self._feed_forward(block, self._normed(x, block.norms["ffn_norm"]))
        return x + self._norm_after(block, "post_ffw_norm", fed)

    def _attention(self, block: Block, x: Made, layout: Layout, reaches: Reaches) -> Tensor:
        shape = self.architecture
        q, k, v = (
            one.view(one.shape[0], heads, shape.head_size)
            for one, heads in zip(
                self._queries_keys_values(block, x), (shape.heads, shape.key_heads, shape.key_heads), strict=True
            )
        )
        if "attn_q_norm" in block.norms:
            q, k = self._norm(q, block.norms["attn_q_norm"]), self._norm(k, block.norms["attn_k_norm"])
        reach = reaches.local if shape.is_local(block.number) else reaches.whole
        q, k = (rope.turned(one, *reach.turn, shape.family.pairing) for one in (q, k))
        q = self._sharpened(q, layout.positions) * shape.query_scale
        return self._linear(block, "attn_output", self._mixed(block.number, q, k, v, layout, reach))

    def _queries_keys_values(self, block: Block, x: Made) -> Sequence[Tensor]:
        if not self.architecture.family.fused:
            return [self._linear(block, part, x) for part in ("attn_q", "attn_k", "attn_v")]
        shape = self.architecture
        keys = shape.key_heads * shape.head_size
        whole = self._linear(block, "attn_qkv", x)
        return list(whole.split((shape.heads * shape.head_size, keys, keys), dim=1))

    def _gate_and_up(self, block: Block, x: Made) -> Sequence[Tensor]:
        if not self.architecture.family.fused:
            return [self._linear(block, part, x) for part in ("ffn_gate", "ffn_up")]
        return list(self._linear(block, "ffn_up", x).chunk(2, dim=1))

    def _sharpened(self, q: Tensor, positions: Tensor) -> Tensor:
        temperature, length = self.architecture.temperature, self.architecture.rope.original_context
        if not temperature:
            return q
        factor = 1 + temperature * torch.log(1 + torch.floor(positions.float() / length))
        return q * factor[:, None, None].to(q.dtype)

    def pads(self, *, branching: bool) -> bool:
        """Whether attention takes the rows of a pass padded to the longest."""
        return branching or self.rows_in_line is None or self.architecture.attention_cap is not None

    def _mixed(self, layer: int, q: Tensor, k: Tensor, v: Tensor, layout: Layout, reach: Reach) -> Made:
        """Attention: queries (N, heads, size), keys and values (N, key heads, size) to (N, heads * size)."""
        if self.rows_in_line is not None and not self.pads(branching=layout.visible is not None):
            before = self.architecture.window - 1 if self.architecture.is_local(layer) else -1
            return Made.of(self.rows_in_line(q, k, v, layout.starts, layout.longest, before).flatten(1))
        q, k, v = (layout.padded(one) for one in (q, k, v))
        mixed = padded_attention(q, k, v, reach.mask, self.architecture.attention_cap, self.bench)
        return Made.by(layout.flat, mixed)

    def _feed_forward(self, block: Block, x: Made) -> Tensor:
        gate, up = self._gate_and_up(block, x)
        kind = self.architecture.family.activation
        found = self._linear(block, "ffn_down", Made.by(lambda gate, up: gated(gate, up, kind), gate, up))
        added = self.form.feed_forward(block.number, x.value) if self.form is not None else None
        return found if added is None else found + added

    def _linear(self, block: Block, part: str, x: Made) -> Tensor:
        found = product(x.value, block.matrices[part], self.bench)
        if part in block.biases:
            found = found + block.biases[part].to(found.dtype)
        return found if self.form is None else self.form.added(f"blk.{block.number}.{part}", x, found)

    def _normed(self, x: Tensor, weight: Tensor) -> Made:
        return Made.by(lambda x: self._norm(x, weight), x)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, self.architecture.epsilon, self.bench.dtype)

    def _norm_after(self, block: Block, name: str, x: Tensor) -> Tensor:
        return self._norm(x, block.norms[name]).float() if name in block.norms else x.float()

    def reaches(self, layout: Layout) -> Reaches:
        """What the layers share in a pass."""
        shape = self.architecture
        whole = rope.table(shape.rope, layout.positions, self.factors)
        local = whole if shape.local_rope == shape.rope else rope.table(shape.local_rope, layout.positions, None)
        mask = self._additive(layout.visible)
        near = mask
        if self._has_local and layout.longest > shape.window and self.pads(branching=layout.visible is not None):
            near = self._additive(_within(shape.window, layout))
        return Reaches(whole=Reach(turn=whole, mask=mask), local=Reach(turn=local, mask=near))

    def _additive(self, visible: Tensor | None) -> Tensor | None:
        if visible is None:
            return None
        return torch.zeros(visible.shape, dtype=self.bench.dtype, device=visible.device).masked_fill_(
            ~visible, -math.inf
        )

    # ----------------------------------------------------------------------- weights

    def _vector(self, name: str, length: int) -> Tensor:
        return self.weights.vector(name, length).to(self.bench.device)

    def _block(self, number: int, shapes: Mapping[str, tuple[int, int]]) -> Block:
        prefix = f"blk.{number}."
        matrices = {part: self.weights.matrix(f"{prefix}{part}.weight", shape) for part, shape in shapes.items()}
        biases = {
            part: self._vector(f"{prefix}{part}.bias", rows)
            for part, (rows, _) in shapes.items()
            if self.weights.has(f"{prefix}{part}.bias")
        }
        return Block(number=number, matrices=matrices, biases=biases, norms=self._norms(prefix))

    def _norms(self, prefix: str) -> dict[str, Tensor]:
        """Those that every layer has, and those that this one has beside them. Queries and keys are normed together."""
        width, head_size = self.architecture.width, self.architecture.head_size
        wanted = {"attn_norm": width, "ffn_norm": width}
        wanted |= {
            name: width
            for name in ("post_attention_norm", "post_ffw_norm")
            if self.weights.has(f"{prefix}{name}.weight")
        }
        of_heads = ("attn_q_norm", "attn_k_norm")
        if any(self.weights.has(f"{prefix}{name}.weight") for name in of_heads):
            wanted |= dict.fromkeys(of_heads, head_size)
        return {name: self._vector(f"{prefix}{name}.weight", length) for name, length in wanted.items()}

    def _rope_factors(self) -> Tensor | None:
        """What divides the angles. Of two tables the engine takes one by the context that it runs with."""
        rope = self.architecture.rope
        is_long = self.context > rope.original_context
        names = ("rope_freqs.weight", f"rope_factors_{'long' if is_long else 'short'}.weight")
        name = next((one for one in names if self.weights.has(one)), None)
        return None if name is None else self.weights.vector(name, rope.dimensions // 2)


def _within(window: int, layout: Layout) -> Tensor:
    """Which token sees which in a local layer, shape (B or 1, 1, T, T)."""
    places = layout.places
    if places is None:
        places = torch.arange(layout.longest, dtype=torch.int32, device=layout.ids.device)[None]
    near = places[:, :, None] - places[:, None, :] < window
    visible = torch.ones_like(near).tril_()[:, None] if layout.visible is None else layout.visible
    return visible & near[:, None]


def _shapes(shape: Architecture, feed_forward: int) -> Mapping[str, tuple[int, int]]:
    """Rows and columns of a layer's matrices; fused ones hold q, k and v, or gate and up, one below the other."""
    width, queries, keys = shape.width, shape.heads * shape.head_size, shape.key_heads * shape.head_size
    if shape.family.fused:
        attention = {"attn_qkv": (queries + 2 * keys, width)}
        inward = {"ffn_up": (2 * feed_forward, width)}
    else:
        attention = {"attn_q": (queries, width), "attn_k": (keys, width), "attn_v": (keys, width)}
        inward = {"ffn_gate": (feed_forward, width), "ffn_up": (feed_forward, width)}
    return {**attention, "attn_output": (width, queries), **inward, "ffn_down": (width, feed_forward)}
