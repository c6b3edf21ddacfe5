"""How a training is cut so that it fits into memory: smaller passes, layers computed twice, fewer layers trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

from nightschool_daemon.learning.engine import devices, footprint, machine, memory, pace
from nightschool_daemon.learning.engine.footprint import Probe, peak_bytes, unpacked_bytes
from nightschool_daemon.learning.engine.forms import Form
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.todo import Cut, Todo
from nightschool_daemon.plans import MemoryPlan
from nightschool_hookspecs.services import TrainingError

HEADROOM_BYTES = 1_500_000_000
"""Passes are made smaller until a training takes at most so much beside the base's own file."""
UNPACKED_BYTES = 1_200_000_000
"""What is left of so much beside that file keeps layers unpacked: a training may take a tenth more than was told
(`make bench-memory`), and is to take half of what TRL does in 32-bit floats too (`make bench-learning-engine`)."""
FEW_TWICE = 0.25
"""This share of the layers is computed twice where a training then stays within that, though there is more memory."""
LARGEST_PASS, SMALLEST_PASS = 2048, 512
"""Tokens. Smaller ones spend more time on unpacking than on products; larger ones gain nothing."""


def fitted(network: Network, form: Form, todo: Todo, *, available: int | None = None) -> MemoryPlan:
    """Choose how much goes through at once: smaller passes first, then layers computed twice, then fewer layers.

    `available`: bytes that may be taken, this process as it is included; None: as the machine and its control group
    allow. Raises `TrainingError` where not even the longest row fits by itself through one layer.
    """
    available = memory.available_bytes(network) if available is None else available
    held = memory.held_bytes(network)
    probe_of = functools.cache(functools.partial(footprint.widest, network, form, todo))
    longest = max(map(len, todo.examples))
    layers = network.architecture.layers
    twice = [Cut(checkpointed=again) for again in range(layers + 1)]
    fewer = [Cut(checkpointed=layers - block, trained_from=block) for block in range(1, layers)]
    for smallest, cuts in ((max(SMALLEST_PASS, longest), twice), (longest, [*twice, *fewer])):
        tokens, probe = _pass_size(network, form, probe_of, available, smallest, held)
        peaks = {cut: peak_bytes(network, form, probe, cut, held) for cut in cuts}
        few = {
            cut: peak for cut, peak in peaks.items() if not cut.trained_from and cut.checkpointed <= FEW_TWICE * layers
        }
        cut = _first_within(_comfortable(network, available), few) or _first_within(available, peaks)
        if cut is not None:
            chosen = _with_unpacked(network, cut, _for_unpacked(network, available) - peaks[cut])
            return MemoryPlan(
                tokens_a_pass=tokens,
                checkpointed=chosen.checkpointed,
                trained_from=chosen.trained_from,
                unpacked=chosen.unpacked,
                layers=layers,
                peak_bytes=peak_bytes(network, form, probe, chosen, held),
                available_bytes=available,
                seconds=pace.seconds(pace.pace_of(network, form, todo, tokens, chosen), todo, tokens, chosen, layers),
            )
    needed = peak_bytes(network, form, probe_of(1), Cut(checkpointed=1, trained_from=layers - 1), held)
    raise TrainingError(
        f"An example of {longest} tokens needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB can be "
        "had. Lower max_length in [plugins.tuning_fixed], close what uses memory, or choose a smaller base."
    )


def refitted(
    network: Network, form: Form, todo: Todo, begun: MemoryPlan, *, available: int | None = None
) -> MemoryPlan:
    """The plan that a training began with, in the memory that there is now.

    What goes through at once and what is trained stays, for results depend on it; what is computed twice and what is
    kept unpacked does not.
    Where not even all layers computed twice would fit, that is tried.
    """
    available = memory.available_bytes(network) if available is None else available
    held = memory.held_bytes(network)
    probe = footprint.widest(network, form, todo, begun.tokens_a_pass)
    trained = network.architecture.layers - begun.trained_from
    cuts = [Cut(checkpointed=again, trained_from=begun.trained_from) for again in range(trained + 1)]
    peaks = {cut: peak_bytes(network, form, probe, cut, held) for cut in cuts}
    cut = _first_within(available, peaks) or min(peaks, key=peaks.__getitem__)
    chosen = _with_unpacked(network, cut, _for_unpacked(network, available) - peaks[cut])
    return replace(
        begun,
        checkpointed=chosen.checkpointed,
        unpacked=chosen.unpacked,
        peak_bytes=peak_bytes(network, form, probe, chosen, held),
        available_bytes=available,
        is_begun=True,
    )


def set_up(network: Network, form: Form, decided: MemoryPlan) -> None:
    """Have a network and what is trained beside it do as was decided."""
    machine.widen_heap()
    network.computed_twice = range(decided.trained_from, decided.trained_from + decided.checkpointed)
    network.keep_unpacked(decided.unpacked)
    form.freeze_below(decided.trained_from)


def _first_within(limit: int, peaks: Mapping[Cut, int]) -> Cut | None:
    return next((cut for cut, peak in peaks.items() if peak <= limit), None)


def _with_unpacked(network: Network, cut: Cut, room: float) -> Cut:
    """The same with as many layers kept unpacked as there is room for, in bytes."""
    kept = 0
    for block in reversed(network.blocks):
        room -= unpacked_bytes(network, block)
        if room < 0:
            break
        kept += 1
    return replace(cut, unpacked=kept)


def _comfortable(network: Network, available: int) -> int:
    """What a training may take before it is cut smaller, in bytes."""
    return _shared_with_others(network, available, HEADROOM_BYTES)


def _for_unpacked(network: Network, available: int) -> int:
    """What it may take with unpacked layers, in bytes."""
    return _shared_with_others(network, available, UNPACKED_BYTES)


def _shared_with_others(network: Network, available: int, beside: int) -> int:
    """Of the machine's memory so many bytes beside the base's file; all that there is of a GPU's own.

    There unpacked layers spare the way over the bus, and nobody else's files lie.
    """
    own = devices.has_own_memory(network.bench.device)
    return available if own else min(available, network.weights.bytes + beside)


def _pass_size(
    network: Network, form: Form, probe_of: Callable[[int], Probe], available: int, smallest: int, held: int
) -> tuple[int, Probe]:
    """The largest pass that stays within the headroom, but none below `smallest`."""
    wanted = _comfortable(network, available)
    tokens = max(LARGEST_PASS, smallest)
    while True:
        probe = probe_of(tokens)
        if tokens == smallest or peak_bytes(network, form, probe, Cut(checkpointed=0), held) <= wanted:
            return tokens, probe
        tokens = max(smallest, tokens // 2)
