"""A lesson survives in the type that was chosen for it, and the narrowest such type is chosen."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from nightschool_daemon.learning import rounding

Weights = NDArray[np.float32]


def base(kind: Kind) -> tuple[rounding.Blocks, Weights]:
    values = np.random.default_rng(0).standard_normal((48, 512)).astype(np.float32) * 0.05
    blocks = rounding.rounded(values, kind)
    return blocks, gguf.dequantize(blocks, kind).reshape(values.shape)


def change(scale: float) -> Weights:
    return np.random.default_rng(1).standard_normal((48, 512)).astype(np.float32) * np.float32(scale)


def grouped_change() -> Weights:
    return np.random.default_rng(2).standard_normal((48, 16)).astype(np.float32) * np.float32(0.001)


def choose(values: Weights, delta: Weights, own: Kind, allowed: float, *, grouped: bool) -> rounding.Choice:
    found = rounding.choices(values, delta, own, grouped=grouped)
    return rounding.narrowest(found, values.shape[1], allowed)


@pytest.mark.parametrize("kind", rounding.AFFINE)
def test_a_change_of_minima_is_kept_and_the_codes_stay(kind: Kind) -> None:
    blocks, values = base(kind)
    shifts = grouped_change()
    delta = np.repeat(shifts, rounding.MINIMUM_BLOCK, axis=1)
    shifted = gguf.dequantize(rounding.shifted(blocks, kind, shifts), rounding.AFFINE[kind]).reshape(values.shape)
    assert np.square(shifted - values - delta).sum() < 0.002 * np.square(delta).sum()
    same = gguf.dequantize(rounding.shifted(blocks, kind, shifts * 0), rounding.AFFINE[kind]).reshape(values.shape)
    np.testing.assert_allclose(same, values, atol=2e-4)


@pytest.mark.parametrize("kind", rounding.AFFINE)
def test_a_grouped_change_takes_the_exact_form(kind: Kind) -> None:
    _, values = base(kind)
    delta = np.repeat(grouped_change(), rounding.MINIMUM_BLOCK, axis=1)
    choice = choose(values, delta, kind, 0.0, grouped=True)
    assert (choice.is_exact, choice.kind) == (True, rounding.AFFINE[kind])


def test_a_smaller_loss_is_allowed_at_more_bytes() -> None:
    _, values = base(Kind.Q4_K)
    sizes = [
        rounding.size_of(values.shape, choose(values, change(0.01), Kind.Q4_K, allowed, grouped=False).kind)
        for allowed in (1e9, 0.5, 0.1, 0.01, 0.0)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == rounding.size_of(values.shape, Kind.Q4_K)
    assert sizes[-1] == rounding.size_of(values.shape, Kind.F16)


def test_a_large_change_needs_fewer_bytes_than_a_small_one() -> None:
    _, values = base(Kind.Q4_K)
    large, small = (choose(values, change(one), Kind.Q4_K, 0.1, grouped=False) for one in (0.05, 0.002))
    assert rounding.size_of(values.shape, large.kind) < rounding.size_of(values.shape, small.kind)
    assert large.noise <= 0.1
    assert small.noise <= 0.1


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q5_0])
def test_a_small_change_is_not_rounded_back_to_where_it_came_from(kind: Kind) -> None:
    """The error is then as large as the change and no larger, and nothing is left of it."""
    _, values = base(kind)
    choice = choose(values, change(0.0003), kind, 1e9, grouped=False)
    moved = gguf.dequantize(rounding.rounded(values + change(0.0003), choice.kind), choice.kind).reshape(values.shape)
    assert choice.kind is not kind
    assert ((moved - values) * change(0.0003)).sum() > 0.9 * np.square(change(0.0003)).sum()


def test_rows_that_are_no_whole_blocks_get_a_type_whose_blocks_fit() -> None:
    values = np.random.default_rng(0).standard_normal((8, 40)).astype(np.float32)
    assert choose(values, values, Kind.F16, 0.5, grouped=False).kind is Kind.F16
