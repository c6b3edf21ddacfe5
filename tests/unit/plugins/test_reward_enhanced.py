"""The reward by age, difficulty and rarity: what the old formula got wrong, and what holds for any input."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Event, FeedbackType, Metadata, Peers, RewardScore
from nightschool_hookspecs.testing import check_plugin
from nightschool_plugins import reward_enhanced
from nightschool_plugins.reward_enhanced import RewardEnhanced

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ALONE = Peers(count_of_type=1, mean_count=1.0)
DECADE_S = 10 * 365 * 86_400

types = st.sampled_from(FeedbackType)
scores = st.floats(0, 100)
shares = st.floats(0, 1)
ages_s = st.integers(0, DECADE_S)
corrected_texts = st.one_of(st.none(), st.text())
counts = st.integers(-1, 2**63)
peers_of_any_kind = st.builds(
    Peers,
    count_of_type=counts,
    mean_count=st.floats(),
    count_of_group=counts,
    mean_count_of_group=st.floats(),
    difficulties=st.lists(st.floats()).map(tuple),
)


def event(
    kind: FeedbackType = FeedbackType.SUCCESS,
    score: float | None = 50.0,
    corrected: str | None = None,
    *,
    age_s: float = 0.0,
    weight: float = 1.0,
) -> Event:
    return Event(
        id="1",
        timestamp=NOW - timedelta(seconds=age_s),
        feedback_type=kind,
        input_data="q",
        artifact_type="shell",
        ai_output="a",
        corrected_output=corrected,
        validation_score=score,
        metadata=Metadata(weight=weight),
    )


def correction(score: float | None = None, *, age_s: float = 0.0) -> Event:
    return event(FeedbackType.USER_CORRECTION, score, "better", age_s=age_s)


def reward(
    one: Event, difficulty: float = 0.0, peers: Peers = ALONE, correction_score: float | None = None
) -> RewardScore:
    return RewardEnhanced().nightschool_score_reward(one, difficulty, peers, NOW, correction_score)


def balance(peers: Peers, difficulty: float = 0.0) -> float:
    """The factor by which these peers change a priority."""
    one = event(score=80.0)
    return reward(one, difficulty, peers).priority / reward(one, difficulty).priority


def days(number: float) -> float:
    """In seconds."""
    return number * 86_400


def test_it_keeps_the_contract() -> None:
    check_plugin(reward_enhanced)


@pytest.mark.parametrize(
    ("one", "difficulty", "priority"),
    [
        (event(score=50), 0.0, 0.3),
        (event(score=None), 0.0, 0.3),
        (event(score=100), 0.0, 1.061594),
        (event(score=0), 0.0, -0.461594),
        (event(FeedbackType.EXPLICIT_POSITIVE, 75), 1.0, 2.155293),
        (event(FeedbackType.VALIDATION_FAILURE, 0), 0.0, -1.261594),
        (event(FeedbackType.EXPLICIT_NEGATIVE, None), 0.5, -1.75),
        (event(score=50, age_s=days(1)), 0.0, 0.285),
        (event(score=50, age_s=days(10)), 0.0, 0.179621),
        (event(score=50, age_s=days(-10)), 0.0, 0.3),
        (event(score=50, weight=4), 0.0, 1.2),
        (event(score=50, weight=1000), 0.0, 3.0),
        (event(score=50, weight=-1), 0.0, 0.0),
        # what is no number says nothing: no score, a medium difficulty, an ordinary weight
        (event(score=math.nan), 0.0, 0.3),
        (event(score=50), math.nan, 0.525),
        (event(score=50, weight=math.nan), 0.0, 0.3),
        (correction(), 0.0, 1.261594),
        (correction(age_s=days(10)), 0.5, 1.321885),
        (correction(age_s=days(100)), 0.0, 0.252319),
    ],
)
def test_the_formula_by_hand(one: Event, difficulty: float, priority: float) -> None:
    found = reward(one, difficulty)
    assert found.priority == pytest.approx(priority, abs=1e-6)
    assert found.reward == pytest.approx(max(-1, min(1, priority)), abs=1e-6)


@pytest.mark.parametrize(
    ("peers", "factor"),
    [
        (Peers(count_of_type=4, mean_count=2.0), 0.707107),
        (Peers(count_of_type=1, mean_count=2.0), 1.414214),
        (Peers(count_of_type=100, mean_count=2.0), 0.5),
        (Peers(count_of_type=1, mean_count=100.0), 2.0),
        (replace(ALONE, count_of_group=3, mean_count_of_group=2.0), 0.816497),
        (replace(ALONE, count_of_group=1, mean_count_of_group=2.0), 1.414214),
        # a rare type of which this is said over and over
        (Peers(count_of_type=2, mean_count=4.0, count_of_group=2, mean_count_of_group=1.0), 1.0),
        (Peers(count_of_type=0, mean_count=0.0, mean_count_of_group=0.0), 1.0),
    ],
)
def test_what_is_common_weighs_less(peers: Peers, factor: float) -> None:
    assert balance(peers) == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize(
    ("difficulty", "factor"),
    # three easy events and one of medium difficulty: two a bin
    [(0.0, 0.816497), (0.29, 0.816497), (0.3, 1.414214), (0.5, 1.414214), (0.7, 1.414214), (1.0, 1.414214)],
)
def test_the_difficulty_that_is_common_weighs_less(difficulty: float, factor: float) -> None:
    peers = replace(ALONE, difficulties=(0.1, 0.1, 0.2, 0.5))
    assert balance(peers, difficulty) == pytest.approx(factor, abs=1e-6)


def test_a_minor_correction_of_prose_weighs_a_quarter() -> None:
    whole = replace(correction(), artifact_type="other", corrected_output="Quite another.")
    minor = replace(whole, corrected_output="A.")
    assert reward(minor).priority == pytest.approx(reward(whole).priority / 4)


def test_an_unknown_type_has_no_bonus() -> None:
    one = event(cast(FeedbackType, "shrug"), 100)
    assert reward(one).priority == pytest.approx(0.761594, abs=1e-6)


def test_an_event_whose_clock_was_wrong_counts_as_fresh() -> None:
    old = event(age_s=days(20_000))
    flagged = replace(old, metadata=Metadata(clock_flag=True))
    assert reward(old).priority < 1e-9
    assert reward(flagged) == reward(event())


# --------------------------------------------------------------------------- what the old formula got wrong


def test_good_events_stay_apart_where_the_clipped_reward_makes_them_equal() -> None:
    good, better = (reward(event(FeedbackType.EXPLICIT_POSITIVE, score), 0.5) for score in (90, 99))
    assert good.reward == better.reward == 1.0
    assert good.priority < better.priority


@given(types, st.one_of(st.none(), scores))
def test_a_correction_counts_as_the_correction_whatever_its_type_and_the_bad_answer(
    kind: FeedbackType, score: float | None
) -> None:
    """By the old formula the correction of an answer of score 0 was worth less than nothing."""
    assert reward(event(kind, score, "better")) == reward(correction())
    assert reward(event(kind, score, "better")).priority > reward(event(score=100)).priority


def test_inside_one_specialty_near_duplicates_are_balanced() -> None:
    """Of one type there are as many as the mean, so that the old balance was always 1."""
    one_type = Peers(count_of_type=12, mean_count=12.0, mean_count_of_group=4.0)
    assert balance(replace(one_type, count_of_group=10)) < 1 < balance(replace(one_type, count_of_group=1))


def test_inside_one_specialty_difficulties_are_balanced() -> None:
    one_type = Peers(count_of_type=12, mean_count=12.0, difficulties=(0.1,) * 11 + (0.9,))
    assert balance(one_type, 0.1) < 1 < balance(one_type, 0.9)


def test_a_correction_of_long_ago_is_not_forgotten_by_arithmetic() -> None:
    """0.95 to the power of 365 days is 7e-9."""
    assert reward(correction(age_s=days(365))).priority == pytest.approx(0.2 * reward(correction()).priority)
    assert reward(event(score=100, age_s=days(365))).priority < 1e-7


# --------------------------------------------------------------------------- for any input


def test_seventy_one_and_eighty_nine_differ() -> None:
    assert reward(event(score=71)).priority < reward(event(score=89)).priority


@given(types, scores, scores, shares, ages_s, peers_of_any_kind)
def test_it_rises_with_the_score(
    kind: FeedbackType, one: float, other: float, difficulty: float, age_s: int, peers: Peers
) -> None:
    low, high = (reward(event(kind, score, age_s=age_s), difficulty, peers) for score in sorted((one, other)))
    assert low.priority <= high.priority
    assert low.reward <= high.reward


@given(types, scores, corrected_texts, ages_s, ages_s)
def test_it_comes_nearer_to_nothing_with_age(
    kind: FeedbackType, score: float, corrected: str | None, one: int, other: int
) -> None:
    young, old = (reward(event(kind, score, corrected, age_s=age)).priority for age in sorted((one, other)))
    assert abs(old) <= abs(young)
    assert old * young >= 0


@given(scores, st.integers(0, 200), st.integers(1, 200))
def test_a_day_makes_what_is_no_correction_less(score: float, age: int, later: int) -> None:
    young, old = (
        reward(event(FeedbackType.EXPLICIT_NEGATIVE, score, age_s=days(number))).priority
        for number in (age, age + later)
    )
    assert abs(old) < abs(young)


@given(types, ages_s, shares)
def test_a_correction_keeps_a_fifth_of_its_fresh_weight(kind: FeedbackType, age_s: int, difficulty: float) -> None:
    fresh, aged = (reward(event(kind, 0, "better", age_s=age), difficulty).priority for age in (0, age_s))
    assert 0.2 * fresh <= aged * (1 + 1e-12)
    assert aged <= fresh


@given(peers_of_any_kind, shares)
def test_a_balance_lies_between_a_half_and_two(peers: Peers, difficulty: float) -> None:
    assert 0.5 - 1e-12 <= balance(peers, difficulty) <= 2 + 1e-12


@given(
    types,
    st.one_of(st.none(), st.floats()),
    corrected_texts,
    st.datetimes(timezones=st.just(UTC)),
    st.floats(),
    st.floats(),
    peers_of_any_kind,
)
def test_it_is_finite_for_any_input(
    kind: FeedbackType,
    score: float | None,
    corrected: str | None,
    timestamp: datetime,
    weight: float,
    difficulty: float,
    peers: Peers,
) -> None:
    one = replace(event(kind, score, corrected, weight=weight), timestamp=timestamp)
    found = reward(one, difficulty, peers)
    assert math.isfinite(found.priority)
    assert -1 <= found.reward <= 1


@pytest.mark.parametrize(("score", "priority"), [(None, 1.261594), (100.0, 1.261594), (50.0, 0.5), (0.0, -0.261594)])
def test_a_correction_counts_as_its_validator_says(score: float | None, priority: float) -> None:
    assert reward(correction(), correction_score=score).priority == pytest.approx(priority, abs=1e-6)


# --------------------------------------------------------------------------- settings


def test_the_numbers_are_settings() -> None:
    plugin = RewardEnhanced(
        success=1.0, middle_score=0.0, score_scale=100.0, daily_decay=1.0, difficulty_weight=0.0, largest_balance=1.0
    )
    found = plugin.nightschool_score_reward(
        event(score=100, age_s=days(9)), 1.0, Peers(count_of_type=1, mean_count=9.0), NOW, None
    )
    assert found.priority == pytest.approx(1.761594, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"success": math.nan}, "finite"),
        ({"explicit_negative": -math.inf}, "finite"),
        ({"correction_score": 100.5}, "correction_score"),
        ({"middle_score": -1.0}, "middle_score"),
        ({"score_scale": 0.0}, "score_scale"),
        ({"largest_weight": math.inf}, "largest_weight"),
        ({"minor_correction": 1.5}, "minor_correction"),
        ({"correction_floor": -0.1}, "correction_floor"),
        ({"daily_decay": 0.0}, "daily_decay"),
        ({"daily_decay": 1.01}, "daily_decay"),
        ({"difficulty_weight": -1.0}, "difficulty_weight"),
        ({"harder_from": (0.7, 0.3)}, "harder_from"),
        ({"harder_from": (0.3, 1.0)}, "harder_from"),
        ({"lowest_balance": 0.0}, "lowest_balance"),
        ({"largest_balance": 0.9}, "largest_balance"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RewardEnhanced(**settings)
