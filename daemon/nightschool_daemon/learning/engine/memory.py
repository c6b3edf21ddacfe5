"""How much memory and time a training takes, told before it starts, and how it is cut so that it fits.

What the backward pass keeps is counted, not guessed: one layer goes through once, with the widest pass of the training,
and every tensor that is saved for the way back is summed up. The rest follows from the GGUF's header: the blocks that
are read, the trained parameters with gradient and moments, a piece of the head. Time is that of a narrow and a wide
pass through a few layers and through the head, laid on all passes that the training will make.
"""

from __future__ import annotations

import functools
import resource
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from nightschool_daemon.learning.engine import attention, devices, head, machine
from nightschool_daemon.learning.engine.curriculum import Arrange, Curriculum, nobody_arranges
from nightschool_daemon.learning.engine.examples import Answer, Example, Split, batches, divided, passes
from nightschool_daemon.learning.engine.forms import Form, block_of
from nightschool_daemon.learning.engine.layout import Layout, distinct
from nightschool_daemon.learning.engine.network import Block, Network, Reaches
from nightschool_daemon.plans import MemoryPlan
from nightschool_hookspecs.records import Hyperparameters, Stretch, TrainingMethod
from nightschool_hookspecs.services import TrainingError

FLOAT = 4
STATES = 3
"""Beside a trained parameter: its gradient and Adam's two moments."""
STATE_OF_ONE = FLOAT * (1 + STATES)
"""Bytes of a trained parameter with these."""
HEADROOM_BYTES = 1_500_000_000
"""Passes are made smaller until a training takes at most so much beside the base's own file."""
UNPACKED_BYTES = 1_400_000_000
"""What is left of so much beside that file keeps layers unpacked: a training was seen to take up to a fourteenth
more than was told (`make bench-memory`)."""
FEW_TWICE = 0.25
"""This share of the layers is computed twice where a training then stays within that, though there is more memory."""
FREE_SHARE = 0.8
"""Of the memory that is free at most this share is taken, whatever it costs in time."""
LARGEST_PASS, SMALLEST_PASS = 2048, 512
"""Tokens. Smaller ones spend more time on unpacking than on products; larger ones gain nothing."""
PROBED_TOKENS = 2048
"""A wider pass is not tried out but extrapolated."""
PASSING_LAYERS = 3
"""On its way back a layer holds so many times what it keeps, gradients and temporary results."""
HOLES, HOLES_A_LENGTH_BYTES, MOST_HOLES_BYTES = 1.0, 10_000_000, 350_000_000
"""What the C library and oneDNN hold over what is kept: holes of aligned memory, which glibc seldom fills before its
release 2.38. It was seen to grow with the unlike lengths of a training's passes (`make bench-memory`): so much for each
of them, at most as much as is kept, and so much in all."""
HOLES_OF_DEVICES = 0.1
"""The same of torch's own allocator, on GPUs."""
FIXED_BYTES = 20_000_000
"""Buffers of the libraries that appear with the first whole pass."""
FEWEST_TRIES, MOST_TRIES, TRIED_S = 3, 5, 1.0
"""So often a probe is made, beyond the fewest for so long: of three, one may have met page faults or others' work."""
LONG_S = 10.0
"""What takes so long is not even tried the fewest times: beside it a page fault is nothing."""
UNLIKE = 1.5
"""Two passes are wide apart from so many times the tokens on."""
CACHES_BYTES = 64_000_000
"""Of weights in the type of the products: as much as a processor's caches may hold."""
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""To which control groups this process belongs, and where they are."""
LIMITS = {"memory.max": "memory.current", "memory.high": "memory.current"}
LIMITS_OF_VERSION_1 = {"memory.limit_in_bytes": "memory.usage_in_bytes"}
"""Files of a control group, each with that which says how much of it is used."""
UNUSED_CACHE = frozenset({"inactive_file", "total_inactive_file"})
"""In a group's `memory.stat`, of version 2 and 1: pages of files that count as used, and are given up at once."""
PROBED_ROWS = (16, 128)
"""Predictions by which the head is timed."""


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What is to be trained on, and how."""

    examples: Sequence[Example]
    method: TrainingMethod
    settings: Hyperparameters
    seed: int
    pads: bool = True
    """Whether attention takes padded rows, by `Network.pads`."""
    arrange: Arrange = nobody_arranges
    goes_on: bool = False
    """Whether it begins from what an earlier training of the specialty learned."""

    @functools.cached_property
    def split(self) -> Split[Example]:
        """What is learned from, and what is watched."""
        return divided(self.examples, self.seed, self.settings)

    @functools.cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """What is learned from between evaluations. Of a curriculum it is one of many ways: it depends on losses."""
        curriculum = Curriculum(
            learned=self.split.learned,
            method=self.method,
            settings=self.settings,
            seed=self.seed,
            arrange=self.arrange,
            goes_on=self.goes_on,
        )
        return tuple(curriculum.expected())

    def passes(self, tokens: int) -> Iterator[list[Example]]:
        """What goes through at once, in passes of so many tokens."""
        for stretch in self.stretches:
            arranged = [self.split.learned[place] for place in stretch.places]
            for batch in batches(arranged, self.settings.batch_size):
                yield from passes(batch, tokens, padded=self.pads)

    def longest_passes(self, tokens: int) -> Iterator[list[Example]]:
        """Of the batches that a curriculum may come to: the longest examples, and the longest one several times.

        The longer are the rows of these, but those have no stem in common that is computed and kept once.
        """
        if any(stretch.stage for stretch in self.stretches):
            longest = sorted(self.split.learned, key=len, reverse=True)[: self.settings.batch_size]
            for batch in (longest, longest[:1] * self.settings.batch_size):
                yield from passes(batch, tokens, padded=self.pads)

    def computed(self, examples: Sequence[Example]) -> int:
        """Tokens that a pass over these computes."""
        return computed(examples, pads=self.pads)


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


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How much of a network is trained, how much of that is computed twice, and how much is kept unpacked."""

    checkpointed: int
    trained_from: int = 0
    unpacked: int = 0
    """Layers, from the last."""


def plan(network: Network, form: Form, todo: Todo, *, available: int | None = None) -> MemoryPlan:
    """Choose how much goes through at once: smaller passes first, then layers computed twice, then fewer layers.

    `available`: bytes that may be taken, this process as it is included; None: as the machine and its control group
    allow. Raises `TrainingError` where not even the longest row fits by itself through one layer.
    """
    available = available_bytes(network) if available is None else available
    held = held_bytes(network)
    longest = max(map(len, todo.examples))
    layers = network.architecture.layers
    twice = [Cut(checkpointed=again) for again in range(layers + 1)]
    fewer = [Cut(checkpointed=layers - block, trained_from=block) for block in range(1, layers)]
    for smallest, cuts in ((max(SMALLEST_PASS, longest), twice), (longest, [*twice, *fewer])):
        tokens, probe = _pass_size(network, form, todo, available, smallest, held)
        peaks = {cut: _peak_bytes(network, form, probe, cut, held) for cut in cuts}
        few = {
            cut: peak for cut, peak in peaks.items() if not cut.trained_from and cut.checkpointed <= FEW_TWICE * layers
        }
        cut = _first_within(_comfortable(network, available), few) or _first_within(available, peaks)
        if cut is not None:
            chosen = with_unpacked(network, cut, _for_unpacked(network, available) - peaks[cut])
            return MemoryPlan(
                tokens_a_pass=tokens,
                checkpointed=chosen.checkpointed,
                trained_from=chosen.trained_from,
                unpacked=chosen.unpacked,
                layers=layers,
                peak_bytes=_peak_bytes(network, form, probe, chosen, held),
                available_bytes=available,
                seconds=seconds(pace_of(network, form, todo, tokens, chosen), todo, tokens, chosen, layers),
            )
    alone = widest(network, form, todo, 1)
    needed = _peak_bytes(network, form, alone, Cut(checkpointed=1, trained_from=layers - 1), held)
    raise TrainingError(
        f"An example of {longest} tokens needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB can be "
        "had. Lower max_length in [plugins.tuning_fixed], close what uses memory, or choose a smaller base."
    )


def _first_within(limit: int, peaks: Mapping[Cut, int]) -> Cut | None:
    return next((cut for cut, peak in peaks.items() if peak <= limit), None)


def refitted(
    network: Network, form: Form, todo: Todo, begun: MemoryPlan, *, available: int | None = None
) -> MemoryPlan:
    """The plan that a training began with, in the memory that there is now.

    What goes through at once and what is trained stays, for results depend on it; what is computed twice and what is
    kept unpacked does not.
    Where not even all layers computed twice would fit, that is tried.
    """
    available = available_bytes(network) if available is None else available
    held = held_bytes(network)
    probe = widest(network, form, todo, begun.tokens_a_pass)
    trained = network.architecture.layers - begun.trained_from
    cuts = [Cut(checkpointed=again, trained_from=begun.trained_from) for again in range(trained + 1)]
    peaks = {cut: _peak_bytes(network, form, probe, cut, held) for cut in cuts}
    cut = next((one for one, peak in peaks.items() if peak <= available), min(peaks, key=peaks.__getitem__))
    chosen = with_unpacked(network, cut, _for_unpacked(network, available) - peaks[cut])
    return replace(
        begun,
        checkpointed=chosen.checkpointed,
        unpacked=chosen.unpacked,
        peak_bytes=_peak_bytes(network, form, probe, chosen, held),
        available_bytes=available,
    )


def set_up(network: Network, form: Form, decided: MemoryPlan) -> None:
    """Have a network and what is trained beside it do as was decided."""
    network.computed_twice = range(decided.trained_from, decided.trained_from + decided.checkpointed)
    network.keep_unpacked(decided.unpacked)
    form.freeze_below(decided.trained_from)


def with_unpacked(network: Network, cut: Cut, room: float) -> Cut:
    """The same with as many layers kept unpacked as there is room for, in bytes."""
    kept = 0
    for block in reversed(network.blocks):
        room -= _unpacked_bytes(network, block)
        if room < 0:
            break
        kept += 1
    return replace(cut, unpacked=kept)


def _comfortable(network: Network, available: int) -> int:
    """What a training may take before it is cut smaller, in bytes."""
    return min(available, network.weights.bytes + HEADROOM_BYTES)


def _for_unpacked(network: Network, available: int) -> int:
    """What it may take with unpacked layers, in bytes."""
    return min(available, network.weights.bytes + UNPACKED_BYTES)


def _unpacked_bytes(network: Network, block: Block) -> int:
    """What a layer takes more unpacked: its floats, less the pages of its blocks where these are in the same memory."""
    matrices = block.matrices.values()
    floats = sum(one.weights for one in matrices) * network.bench.dtype.itemsize
    blocks = 0 if devices.has_own_memory(network.bench.device) else sum(one.data.nbytes for one in matrices)
    return int(floats - blocks)


def _pass_size(network: Network, form: Form, todo: Todo, available: int, smallest: int, held: int) -> tuple[int, Probe]:
    """The largest pass that stays within the headroom, but none below `smallest`."""
    wanted = _comfortable(network, available)
    tokens = max(LARGEST_PASS, smallest)
    while True:
        probe = widest(network, form, todo, tokens)
        if tokens == smallest or _peak_bytes(network, form, probe, Cut(checkpointed=0), held) <= wanted:
            return tokens, probe
        tokens = max(smallest, tokens // 2)


def widest(network: Network, form: Form, todo: Todo, tokens: int) -> Probe:
    """What the pass shows that keeps the most of all that the training will make.

    That is the one with the most tokens to compute, with the most padding, or with the largest masks.
    """
    all_passes = [*todo.passes(tokens), *todo.longest_passes(tokens)]
    some = {id(one): one for one in (max(all_passes, key=size) for size in (todo.computed, _places, _pairs))}
    found = max(
        (probed(network, form, one) for one in some.values()), key=lambda one: one.kept_bytes + one.shared_bytes
    )
    return replace(found, lengths=len(set(map(todo.computed, all_passes))))


def computed(examples: Sequence[Example], *, pads: bool) -> int:
    """Tokens that a pass over these computes: where attention takes padded rows, what they begin with alike once."""
    return distinct([one.branches() for one in examples]) if pads else _length(examples)


def _length(examples: Sequence[Example]) -> int:
    return sum(map(len, examples))


def _places(examples: Sequence[Example]) -> int:
    """Tokens with padding."""
    return len(examples) * max(map(len, examples))


def _pairs(examples: Sequence[Example]) -> int:
    """Which token sees which."""
    return len(examples) * max(map(len, examples)) ** 2


# --------------------------------------------------------------------------- memory


def probed(network: Network, form: Form, examples: Sequence[Example]) -> Probe:
    """Let a pass go through one layer. A pass that is too wide for a trial is extrapolated from narrower ones."""
    tokens = _length(examples)
    if tokens <= PROBED_TOKENS:
        return _probe(network, form, examples)
    longest = max(examples, key=len)
    half, whole = (_probe(network, form, [_shortened(longest, size)]) for size in (PROBED_TOKENS // 2, PROBED_TOKENS))
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


def available_bytes(network: Network) -> int:
    """What a training beside this network may take in all, what the process holds already included."""
    return allowed_bytes(network.bench.device, network.weights.resident_bytes())


def allowed_bytes(device: torch.device, pages: int = 0) -> int:
    """The same on any device: of a GPU's own memory, of the machine's, or the smaller of both where they share it.

    `pages`: bytes of a mapped base in memory. The system counts these among what it has to give, a control group among
    what it uses: they are counted once in either case.
    """
    free = devices.free_bytes(device)
    if not devices.has_own_memory(device):
        free = min(free, free_memory(), _left_in_group(pages), _left_in_limit())
    held = resident_bytes() - pages if device.type == "cpu" else devices.held_bytes(device)
    return int(free * FREE_SHARE) + held


def taken_bytes(device: torch.device) -> int:
    """What this process holds of it."""
    return resident_bytes() if device.type == "cpu" else devices.held_bytes(device)


def free_memory() -> int:
    """Memory that the machine has to give, in bytes."""
    return int(psutil.virtual_memory().available)


def held_bytes(network: Network) -> int:
    """Resident memory of this process, in bytes, without the base's own pages, which come and go.

    Before it is taken what was freed goes back: reading a tokenizer leaves a lot.
    """
    machine.return_free_memory()
    return resident_bytes() - network.weights.resident_bytes()


def resident_bytes() -> int:
    """Resident memory of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)


def _left_in_group(pages: int = 0) -> float:
    """What the control groups of this process leave it: systemd's `MemoryMax=` and `MemoryHigh=`.

    Pages of files are among what a group uses: the base's own, and what is left of files that were written or hashed.
    Infinite where the system has no such groups, as macOS.
    """
    left = float("inf")
    if not OWN_GROUPS.is_file():
        return left
    for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limits = GROUPS, LIMITS
        elif "memory" in controllers.split(","):
            # version 1, in which each controller has its own groups
            root, limits = GROUPS / "memory", LIMITS_OF_VERSION_1
        else:
            continue
        group = root / path.lstrip("/")
        for place in (group, *group.parents):
            left = min(left, *(_left(place, limit, used, pages) for limit, used in limits.items()))
    return left


def _unused_cache(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return max((int(value) for key, value in map(str.split, lines) if key in UNUSED_CACHE), default=0)


def _left_in_limit() -> float:
    """What `ulimit -v` leaves this process of its address space."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return float("inf") if limit == resource.RLIM_INFINITY else max(0, limit - int(psutil.Process().memory_info().vms))


def _left(group: Path, limit: str, used: str, pages: int) -> float:
    try:
        text = (group / limit).read_text(encoding="ascii").strip()
        if text == "max":
            return float("inf")
        spare = max(pages, _unused_cache(group))
        return max(0, int(text) - int((group / used).read_text(encoding="ascii")) + spare)
    except OSError:
        return float("inf")


def _shortened(example: Example, tokens: int) -> Example:
    """One of so many tokens that branches as this one does."""
    share = tokens / len(example)
    answers = tuple(Answer(tokens=(0,) * max(1, int(len(one.tokens) * share))) for one in example.answers)
    return Example(prompt=(0,) * max(1, tokens - sum(len(one.tokens) for one in answers)), answers=answers)


def _probe(network: Network, form: Form, examples: Sequence[Example]) -> Probe:
    layout = _laid_out(network, examples)
    reaches = network.reaches(layout)
    of_reaches = (part for one in (reaches.whole, reaches.local) for part in (*one.turn, one.mask))
    shared = _storages((*vars(layout).values(), *of_reaches))
    with beside(network, form):
        kept = max(_kept_bytes(network, block, layout, reaches, shared) for block in _kinds(network).values())
    machine.return_free_memory()
    return Probe(tokens=_length(examples), kept_bytes=kept, shared_bytes=sum(shared.values()))


def _storages(values: Iterable[object]) -> dict[int, int]:
    """The memory of those that are tensors: where it begins, and its bytes."""
    storages = (one.untyped_storage() for one in values if isinstance(one, Tensor))
    return {one.data_ptr(): one.nbytes() for one in storages}


def _laid_out(network: Network, examples: Sequence[Example]) -> Layout:
    return network.lay_out([one.branches() for one in examples])


@contextmanager
def beside(network: Network, form: Form) -> Iterator[None]:
    """With this form beside the network, and no gradient left behind."""
    held, network.form = network.form, form
    try:
        yield
    finally:
        network.form = held
        for one in form.parameters.values():
            one.grad = None


def _kinds(network: Network) -> dict[bool, Block]:
    """A layer of each kind: whether it attends within a window, and the last of its kind."""
    return {network.architecture.is_local(one.number): one for one in network.blocks}


def _kept_bytes(network: Network, block: Block, layout: Layout, reaches: Reaches, shared: Collection[int]) -> int:
    x = _states(network, layout)
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


def _states(network: Network, layout: Layout) -> Tensor:
    width = network.architecture.width
    return torch.zeros(layout.ids.shape[0], width, device=network.bench.device, requires_grad=True)


def _weights(network: Network, block: Block) -> Iterator[Tensor]:
    yield from block.norms.values()
    yield from block.biases.values()
    if network.form is not None:
        yield from network.form.parameters.values()


def _peak_bytes(network: Network, form: Form, probe: Probe, cut: Cut, held: int) -> int:
    return _fixed_bytes(network, form, cut, held) + _moving_bytes(network, probe, cut)


def _fixed_bytes(network: Network, form: Form, cut: Cut, held: int) -> int:
    """What is there whatever goes through: the process, the file's pages, what is trained with its moments.

    `held`: what the process held before anything was tried, as a trial brings some of the libraries' buffers.
    """
    trained = sum(one.numel() for name, one in form.parameters.items() if block_of(name) >= cut.trained_from)
    states = int(trained) * FLOAT * STATES
    kept = sum(_unpacked_bytes(network, one) for one in network.blocks[len(network.blocks) - cut.unpacked :])
    device = network.bench.device
    there = held if device.type == "cpu" else devices.held_bytes(device)
    pages = 0 if devices.has_own_memory(device) else network.weights.bytes
    return there + pages + states + kept + FIXED_BYTES


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
    return int(kept + holes + passing) + probe.shared_bytes + _scratch_bytes(network, probe.tokens)


def _scratch_bytes(network: Network, tokens: int) -> int:
    """Where the largest matrix becomes floats, and where attention has its tables; `tokens`: of a row at most."""
    shape = network.architecture
    matrix = max(one.weights for block in network.blocks for one in block.matrices.values())
    tables = attention.scratch_bytes(shape.heads // shape.key_heads, tokens, shape.head_size)
    return int(matrix * network.bench.dtype.itemsize) + tables


def _head_bytes(network: Network, predictions: int) -> int:
    """A piece of the head, its logits, a second table where they are capped, and what is carried along."""
    shape, item = network.architecture, network.bench.dtype.itemsize
    piece = min(head.rows_a_piece(predictions), shape.vocabulary)
    tables = 1 if shape.final_cap is None else 2
    logits = predictions * piece * (FLOAT * tables + 2 * item)
    carried = predictions * shape.width * FLOAT * 4
    return int(logits + carried + piece * shape.width * item)


# --------------------------------------------------------------------------- time


@dataclass(frozen=True, kw_only=True)
class Line:
    """Time by size: what each pass costs whatever goes through, and what each token or prediction adds. Seconds."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, small: tuple[int, float], large: tuple[int, float]) -> Line:
        """By two sizes and their times; neither part is negative. One size twice: all of it is in the slope."""
        (size, seconds), (larger, longer) = small, large
        slope = (longer - seconds) / (larger - size) if larger > size else longer / larger
        slope = min(max(slope, 0.0), longer / larger)
        return cls(fixed=longer - slope * larger, slope=slope)

    def at(self, size: float) -> float:
        """Seconds at a size."""
        return self.fixed + self.slope * size


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast this machine is."""

    alone: Line
    """All layers forth where nothing is kept for a way back, by the tokens that a pass computes."""
    forth: Line
    """The same where all is kept for it."""
    back: Line
    head_forth: Line
    """By the predictions of a pass."""
    head_both: Line
    pads: bool
    """Whether attention takes padded rows."""

    def forward(self, examples: Sequence[Example]) -> float:
        """Seconds of a pass without gradient."""
        return self.alone.at(computed(examples, pads=self.pads)) + self.head_forth.at(_labels(examples))

    def whole(self, examples: Sequence[Example], again: float, trained: float) -> float:
        """Seconds of a pass with gradient: these shares of the layers are computed twice, and gone back through."""
        tokens = computed(examples, pads=self.pads)
        layers = self.forth.at(tokens) + self.alone.at(tokens) * again + self.back.at(tokens) * trained
        return layers + self.head_both.at(_labels(examples))


def _labels(examples: Sequence[Example]) -> int:
    return sum(one.labels for one in examples)


def seconds(pace: Pace, todo: Todo, tokens: int, cut: Cut, layers: int) -> float:
    """Time of all passes, forth and back, and of those that only go forth."""
    learning = list(todo.passes(tokens))
    again, trained = cut.checkpointed / layers, (layers - cut.trained_from) / layers
    found = sum(pace.whole(part, again, trained) for part in learning)
    split = todo.split
    found += (len(todo.stretches) + 1) * _forth_alone(pace, split.watched, tokens, todo.pads)
    if todo.method is not TrainingMethod.SFT:
        # what the base, or what the training began from, says of each answer is asked once
        found += _forth_alone(pace, tuple(dict.fromkeys((*split.learned, *split.watched))), tokens, todo.pads)
    if todo.method is TrainingMethod.KTO:
        # the divergence of each step: both networks on answers to other prompts
        found += 2 * sum(map(pace.forward, learning))
    return found


def _forth_alone(pace: Pace, examples: Sequence[Example], tokens: int, pads: bool) -> float:
    return sum(map(pace.forward, passes(examples, tokens, padded=pads)))


def pace_of(network: Network, form: Form, todo: Todo, tokens: int, cut: Cut) -> Pace:
    """Time a narrow and a wide pass of those that a training learns from, and of those that only go forth."""
    learning = _unlike(todo, list(todo.passes(tokens)))
    watching = _unlike(todo, list(passes(todo.split.watched, tokens, padded=todo.pads)))
    with beside(network, form):
        samples = _samples(network, cut)
        there_and_back = [_layers_seconds(network, one, samples) for one in learning]
        with torch.no_grad():
            there = [_layers_seconds(network, one, samples) for one in watching]
    few, many = PROBED_ROWS
    return Pace(
        alone=_line(todo, watching, [forth for forth, _ in there]),
        forth=_line(todo, learning, [forth for forth, _ in there_and_back]),
        back=_line(todo, learning, [back for _, back in there_and_back]),
        head_forth=_head_line(network, few, many, with_gradient=False),
        head_both=_head_line(network, few, many, with_gradient=True),
        pads=todo.pads,
    )


def _line(todo: Todo, two: Sequence[Sequence[Example]], times: Sequence[float]) -> Line:
    (small, large), (seconds, longer) = map(todo.computed, two), times
    return Line.through((small, seconds), (large, longer))


def _unlike(todo: Todo, some: Sequence[Sequence[Example]]) -> tuple[Sequence[Example], Sequence[Example]]:
    """The narrowest and the widest of some passes; where these are much alike, half of the widest as the narrowest.

    What two sizes a few tokens apart differ by in time is chance, and would be laid on every token.
    """
    small, large = min(some, key=todo.computed), max(some, key=todo.computed)
    if _length(large) > PROBED_TOKENS:
        longest = max(large, key=len)
        return [_shortened(longest, PROBED_TOKENS // 2)], [_shortened(longest, PROBED_TOKENS)]
    if todo.computed(large) < UNLIKE * todo.computed(small):
        small = large[: len(large) // 2] or [_shortened(large[0], max(2, len(large[0]) // 2))]
    return small, large


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Layers that stand for all of their kind: in or without a window, packed or unpacked."""

    blocks: tuple[Block, ...]
    layers: int
    """Of the kind."""


def _samples(network: Network, cut: Cut) -> list[Sample]:
    """A few layers of each kind, one behind the other.

    One alone would be timed with its weights in the processor's caches, where a whole pass has to fetch each layer's.
    No more are taken than the training keeps the results of at once.
    """
    first_unpacked = len(network.blocks) - cut.unpacked
    kinds: dict[tuple[bool, bool], list[Block]] = {}
    for block in network.blocks:
        kind = network.architecture.is_local(block.number), block.number >= first_unpacked
        kinds.setdefault(kind, []).append(block)
    most = max(1, len(network.blocks) - cut.trained_from - cut.checkpointed)
    found: list[Sample] = []
    for (_, is_unpacked), blocks in kinds.items():
        few = blocks[-min(most, _beyond_caches(network, blocks[-1])) :]
        chosen = tuple(one.unpacked(network.bench) if is_unpacked else one for one in few)
        found.append(Sample(blocks=chosen, layers=len(blocks)))
    return found


def _beyond_caches(network: Network, block: Block) -> int:
    """So many layers like this one have more weights than caches hold."""
    held = sum(one.weights for one in block.matrices.values()) * network.bench.dtype.itemsize
    return max(1, round(CACHES_BYTES / int(held)))


def _layers_seconds(network: Network, examples: Sequence[Example], samples: Iterable[Sample]) -> tuple[float, float]:
    """Time of a pass through all layers, forth and back; without gradients, of the way back there is none."""
    layout = _laid_out(network, examples)
    reaches = network.reaches(layout)
    forth = back = 0.0
    for sample in samples:
        tried = _repeated(lambda sample=sample: _there_and_back(network, sample.blocks, layout, reaches))  # type: ignore[misc]  # bound now
        share = sample.layers / max(1, len(sample.blocks) - 1)
        forth += share * statistics.median(one for one, _ in tried)
        back += share * statistics.median(one for _, one in tried)
    return forth, back


def _there_and_back(network: Network, blocks: Sequence[Block], layout: Layout, reaches: Reaches) -> tuple[float, float]:
    """Time through all layers but the first that is met on each way, if there are others.

    In that one, what a layer needs for itself and gives back is asked of the system, which the others have from it.
    """
    # as after every pass: what is kept is asked of the system anew
    machine.return_free_memory()
    found = _states(network, layout)
    began = _now(network)
    marks: list[float] = []
    for number, block in enumerate(blocks):
        if number == 1:
            began = _now(network)
        if number and number == len(blocks) - 1 and found.requires_grad:
            found.register_hook(lambda _: marks.append(_now(network)))
        found = network.layer(block, found, layout, reaches)
    turned = _now(network)
    marks.append(turned)
    if found.requires_grad:
        # a gradient that is handed over would have torch import sympy, half a second and 40 MB
        found.sum().backward()
    return turned - began, _now(network) - marks[-1]


def _head_line(network: Network, few: int, many: int, *, with_gradient: bool) -> Line:
    def once(rows: int) -> tuple[float, float]:
        shape, bench = network.architecture, network.bench
        states = torch.zeros(rows, shape.width, device=bench.device, dtype=bench.dtype)
        states.requires_grad_(with_gradient)
        targets = torch.zeros(rows, dtype=torch.long, device=bench.device)
        began = time.perf_counter()
        head.log_probabilities(states, targets, network.head, bench, shape.final_cap)
        return _now(network) - began, 0.0

    times = [statistics.median(one for one, _ in _repeated(lambda rows=rows: once(rows))) for rows in (few, many)]  # type: ignore[misc]  # bound now
    return Line.through((few, times[0]), (many, times[1]))


def _repeated(probe: Callable[[], tuple[float, float]]) -> list[tuple[float, float]]:
    """What a probe took, several times over."""
    found = [probe()]
    while len(found) < MOST_TRIES and sum(map(sum, found)) < (LONG_S if len(found) < FEWEST_TRIES else TRIED_S):
        found.append(probe())
    return found


def _now(network: Network) -> float:
    """The time when all that was asked for is done."""
    devices.wait_for(network.bench.device)
    return time.perf_counter()
