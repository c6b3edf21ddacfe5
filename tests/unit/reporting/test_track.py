"""The track record: levels, change of feedback, drift of prompts. Statistics against scipy and against chance."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nightschool_daemon.evaluation.similarity import no_embeddings
from nightschool_daemon.reporting.records import IncomingPrompts, TrackMaterial
from nightschool_daemon.reporting.track import (
    RESAMPLES,
    Levels,
    change_point,
    distances_of,
    drift_of,
    energy_test,
    track_of,
    trend_of,
)
from nightschool_hookspecs.records import Specialty
from nightschool_hookspecs.testing import FakeEmbed
from support.seasons import BASE, START, night, said

CHANCE = 0.001
"""A calibration test fails by chance as often; its seeds are fixed."""
SEEDS = range(300)
gains = st.lists(st.floats(-60, 60), min_size=1, max_size=12)


# --------------------------------------------------------------------------- levels


@given(gains, st.floats(0, 100))
def test_a_chain_of_promotions_adds_its_gains_to_the_base(found: list[float], base: float) -> None:
    exams = [
        night(number, gain, incumbent=f"v{number - 1}" if number else BASE, mean=base if not number else 70)
        for number, gain in enumerate(found)
    ]
    levels = Levels.of(exams)
    assert levels.base == pytest.approx(base)
    assert levels.known[exams[-1].version].points == pytest.approx(base + math.fsum(found))
    widths = [levels.known[one.version].high - levels.known[one.version].low for one in exams]
    assert widths == pytest.approx([10 * math.sqrt(number) for number in range(1, len(exams) + 1)])


def test_the_base_stands_at_its_mean_over_all_questions_that_it_was_asked() -> None:
    levels = Levels.of([night(1, 3, mean=40, questions=10), night(2, -1, mean=70, questions=20)])
    assert levels.base == pytest.approx(60)
    assert levels.known["v1"].points == pytest.approx(63)


def test_hard_questions_of_a_later_night_do_not_lower_what_is_in_use() -> None:
    found = [night(1, 20, mean=50, promoted=True), night(2, 5, incumbent="v1", mean=30)]
    levels = Levels.of(found)
    assert levels.tracked(found[1]).incumbent_level == pytest.approx(70)
    assert levels.tracked(found[1]).level.points == pytest.approx(75)


def test_the_best_was_promoted_and_not_taken_back() -> None:
    exams = [
        night(1, 10, promoted=True),
        night(2, 30, promoted=True, taken_back=True, incumbent="v1"),
        night(3, 40, incumbent="v1"),
        night(4, -5, promoted=True, incumbent="v1"),
    ]
    assert Levels.of(exams).best(exams) == "v1"
    assert Levels.of(exams[1:2]).best(exams[1:2]) is None
    assert Levels.of([]).best([]) is None


def test_an_incumbent_from_before_the_record_stands_where_it_was_seen() -> None:
    (exam,) = exams = [night(8, 4, incumbent="v7", mean=66, promoted=True)]
    levels = Levels.of(exams)
    assert levels.tracked(exam).incumbent_level == 66
    assert levels.best(exams) == "v8"


# --------------------------------------------------------------------------- trend


def test_p_values_without_a_change_are_uniform() -> None:
    found = [change_point(np.random.default_rng(seed).normal(size=60).tolist(), seed)[1] for seed in SEEDS]
    assert stats.kstest(found, "uniform").pvalue > CHANCE


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_thumbs_alone_raise_no_more_false_alarms_than_promised(share: float) -> None:
    found = [
        change_point((np.random.default_rng(seed).random(40) < share).astype(float).tolist(), seed) for seed in SEEDS
    ]
    for level in (0.01, 0.05, 0.2):
        alarms = sum(p_value <= level for _, p_value in found)
        assert stats.binomtest(alarms, len(SEEDS), level, alternative="greater").pvalue > CHANCE


def test_a_real_change_is_seen_and_where_it_was() -> None:
    seen, places = 0, []
    for seed in range(60):
        random = np.random.default_rng(seed).random(120)
        at, p_value = change_point([float(one < (0.5 if i < 70 else 0.15)) for i, one in enumerate(random)], seed)
        seen += p_value < 0.05
        places.append(at)
    assert seen >= 50
    assert abs(float(np.median(places)) - 70) <= 3


@given(st.lists(st.booleans(), min_size=20, max_size=60), st.integers(0, 5))
@settings(max_examples=30)
def test_a_change_divides_the_feedback_at_its_first_answer(negative: list[bool], seed: int) -> None:
    trend = trend_of(said(negative), seed)
    if len(set(negative)) == 1:
        assert trend is None
        return
    assert trend is not None
    at = next(number for number, one in enumerate(said(negative)) if one.at == trend.changed_at)
    assert 0 < at < len(negative)
    assert trend.before == pytest.approx(sum(negative[:at]) / at)
    assert trend.after == pytest.approx(sum(negative[at:]) / (len(negative) - at))
    assert 1 / (RESAMPLES + 1) <= trend.p_value <= 1
    # praise and blame exchanged are the same change
    mirrored = trend_of(said([not one for one in negative]), seed)
    assert mirrored is not None
    assert mirrored.changed_at == trend.changed_at
    assert mirrored.p_value == pytest.approx(trend.p_value)


def test_of_two_places_that_are_as_likely_the_first_is_told_of_praise_and_of_blame() -> None:
    """Rounding of sums must not decide: here it did."""
    blame = [one == "1" for one in "101000110100100000001100000011"]
    praise = [not one for one in blame]
    assert change_point(blame, 0)[0] == change_point(praise, 0)[0]


def test_of_too_little_feedback_nothing_is_told() -> None:
    assert trend_of(said([True, False] * 9), 1) is None


# --------------------------------------------------------------------------- drift


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.lists(st.floats(-100, 100), min_size=2, max_size=12))
@settings(max_examples=50)
def test_energy_distance_is_the_square_of_scipys(left: list[float], right: list[float]) -> None:
    distances = distances_of(np.array([*left, *right])[:, None])
    distance, p_value = energy_test(distances, len(left), 1)
    assert distance == pytest.approx(stats.energy_distance(left, right) ** 2, abs=1e-6)
    assert 0 < p_value <= 1


def test_p_values_without_drift_are_uniform() -> None:
    found = []
    for seed in SEEDS:
        distances = distances_of(np.random.default_rng(seed).normal(size=(60, 5)))
        found.append(energy_test(distances, 20, seed)[1])
    assert stats.kstest(found, "uniform").pvalue > CHANCE


def test_prompts_of_another_kind_are_seen() -> None:
    seen = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        moved = np.concatenate([random.normal(size=(20, 5)) + 0.6, random.normal(size=(60, 5))])
        seen += energy_test(distances_of(moved), 20, seed)[1] < 0.05
    assert seen >= 34


def test_drift_names_the_prompts_that_are_new_in_kind() -> None:
    earlier = tuple(f"list the files of guest {number}" for number in range(60))
    known = tuple(f"list the files of guest {number}" for number in range(60, 70))
    strange = tuple(f"join both tables by column {number}" for number in range(10))
    drift = drift_of(IncomingPrompts(recent=(*known, *strange), earlier=earlier), FakeEmbed(), 1)
    assert drift is not None
    assert drift.p_value < 0.01
    assert all("tables" in one for one in drift.examples)
    assert (drift.recent, drift.earlier) == (20, 60)


def test_without_prompts_or_a_model_no_drift_is_told() -> None:
    enough = tuple(f"list {number} files" for number in range(30))
    assert drift_of(IncomingPrompts(recent=enough, earlier=enough), no_embeddings, 1) is None
    assert drift_of(IncomingPrompts(recent=enough[:19], earlier=enough), no_embeddings, 1) is None


# --------------------------------------------------------------------------- the whole


def test_a_specialty_without_a_past_has_an_empty_record() -> None:
    specialty = Specialty(base="tiny:1b", artifact_type="shell")
    nothing = TrackMaterial(specialty=specialty, exams=(), said=(), prompts=IncomingPrompts())
    track = track_of(nothing, no_embeddings, 1)
    assert (track.base_level, track.exams, track.best, track.trend, track.drift) == (None, (), None, None, None)


def test_the_record_is_the_same_every_time() -> None:
    specialty = Specialty(base="tiny:1b", artifact_type="shell")
    exams = tuple(night(number, 3.0 * number) for number in range(4))
    feedback = said([number % 3 == 0 for number in range(50)])
    material = TrackMaterial(specialty=specialty, exams=exams, said=feedback, prompts=IncomingPrompts())
    assert track_of(material, no_embeddings, 5) == track_of(material, no_embeddings, 5)
    assert track_of(material, no_embeddings, 5).exams[0].exam.at == START
