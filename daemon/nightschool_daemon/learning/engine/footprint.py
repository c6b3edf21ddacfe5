"""What memory a training takes.

What the backward pass keeps is counted, not guessed: one layer goes through once, with the widest pass of the training,
and every tensor that is saved for the way back is summed up. The rest follows from the GGUF's header: the blocks that
are read, the trained parameters with gradient and moments, a piece of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nightschool_daemon.learning.engine import attention, devices, head, machine
from nightschool_daemon.learning.engine.examples import Example
from nightschool_daemon.learning.engine.forms import Form, block_of
from nightschool_daemon.learning.engine.layout import Layout
from nightschool_daemon.learning.engine.network import Block, Network, Reaches
from nightschool_daemon.learning.engine.todo import Cut, Todo, length, pairs, places
from nightschool_daemon.learning.engine.trial import (
    PROBED_TOKENS,
    beside,
    is_windowed,
    laid_out,
    shortened,
    states,
)
from nightschool_hookspecs.records import TrainingMethod

FLOAT = 4
STATES = 3
"""Beside a trained parameter: its gradient and Adam's two moments."""
STATE_OF_ONE = FLOAT * (1 + STATES)
"""Bytes of a trained parameter with these."""
PASSING_LAYERS = 3
"""On its way back a layer holds so many times what it keeps, gradients and temporary results."""
HOLES, HOLES_A_LENGTH_BYTES, MOST_HOLES_BYTES = 1.0, 10_000_000, 350_000_000
"""What the C library and oneDNN hold over what is kept: holes of aligned memory, which glibc seldom fills before its
release 2.38. It was seen to grow with the unlike lengths of a training's passes (`make bench-memory`): so much for each
of them, at most as much as is kept, and so much in all. On short rows of 15 to 59 lengths it came to 90 to 250 MB: what
is told is on the safe side there, by most with one thread."""
HOLES_OF_DEVICES = 0.1
"""The same of torch's own allocator, on GPUs."""
FIXED_BYTES = 20_000_000
"""Buffers of the libraries that appear with the first whole pass."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one layer showed."""

    tokens: int
    kept_bytes: int
    """Saved for the way back, by this layer alone."""
    shared_bytes: int
    """What all layers have in common: where the tokens lie, which sees which."""
    lengths: int = 1
    """Of how many unlike lengths the training's passes are."""
    asked: int = 0
    """Tokens of the widest pass that only goes forth, as losses are taken."""


def widest(network: Network, form: Form, todo: Todo, tokens: int) -> Probe:
    """What the pass shows that keeps the most of all that the training will make.

    That is the one with the most tokens to compute, with the most padding, or with the largest masks.
    """
    learning, longest = todo.learning(tokens), list(todo.longest(tokens))
    some = (
        max((learning.widest, *longest), key=todo.computed),
        max((learning.most_padded, *longest), key=places),
        max((learning.most_masked, *longest), key=pairs),
    )
    found = max(
        (probed(network, form, one) for one in {id(one): one for one in some}.values()),
        key=lambda one: one.kept_bytes + one.shared_bytes,
    )
    lengths = len(learning.lengths.union(map(todo.computed, longest)))
    # what DPO and KTO are held to is asked of all that is learned; wanted answers alone are only watched
    forth = todo.watching(tokens) if todo.method is TrainingMethod.SFT else todo.asking(tokens)
    return replace(found, lengths=lengths, asked=todo.computed(forth.widest))


def probed(network: Network, form: Form, examples: Sequence[Example]) -> Probe:
    """Let a pass go through one layer. A pass that is too wide for a trial is extrapolated from narrower ones."""
    tokens = length(examples)
    if tokens <= PROBED_TOKENS:
        return _probe(network, form, examples)
    longest = max(examples, key=len)
    half, whole = (_probe(network, form, [shortened(longest, size)]) for size in (PROBED_TOKENS // 2, PROBED_TOKENS))
    return Probe(
        tokens=tokens,
        kept_bytes=extrapolated(half.tokens, half.kept_bytes, whole.tokens, whole.kept_bytes, tokens),
        shared_bytes=extrapolated(half.tokens, half.shared_bytes, whole.tokens, whole.shared_bytes, tokens),
    )


def extrapolated(size: int, found: int, larger: int, more: int, wanted: int) -> int:
    """What grows with the tokens, and with their square where masks are made, by what two sizes came to."""
    square = max(0.0, (more / larger - found / size) / (larger - size))
    linear = more / larger - square * larger
    return int(linear * wanted + square * wanted**2)


def _probe(network: Network, form: Form, examples: Sequence[Example]) -> Probe:
    layout = laid_out(network, examples)
    reaches = network.reaches(layout)
    of_reaches = (part for one in (reaches.whole, reaches.local) for part in (*one.turn, one.mask))
    shared = _storages((*vars(layout).values(), *of_reaches))
    with beside(network, form):
        kept = max(_kept_bytes(network, block, layout, reaches, shared) for block in _kinds(network, layout.longest))
    machine.return_free_memory()
    return Probe(tokens=length(examples), kept_bytes=kept, shared_bytes=sum(shared.values()))


def _storages(values: Iterable[object]) -> dict[int, int]:
    """The memory of those that are tensors: where it begins, and its bytes."""
    storages = (one.untyped_storage() for one in values if isinstance(one, Tensor))
    return {one.data_ptr(): one.nbytes() for one in storages}


def _kinds(network: Network, longest: int) -> Collection[Block]:
    """A layer of each kind, the last of it: with a window that is narrower than the longest row, or without."""
    return {is_windowed(network, one, longest): one for one in network.blocks}.values()


def _kept_bytes(network: Network, block: Block, layout: Layout, reaches: Reaches, shared: Collection[int]) -> int:
    x = states(network, layout)
    others = {one.untyped_storage().data_ptr() for one in _weights(network, block)}.union(shared)
    return sum(saved_by(lambda: network.layer(block, x, layout, reaches), others))


def saved_by(forward: Callable[[], object], others: Collection[int]) -> list[int]:
    """Bytes of each tensor that a pass saves for the way back, but for those whose memory begins at one of `others`."""
    found: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in others:
            found[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        forward()
    return list(found.values())


def _weights(network: Network, block: Block) -> Iterator[Tensor]:
    yield from block.norms.values()
    yield from block.biases.values()
    if network.form is not None:
        yield from network.form.parameters.values()


def peak_bytes(network: Network, form: Form, probe: Probe, cut: Cut, held: int) -> int:
    """What a training cut like this takes at its height; `held`: as `_fixed_bytes` has it."""
    return _fixed_bytes(network, form, cut, held) + _moving_bytes(network, probe, cut)


def _fixed_bytes(network: Network, form: Form, cut: Cut, held: int) -> int:
    """What is there whatever goes through: the process, the file's pages, what is trained with its moments.

    `held`: what the process held before anything was tried, as a trial brings some of the libraries' buffers.
    """
    trained = sum(one.numel() for name, one in form.parameters.items() if block_of(name) >= cut.trained_from)
    beside_each = int(trained) * FLOAT * STATES
    kept = sum(unpacked_bytes(network, one) for one in network.blocks[len(network.blocks) - cut.unpacked :])
    device = network.bench.device
    there = held if device.type == "cpu" else devices.held_bytes(device)
    pages = 0 if devices.has_own_memory(device) else network.weights.bytes
    return there + pages + beside_each + kept + FIXED_BYTES


def unpacked_bytes(network: Network, block: Block) -> int:
    """What a layer takes more unpacked: its floats, less the pages of its blocks where these are in the same memory."""
    matrices = block.matrices.values()
    floats = sum(one.weights for one in matrices) * network.bench.dtype.itemsize
    blocks = 0 if devices.has_own_memory(network.bench.device) else sum(one.data.nbytes for one in matrices)
    return int(floats - blocks)


def _moving_bytes(network: Network, probe: Probe, cut: Cut) -> int:
    """What a pass adds at its height."""
    inputs = probe.tokens * network.architecture.width * FLOAT
    whole = network.architecture.layers - cut.trained_from - cut.checkpointed
    kept = whole * probe.kept_bytes + cut.checkpointed * inputs
    holes = HOLES_OF_DEVICES * kept
    if network.bench.device.type == "cpu":
        holes = min(HOLES * kept, HOLES_A_LENGTH_BYTES * probe.lengths, MOST_HOLES_BYTES)
    # the head is done with before the way back begins
    passing = max(PASSING_LAYERS * probe.kept_bytes, _head_bytes(network, probe.tokens))
    learning = int(kept + holes + passing) + probe.shared_bytes + _scratch_bytes(network, probe.tokens)
    return max(learning, _asking_bytes(network, probe))


def _asking_bytes(network: Network, probe: Probe) -> int:
    """What a pass adds that only goes forth: of small batches, computed twice, it may be the widest of all.

    No layer leaves anything to the next but its result, so there is what one keeps, once.
    """
    times = probe.asked / probe.tokens
    passing = max(times * probe.kept_bytes, _head_bytes(network, probe.asked))
    return int(passing + times * probe.shared_bytes) + _scratch_bytes(network, probe.asked)


def _scratch_bytes(network: Network, tokens: int) -> int:
    """Where the largest matrix and a piece of the head become floats, and where attention and the head have tables.

    `tokens`: of a row at most, and predictions.
    """
    shape = network.architecture
    matrix = max(one.weights for block in network.blocks for one in block.matrices.values())
    tables = attention.scratch_bytes(shape.heads // shape.key_heads, tokens, shape.head_size)
    item, piece = network.bench.dtype.itemsize, _piece(network, tokens)
    logits = piece * tokens * (FLOAT + item * (item < FLOAT))
    return int((matrix + piece * shape.width) * item + tables + logits)


def _head_bytes(network: Network, predictions: int) -> int:
    """A second table of a piece's logits where they are capped, and what is carried along."""
    shape, piece = network.architecture, _piece(network, predictions)
    slopes = 0 if shape.final_cap is None else predictions * piece * FLOAT
    carried = predictions * shape.width * FLOAT * 4
    return int(slopes + carried)


def _piece(network: Network, predictions: int) -> int:
    """Rows of the head that are unpacked together."""
    return int(min(head.rows_a_piece(predictions), network.architecture.vocabulary))
