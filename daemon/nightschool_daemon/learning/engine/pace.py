"""What time a training takes: that of a narrow and a wide pass through a few layers and through the head, laid on all
passes that it will make.

It is told before every training, so it is to take little itself. What goes both ways is timed in both widths; what
only goes forth in the wide one, as a share of the same with a way back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from nightschool_daemon.learning.engine import devices, head, machine
from nightschool_daemon.learning.engine.examples import Example
from nightschool_daemon.learning.engine.forms import Form
from nightschool_daemon.learning.engine.layout import Layout
from nightschool_daemon.learning.engine.network import Block, Network, Reaches
from nightschool_daemon.learning.engine.todo import Cut, Passes, Todo, length
from nightschool_daemon.learning.engine.trial import (
    PROBED_TOKENS,
    beside,
    is_windowed,
    laid_out,
    shortened,
    states,
)
from nightschool_hookspecs.records import TrainingMethod

if TYPE_CHECKING:
    from numpy.typing import NDArray

AGREEING = 1.1
"""A probe is made until two tries differ by no more than that: others may have met page faults or others' work."""
FEWEST_TRIES, MOST_TRIES, TRIED_S = 3, 5, 1.0
"""Where no two agree, so often it is made, beyond the fewest for so long."""
LONG_S = 10.0
"""What takes so long is not even tried the fewest times: beside it a page fault is nothing."""
UNLIKE = 1.5
"""Two passes are wide apart from so many times the tokens on."""
CACHES_BYTES = 64_000_000
"""Of weights in the type of the products: as much as a processor's caches may hold."""
SHORTEST_CHAIN, CHAINED_TOKENS = 3, 1024
"""Layers, and tokens in all of them: the more go through one, the less it counts that weights have to be fetched."""
PROBED_ROWS = (16, 128)
"""Predictions by which the head is timed."""


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

    def at(self, size: float, passes: int = 1) -> float:
        """Seconds of so many passes that have this size together."""
        return self.fixed * passes + self.slope * size

    def times(self, share: float) -> Line:
        """What takes such a share of this, whatever its size."""
        return Line(fixed=self.fixed * share, slope=self.slope * share)


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

    def forward(self, passes: Passes) -> float:
        """Seconds of passes without gradient."""
        return self.alone.at(passes.tokens, passes.count) + self.head_forth.at(passes.labels, passes.count)

    def whole(self, passes: Passes, again: float, trained: float) -> float:
        """Seconds of passes with gradient: these shares of the layers are computed twice, and gone back through."""
        forth, alone, back = (one.at(passes.tokens, passes.count) for one in (self.forth, self.alone, self.back))
        return forth + alone * again + back * trained + self.head_both.at(passes.labels, passes.count)


def seconds(pace: Pace, todo: Todo, tokens: int, cut: Cut, layers: int) -> float:
    """Time of all passes, forth and back, and of those that only go forth."""
    learning = todo.learning(tokens)
    again, trained = cut.checkpointed / layers, (layers - cut.trained_from) / layers
    found = pace.whole(learning, again, trained)
    watching = pace.forward(todo.watching(tokens))
    found += (len(todo.stretches) + 1 + todo.has_start) * watching * (1 + _apart(todo, len(todo.split.watched)))
    if todo.method is not TrainingMethod.SFT:
        # what the base, or what the training began from, says of each answer is asked once
        found += pace.forward(todo.asking(tokens))
    return found + _apart(todo, todo.settings.batch_size) * pace.forward(learning)


def _apart(todo: Todo, examples: int) -> int:
    """How often so many examples go forth beside their own pass.

    KTO asks both networks of answers to other prompts how far they are apart, where there are others.
    """
    return 2 if todo.method is TrainingMethod.KTO and examples > 1 else 0


def pace_of(network: Network, form: Form, todo: Todo, tokens: int, cut: Cut) -> Pace:
    """Time a narrow and a wide pass of those that a training learns from, and the wide one without a way back."""
    machine.widen_heap()
    small, large = _unlike(todo, todo.learning(tokens))
    with beside(network, form):
        samples, otherwise = _samples(network, cut, max(map(len, (*small, *large))))
        narrow, wide = (_layer_seconds(network, one, samples) for one in (small, large))
        with torch.no_grad():
            alone = _layer_seconds(network, large, samples)
        # what packed layers take more than unpacked ones has nothing to do with how wide a pass is
        more = otherwise.layers * (_layer_seconds(network, small, [otherwise])[0] - narrow[0]) if otherwise else 0.0
    layers = np.array([one.layers for one in samples])
    sizes = todo.computed(small), todo.computed(large)
    times = zip(layers @ narrow + more, layers @ wide + more, strict=True)
    forth, back = (Line.through(*zip(sizes, map(float, two), strict=True)) for two in times)
    head_both, share = _head_line(network, *PROBED_ROWS)
    return Pace(
        alone=forth.times(float((layers @ alone)[0] / (layers @ wide)[0])),
        forth=forth,
        back=back,
        head_forth=head_both.times(share),
        head_both=head_both,
    )


def _unlike(todo: Todo, passes: Passes) -> tuple[Sequence[Example], Sequence[Example]]:
    """The narrowest and the widest of some passes; where these are much alike, half of the widest as the narrowest.

    What two sizes a few tokens apart differ by in time is chance, and would be laid on every token. A pass that is too
    wide for a trial is extrapolated.
    """
    small, large = passes.narrowest, passes.widest
    if length(large) > PROBED_TOKENS:
        large = [shortened(max(large, key=len), PROBED_TOKENS)]
    if todo.computed(large) < UNLIKE * todo.computed(small):
        small = large[: len(large) // 2] or [shortened(large[0], max(2, len(large[0]) // 2))]
    return small, large


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Layers, one behind the other, that stand for all of their kind."""

    blocks: tuple[Block, ...]
    layers: int
    """Of the kind."""


def _samples(network: Network, cut: Cut, longest: int) -> tuple[list[Sample], Sample | None]:
    """A few layers of each kind, with a window that is narrow or none; `longest`: tokens of the longest row.

    All are packed, or all unpacked, as most layers are in the training. The second: the first kind otherwise, where
    some layers are, and how many of all are.

    One layer alone would be timed with its weights in the processor's caches, where a whole pass has to fetch each
    layer's. No more are taken than the training keeps the results of at once.
    """
    kinds: dict[bool, list[Block]] = {}
    for block in network.blocks:
        kinds.setdefault(is_windowed(network, block, longest), []).append(block)
    most = max(1, len(network.blocks) - cut.trained_from - cut.checkpointed)
    packed = len(network.blocks) - cut.unpacked
    is_unpacked = cut.unpacked > packed

    def sample(blocks: Sequence[Block], layers: int, *, unpacked: bool) -> Sample:
        few = blocks[-min(most, _beyond_caches(network, blocks[-1])) :]
        return Sample(blocks=tuple(one.unpacked(network.bench) if unpacked else one for one in few), layers=layers)

    samples = [sample(blocks, len(blocks), unpacked=is_unpacked) for blocks in kinds.values()]
    others = min(packed, cut.unpacked)
    first = next(iter(kinds.values()))
    return samples, sample(first, others, unpacked=not is_unpacked) if others else None


def _beyond_caches(network: Network, block: Block) -> int:
    """So many layers like this one have more weights than caches hold."""
    held = sum(one.weights for one in block.matrices.values()) * network.bench.dtype.itemsize
    return max(1, round(CACHES_BYTES / int(held)))


def _chained(tokens: int) -> int:
    """So many layers one behind the other show what a pass of so many tokens takes in each."""
    return max(SHORTEST_CHAIN, CHAINED_TOKENS // tokens)


def _layer_seconds(network: Network, examples: Sequence[Example], samples: Iterable[Sample]) -> NDArray[np.float64]:
    """Seconds that a pass takes in one layer of each sample, shape (samples, 2): forth, and back.

    Without gradients, of the way back there is none.
    """
    layout = laid_out(network, examples)
    reaches = network.reaches(layout)
    enough = _chained(layout.ids.shape[0])
    found = []
    for sample in samples:
        blocks = sample.blocks[-enough:]
        tried = _repeated(lambda blocks=blocks: _there_and_back(network, blocks, layout, reaches))  # type: ignore[misc]  # bound now
        found.append(np.median(tried, axis=0) / max(1, len(blocks) - 1))
    return np.array(found)


def _there_and_back(network: Network, blocks: Sequence[Block], layout: Layout, reaches: Reaches) -> tuple[float, float]:
    """Time through all layers but the first that is met on each way, if there are others.

    In that one, what a layer needs for itself and gives back is asked of the system, which the others have from it.
    A layer by itself stands for some that are computed twice: it has that from the try before.
    """
    if len(blocks) > 1:
        # as after every pass: what is kept is asked of the system anew
        machine.return_free_memory()
    found = states(network, layout)
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


def _head_line(network: Network, few: int, many: int) -> tuple[Line, float]:
    """Time of the head with a gradient, by predictions; and what share of it many take with none."""

    def once(rows: int, *, with_gradient: bool) -> tuple[float, float]:
        shape, bench = network.architecture, network.bench
        states = torch.zeros(rows, shape.width, device=bench.device, dtype=bench.dtype)
        states.requires_grad_(with_gradient)
        targets = torch.zeros(rows, dtype=torch.long, device=bench.device)
        began = time.perf_counter()
        head.log_probabilities(states, targets, network.head, bench, shape.final_cap)
        return _now(network) - began, 0.0

    def seconds(rows: int, *, with_gradient: bool) -> float:
        return float(np.median(_repeated(partial(once, rows, with_gradient=with_gradient)), axis=0)[0])

    both = seconds(many, with_gradient=True)
    line = Line.through((few, seconds(few, with_gradient=True)), (many, both))
    return line, seconds(many, with_gradient=False) / both


def _repeated(probe: Callable[[], tuple[float, float]]) -> list[tuple[float, float]]:
    """What a probe took, forth and back: the two shortest tries that agree, or all where none do."""
    found = [probe()]
    while len(found) < MOST_TRIES and sum(map(sum, found)) < (LONG_S if len(found) < FEWEST_TRIES else TRIED_S):
        found.append(probe())
        shortest, next_one, *_ = sorted(found, key=sum)
        if sum(next_one) <= AGREEING * sum(shortest):
            return [shortest, next_one]
    return found


def _now(network: Network) -> float:
    """The time when all that was asked for is done."""
    devices.wait_for(network.bench.device)
    return time.perf_counter()
