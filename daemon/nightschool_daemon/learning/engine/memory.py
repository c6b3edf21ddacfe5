"""How much memory and time a training takes, told before it starts, and how it is cut so that it fits.

What the backward pass keeps is counted, not guessed: one layer goes through once, with the widest pass of the training,
and every tensor that is saved for the way back is summed up. The rest follows from the GGUF's header: its blocks, of
which every page is read, the trained parameters with gradient and moments, the table of logits.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nightschool_daemon.learning.engine import head
from nightschool_daemon.learning.engine.examples import Answer, Example, Numbered, batches, divided, passes
from nightschool_daemon.learning.engine.forms import Form
from nightschool_daemon.learning.engine.layout import Layout, lay_out
from nightschool_daemon.learning.engine.network import Block, Network
from nightschool_hookspecs.records import Hyperparameters, TrainingMethod
from nightschool_hookspecs.services import TrainingError

FLOAT = 4
STATES = 3
"""Beside a trained parameter: its gradient and AdamW's two moments."""
HEADROOM_BYTES = 1_500_000_000
"""Passes are made smaller until a training takes at most so much beside the base's own file."""
FREE_SHARE = 0.8
"""Of the memory that is free at most this share is taken, whatever it costs in time."""
LARGEST_PASS, SMALLEST_PASS = 2048, 512
"""Tokens. Smaller ones spend more time on unpacking than on products; larger ones gain nothing."""
PROBED_TOKENS = 2048
"""A wider pass is not tried out but extrapolated."""
PASSING_LAYERS = 6
"""On its way back a layer holds so many times what it keeps, gradients and temporary results."""
HOLES = 1.4
"""What glibc's allocator holds, over what is in use: rows of unlike length leave holes between them."""
HOLES_OF_DEVICES = 1.1
"""The same of torch's own allocator, on GPUs."""
FIXED_BYTES = 250_000_000
"""Buffers of the libraries that appear with the first whole pass."""
FORWARD_SHARE = 1 / 3
"""Of a pass forth and back, what the way forth takes."""
FORTH_MORE = {TrainingMethod.SFT: 0.0, TrainingMethod.DPO: 0.3, TrainingMethod.KTO: 2.3}
"""Passes that only go forth, for each that is learned from: what the base says once, KTO's divergence at each step."""
PROBED_LABELS = 32
"""Predictions by which the head is timed."""


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What is to be trained on, and how."""

    examples: Sequence[Example]
    method: TrainingMethod
    settings: Hyperparameters
    seed: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What was decided, and what is expected of it."""

    tokens_a_pass: int
    checkpointed: int
    """So many layers are computed again on the way back instead of being kept."""
    peak_bytes: int
    """Resident memory of the process at its height, the file's pages included; on a GPU, the memory of the device."""
    available_bytes: int
    """The same, as much as may be taken."""
    seconds: float
    """Expected time of the training."""

    def sentence(self) -> str:
        """For a progress bar."""
        again = f", {self.checkpointed} layers computed twice" if self.checkpointed else ""
        return (
            f"passes of {self.tokens_a_pass} tokens{again}: about {self.peak_bytes / 1e9:.1f} GB and "
            f"{max(1, round(self.seconds / 60))} min"
        )


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one layer showed."""

    tokens: int
    kept_bytes: int
    """Saved for the way back, by this layer alone."""
    seconds: float
    """Forth and back."""


def plan(network: Network, form: Form, todo: Todo, *, available: int | None = None) -> MemoryPlan:
    """Choose how much goes through at once: smaller passes first, then layers that are computed twice.

    `available`: bytes that may be taken, this process as it is included; None: as the machine and its control group
    allow. Raises `TrainingError` where not even the longest row fits by itself.
    """
    available = available_bytes(network.bench.device) if available is None else available
    longest = max(map(len, todo.examples))
    for smallest in (max(SMALLEST_PASS, longest), longest):
        tokens, probe = _pass_size(network, form, todo, available, smallest)
        fixed = _fixed_bytes(network, form)
        peaks = [fixed + _moving_bytes(network, probe, again) for again in range(network.architecture.layers + 1)]
        for checkpointed, peak in enumerate(peaks):
            if peak <= available:
                return MemoryPlan(
                    tokens_a_pass=tokens,
                    checkpointed=checkpointed,
                    peak_bytes=peak,
                    available_bytes=available,
                    seconds=_seconds(network, todo, probe, checkpointed),
                )
    needed = _least(network, form, todo)
    raise TrainingError(
        f"An example of {longest} tokens needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB can be "
        "had. Lower max_length in [plugins.tuning_fixed], close what uses memory, or choose a smaller base."
    )


def _least(network: Network, form: Form, todo: Todo) -> int:
    """What the longest row takes by itself, each layer computed twice."""
    alone = probed(network, form, widest(todo, 1))
    return _fixed_bytes(network, form) + _moving_bytes(network, alone, network.architecture.layers)


def _pass_size(network: Network, form: Form, todo: Todo, available: int, smallest: int) -> tuple[int, Probe]:
    """The largest pass that stays within the headroom, but none below `smallest`."""
    wanted = min(available, network.weights.bytes + HEADROOM_BYTES)
    tokens = max(LARGEST_PASS, smallest)
    while True:
        probe = probed(network, form, widest(todo, tokens))
        if tokens == smallest or _fixed_bytes(network, form) + _moving_bytes(network, probe, 0) <= wanted:
            return tokens, probe
        tokens = max(smallest, tokens // 2)


def widest(todo: Todo, tokens: int) -> list[Example]:
    """The pass with the most tokens of all that the training will make."""
    return max(
        ([one.example for one in part] for part in _all_passes(todo, tokens)), key=lambda part: sum(map(len, part))
    )


def probed(network: Network, form: Form, examples: Sequence[Example]) -> Probe:
    """Let a pass go through one layer. A pass that is too wide for a trial is extrapolated from narrower ones."""
    tokens = sum(map(len, examples))
    if tokens <= PROBED_TOKENS:
        return _probe(network, form, examples)
    # what is kept grows with the tokens, and with their square where masks are made
    half, whole = (_probe(network, form, [_of_length(size)]) for size in (PROBED_TOKENS // 2, PROBED_TOKENS))
    square = max(0.0, (whole.kept_bytes - 2 * half.kept_bytes) / (2 * half.tokens**2))
    linear = whole.kept_bytes / whole.tokens - square * whole.tokens
    return Probe(
        tokens=tokens,
        kept_bytes=int(linear * tokens + square * tokens**2),
        seconds=whole.seconds * tokens / whole.tokens,
    )


def available_bytes(device: torch.device) -> int:
    """What a training may take in all, this process as it is included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * FREE_SHARE) + int(torch.cuda.memory_allocated(device))
    return int(min(free_memory(), _left_in_group(), _left_in_limit()) * FREE_SHARE) + resident_bytes()


def free_memory() -> int:
    """Memory that the machine has to give, in bytes."""
    return _of_proc("/proc/meminfo", "MemAvailable")


def resident_bytes() -> int:
    """Resident memory of this process, in bytes."""
    return _of_proc("/proc/self/status", "VmRSS")


def _of_proc(file: str, key: str) -> int:
    for line in Path(file).read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise OSError(f"{file} does not tell {key}")


def _left_in_group() -> float:
    """What the control group of this process leaves it: systemd's `MemoryMax=` and `MemoryHigh=`."""
    left = float("inf")
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        if not line.startswith("0::"):
            continue
        group = Path("/sys/fs/cgroup") / line.removeprefix("0::").lstrip("/")
        for place in (group, *group.parents):
            for name in ("memory.max", "memory.high"):
                left = min(left, _left(place / name, place / "memory.current"))
    return left


def _left_in_limit() -> float:
    """What `ulimit -v` leaves this process of its address space."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return float("inf") if limit == resource.RLIM_INFINITY else max(0, limit - _of_proc("/proc/self/status", "VmSize"))


def _left(limit: Path, used: Path) -> float:
    try:
        text = limit.read_text(encoding="ascii").strip()
        return float("inf") if text == "max" else max(0, int(text) - int(used.read_text(encoding="ascii")))
    except OSError:
        return float("inf")


def _all_passes(todo: Todo, tokens: int) -> Iterator[list[Numbered]]:
    learned = divided(todo.examples, todo.seed, todo.settings.num_epochs).learned
    for epoch in range(todo.settings.num_epochs):
        for batch in batches(learned, todo.settings.batch_size, epoch, todo.seed):
            yield from passes(batch, tokens)


def _of_length(tokens: int) -> Example:
    return Example(prompt=(0,) * (tokens // 2), answers=(Answer(tokens=(0,) * (tokens - tokens // 2)),))


def _probe(network: Network, form: Form, examples: Sequence[Example]) -> Probe:
    layout = lay_out([one.branches() for one in examples], network.bench.device)
    beside, network.form = network.form, form
    try:
        tried = [_layer(network, block, layout) for block in _kinds(network)]
    finally:
        network.form = beside
        for one in form.parameters.values():
            one.grad = None
    return replace(max(tried, key=lambda one: one.kept_bytes), seconds=min(one.seconds for one in tried))


def _kinds(network: Network) -> list[Block]:
    """A layer of each kind, and the first of them again: its first time is that of the page faults."""
    kinds = {network.architecture.is_local(one.number): one for one in network.blocks}
    return [*kinds.values(), *kinds.values()]


def _layer(network: Network, block: Block, layout: Layout) -> Probe:
    tokens = layout.ids.shape[0]
    x = torch.zeros(tokens, network.architecture.width, device=network.bench.device, requires_grad=True)
    weights = {one.untyped_storage().data_ptr() for one in _weights(network, block)}
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    began = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        found = network.layer(block, x, layout)
    found.sum().backward()
    return Probe(tokens=tokens, kept_bytes=sum(kept.values()), seconds=time.perf_counter() - began)


def _weights(network: Network, block: Block) -> Iterator[Tensor]:
    yield from block.norms.values()
    yield from block.biases.values()
    if network.form is not None:
        yield from network.form.parameters.values()


def _fixed_bytes(network: Network, form: Form) -> int:
    """What is there whatever goes through: the process, the file's pages, what is trained with its moments."""
    trained = form.size() * FLOAT * STATES
    if network.bench.device.type == "cuda":
        return int(torch.cuda.memory_allocated(network.bench.device)) + trained + FIXED_BYTES
    return resident_bytes() + network.weights.bytes + trained + FIXED_BYTES


def _moving_bytes(network: Network, probe: Probe, checkpointed: int) -> int:
    """What a pass adds at its height."""
    layers = network.architecture.layers
    inputs = probe.tokens * network.architecture.width * FLOAT
    kept = (layers - checkpointed) * probe.kept_bytes + checkpointed * inputs
    holes = HOLES if network.bench.device.type == "cpu" else HOLES_OF_DEVICES
    return int(holes * (kept + PASSING_LAYERS * probe.kept_bytes)) + _head_bytes(network)


def _head_bytes(network: Network) -> int:
    """The table of logits, a second one where they are capped, and the piece of the head that is unpacked."""
    shape, item = network.architecture, network.bench.dtype.itemsize
    rows, piece = head.rows_at_once(shape.vocabulary), min(head.VOCABULARY_PIECE, shape.vocabulary)
    tables = 1 if shape.final_cap is None else 2
    return int(rows * shape.vocabulary * FLOAT * tables + piece * (shape.width + 2 * rows) * item)


def _seconds(network: Network, todo: Todo, probe: Probe, checkpointed: int) -> float:
    """Time of all passes, forth and back, and of those that only go forth."""
    a_label = _head_seconds(network)
    a_token = probe.seconds / probe.tokens * (network.architecture.layers + checkpointed * FORWARD_SHARE)

    def once(examples: Sequence[Example]) -> float:
        return sum(len(one) * a_token + one.labels * a_label for one in examples)

    epochs = todo.settings.num_epochs
    split = divided(todo.examples, todo.seed, epochs)
    learned = epochs * once(split.learned) * (1 + FORTH_MORE[todo.method] * FORWARD_SHARE)
    return learned + (epochs + 1) * once(split.watched) * FORWARD_SHARE


def _head_seconds(network: Network) -> float:
    """Time of the head for one label."""
    states = torch.zeros(
        PROBED_LABELS, network.architecture.width, device=network.bench.device, dtype=network.bench.dtype
    ).requires_grad_()
    targets = torch.zeros(PROBED_LABELS, dtype=torch.long, device=network.bench.device)
    began = time.perf_counter()
    cap = network.architecture.final_cap
    head.log_probabilities(states, targets, network.head, network.bench, cap).sum().backward()
    return (time.perf_counter() - began) / PROBED_LABELS
