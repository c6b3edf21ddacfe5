"""What is told of two models that were compared."""

from dataclasses import replace

from nightschool_daemon.comparisons import AnswerPair, Asked, Comparison, Marks
from nightschool_daemon.display import answer_rows, comparison_notes, comparison_result, comparison_rows
from nightschool_hookspecs.records import Outcome, Verdict

MARKS = Marks(
    score=50.0,
    success_rate=0.5,
    answers=2,
    failed=0,
    latency_mean_s=1.0,
    latency_median_s=1.0,
    latency_p95_s=1.0,
    tokens_per_s=10.0,
)
VERDICT = Verdict(
    outcome=Outcome.PROVEN,
    incumbent_mean=40.0,
    candidate_mean=60.0,
    gain=20.0,
    interval=(10.0, 30.0),
    p_value=0.01,
    noise=0.0,
    items=2,
    items_needed=None,
    guards=(),
    reason="The candidate is better.",
)
PAIR = AnswerPair(prompt="greet", wanted=None, first="5", first_score=None, second="hello", second_score=None)
SIDE_BY_SIDE = Comparison(
    first="one:1b",
    second="two:1b",
    what=Asked.PROMPTS,
    prompts=2,
    asked=2,
    pairs=0,
    first_marks=MARKS,
    second_marks=MARKS,
    verdict=None,
    is_relative=False,
    not_ranked="",
    answers=(PAIR,),
)
EXAM = replace(SIDE_BY_SIDE, what=Asked.HELD_OUT, verdict=VERDICT)


def measures(found: Comparison) -> list[str]:
    return [row[0] for row in comparison_rows(found)]


def test_without_a_verdict_nothing_is_scored() -> None:
    assert measures(SIDE_BY_SIDE) == ["failed", "seconds, median", "seconds, 95 % below", "tokens a second"]
    assert answer_rows(SIDE_BY_SIDE, PAIR) == [("one:1b", "5"), ("two:1b", "hello")]
    assert "There is no verdict" in comparison_result(SIDE_BY_SIDE)


def test_an_exam_tells_scores_and_gain() -> None:
    assert {"score (0 to 100)", "gain"} <= set(measures(EXAM))
    assert comparison_result(EXAM) == "two:1b takes the candidate's part. The candidate is better."


def test_scores_beside_the_other_are_called_so() -> None:
    assert measures(replace(EXAM, is_relative=True))[0] == "score beside the other (0 to 100)"


def test_where_pairs_alone_were_ranked_nobody_has_a_score() -> None:
    found = measures(replace(EXAM, asked=0, pairs=3))
    assert "pairs of answers ranked" in found
    assert "score (0 to 100)" not in found


def test_it_is_told_what_was_asked_of_a_young_specialty_and_what_was_not_ranked() -> None:
    assert comparison_notes(EXAM) == []
    (asked,) = comparison_notes(replace(EXAM, what=Asked.UNLEARNED))
    assert "what neither model has learned is asked" in asked
    assert comparison_notes(replace(EXAM, not_ranked="3 pairs were not ranked.")) == ["3 pairs were not ranked."]
