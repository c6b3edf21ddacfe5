"""Whether a device computes what a training needs, as the CPU does: tried once, on a few rows, before it is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from textwrap import shorten

import gguf
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from nightschool_daemon.learning.engine import head
from nightschool_daemon.learning.engine.adam import Adam
from nightschool_daemon.learning.engine.attention import padded_attention
from nightschool_daemon.learning.engine.layout import Branches, lay_out
from nightschool_daemon.learning.engine.norm import rms_norm
from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix, product

CPU = torch.device("cpu")
KINDS = (Kind.Q8_0, Kind.Q4_K, Kind.Q6_K)
"""What most models are served in."""
ROWS, WIDTH = 6, 256
"""Of what is tried: one block of the K types wide."""
SMALL = 0x9B
"""Bits of every byte of the tried blocks: without the other three every 16-bit float of them is below 1 / 128."""
TOLERANCES: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""How far results may be off, by the largest of them."""
MOST_LETTERS = 160
"""Of what torch says."""
FAILURES = (RuntimeError, TypeError, ValueError, AssertionError)
"""What torch raises where a device, an operation on it or a type is not to be had."""


@cache
def problem(device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Why it does not do for a training with products of this type, in a few words; None: it does."""
    here, there = Bench(device=CPU, dtype=torch.float32, threads=1), Bench(device=device, dtype=dtype, threads=1)
    for name, part in PARTS.items():
        try:
            pairs = [(own, other.to(CPU)) for own, other in zip(part(here), part(there), strict=True)]
        except FAILURES as error:
            return f"{name} cannot be computed there ({shorten(str(error) or type(error).__name__, MOST_LETTERS)})"
        if not all(_agree(own, other, TOLERANCES[dtype]) for own, other in pairs):
            return f"{name} come out otherwise than on the CPU"
    return None


def _agree(own: Tensor, other: Tensor, tolerance: float) -> bool:
    own, other = own.detach().float(), other.detach().float()
    return bool((own - other).abs().max() <= tolerance * own.abs().max())


def _blocks(bench: Bench) -> Iterator[Tensor]:
    for kind in KINDS:
        yield bench.unpack(_matrix(kind)).clone()


def _products(bench: Bench) -> Iterator[Tensor]:
    x = _values(bench, ROWS, WIDTH)
    yield from _tried(lambda x: product(x, _matrix(Kind.Q8_0), bench), x)


def _norms(bench: Bench) -> Iterator[Tensor]:
    x, weight = _values(bench, ROWS, WIDTH), torch.linspace(0.5, 1.5, WIDTH, device=bench.device)
    yield from _tried(lambda x: rms_norm(x, weight, 1e-6, bench.dtype), x)


def _attention(bench: Bench) -> Iterator[Tensor]:
    """Two rows of three tokens, four heads on two key heads: all before a token, a mask, and capped scores."""
    mask = torch.full((1, 1, 3, 3), -torch.inf, device=bench.device, dtype=bench.dtype).triu_(1)
    q, k, v = (_values(bench, 2, 3, heads, 32) for heads in (4, 2, 2))
    for given, cap in ((None, None), (mask, None), (None, 5.0)):
        yield from _tried(partial(padded_attention, mask=given, cap=cap, bench=bench), q, k, v)


def _padded_rows(bench: Bench) -> Iterator[Tensor]:
    """Two rows of unlike length that begin alike: tokens are selected, and what two rows teach one is summed."""
    rows = [Branches(stem=(1, 2, 3), answers=((4,),)), Branches(stem=(1, 2), answers=((5,),))]
    layout = lay_out(rows, bench.device, shares=True)
    x = _values(bench, layout.ids.shape[0], WIDTH)
    yield from _tried(lambda x: layout.flat(layout.padded(x) ** 2), x)


def _predictions(bench: Bench) -> Iterator[Tensor]:
    x, wanted = _values(bench, 2, WIDTH), torch.tensor([1, 4], device=bench.device)
    yield from _tried(lambda x: head.log_probabilities(x, wanted, _matrix(Kind.Q8_0), bench, None), x)


def _steps(bench: Bench) -> Iterator[Tensor]:
    x = _values(bench, ROWS, WIDTH).detach().float()
    optimizer = Adam([x])
    for _ in range(2):
        x.grad = x.detach() * 2
        optimizer.step(0.1)
    yield x


PARTS: Mapping[str, Callable[[Bench], Iterator[Tensor]]] = {
    "floats of quantised blocks": _blocks,
    "products": _products,
    "norms": _norms,
    "results of attention": _attention,
    "padded rows": _padded_rows,
    "log-probabilities": _predictions,
    "steps of the optimiser": _steps,
}
"""What a training is made of. Each gives its results and, where it has any, its gradients."""


def _tried(function: Callable[..., Tensor], *sources: Tensor) -> Iterator[Tensor]:
    """Its result without gradient, for which a device may have another kernel, and with; then the gradients."""
    with torch.no_grad():
        alone = function(*sources)
    yield alone
    with torch.enable_grad():
        found = function(*sources)
        # to one number: for the way back from several torch loads its compiler
        worth = (found.float() * torch.linspace(-1, 1, found.numel(), device=found.device).view(found.shape)).sum()
    yield found
    yield from torch.autograd.grad(worth, sources)


def _values(bench: Bench, *shape: int) -> Tensor:
    """The same on every device, between -1 and 1."""
    count = torch.Size(shape).numel()
    found = torch.arange(count, dtype=torch.float32).mul_(0.7).sin_().view(shape)
    return found.to(bench.device, bench.dtype).requires_grad_()


def _matrix(kind: Kind) -> PackedMatrix:
    weights, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    size = ROWS * WIDTH // weights * block_bytes
    data = (torch.arange(size) * 37 % 256).to(torch.uint8) & SMALL
    return PackedMatrix(name="", data=data.view(ROWS, -1), kind=kind, shape=(ROWS, WIDTH))
