"""Which of several scored answers stands over which."""

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs.pairing import PairingSettings

SCORES = st.lists(st.floats(0, 100), max_size=12)
GAPS = st.floats(0, 100)


def numbered(scores: list[float]) -> list[tuple[float, int]]:
    return [(score, number) for number, score in enumerate(scores)]


@given(SCORES, GAPS, st.integers(1, 4))
def test_every_pair_is_more_than_the_gap_apart_with_the_gap_as_its_margin(
    scores: list[float], gap: float, most: int
) -> None:
    settings = PairingSettings(smallest_gap=gap, most_worse=most)
    pairs = list(settings.pair_up(numbered(scores)))
    assert all(scores[better] - scores[worse] > gap for better, worse, _ in pairs)
    assert all(margin == (scores[better] - scores[worse]) / 100 for better, worse, margin in pairs)
    assert len({(better, worse) for better, worse, _ in pairs}) == len(pairs)
    assert max(Counter(better for better, _, _ in pairs).values(), default=0) <= most


@given(SCORES, GAPS)
def test_of_few_answers_every_pair_is_made(scores: list[float], gap: float) -> None:
    pairs = PairingSettings(smallest_gap=gap, most_worse=12).pair_up(numbered(scores))
    far = {(one, other) for one, other in permutations(range(len(scores)), 2) if scores[one] - scores[other] > gap}
    assert {(better, worse) for better, worse, _ in pairs} == far


@given(SCORES, GAPS)
def test_who_has_worse_ones_far_enough_below_stands_over_the_best_of_them(scores: list[float], gap: float) -> None:
    """That is the pair with the least margin: the hardest to learn."""
    margins: dict[int, float] = {}
    for better, _, margin in PairingSettings(smallest_gap=gap, most_worse=1).pair_up(numbered(scores)):
        margins[better] = margin
    for number, score in enumerate(scores):
        below = [score - other for other in scores if score - other > gap]
        assert margins.get(number) == (min(below) / 100 if below else None)


@pytest.mark.parametrize("wrong", [{"smallest_gap": -1.0}, {"smallest_gap": float("nan")}, {"most_worse": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PairingSettings(**wrong)  # type: ignore[arg-type]  # the point of the test
