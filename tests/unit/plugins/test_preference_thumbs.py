"""Which answers were liked or disliked by themselves."""

from datetime import UTC, datetime

import pytest

from nightschool_hookspecs import Event, FeedbackType, Metadata, ScoredEvent
from nightschool_plugins.preference_thumbs import nightschool_label_answers


def scored(
    kind: FeedbackType, *, answer: str | None = "ls", corrected: str | None = None, metadata: Metadata | None = None
) -> ScoredEvent:
    event = Event(
        id="e",
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        feedback_type=kind,
        input_data="list",
        ai_output=answer,
        corrected_output=corrected,
        metadata=metadata or Metadata(),
    )
    return ScoredEvent(event=event, priority=0.0, reward=0.0, difficulty=0.5, group="g", trained_on=False)


@pytest.mark.parametrize(
    ("kind", "liked"),
    [
        (FeedbackType.SUCCESS, True),
        (FeedbackType.EXPLICIT_POSITIVE, True),
        (FeedbackType.VALIDATION_FAILURE, False),
        (FeedbackType.EXPLICIT_NEGATIVE, False),
    ],
)
def test_a_thumb_labels_the_answer(kind: FeedbackType, liked: bool) -> None:
    event = scored(kind)
    (label,) = nightschool_label_answers((event,))
    assert (label.event_id, label.answer, label.liked) == (event.event.key, "ls", liked)
    assert [one.content for one in label.messages] == ["list"]


@pytest.mark.parametrize(
    "event",
    [
        scored(FeedbackType.USER_CORRECTION, corrected="ls -a"),
        scored(FeedbackType.EXPLICIT_NEGATIVE, corrected="ls -a"),
        scored(FeedbackType.EXPLICIT_NEGATIVE, metadata=Metadata(weak=True)),
        scored(FeedbackType.SUCCESS, metadata=Metadata(demonstration=True)),
        scored(FeedbackType.EXPLICIT_NEGATIVE, answer=None),
    ],
    ids=["correction", "corrected dislike", "weak", "written by hand", "no answer"],
)
def test_what_is_no_lone_thumb_is_no_label(event: ScoredEvent) -> None:
    assert nightschool_label_answers((event,)) == ()
