"""Whether there is memory for a base as transformers has it, told before it is loaded."""

from __future__ import annotations

import math

import torch

from nightschool_daemon.learning.engine import machine, memory
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_hookspecs.services import TrainingError

LOADED_BYTES = 4
"""A weight in 32-bit floats."""
CPU = torch.device("cpu")


def parameters_of(file: GgufFile) -> int:
    """How many weights a base has."""
    return sum(math.prod(one.shape) for one in file.tensors.values())


def loaded_bytes(file: GgufFile) -> int:
    """Of a base's weights, as transformers has them."""
    return parameters_of(file) * LOADED_BYTES


def device_for(file: GgufFile) -> torch.device:
    """A GPU where there is one with memory for the weights, else the CPU."""
    device = machine.device()
    return device if _needed_bytes(file, device) <= memory.allowed_bytes(device) else CPU


def require_loadable(file: GgufFile) -> None:
    """Raise `TrainingError` where the weights alone are more than the machine has memory for.

    It reads them into its own, wherever they go then.
    """
    require_memory(_needed_bytes(file, CPU), memory.allowed_bytes(CPU))


def require_memory(needed: int, available: int) -> None:
    """Raise `TrainingError` where a base needs more than can be had, in bytes."""
    if needed > available:
        raise TrainingError(
            f"Through transformers this base needs about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB "
            "can be had. Choose a smaller base, or one of an architecture that the packed engine trains."
        )


def _needed_bytes(file: GgufFile, device: torch.device) -> int:
    return memory.taken_bytes(device) + loaded_bytes(file)
