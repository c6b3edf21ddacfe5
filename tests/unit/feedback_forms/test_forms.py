"""Feedback in the forms of other tools."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.feedback_forms import Exported, Form, events_of, export
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import IncomingEvent, Ledger
from nightschool_hookspecs import Chunk, Context, Event, FeedbackType, Message, Metadata, Role, Specialty

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOOKS = Hooks.load(
    plugin_directory=None, tables={}, built_in=("training_sft", "preference_corrections", "preference_thumbs")
)
ASKED = {"role": "user", "content": "list files"}
EARLIER = (Message(role=Role.USER, content="Hello"), Message(role=Role.ASSISTANT, content="Hello!"))
CALLED = (*EARLIER, Message(role=Role.TOOL, content="a b"))


def event(
    identifier: str = "1",
    kind: FeedbackType = FeedbackType.USER_CORRECTION,
    *,
    answer: str | None = "dir",
    wanted: str | None = "ls",
    score: float | None = None,
    context: Context | None = None,
    metadata: Metadata | None = None,
) -> Event:
    return Event(
        id=identifier,
        timestamp=NOW,
        feedback_type=kind,
        input_data="list files",
        artifact_type="shell",
        context=context or Context(),
        ai_output=answer,
        corrected_output=wanted if kind is FeedbackType.USER_CORRECTION else None,
        validation_score=score,
        metadata=metadata or Metadata(),
    )


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def rows(form: Form, *events: Event) -> list[object]:
    return [json.loads(line) for line in export(form, events, HOOKS).lines]


def test_a_correction_is_a_pair_of_trl() -> None:
    (row,) = rows(Form.TRL, event(context=Context(system="Be short.", messages=EARLIER)))
    assert row == {
        "prompt": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello!"},
            ASKED,
        ],
        "chosen": said("ls"),
        "rejected": said("dir"),
        "margin": 0.0,
    }


def test_scores_of_two_answers_are_the_margin() -> None:
    liked = FeedbackType.SUCCESS
    (row,) = rows(Form.TRL, event("1", liked, answer="ls", score=90), event("2", liked, answer="dir", score=40))
    assert row == {"prompt": [ASKED], "chosen": said("ls"), "rejected": said("dir"), "margin": 0.5}


def test_the_same_pair_as_openai_reads_it() -> None:
    assert rows(Form.OPENAI, event()) == [
        {"input": {"messages": [ASKED]}, "preferred_output": said("ls"), "non_preferred_output": said("dir")}
    ]


def test_lone_thumbs_are_the_unpaired_rows_of_trl() -> None:
    found = rows(
        Form.KTO,
        event("1", FeedbackType.EXPLICIT_POSITIVE, answer="ls"),
        event("2", FeedbackType.EXPLICIT_NEGATIVE, answer="dir"),
        event("3"),
    )
    assert found == [
        {"prompt": [ASKED], "completion": said("ls"), "label": True},
        {"prompt": [ASKED], "completion": said("dir"), "label": False},
    ]


def test_what_was_wanted_is_an_instruction() -> None:
    context = Context(system="Be short.", messages=EARLIER)
    found = rows(
        Form.ALPACA,
        event("1", context=context),
        event("2", FeedbackType.SUCCESS, answer="ls -l"),
        event("3", FeedbackType.EXPLICIT_NEGATIVE),
    )
    assert found == [
        {
            "instruction": "list files",
            "input": "",
            "output": "ls",
            "system": "Be short.",
            "history": [["Hello", "Hello!"]],
        },
        {"instruction": "list files", "input": "", "output": "ls -l", "system": "", "history": []},
    ]


def test_what_was_wanted_is_a_conversation() -> None:
    (row,) = rows(Form.SHAREGPT, event(context=Context(system="Be short.", messages=EARLIER)))
    assert row == {
        "conversations": [
            {"from": "system", "value": "Be short."},
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hello!"},
            {"from": "human", "value": "list files"},
            {"from": "gpt", "value": "ls"},
        ]
    }


def test_turns_that_a_form_has_no_place_for_are_counted() -> None:
    called = event("1", context=Context(messages=CALLED))
    assert export(Form.ALPACA, [called, event("2")], HOOKS).left_out == 1
    (row,) = rows(Form.SHAREGPT, called)
    assert "observation" in json.dumps(row)


@pytest.mark.parametrize("form", Form)
def test_what_was_withdrawn_and_weak_signals_are_left_out(form: Form) -> None:
    both = [
        event(f"{kind}-{number}", kind, metadata=metadata)
        for kind in FeedbackType
        for number, metadata in enumerate((Metadata(weak=True), Metadata(deleted=True)))
    ]
    assert export(form, both, HOOKS) == Exported(lines=(), left_out=0)


@pytest.mark.parametrize(("form", "key"), [(Form.TRL, "prompt"), (Form.KTO, "prompt"), (Form.ALPACA, "instruction")])
def test_prompts_have_the_retrieved_texts_in_them(form: Form, key: str) -> None:
    context = Context(chunks=(Chunk(text="ls lists files"),))
    found = rows(form, event("1", context=context), event("2", FeedbackType.EXPLICIT_NEGATIVE, context=context))
    assert len(found) == 1
    assert isinstance(found[0], dict)
    assert "[1] ls lists files\\n\\nlist files" in json.dumps(found[0][key])


def test_equal_rows_are_written_once() -> None:
    assert len(export(Form.SHAREGPT, [event("1"), event("2")], HOOKS).lines) == 1


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(TEXT, TEXT, TEXT, st.sampled_from(Form))
def test_every_row_is_a_line_and_says_what_was_said(prompt: str, answer: str, wanted: str, form: Form) -> None:
    one = replace(event(answer=answer, wanted=wanted), input_data=prompt)
    for line in export(form, [one], HOOKS).lines:
        assert len(line.split("\n")) == 1
        texts = json.dumps(json.loads(line))
        assert json.dumps(prompt) in texts
        assert json.dumps(wanted) in texts


# --------------------------------------------------------------------------- which events


def test_all_events_or_those_of_one_specialty(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")

    def add(one: Event, base: str | None) -> None:
        ledger.events.add([IncomingEvent(event=one, base=base, answered_by=None, group=one.id, arrived_at=NOW)])

    add(event("of a", wanted="a"), "a:1b")
    add(event("of none", wanted="b"), None)
    add(event("of b", wanted="c"), "b:1b")
    add(replace(event("of another type", wanted="d"), artifact_type="sql"), "a:1b")
    add(event("withdrawn", wanted="e"), "a:1b")
    add(event("withdrawn", metadata=Metadata(deleted=True)), "a:1b")
    of_a = Specialty(base="a:1b", artifact_type="shell")
    assert [one.id for one in events_of(ledger, of_a)] == ["of a", "of none"]
    assert [one.id for one in events_of(ledger, None)] == ["of a", "of none", "of b", "of another type"]
    ledger.close()
