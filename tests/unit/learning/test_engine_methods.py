"""The losses are those of the papers, written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.learning.engine import methods

FINITE = st.floats(-30, 30)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@given(chosen=FINITE, rejected=FINITE, base_chosen=FINITE, base_rejected=FINITE, margin=st.floats(0, 1))
def test_dpo_is_a_logistic_loss_of_the_implicit_rewards_less_the_margin(
    chosen: float, rejected: float, base_chosen: float, base_rejected: float, margin: float
) -> None:
    scores = methods.PairScores(
        chosen=one(chosen),
        rejected=one(rejected),
        reference_chosen=one(base_chosen),
        reference_rejected=one(base_rejected),
    )
    reward = 0.1 * (chosen - base_chosen) - 0.1 * (rejected - base_rejected)
    expected = math.log(1 + math.exp(-(reward - margin)))
    assert float(methods.dpo_losses(scores, one(margin), 0.1)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(policy=FINITE, base=FINITE, divergence=st.floats(0, 5), liked=st.booleans())
def test_kto_is_the_lost_share_of_a_value_that_levels_off(
    policy: float, base: float, divergence: float, liked: bool
) -> None:
    gained = 0.1 * (policy - base - divergence)
    expected = 1 - sigmoid(gained if liked else -gained)
    found = methods.kto_losses(one(policy), one(base), torch.tensor([liked]), divergence, 0.1)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(liked=st.integers(0, 50), disliked=st.integers(0, 50))
def test_liked_and_disliked_answers_count_alike(liked: int, disliked: int) -> None:
    of_liked, of_disliked = methods.kto_weights(liked, disliked)
    if liked and disliked:
        assert of_liked * liked == pytest.approx(of_disliked * disliked)
    rarer, other = (of_liked, of_disliked) if liked <= disliked else (of_disliked, of_liked)
    assert rarer == 1 >= other > 0


def test_sft_is_the_weighted_sum_over_answer_tokens() -> None:
    values, weights = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([1.0, 1.0, 0.5])
    assert float(methods.sft_loss(values, weights)) == pytest.approx(1 + 2 + 2)
