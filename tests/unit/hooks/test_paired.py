"""What guards compare by, beside scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nightschool_hookspecs.paired import compare_abilities, sign_test


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_scipys(more: int, others: int) -> None:
    assert sign_test(more, more + others) == pytest.approx(stats.binom.sf(more - 1, more + others, 0.5))


def test_nothing_that_differs_is_no_evidence() -> None:
    assert sign_test(0, 0) == 1.0


@pytest.mark.parametrize(
    ("lost", "gained", "tolerated", "held"),
    [
        (5, 0, 0.0, False),
        (4, 0, 0.0, True),
        (10, 3, 8.0, True),
        (10, 3, 6.0, False),
        (10, 10, 0.0, True),
        (5, 0, 5.0, True),
    ],
)
def test_losses_count_beyond_gains_beyond_what_is_tolerated_and_beyond_chance(
    lost: int, gained: int, tolerated: float, *, held: bool
) -> None:
    pairs = [(True, False)] * lost + [(False, True)] * gained + [(True, True), (False, False)] * 5
    found = compare_abilities(pairs, tolerated=tolerated, level=0.05)
    assert (found.lost, found.gained, found.held) == (lost, gained, held)
