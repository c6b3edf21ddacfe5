"""A lesson survives in the type that was chosen for it, and the narrowest such type is chosen."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from nightschool_daemon.learning import rounding
from nightschool_daemon.learning.rounding import Demand

Weights = NDArray[np.float32]


def base(kind: Kind) -> tuple[rounding.Blocks, Weights]:
    values = np.random.default_rng(0).standard_normal((48, 512)).astype(np.float32) * 0.05
    blocks = rounding.rounded(values, kind)
    return blocks, gguf.dequantize(blocks, kind).reshape(values.shape)


def change(scale: float) -> Weights:
    return np.random.default_rng(1).standard_normal((48, 512)).astype(np.float32) * np.float32(scale)


def grouped_change(scale: float = 0.001) -> Weights:
    return np.random.default_rng(2).standard_normal((48, 16)).astype(np.float32) * np.float32(scale)


def choose(own: Kind, delta: Weights, allowed: float, *, grouped: bool = False) -> rounding.Choice:
    blocks, values = base(own)
    found = rounding.choices(blocks, delta, own, grouped=grouped)
    return rounding.narrowest(found, values.shape[1], Demand(allowed_noise=allowed))


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
def test_a_grouped_change_leaves_the_codes(kind: Kind) -> None:
    delta = np.repeat(grouped_change(), rounding.MINIMUM_BLOCK, axis=1)
    choice = choose(kind, delta, 0.1, grouped=True)
    assert choice.kind is rounding.AFFINE[kind]
    # a block that has a minimum of its own is shifted by ordinary rounding as well
    assert choice.keeps_codes or choice.kind is kind


@pytest.mark.parametrize("kind", rounding.AFFINE)
def test_a_change_that_vanishes_in_the_minimas_rounding_gets_a_wider_type(kind: Kind) -> None:
    """Minima have 16 bits, and this change is a hundredth of their last one."""
    delta = np.repeat(grouped_change(1e-6), rounding.MINIMUM_BLOCK, axis=1)
    blocks, _ = base(kind)
    (shifted,) = (one for one in rounding.choices(blocks, delta, kind, grouped=True) if one.keeps_codes)
    assert shifted.noise > 0.1
    assert not choose(kind, delta, 0.1, grouped=True).keeps_codes


OWN = [
    Kind.Q2_K,
    Kind.Q3_K,
    Kind.IQ4_XS,
    Kind.IQ4_NL,
    Kind.Q4_0,
    Kind.Q4_1,
    Kind.Q4_K,
    Kind.Q5_0,
    Kind.Q5_1,
    Kind.Q5_K,
    Kind.Q6_K,
    Kind.Q8_0,
    Kind.F16,
    Kind.BF16,
    Kind.F32,
]


@pytest.mark.parametrize("allowed", [1e9, 30.0, 1.0, 0.0])
@pytest.mark.parametrize("scale", [0.02, 0.001, 0.00001])
@pytest.mark.parametrize("kind", OWN)
def test_the_base_loses_nothing_to_a_lesson(kind: Kind, scale: float, allowed: float) -> None:
    """No type has fewer bits than the tensor's own, and none errs more than that does on such weights."""
    _, values = base(kind)
    choice = choose(kind, change(scale), allowed)
    assert rounding.size_of(values.shape, choice.kind) >= rounding.size_of(values.shape, kind)
    moved = gguf.dequantize(rounding.rounded(values + change(scale), choice.kind), choice.kind).reshape(values.shape)
    fresh = np.random.default_rng(0).standard_normal(values.shape).astype(np.float32) * 0.05 + change(scale)
    own_error = np.square(gguf.dequantize(rounding.rounded(fresh, kind), kind).reshape(values.shape) - fresh).sum()
    assert np.square(moved - values - change(scale)).sum() <= 1.1 * own_error + 1e-9


def test_the_type_of_the_tensor_itself_always_does() -> None:
    for kind in OWN:
        blocks, _ = base(kind)
        assert kind in [one.kind for one in rounding.choices(blocks, change(0.0001), kind, grouped=False)], kind


def test_a_smaller_loss_is_allowed_at_more_bytes() -> None:
    _, values = base(Kind.Q4_K)
    sizes = [
        rounding.size_of(values.shape, choose(Kind.Q4_K, change(0.01), allowed).kind)
        for allowed in (1e9, 0.5, 0.1, 0.01, 0.0)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == rounding.size_of(values.shape, Kind.Q4_K)
    assert sizes[-1] == rounding.size_of(values.shape, Kind.F16)


@pytest.mark.parametrize(
    ("kind", "scale", "wider"),
    [(Kind.Q2_K, 0.02, Kind.Q3_K), (Kind.Q2_K, 0.007, Kind.IQ4_XS), (Kind.Q3_K, 0.01, Kind.IQ4_XS)],
)
def test_the_next_wider_type_is_enough_for_a_coarse_base(kind: Kind, scale: float, wider: Kind) -> None:
    assert choose(kind, change(scale), 1.0).kind is wider


def test_a_large_change_needs_fewer_bytes_than_a_small_one() -> None:
    _, values = base(Kind.Q4_K)
    large, small = (choose(Kind.Q4_K, change(one), 0.1) for one in (0.05, 0.002))
    assert rounding.size_of(values.shape, large.kind) < rounding.size_of(values.shape, small.kind)
    assert large.noise <= 0.1
    assert small.noise <= 0.1


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q5_0, Kind.Q6_K, Kind.Q8_0])
def test_a_small_change_is_not_rounded_back_to_where_it_came_from(kind: Kind) -> None:
    """The error is then as large as the change and no larger, and nothing is left of it."""
    _, values = base(kind)
    choice = choose(kind, change(0.0001), 1e9)
    moved = gguf.dequantize(rounding.rounded(values + change(0.0001), choice.kind), choice.kind).reshape(values.shape)
    assert choice.kind is not kind
    assert ((moved - values) * change(0.0001)).sum() > 0.9 * np.square(change(0.0001)).sum()


def test_rows_that_are_no_whole_blocks_get_a_type_whose_blocks_fit() -> None:
    values = np.random.default_rng(0).standard_normal((8, 40)).astype(np.float32)
    blocks = rounding.rounded(values, Kind.F16)
    (choice,) = rounding.choices(blocks, values, Kind.F16, grouped=False)
    assert choice.kind is Kind.F16
    for columns, has in ((96, False), (256, True)):
        values = np.random.default_rng(0).standard_normal((8, columns)).astype(np.float32)
        blocks = rounding.rounded(values, Kind.Q4_0)
        found = {one.kind for one in rounding.choices(blocks, 0.01 * values, Kind.Q4_0, grouped=False)}
        assert {Kind.Q4_0, Kind.Q8_0} <= found
        assert (Kind.Q6_K in found) is has


@pytest.mark.parametrize("kind", OWN)
def test_a_least_type_is_least_whatever_noise_is_allowed(kind: Kind) -> None:
    blocks, values = base(kind)
    found = rounding.choices(blocks, change(0.01), kind, grouped=False)
    demand = Demand(allowed_noise=1e9, least=Kind.Q8_0)
    least = max(rounding.size_of(values.shape, one) for one in (kind, Kind.Q8_0))
    assert rounding.size_of(values.shape, rounding.narrowest(found, values.shape[1], demand).kind) == least


@pytest.mark.parametrize("kind", OWN)
def test_weights_beside_old_ones_are_in_the_type_of_these_or_in_one_that_keeps_them(kind: Kind) -> None:
    found = [one.kind for one in rounding.choices_beside(change(0.01), kind, 512)]
    whole = [Kind.Q6_K, Kind.Q8_0, Kind.F16]
    fewer = {Kind.Q2_K: whole, Kind.Q3_K: whole, Kind.Q8_0: whole[2:], Kind.F16: [], Kind.BF16: [], Kind.F32: []}
    assert found == [kind, *fewer.get(kind, whole[1:])]
    _, values = base(kind)
    for one in found[1:]:
        kept = gguf.dequantize(rounding.rounded(values, one), one).reshape(values.shape)
        fresh = np.random.default_rng(0).standard_normal(values.shape).astype(np.float32) * 0.05
        assert np.square(kept - values).sum() < 0.15 * np.square(values - fresh).sum()


def test_weights_beside_old_ones_are_whole_blocks_of_what_they_are_in() -> None:
    found = rounding.choices_beside(change(0.01)[:, :48], Kind.F16, 512 + 48)
    assert [one.kind for one in found] == [Kind.F16]
    found = rounding.choices_beside(change(0.01)[:, :48], Kind.BF16, 512 + 48)
    assert [one.kind for one in found] == [Kind.BF16]
    for added, columns in ((48, 512 + 64), (32, 512 + 48)):
        found = rounding.choices_beside(change(0.01)[:, :added], Kind.Q4_0, columns)
        assert [one.kind for one in found] == [Kind.F16]
