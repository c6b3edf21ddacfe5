"""Which pairs the feedback itself shows."""

from collections import Counter
from datetime import UTC, datetime
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Event, FeedbackType, Metadata, PreferencePair, ScoredEvent
from nightschool_plugins.preference_corrections import PreferenceCorrections


def scored(
    kind: FeedbackType,
    answer: str,
    *,
    corrected: str | None = None,
    score: float | None = None,
    prompt: str = "q",
    weak: bool = False,
    correction_score: float | None = None,
) -> ScoredEvent:
    event = Event(
        id=answer,
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        feedback_type=kind,
        input_data=prompt,
        ai_output=answer,
        corrected_output=corrected,
        validation_score=score,
        metadata=Metadata(weak=weak),
    )
    return ScoredEvent(
        event=event,
        priority=0.0,
        reward=0.0,
        difficulty=0.5,
        group="g",
        trained_on=False,
        correction_score=correction_score,
    )


def shown(*events: ScoredEvent) -> set[tuple[str, str, float]]:
    pairs: tuple[PreferencePair, ...] = PreferenceCorrections().nightschool_build_preference_pairs(events)
    assert len(set(pairs)) == len(pairs)
    return {(pair.chosen, pair.rejected, round(pair.margin, 3)) for pair in pairs}


@pytest.mark.parametrize(
    ("answer", "correction", "margin"),
    [(20, 90, 0.7), (20, 31, 0.11), (20, 30, 0.0), (90, 20, 0.0), (20, None, 0.0), (None, 90, 0.0), (None, None, 0.0)],
)
def test_a_correction_stands_over_the_answer_it_corrects_whatever_a_validator_finds(
    answer: float | None, correction: float | None, margin: float
) -> None:
    corrected = scored(FeedbackType.USER_CORRECTION, "bad", corrected="good", score=answer, correction_score=correction)
    assert shown(corrected) == {("good", "bad", margin)}


def test_a_correction_that_changes_nothing_is_no_pair() -> None:
    assert shown(scored(FeedbackType.USER_CORRECTION, "same", corrected="same")) == set()


def test_a_liked_answer_stands_over_a_disliked_one_to_the_same_prompt() -> None:
    liked = scored(FeedbackType.SUCCESS, "good")
    disliked = scored(FeedbackType.EXPLICIT_NEGATIVE, "bad")
    elsewhere = scored(FeedbackType.EXPLICIT_NEGATIVE, "other", prompt="another")
    assert shown(liked, disliked, elsewhere) == {("good", "bad", 0.0)}


def test_a_pair_names_the_event_of_its_worse_answer_where_that_is_another() -> None:
    liked = scored(FeedbackType.SUCCESS, "good")
    disliked = scored(FeedbackType.EXPLICIT_NEGATIVE, "bad")
    corrected = scored(FeedbackType.USER_CORRECTION, "wrong", corrected="right", prompt="another")
    pairs = PreferenceCorrections().nightschool_build_preference_pairs((liked, disliked, corrected))
    assert {one.event_id: one.worse_event_id for one in pairs} == {
        corrected.event.key: "",
        liked.event.key: disliked.event.key,
    }


def test_scores_make_a_pair_only_when_more_than_ten_points_apart() -> None:
    best, near, far = (
        scored(FeedbackType.SUCCESS, text, score=score) for text, score in zip("abc", (90, 80, 70), strict=True)
    )
    assert shown(best, near, far) == {("a", "c", 0.2)}


@given(st.lists(st.tuples(st.sampled_from(FeedbackType), st.none() | st.integers(0, 100)), max_size=9))
def test_of_few_answers_every_pair_is_made(drawn: list[tuple[FeedbackType, int | None]]) -> None:
    answers = [scored(kind, f"a{number}", score=score) for number, (kind, score) in enumerate(drawn)]
    expected = set[tuple[str, str]]()
    for better, worse in permutations((one.event for one in answers), 2):
        if better.validation_score is not None and worse.validation_score is not None:
            is_better = better.validation_score - worse.validation_score > 10
        else:
            is_better = better.feedback_type.is_like and worse.feedback_type.is_dislike
        if is_better:
            expected.add((better.ai_output or "", worse.ai_output or ""))
    assert {(chosen, rejected) for chosen, rejected, _ in shown(*answers)} == expected


def test_many_answers_to_a_prompt_make_a_few_pairs_each() -> None:
    rated = [scored(FeedbackType.SUCCESS, f"r{number}", score=number / 16) for number in range(1600)]
    liked = [scored(FeedbackType.SUCCESS, f"l{number}") for number in range(1000)]
    disliked = [scored(FeedbackType.EXPLICIT_NEGATIVE, f"d{number}") for number in range(1000)]
    pairs = shown(*rated, *liked, *disliked)
    counts = Counter(chosen for chosen, _, _ in pairs)
    assert set(counts) == {one.event.ai_output for one in (*rated, *liked)}
    assert max(counts[f"l{number}"] for number in range(1000)) == 8
    # a rated answer that is liked stands over worse rated ones and over disliked ones
    assert max(counts.values()) == 16
    assert {rejected for chosen, rejected, _ in pairs if chosen == "r1599"} >= {"r1438", "d999"}


def test_a_weak_signal_is_no_pair() -> None:
    assert shown(scored(FeedbackType.USER_CORRECTION, "bad", corrected="good", weak=True)) == set()
