"""When the served network counts as the trained one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nightschool_daemon.jobs import Losses, VerifyResult
from nightschool_daemon.learning.verification import Table, judged

PAIRS = 101
GENERATOR = np.random.default_rng(0)
BASE = GENERATOR.standard_normal(PAIRS) - 4
CHANGE = GENERATOR.standard_normal(PAIRS)
HELD_OUT = Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=2.5)
NOISE = 0.05 * GENERATOR.standard_normal(PAIRS)


def judge(
    *,
    served: NDArray[np.float64] = CHANGE,
    trained: NDArray[np.float64] = CHANGE,
    noise: NDArray[np.float64] = NOISE,
    prompts_equal: bool = True,
) -> VerifyResult:
    """The verdict on a served and a trained change of log-probabilities. The engine differs from us by `noise`."""
    table = Table(
        base_engine=BASE + noise,
        base_own=BASE,
        candidate_engine=BASE + noise + served,
        candidate_own=BASE + trained,
    )
    return judged(table, positions=7, held_out=HELD_OUT, held_out_texts=5, prompts_equal=prompts_equal)


def test_the_same_change_passes_however_the_engine_rounds() -> None:
    result = judge()
    assert result.passed, result.reason
    assert result.disagreement == pytest.approx(0)
    assert result.live == pytest.approx(result.expected)
    assert (result.positions, result.pairs) == (7, PAIRS)
    assert (result.held_out, result.held_out_texts) == (HELD_OUT, 5)


def test_a_served_base_is_not_live() -> None:
    result = judge(served=np.zeros(PAIRS))
    assert not result.passed
    assert "does not show the lesson" in result.reason


def test_a_change_of_the_same_size_in_other_places_is_another_network() -> None:
    result = judge(served=CHANGE[::-1])
    assert not result.passed
    assert "not the trained one" in result.reason


def test_the_opposite_change_is_another_network() -> None:
    assert "not the trained one" in judge(served=-CHANGE).reason


def test_a_lesson_too_small_to_be_seen_is_told() -> None:
    result = judge(served=CHANGE * 1e-3, trained=CHANGE * 1e-3)
    assert not result.passed
    assert "too small to be seen" in result.reason


def test_nothing_compared_is_no_pass() -> None:
    empty = np.zeros(0)
    table = Table(base_engine=empty, base_own=empty, candidate_engine=empty, candidate_own=empty)
    result = judged(table, positions=7, held_out=HELD_OUT, held_out_texts=5, prompts_equal=True)
    assert not result.passed
    assert result.pairs == 0
    assert "nothing could be compared" in result.reason


def test_other_prompts_are_no_pass() -> None:
    result = judge(prompts_equal=False)
    assert not result.passed
    assert "other prompts" in result.reason


@pytest.mark.parametrize(("error", "passes"), [(1.9, True), (2.1, False)])
def test_the_bound_is_twice_the_engines_own_noise(error: float, passes: bool) -> None:
    noise = np.full(PAIRS, 0.05)
    assert judge(served=CHANGE + error * 0.05, noise=noise).passed is passes


@pytest.mark.parametrize(("error", "passes"), [(0.019, True), (0.021, False)])
def test_an_engine_without_noise_may_still_round(error: float, passes: bool) -> None:
    change = 0.2 * CHANGE
    assert judge(served=change + error, trained=change, noise=np.zeros(PAIRS)).passed is passes


@pytest.mark.parametrize(("share", "passes"), [(0.04, True), (0.06, False)])
def test_the_engine_rounds_more_of_a_larger_change(share: float, passes: bool) -> None:
    change = np.full(PAIRS, 9.0)
    assert judge(served=change * (1 - share), trained=change).passed is passes


@pytest.mark.parametrize(("share", "reason"), [(0.4, "does not show"), (0.6, "not the trained one")])
def test_half_a_lesson_is_not_the_lesson(share: float, reason: str) -> None:
    result = judge(served=CHANGE * share, noise=np.zeros(PAIRS))
    assert not result.passed
    assert reason in result.reason
