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


@pytest.mark.parametrize("mask", [None, branching(), window()], ids=["causal", "branching", "window"])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_attention_by_tables_is_attention(
    mask: Tensor | None, heads: int, key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = (values(ROWS, LENGTH, count, SIZE, seed=seed) for seed, count in enumerate((heads, key_heads, key_heads)))
    ours = partial(padded_attention, mask=mask, cap=None)

    def by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(attention, "LARGEST_TABLE", 0)
            return padded_attention(q, k, v, mask, None)

    agree(ours, by_torch, q, k, v)


def test_attention_by_tables_is_taken_for_short_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of long rows, which would be as large as their square, never lie in memory."""
    kept: list[int] = []
    makes = attention._likelihoods

    def noted(*given: object) -> Tensor:
        found: Tensor = makes(*given)
        kept.append(found.numel())
        return found

    monkeypatch.setattr(attention, "_likelihoods", noted)
    for length in (16, 2048):
        q = torch.randn(1, length, 4, SIZE)
        padded_attention(q, q, q, None, None)
    assert kept == [4 * 16 * 16]


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
