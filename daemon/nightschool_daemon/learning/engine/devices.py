"""What differs between devices: whose memory they use, how much of it they have to give, when they are done."""

from __future__ import annotations

import torch


def has_own_memory(device: torch.device) -> bool:
    """Whether its memory is not the machine's. That of Apple's GPUs is: CPU and GPU share it."""
    return str(device.type) == "cuda"


def free_bytes(device: torch.device) -> float:
    """What it has to give; infinite on the CPU, of which the machine alone says so.

    Metal gives no more than it recommends, and where the machine has less than that, less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    if device.type == "mps":
        return max(0, int(torch.mps.recommended_max_memory()) - held_bytes(device))
    return float("inf")


def held_bytes(device: torch.device) -> int:
    """What this process holds of it by torch's account; 0 on the CPU, of which torch keeps none."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    return 0


def wait_for(device: torch.device) -> None:
    """Return when all that it was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
