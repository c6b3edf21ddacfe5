"""Matrices that stay in their GGUF blocks, memory-mapped, and become floats for as long as a product takes.

A `Bench` owns the scratch memory and the threads that de-quantise; `Bench.unpack` writes into its scratch, so what it
returns is good until the next call of the same use. Where there is memory for it, matrices are kept as floats
(`PackedMatrix.unpacked`), and the pages of their blocks go back.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from nightschool_daemon.learning import ggml
from nightschool_daemon.learning.base_file import ADVICE
from nightschool_daemon.learning.engine import blocks
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_hookspecs.services import TrainingError

PIECE = 1 << 18
"""Weights a thread that are de-quantised at a time, a megabyte of floats."""
LARGEST_PIECE = 1 << 24
"""The same where torch de-quantises: it takes several such tables of floats for it."""
FEW_THREADS = 2
"""So few do not de-quantise beside each other: OpenMP's second one still waits, awake, where the other would run."""
OWN_MAPPINGS = Path("/proc/self/smaps")
"""Linux's account of what this process has mapped."""

FLOAT = 4


@dataclass(kw_only=True)
class Bench:
    """Where matrices are unpacked: the device, the type of the products, scratch memory, threads."""

    device: torch.device
    dtype: torch.dtype
    threads: int
    _scratch: dict[str, Tensor] = field(default_factory=dict)
    _pool: ThreadPoolExecutor | None = None

    def scratch(self, use: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory for values of a shape, the same for every call of one use and type."""
        key, count = f"{use} {dtype}", math.prod(shape)
        held = self._scratch.get(key)
        if held is None or held.numel() < count:
            # the smaller one goes before the larger one comes
            self._scratch.pop(key, None)
            held = torch.empty(count, dtype=dtype, device=self.device)
            self._scratch[key] = held
        return held[:count].view(*shape)

    def copied(self, x: Tensor, use: str, dtype: torch.dtype) -> Tensor:
        """A copy in scratch memory, in another type. Good until the next one of this use."""
        return self.scratch(use, x.shape, dtype).copy_(x)

    def unpack(self, matrix: PackedMatrix, use: str = "") -> Tensor:
        """The matrix in the type of the products, shape (rows, columns). Good until the next call of this use."""
        if matrix.unpacked is not None:
            return matrix.unpacked
        whole = self.scratch(use, matrix.shape, self.dtype)
        self._fill(matrix, whole)
        return whole

    def unpacked(self, matrix: PackedMatrix) -> PackedMatrix:
        """The same matrix, kept as floats beside its blocks."""
        whole = self._lasting(matrix.weights).view(matrix.shape)
        self._fill(matrix, whole)
        return replace(matrix, unpacked=whole)

    def _lasting(self, count: int) -> Tensor:
        """Memory of its own: what stays would fill the room that the C library's heap has for what passes."""
        if self.device.type != "cpu":
            return torch.empty(count, dtype=self.dtype, device=self.device)
        pages = mmap.mmap(-1, count * self.dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=self.dtype)

    def _fill(self, matrix: PackedMatrix, whole: Tensor) -> None:
        library = ggml.library() if self.device.type == "cpu" else None
        if library is not None and not library.reads(matrix.kind):
            library = None
        rows, columns = matrix.shape
        rows_a_round = max(1, (LARGEST_PIECE if library is None else self.threads * PIECE) // columns)
        for start in range(0, rows, rows_a_round):
            part = slice(start, min(rows, start + rows_a_round))
            if library is None:
                whole[part].copy_(blocks.dequantized(matrix.data[part].to(self.device), matrix.kind))
            elif whole.dtype is torch.float32:
                self._dequantize(library, matrix, part, whole[part])
            else:
                floats = self.scratch("floats", (part.stop - part.start, columns), torch.float32)
                self._dequantize(library, matrix, part, floats)
                whole[part].copy_(floats)

    def _dequantize(self, library: ggml.Ggml, matrix: PackedMatrix, rows: slice, floats: Tensor) -> None:
        """Some rows as 32-bit floats. Threads of our own call nothing of torch.

        Each of them that did would have a team of OpenMP's threads, and where there are more of these than cores,
        OpenMP lets all sleep after each operation: half of the speed.
        """
        bytes_a_row, columns = matrix.data.shape[1], matrix.shape[1]
        source, target = matrix.data.data_ptr() + rows.start * bytes_a_row, floats.data_ptr()

        def some(first: int, last: int) -> None:
            written = target + first * columns * FLOAT
            library.dequantize(matrix.kind, source + first * bytes_a_row, written, (last - first) * columns)

        count = floats.shape[0]
        if self.threads <= FEW_THREADS or count * columns <= PIECE:
            some(0, count)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="unpack")
        share = -(-count // self.threads)
        jobs = [self._pool.submit(some, first, min(count, first + share)) for first in range(share, count, share)]
        some(0, min(count, share))
        for job in jobs:
            job.result()


@dataclass(frozen=True, kw_only=True)
class PackedMatrix:
    """A matrix of shape (rows, columns) as blocks, (rows, bytes a row)."""

    name: str
    data: Tensor
    kind: Kind
    shape: tuple[int, int]
    unpacked: Tensor | None = None
    """In the type of the products, where it is kept so."""

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.shape[0] * self.shape[1]

    def slice(self, start: int, stop: int) -> PackedMatrix:
        """Rows `start` to `stop`, without a copy."""
        return PackedMatrix(
            name=self.name, data=self.data[start:stop], kind=self.kind, shape=(stop - start, self.shape[1])
        )

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows as 32-bit floats, shape (ids, columns): how token ids become vectors."""
        return blocks.dequantized(self.data[ids.to(self.data.device)].to(ids.device), self.kind)


class Weights:
    """The tensors of a GGUF, as torch sees them: one private mapping of the whole file.

    Those of `over`, a delivered file, take the place of the base's.
    """

    def __init__(self, file: GgufFile, over: GgufFile | None = None) -> None:
        self._tensors = file.tensors if over is None else {**file.tensors, **over.tensors}
        self._files = dict.fromkeys(file.tensors, _Mapped.of(file))
        if over is not None:
            self._files |= dict.fromkeys(over.tensors, _Mapped.of(over))
        self._whole: set[str] = set()

    @property
    def bytes(self) -> int:
        """Of the tensors that were asked for to be read whole, as they lie in their blocks.

        A file may have others, as those that see pictures.
        """
        return sum(self._tensors[name].bytes for name in self._whole)

    def resident_bytes(self) -> int:
        """How much of their mappings this process has in memory, by the kernel's account; 0 where it gives none."""
        if not OWN_MAPPINGS.is_file():
            return 0
        mapped = [one.addresses for one in set(self._files.values())]
        found, counts = 0, False
        for line in OWN_MAPPINGS.read_text(encoding="utf-8", errors="replace").splitlines():
            first, *others = line.split()
            if first == "Rss:" and counts:
                found += int(others[0]) * 1024
            elif not first.endswith(":"):
                start = int(first.partition("-")[0], 16)
                counts = any(start in addresses for addresses in mapped)
        return found

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self._tensors

    def matrix(self, name: str, shape: tuple[int, int], *, whole: bool = True) -> PackedMatrix:
        """A tensor of this shape, rows first. Raises `TrainingError` for one that is missing or of another.

        `whole`: not some of its rows alone are read.
        """
        data, kind = self._tensor(name, shape)
        if whole:
            self._whole.add(name)
        return PackedMatrix(name=name, data=data.view(shape[0], -1), kind=kind, shape=shape)

    def vector(self, name: str, length: int) -> Tensor:
        """A tensor of one dimension as 32-bit floats. Raises `TrainingError` as `matrix` does."""
        data, kind = self._tensor(name, (length,))
        self._whole.add(name)
        return blocks.dequantized(data.view(1, -1), kind)[0].clone()

    def let_go(self, name: str) -> None:
        """Give the pages of a tensor back: its bytes are read anew where they are asked for again."""
        tensor = self._tensors[name]
        start, stop = -(-tensor.start // mmap.PAGESIZE), (tensor.start + tensor.bytes) // mmap.PAGESIZE
        if start < stop:
            length = (stop - start) * mmap.PAGESIZE
            self._files[name].mapping.madvise(mmap.MADV_DONTNEED, start * mmap.PAGESIZE, length)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, Kind]:
        if name not in self._tensors:
            raise TrainingError(f"The GGUF has no tensor {name}. {ADVICE}")
        tensor = self._tensors[name]
        if tensor.shape != shape:
            raise TrainingError(
                f"The GGUF's {name} is of shape {tensor.shape}, and by its metadata it should be {shape}. {ADVICE}"
            )
        if tensor.type not in blocks.READERS:
            raise TrainingError(f"{name} is in {tensor.type.name}, which cannot be trained on. Choose another base.")
        data = self._files[name].bytes[tensor.start : tensor.start + tensor.bytes]
        # torch sees floats only where they begin at multiples of their size, and a file may be aligned to 1
        return data.clone() if tensor.start % FLOAT else data, tensor.type


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mapped:
    """A file in memory: private, so that nothing is ever written to it."""

    mapping: mmap.mmap
    bytes: Tensor

    @property
    def addresses(self) -> range:
        """Where it lies."""
        start = self.bytes.data_ptr()
        return range(start, start + len(self.mapping))

    @classmethod
    def of(cls, file: GgufFile) -> _Mapped:
        with file.path.open("rb") as stream:
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return cls(mapping=mapping, bytes=torch.frombuffer(mapping, dtype=torch.uint8))


class _PackedProduct(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
    """`x @ matrix.T` for a frozen matrix. The gradient needs the matrix again, and unpacks it again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: PackedMatrix, bench: Bench) -> Tensor:
        ctx.matrix, ctx.bench = matrix, bench
        return x @ bench.unpack(matrix).t()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        return grad_outputs[0] @ ctx.bench.unpack(ctx.matrix), None, None


def product(x: Tensor, matrix: PackedMatrix, bench: Bench) -> Tensor:
    """`x @ matrix.T`: (tokens, columns) to (tokens, rows), in the type of `x`, which is the bench's."""
    found: Tensor = _PackedProduct.apply(x, matrix, bench)
    return found
