"""Figures, intervals and the test of the ablation bench, and the rule that makes a default of what was measured."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.ablation.decisions import FEWEST_BLOCKS, FREE_S, MARGIN, SIGNIFICANT, Default, Evidence, decide
from benchmarks.ablation.effects import Contrast, Floats, Layout, Parts, adjusted, difference, figure, ratio

SURE, NOT_SURE = 0.01, 1.0
"""Standard errors."""


def parts(ours: Sequence[float], peer: Sequence[float]) -> Parts:
    return Parts(values=np.array([ours, peer], np.float64), units=np.ones(len(ours)))


def test_a_figure_is_that_of_the_mean_shares_of_all_blocks() -> None:
    blocks = [parts([1, 3], [1, 1]), parts([4, 4], [2, 2])]
    found = figure(blocks, ratio)
    assert found is not None
    assert found.value == pytest.approx((2 + 4) / (1 + 2))


def test_a_share_is_of_all_units_together() -> None:
    long_and_short = Parts(values=np.array([[6.0, 0.0], [0.0, 0.0]]), units=np.array([2.0, 1.0]))
    found = figure([long_and_short], difference)
    assert found is not None
    assert found.value == 2


def test_what_is_paired_has_no_noise_of_the_prompts() -> None:
    hard = [0.1, 0.5, 0.9, 0.2]
    found = figure([parts([value + 0.3 for value in hard], hard)], difference)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.3, 0.3))


def test_an_interval_is_as_wide_as_the_prompts_differ() -> None:
    chance = np.random.default_rng(1)
    gains = chance.normal(0.5, 1.0, 400)
    found = figure([parts(list(gains), [0.0] * 400)], difference)
    assert found is not None
    half = 1.96 * gains.std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


def test_blocks_are_drawn_too() -> None:
    steady = figure([parts([0.5] * 9, [0.0] * 9)] * 4, difference)
    differing = figure([parts([value] * 9, [0.0] * 9) for value in (0.0, 0.4, 0.6, 1.0)], difference)
    assert steady is not None
    assert differing is not None
    assert steady.high - steady.low < 1e-9 < differing.high - differing.low


def test_what_cannot_be_divided_has_no_figure() -> None:
    assert figure([parts([1], [0])], ratio) is None


# --------------------------------------------------------------------------- the test


def shares(table: Floats) -> dict[tuple[str, int], float]:
    """Of a table of arms and blocks, whose blocks have a mean of 1 each."""
    scaled = table / table.mean(axis=0)
    return {(f"arm-{arm}", block): float(scaled[arm, block]) for arm in range(len(table)) for block in range(4)}


def test_the_test_of_two_arms_is_the_paired_one() -> None:
    chance = np.random.default_rng(2)
    found = shares(chance.normal(1.0, 0.1, (2, 4)))
    contrast = Layout(found).contrast("arm-0", "arm-1")
    assert contrast is not None
    expected = stats.ttest_rel(
        [found["arm-0", block] for block in range(4)],
        [found["arm-1", block] for block in range(4)],
        alternative="greater",
    )
    assert contrast.p_above() == pytest.approx(float(expected.pvalue))
    assert contrast.p_below() == pytest.approx(1 - float(expected.pvalue))
    assert contrast.freedom == 3


def test_the_noise_is_taken_from_all_arms() -> None:
    chance = np.random.default_rng(3)
    table = chance.normal(1.0, 0.1, (6, 4))
    # two arms that hardly differ from block to block
    table[5] = table[0] + 0.001 * np.arange(4)
    contrast = Layout(shares(table)).contrast("arm-0", "arm-5")
    scaled = table / table.mean(axis=0)
    left = scaled - scaled.mean(axis=1, keepdims=True)
    assert contrast is not None
    assert (contrast.freedom, contrast.blocks) == (15, 4)
    assert contrast.error == pytest.approx(math.sqrt(2 / 4 * float((left**2).sum()) / 15))


def test_an_arm_that_differs_from_its_peer_by_more_chance_has_its_own_error() -> None:
    chance = np.random.default_rng(3)
    table = 1 + chance.normal(0, 0.01, (6, 4))
    table[5] = 1 + chance.normal(0, 0.3, 4)
    found = shares(table)
    contrast = Layout(found).contrast("arm-5", "arm-0")
    ours, peer = ([found[arm, block] for block in range(4)] for arm in ("arm-5", "arm-0"))
    expected = stats.ttest_rel(ours, peer)
    assert contrast is not None
    assert contrast.freedom == 3
    assert 2 * min(contrast.p_above(), contrast.p_below()) == pytest.approx(float(expected.pvalue))


def test_what_is_detectable_is_found_in_four_of_five_benches() -> None:
    one = Contrast(difference=0.0, error=0.1, freedom=12, blocks=4)
    chance = np.random.default_rng(6)
    # of what is really so large, as benches find it
    estimates = one.detectable(SIGNIFICANT) + 0.1 * chance.standard_normal(4000)
    errors = 0.1 * np.sqrt(chance.chisquare(12, 4000) / 12)
    found = stats.t.sf(estimates / errors, 12) <= SIGNIFICANT
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_cells_may_be_missing() -> None:
    chance = np.random.default_rng(4)
    found = shares(chance.normal(1.0, 0.05, (5, 4)))
    del found["arm-2", 1], found["arm-3", 0]
    contrast = Layout(found).contrast("arm-2", "arm-0")
    assert contrast is not None
    assert contrast.freedom == 10


def test_nothing_is_told_of_what_was_not_run() -> None:
    assert Layout({}).contrast("arm-0", "arm-1") is None
    alone = Layout({("arm-0", 1): 1.0, ("arm-1", 1): 2.0}).contrast("arm-0", "arm-1")
    assert alone is not None
    assert (alone.p_above(), alone.p_below()) == (1.0, 1.0)


def test_equal_arms_are_found_different_as_rarely_as_promised() -> None:
    chance = np.random.default_rng(5)
    false = sum(
        contrast.p_above() <= SIGNIFICANT
        for _ in range(1000)
        if (contrast := Layout(shares(1 + chance.normal(0, 0.1, (8, 4)))).contrast("arm-1", "arm-0")) is not None
    )
    assert false <= 75


def test_arms_that_do_the_very_same_are_not_told_apart() -> None:
    same = Layout({(f"arm-{arm}", block): 0.1 * (block + 1) for arm in range(5) for block in range(4)})
    contrast = same.contrast("arm-1", "arm-0")
    assert contrast is not None
    assert (contrast.p_above(), contrast.p_below()) == (1.0, 1.0)


@given(st.dictionaries(st.integers(), st.floats(0, 1), min_size=1, max_size=12))
def test_holms_rule_never_makes_anything_more_certain(p_values: dict[int, float]) -> None:
    found = adjusted(p_values)
    assert all(p_values[name] <= found[name] <= 1 for name in p_values)
    smallest = min(p_values.values())
    assert min(found.values()) == pytest.approx(min(1.0, len(p_values) * smallest))
    ordered = sorted(p_values, key=lambda name: (p_values[name], found[name]))
    assert [found[name] for name in ordered] == sorted(found.values())


def test_holms_rule_by_hand() -> None:
    assert adjusted({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


# --------------------------------------------------------------------------- the rule


def contrast(of: float, error: float = SURE, blocks: int = FEWEST_BLOCKS) -> Contrast:
    return Contrast(difference=of, error=error, freedom=30, blocks=blocks)


def evidence(
    learned: float,
    score: float = 0.0,
    *,
    error: float = SURE,
    cost: float = 1.0,
    added_s: float = 0.0,
    forgotten: float = 0.0,
) -> Evidence:
    return Evidence(
        learned=contrast(learned, error),
        score=contrast(score, error),
        forgotten=contrast(forgotten),
        cost=cost,
        added_s=added_s,
    )


def decided(one: Evidence) -> Default:
    return decide({"it": one})["it"].default


def test_what_helps_is_on_whatever_it_costs() -> None:
    assert decided(evidence(0.2, cost=3.0)) is Default.HELPS
    assert decided(evidence(0.0, 0.2, cost=3.0)) is Default.HELPS


def test_what_helps_one_figure_and_harms_the_other_is_off() -> None:
    assert decided(evidence(0.2, -0.1)) is Default.OFF
    assert decided(evidence(-0.1, 0.2)) is Default.OFF


def test_what_makes_a_model_forget_less_helps_where_it_teaches_as_much() -> None:
    assert decided(evidence(0.0, forgotten=-0.5, cost=3.0)) is Default.HELPS
    assert decided(evidence(-0.2, forgotten=-0.5)) is Default.OFF
    assert decided(evidence(0.0, error=MARGIN, forgotten=-0.5)) is Default.OFF


def test_what_does_no_harm_is_on_only_where_it_costs_nothing() -> None:
    assert decided(evidence(0.0)) is Default.FREE
    assert decided(evidence(0.0, cost=1.2)) is Default.OFF
    assert decided(evidence(0.0, added_s=FREE_S)) is Default.FREE
    assert decided(evidence(0.0, added_s=FREE_S + 1)) is Default.OFF


def test_what_is_too_noisy_to_tell_is_off() -> None:
    assert decided(evidence(0.2, 0.2, error=NOT_SURE)) is Default.OFF
    assert decided(evidence(0.0, error=MARGIN)) is Default.OFF


def test_what_harms_is_off() -> None:
    assert decided(evidence(-0.2, -0.2)) is Default.OFF


def test_what_makes_a_model_forget_is_off() -> None:
    assert decided(evidence(0.2, forgotten=0.5)) is Default.OFF
    assert decided(evidence(0.2, forgotten=-0.5)) is Default.HELPS


def test_the_more_are_tried_the_more_each_has_to_show() -> None:
    lucky = evidence(0.025, cost=2.0)
    assert decided(lucky) is Default.HELPS
    many = {f"other-{number}": evidence(0.0, cost=2.0) for number in range(14)}
    assert decide({"lucky": lucky, **many})["lucky"].default is Default.OFF


def test_nothing_is_decided_of_fewer_blocks_and_they_make_nothing_harder_for_the_others() -> None:
    few = dataclasses.replace(evidence(5.0), learned=contrast(5.0, blocks=FEWEST_BLOCKS - 1))
    assert decided(few) is Default.OFF
    lucky = evidence(0.025, cost=2.0)
    found = decide({"lucky": lucky, **{f"few-{number}": few for number in range(14)}})
    assert found["lucky"].default is Default.HELPS
    assert "too few" in found["few-0"].reason
