"""A guard of how answers come: in circles."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Exam, ExamAnswer, ExamItem, GuardResult, ItemRole, Sitting, Specialty
from nightschool_hookspecs.circling import FEWEST_BYTES
from nightschool_plugins.guard_repetition import GuardRepetition

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


def test_an_answer_that_is_wanted_to_repeat_itself_is_no_circle() -> None:
    """A workflow of like steps, where the incumbent gave but its beginning."""
    of = {sitting: [(PLAIN, 1.0, 5)] * 6 for sitting in Sitting}
    of[Sitting.CANDIDATE] = [(CIRCLE, 1.0, 5)] * 6
    asked = exam(of)
    by_nature, plain = (
        GuardRepetition().nightschool_guard_promotion(
            replace(asked, items=tuple(replace(item, reference=wanted) for item in asked.items))
        )
        for wanted in (CIRCLE, PLAIN)
    )
    assert by_nature is None
    assert plain is not None
    assert not plain.held


@given(st.text(), st.integers(2, 5))
def test_what_is_said_over_and_over_is_a_circle_whatever_it_is(text: str, times: int) -> None:
    words = text.split()
    # beyond twice and a bit, more than half of the sequences came before
    said = " ".join(words * (times + 2)) if words else ""
    if len(said.split()) >= 12:
        assert GuardRepetition().repeats(said)
    elif len(said.encode(errors="replace")) < FEWEST_BYTES:
        assert not GuardRepetition().repeats(said)


@pytest.mark.parametrize("said", ["\u3002" * 400, "\u4f60\u597d\u4e16\u754c\uff0c" * 80, "-" * 500, "a" * 500])
def test_circles_need_no_spaces(said: str) -> None:
    assert GuardRepetition().repeats(said)


def test_a_list_of_like_steps_is_no_circle_by_its_letters() -> None:
    steps = "".join(f"- name: step{number}\n  run: make part{number * 7}\n" for number in range(8))
    assert not GuardRepetition(largest_share=1.0).repeats(steps)


def test_of_failed_answers_nothing_is_said() -> None:
    of = {sitting: [(PLAIN, 1.0, 5)] * 6 for sitting in Sitting}
    assert GuardRepetition().nightschool_guard_promotion(exam(of, failed=True)) is None
