"""The bench of selection: of near-duplicates the first stays."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.selection import keep_first


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.tuples(
    st.integers(0, count - 1), st.integers(0, count - 1))))))  # fmt: skip
def test_what_goes_has_an_earlier_one_that_stays(given_pairs: tuple[int, set[tuple[int, int]]]) -> None:
    count, drawn = given_pairs
    wanted = sorted((low, high) for low, high in drawn if low < high)
    kept = keep_first(np.array(wanted, dtype=np.int64).reshape(-1, 2), count)
    for text in range(count):
        assert kept[text] == (not any(kept[low] for low, high in wanted if high == text))
