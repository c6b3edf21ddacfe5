"""What guards compare by, beside scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nightschool_hookspecs.paired import sign_test


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_scipys(more: int, others: int) -> None:
    assert sign_test(more, more + others) == pytest.approx(stats.binom.sf(more - 1, more + others, 0.5))


def test_nothing_that_differs_is_no_evidence() -> None:
    assert sign_test(0, 0) == 1.0
