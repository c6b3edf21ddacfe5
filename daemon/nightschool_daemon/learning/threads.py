"""How many cores a worker's networks use."""

import os


def cores() -> int:
    """Cores that this process may use: on Linux fewer than the machine has under `CPUAffinity=` and `taskset`."""
    held_to = getattr(os, "sched_getaffinity", None)
    return len(held_to(0)) if held_to is not None else os.cpu_count() or 1


def limit_threads(threads: int) -> None:
    """Use so many cores; 0: all that there are for this process. More threads than cores wait for each other."""
    import torch

    torch.set_num_threads(threads or cores())
