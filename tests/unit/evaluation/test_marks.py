"""What a sitting says of a model."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.evaluation.marks import marks_of, percentile
from nightschool_hookspecs.records import ExamAnswer, Sitting


def answer(score: float, *, latency_s: float = 1.0, tokens: int = 10, failed: bool = False) -> ExamAnswer:
    return ExamAnswer(
        item_id="1",
        sitting=Sitting.CANDIDATE,
        model="m",
        text="",
        score=score,
        detail="",
        failed=failed,
        latency_s=latency_s,
        tokens=tokens,
        done_reason=None,
    )


def test_failed_answers_count_as_nought_and_have_no_speed() -> None:
    marks = marks_of([answer(100, latency_s=2), answer(80, latency_s=4), answer(0, failed=True, latency_s=0, tokens=0)])
    assert marks.score == 60
    assert marks.success_rate == pytest.approx(2 / 3)
    assert (marks.answers, marks.failed) == (3, 1)
    assert (marks.latency_mean_s, marks.latency_median_s, marks.latency_p95_s) == (3, 3, 4)
    assert marks.tokens_per_s == pytest.approx(20 / 6)


def test_seventy_is_no_success_yet() -> None:
    assert marks_of([answer(70)]).success_rate == 0
    assert marks_of([answer(70.5)]).success_rate == 1


def test_of_no_answers_nothing_is_said() -> None:
    marks = marks_of([])
    assert not any(math.isnan(one) for one in (marks.score, marks.latency_p95_s, marks.tokens_per_s))
    assert marks.answers == 0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_percentile_is_numpys_of_the_nearest_rank(values: list[float], share: float) -> None:
    assert percentile(values, share) == np.quantile(values, share, method="inverted_cdf")
