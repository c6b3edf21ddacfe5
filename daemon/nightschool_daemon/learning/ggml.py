"""ggml's own C for quantising and de-quantising, through `libggml-python`; absent where there is no wheel of it."""

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

READERS = {
    Kind.Q4_0: "dequantize_row_q4_0",
    Kind.Q4_1: "dequantize_row_q4_1",
    Kind.Q5_0: "dequantize_row_q5_0",
    Kind.Q5_1: "dequantize_row_q5_1",
    Kind.Q8_0: "dequantize_row_q8_0",
    Kind.Q2_K: "dequantize_row_q2_K",
    Kind.Q3_K: "dequantize_row_q3_K",
    Kind.Q4_K: "dequantize_row_q4_K",
    Kind.Q5_K: "dequantize_row_q5_K",
    Kind.Q6_K: "dequantize_row_q6_K",
    Kind.IQ4_NL: "dequantize_row_iq4_nl",
    Kind.IQ4_XS: "dequantize_row_iq4_xs",
}


class Ggml:
    """The library. Its functions release the interpreter's lock, so that threads run beside each other."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._readers = {kind: self._reader(name) for kind, name in READERS.items()}
        quantize = self._library.ggml_quantize_chunk
        quantize.restype = ctypes.c_size_t
        quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
        self._quantize = quantize

    def reads(self, kind: Kind) -> bool:
        """Whether it de-quantises a type."""
        return kind in self._readers

    def dequantize(self, kind: Kind, source: int, target: int, weights: int) -> None:
        """Write `weights` 32-bit floats to the address `target` from the blocks at the address `source`."""
        self._readers[kind](source, target, weights)

    def quantized(self, values: NDArray[np.float32], kind: Kind) -> NDArray[np.uint8]:
        """Blocks of rows of weights: (rows, columns) to (rows, bytes a row)."""
        values = np.ascontiguousarray(values, np.float32)
        rows, columns = values.shape
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = np.empty((rows, columns // weights * size), np.uint8)
        written = self._quantize(int(kind), values.ctypes.data, blocks.ctypes.data, 0, rows, columns, None)
        if written != blocks.nbytes:
            raise ValueError(f"ggml wrote {written} bytes of {kind.name}, not {blocks.nbytes}")
        return blocks

    def _reader(self, name: str) -> Callable[[int, int, int], None]:
        function: ctypes._NamedFuncPointer = self._library[name]
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        return function


def dequantized(data: NDArray[np.uint8], kind: Kind) -> NDArray[np.float32]:
    """Floats of blocks: (..., bytes a row) to (..., columns), by ggml's C where it is there, else by gguf-py."""
    found = library()
    if found is None or not found.reads(kind):
        return np.asarray(gguf.dequantize(data, kind), np.float32)
    data = np.ascontiguousarray(data)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    floats = np.empty((*data.shape[:-1], data.shape[-1] // size * weights), np.float32)
    found.dequantize(kind, data.ctypes.data, floats.ctypes.data, floats.size)
    return floats


@functools.cache
def library() -> Ggml | None:
    """The library, or None where it is not installed."""
    spec = importlib.util.find_spec("libggml")
    if spec is None or spec.origin is None:
        return None
    # lib64/libggml-base.so on Linux, lib/libggml-base.dylib on macOS
    found = next(Path(spec.origin).parent.glob("lib*/libggml-base.*"), None)
    return Ggml(found) if found is not None else None
