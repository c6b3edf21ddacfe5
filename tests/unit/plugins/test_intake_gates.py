"""Admission and classification: the quality gates, the artifact types."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nightschool_hookspecs import Chunk, Context, Event, FeedbackType, Metadata
from nightschool_hookspecs.testing import FakeRetrieve
from nightschool_plugins.context_event import ContextEvent
from nightschool_plugins.intake_classify import nightschool_classify_event
from nightschool_plugins.intake_quality import IntakeQuality

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def event(
    answer: str,
    kind: FeedbackType = FeedbackType.SUCCESS,
    score: float | None = None,
    corrected: str | None = None,
    prompt: str = "How?",
) -> Event:
    return Event(
        id="1",
        timestamp=NOW,
        feedback_type=kind,
        input_data=prompt,
        ai_output=answer,
        corrected_output=corrected,
        validation_score=score,
    )


def refused(one: Event) -> bool:
    return IntakeQuality().nightschool_validate_event(one) is not None


@pytest.mark.parametrize(("score", "gone"), [(70, True), (70.01, False), (0, True), (100, False), (None, False)])
def test_a_liked_answer_needs_more_than_the_gate(score: float | None, *, gone: bool) -> None:
    assert refused(event("ls -l", score=score)) is gone
    assert refused(event("ls -l", FeedbackType.EXPLICIT_POSITIVE, score)) is gone


def test_the_score_of_a_bad_answer_does_not_count_against_its_correction() -> None:
    assert not refused(event("wrong", FeedbackType.USER_CORRECTION, 5, corrected="ls -l"))
    assert not refused(event("wrong", FeedbackType.EXPLICIT_NEGATIVE, 5))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "Lorem ipsum dolor sit amet",
        "def f():\n    # TODO: implement",
        "[insert your code here]",
        "I'm sorry, but I cannot do that.",
        "I apologize for the confusion.",
        "I cannot help with that request.",
        "As an AI language model, I think so.",
        " how? ",
        "```python\nprint(1)",
        "one two [truncated]",
    ],
)
def test_generic_content_is_not_learned_as_answer_or_as_correction(text: str) -> None:
    assert refused(event(text))
    assert refused(event("wrong", FeedbackType.USER_CORRECTION, corrected=text))
    assert not IntakeQuality(refuse_generic=False).nightschool_validate_event(event(text))


@pytest.mark.parametrize("kind", [FeedbackType.EXPLICIT_NEGATIVE, FeedbackType.VALIDATION_FAILURE])
def test_generic_content_may_be_disliked(kind: FeedbackType) -> None:
    assert not refused(event("I'm sorry, I cannot help with that.", kind))


@pytest.mark.parametrize(
    "text",
    [
        "find . -name '*.log' -delete",
        "```python\nprint(1)\n```",
        "He said: I'm sorry.",
        "Sorry for the delay, your parcel ships tomorrow.",
        "Unfortunately, I missed your call.",
        "row = data[insert_at]",
        "slots[your_turn] = x[placeholder]",
        "The function cannot answer None.",
        "git checkout main",
        "...",
    ],
)
def test_ordinary_answers_pass(text: str) -> None:
    assert not refused(event(text))


def test_a_refusal_is_a_sentence_and_a_gate_outside_the_scale_an_error() -> None:
    found = IntakeQuality().nightschool_validate_event(event("x", score=10))
    assert found is not None
    assert found.reason.endswith(".")
    with pytest.raises(ValueError, match="lowest_score"):
        IntakeQuality(lowest_score=101)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```mermaid\nerDiagram\n  USER ||--o{ ORDER : places\n```", "erd"),
        ("erDiagram\n  USER ||--o{ ORDER : places", "erd"),
        ("```mermaid\ngraph TD\n A-->B\n```", "architecture"),
        ("flowchart LR\n A-->B", "architecture"),
        ("openapi: 3.1.0\ninfo:\n  title: t", "api_docs"),
        ('```json\n{\n"openapi": "3.0.0"\n}\n```', "api_docs"),
        ("```yaml\non: push\njobs:\n  build:\n```", "workflows"),
        ("```sh\necho hi\n```", "shell"),
        ("$ ls -l | wc -l", "shell"),
        ("find . -name x", "shell"),
        ("SELECT a FROM b WHERE c = 1", "code_prototype"),
        ("```sql\nselect 1\n```", "code_prototype"),
        ("```python\nprint(1)\n```", "code_prototype"),
        ("It depends on what you want.", None),
        ("", None),
    ],
)
def test_artifact_types_by_what_answers_look_like(text: str, expected: str | None) -> None:
    assert nightschool_classify_event(event(text)) == expected
    assert nightschool_classify_event(event("no", FeedbackType.USER_CORRECTION, corrected=text or "x")) == expected


def test_tombstones_pass_the_gates() -> None:
    gone = Event(
        id="1",
        timestamp=NOW,
        feedback_type=FeedbackType.SUCCESS,
        input_data="",
        ai_output="",
        metadata=Metadata(deleted=True),
    )
    assert not refused(gone)


class NoRetrieval:
    def __call__(self, query: str, limit: int) -> tuple[Chunk, ...]:
        raise AssertionError("the event's own chunks are enough")


ASKING = Event(id="1", timestamp=NOW, feedback_type=FeedbackType.SUCCESS, input_data="which tool prints files")


@pytest.mark.parametrize("chunks", [(Chunk(text="c"),), ()])
def test_what_the_application_retrieved_goes_into_the_prompt_of_an_event_and_nothing_else(
    chunks: tuple[Chunk, ...],
) -> None:
    one = replace(ASKING, context=Context(chunks=chunks))
    assert ContextEvent().nightschool_retrieve_context(one, one.input_data, NoRetrieval()) == chunks


def test_a_query_in_other_words_is_put_to_the_texts_of_all_events() -> None:
    found = (Chunk(text="ls prints files"), Chunk(text="cal prints dates"))
    plugin = ContextEvent(most_found=1)
    assert plugin.nightschool_retrieve_context(ASKING, "tool files", FakeRetrieve(found)) == found[:1]


def test_less_than_none_cannot_be_found() -> None:
    with pytest.raises(ValueError, match="most_found must be 0 or more"):
        ContextEvent(most_found=-1)
