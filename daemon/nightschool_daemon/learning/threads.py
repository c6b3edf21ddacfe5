"""How many cores a worker's networks use."""

import os


def limit_threads(threads: int) -> None:
    """Use so many cores; 0: all of them."""
    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)
