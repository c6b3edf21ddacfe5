"""Blocks become the floats that gguf-py makes of them, by torch, by ggml's C, in parts and by threads."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from nightschool_daemon.learning import ggml, rounding
from nightschool_daemon.learning.engine import blocks
from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix, product

ROWS, COLUMNS = 600, 512
KINDS = list(blocks.READERS)


def weights(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.1


def packed(kind: Kind, seed: int = 0) -> PackedMatrix:
    return PackedMatrix(
        name="blk.0.attn_q.weight",
        data=torch.from_numpy(rounding.rounded(weights(seed), kind)),
        kind=kind,
        shape=(ROWS, COLUMNS),
    )


def expected(matrix: PackedMatrix) -> torch.Tensor:
    whole: NDArray[np.float32] = gguf.dequantize(matrix.data.numpy(), matrix.kind).reshape(matrix.shape)
    return torch.from_numpy(np.array(whole, np.float32))


def bench(threads: int = 1, dtype: torch.dtype = torch.float32) -> Bench:
    return Bench(device=torch.device("cpu"), dtype=dtype, threads=threads)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_reads_blocks_as_gguf_does(kind: Kind) -> None:
    matrix = packed(kind)
    assert torch.equal(blocks.dequantized(matrix.data, kind), expected(matrix))


def any_bytes(kind: Kind) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Blocks that ggml's own rounding never makes, and their floats by gguf-py: all codes, all finite scales."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(1).integers(0, 256, (400, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        theirs = np.asarray(gguf.dequantize(data, kind), np.float32)
    sound = np.isfinite(theirs).all(axis=1)
    assert sound.sum() > 300
    return data[sound], theirs[sound]


@pytest.mark.parametrize("kind", KINDS)
def test_torch_reads_any_codes_and_scales_as_gguf_does(kind: Kind) -> None:
    data, theirs = any_bytes(kind)
    np.testing.assert_array_equal(blocks.dequantized(torch.from_numpy(data), kind).numpy(), theirs)


@pytest.mark.parametrize("kind", list(ggml.READERS))
def test_ggml_reads_any_codes_and_scales_as_gguf_does(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, in rows of three blocks."""
    data, theirs = any_bytes(kind)
    monkeypatch.setattr(gguf, "dequantize", None)
    ours = ggml.dequantized(data[:300].reshape(100, -1), kind)
    np.testing.assert_array_equal(ours, theirs[:300].reshape(100, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_without_ggml_the_floats_are_the_same(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(kind).data.numpy()
    ours = ggml.dequantized(data, kind)
    monkeypatch.setattr(ggml, "library", lambda: None)
    np.testing.assert_array_equal(ggml.dequantized(data, kind), ours)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bench_unpacks_the_same(kind: Kind, threads: int) -> None:
    matrix = packed(kind)
    assert torch.equal(bench(threads).unpack(matrix), expected(matrix))
    assert torch.equal(bench(threads, torch.bfloat16).unpack(matrix), expected(matrix).bfloat16())


def test_rows_and_slices_are_those_of_the_whole() -> None:
    matrix = packed(Kind.Q5_K)
    ids = torch.tensor([3, 0, 599, 3])
    assert torch.equal(matrix.rows(ids), expected(matrix)[ids])
    assert torch.equal(bench(2).unpack(matrix.slice(100, 350)), expected(matrix)[100:350])


def test_the_product_and_its_gradient_are_those_of_the_floats() -> None:
    matrix = packed(Kind.Q6_K)
    x = torch.randn(7, COLUMNS, requires_grad=True)
    factor = torch.randn(7, ROWS)
    (product(x, matrix, bench()) * factor).sum().backward()
    torch.testing.assert_close(product(x, matrix, bench()), x @ expected(matrix).t())
    torch.testing.assert_close(x.grad, factor @ expected(matrix))
