"""Which version an answer came from, and what was said of it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightschool_daemon.intake.assignment import assign, group_of
from nightschool_daemon.ledger import AnsweredRow, IncomingEvent, Ledger, MoveRow, MoveState
from nightschool_daemon.runs.live import Holders, answers_of, plain
from nightschool_daemon.runs.tracks import material_of
from nightschool_hookspecs.records import (
    Context,
    FeedbackType,
    LiveAnswer,
    LiveFeedback,
    Message,
    Metadata,
    MoveKind,
    Outcome,
    Role,
    Specialty,
)
from nightschool_hookspecs.testing import sample_event
from nightschool_plugins.judge_feedback import JudgeFeedback

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BASE, ALIAS = "llama3.2:3b", "llama3.2-nightschool:3b.shell"
PIN, FIRST, SECOND = "llama3.2-nightschool:3b.base-0123456789ab", f"{ALIAS}.v1", f"{ALIAS}.v2"
SPECIALTY = Specialty(base=BASE, artifact_type="shell")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger of an alias that went to v1 at noon, to v2 an hour later, and back after another."""
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    for number, (kind, source, target) in enumerate(
        [(MoveKind.PROMOTE, PIN, FIRST), (MoveKind.PROMOTE, FIRST, SECOND), (MoveKind.ROLL_BACK, SECOND, FIRST)]
    ):
        moment = NOON + number * HOUR
        row = MoveRow(
            id=0, kind=kind, alias=ALIAS, from_digest="1", to_digest="2", from_tag=source, to_tag=target, reason="test",
            run_id=None, intended_at=moment, done_at=None, state=MoveState.INTENDED,
        )  # fmt: skip
        opened.moves.done(opened.moves.intend(row), moment)
    yield opened
    opened.close()


def said(model: str, at: datetime, *, kind: FeedbackType = FeedbackType.SUCCESS, prompt: str = "ls") -> AnsweredRow:
    """Feedback on a model's answer, after it went through the ledger's assignment."""
    event = replace(sample_event(input_data=prompt, feedback_type=kind), model=model)
    assigned = assign(event, {})
    return AnsweredRow(
        key=event.key, at=at, base=assigned.base, answered_by=assigned.answered_by, feedback_type=kind,
        source=event.source, opening=group_of(event),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "hours", "version"),
    [
        (ALIAS, -1, BASE),
        (ALIAS, 0, FIRST),
        (ALIAS, 1.5, SECOND),
        (ALIAS, 3, FIRST),
        (SECOND, -5, SECOND),
        (BASE, 1.5, BASE),
        ("llama3.2-nightschool:3b.other", 1, BASE),
    ],
)
def test_name_stands_for_what_it_held_then(ledger: Ledger, model: str, hours: float, version: str) -> None:
    assert Holders(ledger=ledger).answered(said(model, NOON + hours * HOUR)) == version


def test_pin_stands_for_its_base() -> None:
    assert [plain(one) for one in (PIN, SECOND, "Mine")] == [BASE, SECOND, "mine:latest"]


def test_prompt_counts_once_for_a_version_with_the_last_word(ledger: Ledger) -> None:
    rows = [
        said(FIRST, NOON),
        said(SECOND, NOON, kind=FeedbackType.EXPLICIT_NEGATIVE),
        said(SECOND, NOON, kind=FeedbackType.EXPLICIT_NEGATIVE, prompt="LS."),
        said(FIRST, NOON, kind=FeedbackType.USER_CORRECTION),
        said("other:latest", NOON),
    ]
    answers = answers_of(FIRST, SECOND, rows, Holders(ledger=ledger).answered)
    assert [(one.by_candidate, one.negative) for one in answers] == [(False, True), (True, True)]


def test_conversation_counts_once_for_a_version_with_the_last_word_on_its_turns(ledger: Ledger) -> None:
    first = replace(sample_event("1", input_data="Hello"), model=FIRST, timestamp=NOON)
    earlier = (Message(role=Role.USER, content="hello."), Message(role=Role.ASSISTANT, content="Hello!"))
    later = replace(first, id="2", input_data="list", context=Context(messages=earlier))
    events = [
        first,
        later,
        replace(later, id="3", input_data="sort", feedback_type=FeedbackType.SUCCESS, corrected_output=None),
        replace(later, id="4", input_data="sort", model=SECOND),
        replace(first, id="5", input_data="list"),
    ]
    ledger.events.add(
        [
            IncomingEvent(event=one, base=BASE, answered_by=one.model, group=group_of(one), arrived_at=NOON)
            for one in events
        ]
    )
    rows = ledger.events.answered(SPECIALTY, NOON)
    answers = answers_of(FIRST, SECOND, rows, Holders(ledger=ledger).answered)
    assert [(one.by_candidate, one.negative) for one in answers] == [(False, False), (True, True), (False, True)]


def test_equal_versions_are_rarely_told_apart_by_conversations_that_are_disliked_as_a_whole() -> None:
    generator, seasons, wrong = random.Random(7), 1000, 0
    plugin = JudgeFeedback()
    for _ in range(seasons):
        rows: list[AnsweredRow] = []
        for number in range(60):
            version = generator.choice((FIRST, SECOND))
            kind = generator.choice((FeedbackType.EXPLICIT_POSITIVE, FeedbackType.EXPLICIT_NEGATIVE))
            turn = AnsweredRow(
                key="", at=NOON, base=BASE, answered_by=version, feedback_type=kind, source="chat", opening=str(number)
            )
            rows += [turn] * 8
        wrong += _is_ever_worse(plugin, answers_of(FIRST, SECOND, rows, lambda row: row.answered_by))
    # a test at the promised level exceeds this count in one seed of a thousand
    assert wrong <= seasons * plugin.level + 16


def _is_ever_worse(plugin: JudgeFeedback, answers: Sequence[LiveAnswer]) -> bool:
    """Whether somebody who looks after every answer sees the candidate taken back."""
    looks = (answers[:seen] for seen in range(1, len(answers) + 1))
    live = (LiveFeedback(alias=ALIAS, incumbent=FIRST, candidate=SECOND, answers=tuple(one)) for one in looks)
    return any(plugin.nightschool_judge_feedback(one).outcome is Outcome.WORSE for one in live)


def test_ledger_tells_what_was_said_and_leaves_out_what_says_nothing_of_an_answer(ledger: Ledger) -> None:
    plain_event = replace(sample_event("1"), timestamp=NOON)
    events = [
        plain_event,
        replace(plain_event, id="2", metadata=Metadata(weak=True)),
        replace(plain_event, id="3", metadata=Metadata(demonstration=True)),
        replace(plain_event, id="4", metadata=Metadata(preference=True)),
        replace(plain_event, id="5", metadata=Metadata(clock_flag=True)),
        replace(plain_event, id="6", artifact_type="erd"),
    ]
    ledger.events.add(
        [IncomingEvent(event=one, base=BASE, answered_by=None, group="g", arrived_at=NOON + HOUR) for one in events]
    )
    found = ledger.events.answered(SPECIALTY, NOON)
    assert [(one.key, one.at) for one in found] == [("dropdir/1", NOON), ("dropdir/5", NOON + HOUR)]
    assert ledger.events.answered(SPECIALTY, NOON + 2 * HOUR) == ()
    assert len(ledger.events.answered(Specialty(base=BASE, artifact_type="all"), NOON)) == 3


def test_a_correction_is_an_exam_of_the_version_that_it_corrects(ledger: Ledger) -> None:
    corrected = replace(sample_event("1", input_data="list"), model=ALIAS, timestamp=NOON + 1.5 * HOUR)
    events = [
        corrected,
        # the last word on a prompt and a name
        replace(corrected, id="2", timestamp=NOON + 3 * HOUR, corrected_output="ls -A"),
        replace(corrected, id="3", model=BASE, corrected_output="ls -1"),
        # nobody knows whose answer it is, it was no answer, or it was not corrected
        replace(corrected, id="4", model=None, input_data="other"),
        replace(corrected, id="5", input_data="other", ai_output=None),
        replace(corrected, id="6", input_data="another", metadata=Metadata(demonstration=True)),
        replace(corrected, id="7", input_data="liked", feedback_type=FeedbackType.SUCCESS, corrected_output=None),
    ]
    for one in events:
        assigned = assign(one, {})
        ledger.events.add(
            [
                IncomingEvent(
                    event=one,
                    base=assigned.base,
                    answered_by=assigned.answered_by,
                    group=group_of(one),
                    arrived_at=one.timestamp,
                )
            ]
        )
    found = material_of(ledger, SPECIALTY).corrected
    assert [(one.version, one.item.id, one.item.reference, one.text) for one in found] == [
        (BASE, "dropdir/3", "ls -1", "ls"),
        (FIRST, "dropdir/2", "ls -A", "ls"),
    ]
