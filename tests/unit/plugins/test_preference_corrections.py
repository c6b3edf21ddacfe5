"""Which pairs the feedback itself shows."""

from datetime import UTC, datetime

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
    return ScoredEvent(event=event, priority=0.0, reward=0.0, difficulty=0.5, group="g", trained_on=False)


def shown(*events: ScoredEvent) -> set[tuple[str, str, float]]:
    pairs: tuple[PreferencePair, ...] = PreferenceCorrections().nightschool_build_preference_pairs(events)
    assert len(set(pairs)) == len(pairs)
    return {(pair.chosen, pair.rejected, round(pair.margin, 3)) for pair in pairs}


def test_a_correction_stands_over_the_answer_it_corrects() -> None:
    assert shown(scored(FeedbackType.USER_CORRECTION, "bad", corrected="good", score=20)) == {("good", "bad", 0.0)}


def test_a_correction_that_changes_nothing_is_no_pair() -> None:
    assert shown(scored(FeedbackType.USER_CORRECTION, "same", corrected="same")) == set()


def test_a_liked_answer_stands_over_a_disliked_one_to_the_same_prompt() -> None:
    liked = scored(FeedbackType.SUCCESS, "good")
    disliked = scored(FeedbackType.EXPLICIT_NEGATIVE, "bad")
    elsewhere = scored(FeedbackType.EXPLICIT_NEGATIVE, "other", prompt="another")
    assert shown(liked, disliked, elsewhere) == {("good", "bad", 0.0)}


def test_scores_make_a_pair_only_when_more_than_ten_points_apart() -> None:
    best, near, far = (
        scored(FeedbackType.SUCCESS, text, score=score) for text, score in zip("abc", (90, 80, 70), strict=True)
    )
    assert shown(best, near, far) == {("a", "c", 0.2)}


def test_a_weak_signal_is_no_pair() -> None:
    assert shown(scored(FeedbackType.USER_CORRECTION, "bad", corrected="good", weak=True)) == set()
