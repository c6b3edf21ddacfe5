"""What this machine multiplies matrices on, and in which type it does so fastest."""

from __future__ import annotations

import ctypes
import functools
import resource
import time
from collections.abc import Iterator

import torch

from nightschool_daemon.learning.engine import proof
from nightschool_daemon.learning.engine.packed import Bench

PROBE = (256, 1024, 1024)
"""Shape of the product that is timed: as in a small layer."""
ROUNDS = 5
GAIN = 1.3
"""16-bit products are taken where they are so much faster: they round more."""


HEAP_BYTES, PIECE_BYTES = 512 << 20, 96 << 10
"""Room in the C library's heap, and in what pieces it is asked for: larger ones would be mapped by themselves."""


GPUS = {"cuda": "CUDA or ROCm", "mps": "Metal"}
"""By torch's names, the first that is there first."""


def device() -> torch.device:
    """A GPU by CUDA or ROCm, which torch calls CUDA too, or by Apple's Metal, if it computes as the CPU; or the CPU."""
    return next((one for one in _gpus() if proof.problem(one) is None), proof.CPU)


def passed_over() -> str | None:
    """Why there is a GPU and another device is taken, in a sentence; None: that is not so."""
    for one in _gpus():
        why = proof.problem(one)
        if why is not None:
            return f"The GPU that torch finds by {GPUS[one.type]} is not used: {why}."
    return None


def _gpus() -> Iterator[torch.device]:
    if torch.cuda.is_available():
        yield torch.device("cuda")
    if torch.backends.mps.is_available():
        yield torch.device("mps")


@functools.cache
def fastest_type(where: torch.device) -> torch.dtype:
    """bfloat16 where a short probe shows that it pays and, on a GPU, computes as the CPU; else float32."""
    if where.type != "cpu" and proof.problem(where, torch.bfloat16) is not None:
        return torch.float32
    try:
        halves = _seconds(where, torch.bfloat16)
    except RuntimeError:
        return torch.float32
    return torch.bfloat16 if halves * GAIN < _seconds(where, torch.float32) else torch.float32


def bench(dtype: torch.dtype | None = None) -> Bench:
    """A bench for this machine; in 32-bit floats for what must be exact."""
    where = device()
    return Bench(device=where, dtype=dtype or fastest_type(where), threads=torch.get_num_threads())


def return_free_memory() -> None:
    """Have the C library give freed memory back to the system: glibc keeps it, in pieces too small for later use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.cache
def widen_heap() -> None:
    """Have the C library's heap hold room for the tensors of passes.

    glibc puts a large tensor where its heap has a hole; where it has none it maps pages, each of which faults anew with
    every tensor. The first passes of a training leave such holes, and those after them are a fifth faster. With holes
    from the beginning all are, and what a few layers are timed with is what the training meets. Beside a page in each
    piece, which goes back with what is freed, no memory is taken for it. Where the address space is limited, and in
    other libraries, nothing is done.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim") or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    library.free.argtypes = (ctypes.c_void_p,)
    pieces = [library.malloc(PIECE_BYTES) for _ in range(HEAP_BYTES // PIECE_BYTES)]
    # the last stays: what lies at the heap's end, and is free, is given back
    for piece in pieces[:-1]:
        library.free(piece)


def _seconds(where: torch.device, dtype: torch.dtype) -> float:
    rows, inner, columns = PROBE
    left = torch.ones(rows, inner, device=where, dtype=dtype)
    right = torch.ones(columns, inner, device=where, dtype=dtype)
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        float((left @ right.t())[0, 0])
        best = min(best, time.perf_counter() - began)
    return best
