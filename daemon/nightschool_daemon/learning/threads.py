"""How many cores a worker's networks use."""

import os


def cores() -> int:
    """Cores that this process may use: fewer than the machine has under `CPUAffinity=` and `taskset`."""
    return len(os.sched_getaffinity(0))


def limit_threads(threads: int) -> None:
    """Use so many cores; 0: all that there are for this process. More threads than cores wait for each other."""
    import torch

    torch.set_num_threads(threads or cores())
