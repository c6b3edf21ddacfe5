"""Corrections until the first promotion: what the table makes of the seasons."""

import math

from benchmarks.first_promotion import Result, rows_of


def ended(corrections: int, *, promoted: bool = True, base: float = 2.0, score: float = 16.0) -> Result:
    return Result(
        code="a",
        corrections=corrections,
        promoted=promoted,
        recipe="training" if promoted else "",
        days=5,
        minutes=1.0,
        base_score=base if promoted else None,
        score=score if promoted else None,
        interval=None,
        runs=(),
    )


def test_the_median_of_the_seeds_counts_and_the_worst_of_what_was_promoted() -> None:
    taken, worst = rows_of(20, [ended(14), ended(17, base=3.0, score=1.0), ended(40)])
    assert (taken["ours"], taken["holds"]) == (17, True)
    assert (worst["ours"], worst["peer"], worst["holds"]) == (1.0, 3.0, False)


def test_a_season_without_a_promotion_took_more_corrections_than_any() -> None:
    taken, *worst = rows_of(20, [ended(40, promoted=False), ended(40, promoted=False), ended(14)])
    assert (taken["ours"], taken["ratio"], taken["holds"]) == (math.inf, 0.0, False)
    assert len(worst) == 1
