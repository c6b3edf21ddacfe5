"""What memory there is: of the machine, of a GPU, and what control groups and limits leave of it."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import torch

from nightschool_daemon.learning.engine import devices, machine
from nightschool_daemon.learning.engine.network import Network

FREE_SHARE = 0.8
"""Of the memory that is free at most this share is taken, whatever it costs in time."""
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""To which control groups this process belongs, and where they are."""
LIMITS = {"memory.max": "memory.current", "memory.high": "memory.current"}
LIMITS_OF_VERSION_1 = {"memory.limit_in_bytes": "memory.usage_in_bytes"}
"""Files of a control group, each with that which says how much of it is used."""
UNUSED_CACHE = frozenset({"inactive_file", "total_inactive_file"})
"""In a group's `memory.stat`, of version 2 and 1: pages of files that count as used, and are given up at once."""


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
