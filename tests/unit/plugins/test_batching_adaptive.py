"""The adaptive batch: by hand, within its bounds, and no clamp that undoes its factors."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import BatchStatistics, Specialty
from nightschool_hookspecs.testing import check_plugin
from nightschool_plugins import batching_adaptive
from nightschool_plugins.batching_adaptive import BatchingAdaptive

SPECIALTY = Specialty(base="tiny:latest", artifact_type="erd")
GROWN, YOUNG = 100, 99
LARGEST, OLD_CLAMP = 100, 20


def size(available: int, *, corrections: int = 0, quality: float = 0.5, seen: int = GROWN) -> int:
    statistics = BatchStatistics(
        available=available, corrections=corrections, average_quality=quality, total_seen=seen, batches_made=0
    )
    return BatchingAdaptive().nightschool_choose_batch_size(SPECIALTY, statistics)


def test_it_keeps_the_contract() -> None:
    check_plugin(batching_adaptive)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (0, 0),
        (11, 0),
        (12, 12),
        (19, 19),
        (20, 20),
        (49, 20),
        (50, 50),
        (99, 50),
        (100, 75),
        (10_000, 75),
    ],
)
def test_the_steps(available: int, expected: int) -> None:
    assert size(available) == expected


@pytest.mark.parametrize(
    ("available", "corrections", "expected"), [(7, 7, 0), (8, 8, 8), (8, 5, 8), (8, 4, 0), (11, 5, 0), (12, 6, 12)]
)
def test_fewer_are_enough_where_most_are_corrections(available: int, corrections: int, expected: int) -> None:
    assert size(available, corrections=corrections) == expected


@pytest.mark.parametrize(
    ("available", "quality", "seen", "expected"),
    [
        (50, 0.59, GROWN, 50),
        (50, 0.6, GROWN, 35),
        (50, 0.5, YOUNG, 30),
        (50, 0.6, YOUNG, 21),
        (99, 1.0, YOUNG, 21),
        (100, 0.6, GROWN, 52),
        (100, 0.5, YOUNG, 45),
        (100, 0.6, YOUNG, 31),
        (40, 0.6, GROWN, 14),
        (12, 0.6, YOUNG, 12),
        (19, 0.6, GROWN, 13),
        (19, 0.5, YOUNG, 12),
    ],
)
def test_good_feedback_and_a_young_specialty_make_a_batch_smaller(
    available: int, quality: float, seen: int, expected: int
) -> None:
    assert size(available, quality=quality, seen=seen) == expected


@pytest.mark.parametrize(("corrections", "expected"), [(30, 8), (0, 12)])
def test_no_clamp_at_twenty_undoes_the_factors(corrections: int, expected: int) -> None:
    """20 * 0.7 * 0.6 = 8.4; the old formula made it 20 again, so that rare artifacts never trained sooner."""
    assert size(30, corrections=corrections, quality=0.8, seen=30) == expected


@given(st.integers(20, 49), st.floats(0.6, 1), st.integers(0, 99), st.booleans())
def test_a_young_specialty_never_waits_for_the_old_clamp(
    available: int, quality: float, seen: int, is_corrected: bool
) -> None:
    corrections = available if is_corrected else 0
    assert size(available, corrections=corrections, quality=quality, seen=seen) < OLD_CLAMP


@given(st.data(), st.integers(0, 10_000), st.floats(), st.integers(0, 10_000))
def test_a_batch_lies_within_its_bounds(data: st.DataObject, available: int, quality: float, seen: int) -> None:
    corrections = data.draw(st.integers(0, available))
    floor = 8 if corrections > available / 2 else 12
    found = size(available, corrections=corrections, quality=quality, seen=seen)
    if available < floor:
        assert found == 0
    else:
        assert floor <= found <= min(available, LARGEST)


@given(st.integers(0, 10_000), st.floats(0, 1), st.integers(0, 10_000))
def test_good_feedback_and_youth_never_make_a_batch_larger(available: int, quality: float, seen: int) -> None:
    assert size(available, quality=quality, seen=seen) <= size(available)


def test_a_batch_is_bounded_whatever_the_sizes() -> None:
    statistics = BatchStatistics(available=500, corrections=0, average_quality=0.5, total_seen=500, batches_made=0)
    plugin = BatchingAdaptive(steps=(10,), sizes=(400,))
    assert plugin.nightschool_choose_batch_size(SPECIALTY, statistics) == LARGEST


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"floor": 0}, "floor"),
        ({"floor_with_corrections": 0}, "floor_with_corrections"),
        ({"largest": 11}, "largest"),
        ({"steps": (50, 20, 100)}, "steps"),
        ({"steps": (0, 50, 100)}, "steps"),
        ({"sizes": (20, 50)}, "sizes"),
        ({"sizes": (0, 50, 75)}, "sizes"),
        ({"good_quality": 60.0}, "good_quality"),
        ({"good_factor": 0.0}, "good_factor"),
        ({"young_factor": 1.1}, "young_factor"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BatchingAdaptive(**settings)
