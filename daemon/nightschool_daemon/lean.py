"""Keeps the idle daemon small: glibc holds on to memory that starting needed and idling does not."""

import ctypes
import gc

M_ARENA_MAX = -8
ARENAS = 2
"""glibc gives every thread a heap of its own otherwise, and our threads mostly wait."""


def share_heaps() -> None:
    """Let all threads use few heaps. Called before the first thread starts; without glibc nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    # what is there now stays: it need not be looked at again by every collection
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
