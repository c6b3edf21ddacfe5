"""What a layer is made of, beside torch's own: the same values, and the same gradients by ways that keep less."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from nightschool_daemon.learning.engine import attention, packed
from nightschool_daemon.learning.engine.architecture import Pairing
from nightschool_daemon.learning.engine.attention import padded_attention
from nightschool_daemon.learning.engine.norm import rms_norm
from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix
from nightschool_daemon.learning.engine.rope import turned
from nightschool_daemon.learning.rounding import rounded

ROWS, LENGTH, SIZE = 3, 7, 8
BENCH = Bench(device=torch.device("cpu"), dtype=torch.bfloat16, threads=1)


def values(*shape: int, seed: int = 0) -> Tensor:
    """Random, with a gradient."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def agree(ours: Callable[..., Tensor], peer: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Same result, and same gradients for any that come back."""
    found, wanted = ours(*inputs), peer(*inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    back = values(*found.shape, seed=9).detach()
    for mine, other in zip(
        torch.autograd.grad(found, inputs, back), torch.autograd.grad(wanted, inputs, back), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def branching() -> Tensor:
    """A mask a row: in the second row, the last three tokens do not see the three before."""
    seen = torch.ones(ROWS, 1, LENGTH, LENGTH, dtype=torch.bool).tril_()
    seen[1, :, -3:, 1:4] = False
    return torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)


def window() -> Tensor:
    """A mask for all rows: two tokens are seen."""
    seen = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril_().triu_(-1)
    return torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)


def by_torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as torch has it."""
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    found = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0, enable_gqa=True
    )
    return found.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("mask", [None, branching(), window()], ids=["causal", "branching", "window"])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("queries", [256, 3], ids=["whole", "in parts"])
@pytest.mark.parametrize("table", [1 << 21, 50], ids=["together", "apart"])
def test_attention_is_torchs(
    mask: Tensor | None, heads: int, key_heads: int, queries: int, table: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "QUERIES", queries)
    monkeypatch.setattr(attention, "LARGEST_TABLE", table)
    q, k, v = (values(ROWS, LENGTH, count, SIZE, seed=seed) for seed, count in enumerate((heads, key_heads, key_heads)))

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found: Tensor = attention._Attention.apply(q, k, v, mask, BENCH)
        return found

    agree(ours, partial(by_torch, mask=mask), q, k, v)


@pytest.mark.parametrize("length", [40, 300])
def test_attention_in_16_bits_rounds_no_more_than_torchs(length: int) -> None:
    """Also where scores are as large as those of real models, up to 65."""
    q, k, v = (values(2, length, count, 64, seed=seed).detach() for seed, count in enumerate((9, 3, 3)))
    q = q * 1.8
    back = values(2, length, 9 * 64, seed=5).detach()

    def gone_through(of: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        inputs = [one.bfloat16().to(dtype).requires_grad_() for one in (q, k, v)]
        found = of(*inputs, None)
        return [found.detach(), *torch.autograd.grad(found, inputs, back.bfloat16().to(dtype))]

    exact = gone_through(by_torch, torch.float64)
    ours, theirs = (
        [float((one.double() - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)]
        for found in (
            gone_through(lambda q, k, v, mask: padded_attention(q, k, v, mask, None, BENCH), torch.bfloat16),
            gone_through(by_torch, torch.bfloat16),
        )
    )
    assert all(mine <= 1.25 * other for mine, other in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.mark.parametrize("length", [40, 300])
def test_a_row_is_the_same_alone_and_in_company(length: int) -> None:
    """Answers are compared that went through in passes of unlike size: what they share must not show.

    Where a processor multiplies no 16-bit numbers by itself, sums of products are in parts that depend on the size, and
    of longer rows one value in a hundred thousand is rounded otherwise.
    """
    q, k, v = (values(12, 420, count, 64, seed=seed).detach().bfloat16() for seed, count in enumerate((9, 3, 3)))
    in_company = padded_attention(q, k, v, None, None, BENCH)[0, :length]
    q, k, v = (one[:1, :length] for one in (q, k, v))
    alone = padded_attention(q, k, v, None, None, BENCH)[0]
    if torch.cpu._is_avx512_bf16_supported() or length < 256:
        assert torch.equal(in_company, alone)
    assert (in_company != alone).float().mean() < 1e-4
    torch.testing.assert_close(in_company, alone, rtol=2**-7, atol=2**-9)


def test_no_table_of_scores_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the square of a long row."""
    tables: list[int] = []
    makes = attention._Piece.likelihoods

    def noted(piece: attention._Piece, queries: Tensor, keys: Tensor, bench: Bench) -> Tensor:
        found = makes(piece, queries, keys, bench)
        tables.append(found.numel())
        return found

    monkeypatch.setattr(attention._Piece, "likelihoods", noted)
    q, k = torch.randn(1, 2048, 8, SIZE).bfloat16(), torch.randn(1, 2048, 4, SIZE).bfloat16()
    padded_attention(q, k, k, None, None, BENCH)
    assert max(tables) <= attention.LARGEST_TABLE


@pytest.mark.parametrize("shape", [(5, 16), (5, 3, 16)], ids=["states", "heads"])
def test_norm_is_torchs(shape: tuple[int, ...]) -> None:
    weight = values(shape[-1], seed=3).detach()
    agree(
        lambda x: rms_norm(x, weight, 1e-3, torch.float32),
        lambda x: torch.nn.functional.rms_norm(x, (shape[-1],), weight, 1e-3),
        values(*shape),
    )


def test_norm_counts_in_32_bits() -> None:
    """Squares of 16-bit floats would be rounded before they are summed."""
    x = (values(4, 512).detach() * 30).bfloat16()
    weight = torch.ones(512)
    exact = torch.nn.functional.rms_norm(x.double(), (512,), weight.double(), 1e-6)
    assert torch.equal(rms_norm(x, weight, 1e-6, torch.bfloat16), exact.bfloat16())


def turned_by_complex(x: Tensor, angles: Tensor, pairing: Pairing) -> Tensor:
    """Rotation as multiplication of complex numbers; what is beyond the angles stays."""
    half = angles.shape[-1]
    part, rest = x[..., : 2 * half], x[..., 2 * half :]
    pairs = (
        part.unflatten(-1, (2, half)).transpose(-1, -2) if pairing is Pairing.HALVES else part.unflatten(-1, (half, 2))
    )
    product = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)[:, None]
    found = torch.view_as_real(product)
    return torch.cat(((found.transpose(-1, -2) if pairing is Pairing.HALVES else found).flatten(-2), rest), dim=-1)


@pytest.mark.parametrize("pairing", list(Pairing))
@pytest.mark.parametrize("half", [4, 3])
def test_rotation_is_that_of_complex_numbers(pairing: Pairing, half: int) -> None:
    angles = values(5, half, seed=4).detach()
    agree(
        lambda x: turned(x, angles.cos(), angles.sin(), pairing),
        lambda x: turned_by_complex(x, angles, pairing),
        values(5, 2, SIZE),
    )


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 6, 61])
def test_a_matrix_is_unpacked_by_any_number_of_threads(
    threads: int, dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "PIECE", 4 * 256)
    blocks = rounded(np.random.default_rng(0).standard_normal((rows, 256)).astype(np.float32), Kind.Q4_K)
    matrix = PackedMatrix(name="m", data=torch.from_numpy(blocks), kind=Kind.Q4_K, shape=(rows, 256))
    bench = Bench(device=torch.device("cpu"), dtype=dtype, threads=threads)
    assert torch.equal(bench.unpack(matrix), matrix.rows(torch.arange(rows)).to(dtype))


def test_threads_that_unpack_call_nothing_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that did would bring OpenMP threads of its own, and all products would take twice as long."""
    threads, rows, columns = 4, 1024, 1024
    monkeypatch.setattr(packed, "PIECE", rows * columns // threads)
    blocks = rounded(np.ones((rows, columns), np.float32), Kind.Q8_0)
    matrix = PackedMatrix(name="m", data=torch.from_numpy(blocks), kind=Kind.Q8_0, shape=(rows, columns))
    bench = Bench(device=torch.device("cpu"), dtype=torch.bfloat16, threads=threads)
    torch.ones(rows, columns).bfloat16()  # with which OpenMP's threads of this one come
    before = set(Path("/proc/self/task").iterdir())
    bench.unpack(matrix)
    assert len(set(Path("/proc/self/task").iterdir()) - before) <= threads - 1
