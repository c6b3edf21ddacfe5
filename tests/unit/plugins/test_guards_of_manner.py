"""Guards of how answers come: in circles, or slowly."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Exam, ExamAnswer, ExamItem, GuardResult, ItemRole, Sitting, Specialty
from nightschool_plugins.guard_repetition import GuardRepetition
from nightschool_plugins.guard_speed import GuardSpeed

CIRCLE = "and so on and so on and so on and so on and so on"
PLAIN = "find the five largest files below the folder and print the size of each of them"


def exam(sittings: Mapping[Sitting, Sequence[tuple[str, float, int]]], *, failed: bool = False) -> Exam:
    """What each sitting said to each item: text, seconds, tokens."""
    count = len(sittings[Sitting.CANDIDATE])
    items = tuple(
        ExamItem(id=str(number), event_id=str(number), artifact_type="x", role=ItemRole.GAIN, messages=())
        for number in range(count)
    )
    answers = tuple(
        ExamAnswer(
            item_id=str(number),
            sitting=sitting,
            model="m",
            text=text,
            score=50.0,
            detail="",
            failed=failed and sitting is Sitting.CANDIDATE,
            latency_s=seconds,
            tokens=tokens,
            done_reason="stop",
        )
        for sitting, said in sittings.items()
        for number, (text, seconds, tokens) in enumerate(said)
    )
    specialty = Specialty(base="b:1", artifact_type="x")
    return Exam(specialty=specialty, incumbent="i", candidate="c", items=items, answers=answers)


def repetition(candidate: Sequence[str], incumbent: Sequence[str]) -> GuardResult | None:
    of = {sitting: [(text, 1.0, 5) for text in incumbent] for sitting in Sitting}
    of[Sitting.CANDIDATE] = [(text, 1.0, 5) for text in candidate]
    return GuardRepetition().nightschool_guard_promotion(exam(of))


def speed(candidate: Sequence[float], incumbent: Sequence[float], again: Sequence[float]) -> GuardResult | None:
    of = {Sitting.INCUMBENT: incumbent, Sitting.INCUMBENT_AGAIN: again, Sitting.CANDIDATE: candidate}
    return GuardSpeed().nightschool_guard_promotion(
        exam({sitting: [("a", seconds, 1) for seconds in all_of] for sitting, all_of in of.items()})
    )


@pytest.mark.parametrize(("text", "is_circle"), [(CIRCLE, True), (PLAIN, False), ("yes yes yes", False), ("", False)])
def test_a_circle_is_told_from_an_answer(text: str, *, is_circle: bool) -> None:
    assert GuardRepetition().repeats(text) is is_circle


def test_a_candidate_that_runs_in_circles_is_stopped() -> None:
    found = repetition([CIRCLE] * 6, [PLAIN] * 6)
    assert found is not None
    assert not found.held
    assert found.reason == "100% of the candidate's answers run in circles; the incumbent's share is 0%."


def test_one_slip_and_answers_that_repeat_themselves_by_nature_break_nothing() -> None:
    slip = repetition([CIRCLE, *[PLAIN] * 5], [PLAIN] * 6)
    tables = repetition([CIRCLE] * 6, [CIRCLE] * 6)
    assert slip is not None
    assert tables is not None
    assert slip.held
    assert tables.held


@given(st.text(), st.integers(2, 5))
def test_what_is_said_over_and_over_is_a_circle_whatever_it_is(text: str, times: int) -> None:
    words = text.split()
    # beyond twice and a bit, more than half of the sequences came before
    said = " ".join(words * (times + 2)) if words else ""
    assert GuardRepetition().repeats(said) is (len(said.split()) >= 12)


def test_a_slow_candidate_is_stopped_and_a_fast_one_is_not() -> None:
    slow, fast = speed([3.0] * 6, [1.0] * 6, [1.1] * 6), speed([0.5] * 6, [1.0] * 6, [1.1] * 6)
    assert slow is not None
    assert fast is not None
    assert not slow.held
    assert slow.reason == "A token of the candidate takes 2.73 times as long; 1.5 are tolerated."
    assert fast.held


def test_a_machine_that_was_busy_once_breaks_nothing() -> None:
    once = speed([1.0, 1.0, 1.0, 1.0, 1.0, 60.0], [1.0] * 6, [1.0] * 6)
    as_slow_itself = speed([3.0] * 6, [1.0] * 6, [3.0] * 6)
    assert once is not None
    assert as_slow_itself is not None
    assert once.held
    assert as_slow_itself.held


def test_of_few_or_failed_answers_nothing_is_said() -> None:
    assert speed([9.0] * 3, [1.0] * 3, [1.0] * 3) is None
    of = {sitting: [(PLAIN, 1.0, 5)] * 6 for sitting in Sitting}
    assert GuardSpeed().nightschool_guard_promotion(exam(of, failed=True)) is None
    assert GuardRepetition().nightschool_guard_promotion(exam(of, failed=True)) is None
