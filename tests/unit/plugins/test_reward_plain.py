"""The reward: finite, monotone, and a correction counts as the correction."""

import math
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Event, FeedbackType, Metadata, Peers, RewardScore
from nightschool_plugins.reward_plain import RewardPlain

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PEERS = Peers(count_of_type=1, mean_count=1.0)
scores = st.one_of(st.none(), st.floats(0, 100))
types = st.sampled_from(FeedbackType)


def event(kind: FeedbackType, score: float | None, corrected: str | None = None, weight: float = 1.0) -> Event:
    return Event(
        id="1",
        timestamp=NOW,
        feedback_type=kind,
        input_data="q",
        ai_output="a",
        corrected_output=corrected,
        validation_score=score,
        metadata=Metadata(weight=weight),
    )


def reward(one: Event) -> RewardScore:
    return RewardPlain().nightschool_score_reward(one, 0.5, PEERS, NOW)


@given(types, st.one_of(st.none(), st.floats()), st.one_of(st.none(), st.text()), st.floats())
def test_it_is_finite_for_any_input(
    kind: FeedbackType, score: float | None, corrected: str | None, weight: float
) -> None:
    found = reward(event(kind, score, corrected, weight))
    assert math.isfinite(found.priority)
    assert -1 <= found.reward <= 1


@given(types, st.floats(0, 100), st.floats(0, 100))
def test_it_rises_with_the_score(kind: FeedbackType, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert reward(event(kind, low)).priority <= reward(event(kind, high)).priority


def test_seventy_one_and_eighty_nine_differ() -> None:
    kind = FeedbackType.SUCCESS
    assert reward(event(kind, 71)).priority < reward(event(kind, 89)).priority


@given(types, scores)
def test_a_correction_counts_as_the_correction_whatever_its_type(kind: FeedbackType, score: float | None) -> None:
    plain = event(FeedbackType.USER_CORRECTION, None, "better")
    assert reward(event(kind, score, "better")) == reward(plain)


def test_a_correction_of_a_bad_answer_is_worth_more_than_a_mediocre_success() -> None:
    correction = event(FeedbackType.VALIDATION_FAILURE, 0, "better")
    assert reward(correction).priority > reward(event(FeedbackType.SUCCESS, 71)).priority


def test_a_larger_weight_makes_a_good_event_worth_more() -> None:
    light = event(FeedbackType.SUCCESS, 90)
    heavy = replace(light, metadata=Metadata(weight=2.0))
    assert reward(heavy).priority == 2 * reward(light).priority
