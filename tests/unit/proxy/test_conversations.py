"""A conversation keeps its version; feedback finds it again; no text is kept."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.proxy.answers import Answer, AnswerLog, open_answers
from nightschool_daemon.proxy.conversation import (
    Asked,
    Conversation,
    asked_in,
    conversation_of,
    conversation_of_event,
    takes_candidate,
)
from nightschool_daemon.proxy.routes import Route, Routes, RoutesFile, secret_of, write_routes
from nightschool_hookspecs.records import Context, Message, Metadata, Role
from nightschool_hookspecs.testing import sample_event

SECRET = b"0" * 32
ALIAS = "llama3.2-nightschool:3b.shell"
ROUTE = Route(alias=ALIAS, incumbent=f"{ALIAS}.v1", candidate=f"{ALIAS}.v2", share=0.3)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXTS = st.text(min_size=1, max_size=40)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), TEXTS), max_size=6)


def chat(system: str, first: str, more: list[tuple[str, str]], **fields: object) -> Asked:
    """A chat request that went so far."""
    turns = [("system", system), ("user", first), *more]
    messages = [{"role": role, "content": text} for role, text in turns]
    asked = asked_in("/api/chat", json.dumps({"model": ALIAS, "messages": messages, **fields}).encode())
    assert asked is not None
    return asked


@given(TEXTS, TEXTS, TURNS)
def test_conversation_stays_the_same_however_long_it_becomes(
    system: str, first: str, more: list[tuple[str, str]]
) -> None:
    begun = conversation_of(SECRET, chat(system, first, []))
    assert conversation_of(SECRET, chat(system, first, more)) == begun


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_other_texts_and_secrets_are_other_conversations(one: str, two: str, three: str, four: str) -> None:
    same = (one, two) == (three, four)
    left, right = (conversation_of(SECRET, chat(*texts, [])) for texts in ((one, two), (three, four)))
    assert (left == right) is same
    assert conversation_of(b"1" * 32, chat(one, two, [])) != left


@given(TEXTS, st.floats(0, 1), st.floats(0, 1))
def test_larger_share_keeps_the_conversations_of_a_smaller_one(first: str, small: float, large: float) -> None:
    small, large = sorted((small, large))
    conversation = conversation_of(SECRET, chat("", first, []))
    if takes_candidate(SECRET, replace(ROUTE, share=small), conversation, None):
        assert takes_candidate(SECRET, replace(ROUTE, share=large), conversation, None)
    assert not takes_candidate(SECRET, replace(ROUTE, share=0.0), conversation, None)
    assert takes_candidate(SECRET, replace(ROUTE, share=1.0), conversation, None)


def test_share_is_what_it_says_and_another_candidate_draws_anew() -> None:
    conversations = [Conversation(said=str(number), who="") for number in range(4000)]
    first = {one.said for one in conversations if takes_candidate(SECRET, ROUTE, one, None)}
    other = replace(ROUTE, candidate=f"{ALIAS}.v3")
    second = {one.said for one in conversations if takes_candidate(SECRET, other, one, None)}
    assert 1050 < len(first) < 1350
    assert 260 < len(first & second) < 470


def test_conversation_that_the_application_names_is_told_by_its_name_alone() -> None:
    route = replace(ROUTE, share=0.5)
    drawn = {
        takes_candidate(SECRET, route, conversation_of(SECRET, chat("", f"at {number} o'clock", [])), "c-17")
        for number in range(40)
    }
    assert len(drawn) == 1


@pytest.mark.parametrize(
    ("path", "body", "first"),
    [
        ("/api/generate", {"prompt": "hello", "system": "be brief"}, "hello"),
        ("/v1/completions", {"prompt": ["hello"]}, "hello"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
            "hello",
        ),
        ("/v1/responses", {"instructions": "be brief", "input": "hello"}, "hello"),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]}, "hello"),
        (
            "/v1/messages",
            {"system": [{"type": "text", "text": "x"}], "messages": [{"role": "user", "content": "hello"}]},
            "hello",
        ),
    ],
)
def test_every_way_of_asking_is_read(path: str, body: dict[str, object], first: str) -> None:
    asked = asked_in(path, json.dumps({"model": ALIAS.upper(), **body}).encode())
    assert asked is not None
    assert (asked.alias, asked.first) == (ALIAS, first)
    assert json.loads(asked.for_model("other:tag")) == {**body, "model": "other:tag"}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"model": 1}', b'{"model": "a"}', b'{"model": "a", "keep_alive": 0}', b"[" * 100000]
)
def test_what_asks_nothing_is_none_of_our_business(content: bytes) -> None:
    assert asked_in("/api/generate", content) is None


def test_feedback_finds_the_conversation_of_its_answer() -> None:
    context = Context(system="be brief", messages=(
        Message(role=Role.USER, content="first"), Message(role=Role.ASSISTANT, content="yes?")
    ))  # fmt: skip
    event = replace(sample_event(input_data="second"), context=context, model=ALIAS, metadata=Metadata(user="me"))
    asked = chat("be brief", "first", [("assistant", "yes?"), ("user", "second")], user="me")
    assert conversation_of_event(SECRET, event) == conversation_of(SECRET, asked)
    alone = replace(event, context=Context(), metadata=Metadata())
    assert conversation_of_event(SECRET, alone) == conversation_of(SECRET, chat("", "second", []))


def test_log_tells_who_answered_and_says_nothing_where_two_did(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, keep_days=100)
    log.start(NOON)
    hello = Conversation(said="hello", who="")
    mine, yours = (replace(hello, who=one) for one in ("me", "you"))
    said = [(hello, "v0", -40), (mine, "v1", 0), (yours, "v2", 1)]
    for conversation, tag, days in said:
        log.put(Answer(conversation=conversation, alias=ALIAS, version=tag, at=NOON + timedelta(days=days)))
    log.stop()

    def version(conversation: Conversation, *, alias: str = ALIAS, since: int = -50, until: int = 9) -> str | None:
        span = {"since": NOON + timedelta(days=since), "until": NOON + timedelta(days=until)}
        with open_answers(tmp_path) as answers:
            return answers.version_of(alias, conversation, **span)

    assert (version(mine), version(yours), version(hello, until=-1)) == ("v1", "v2", "v0")
    assert version(replace(hello, who="other"), since=-1) is None
    assert version(replace(hello, who="other"), since=-1, until=0) == "v1"
    assert version(mine, alias="other") is None
    assert (tmp_path / "proxy" / "answers.sqlite3").stat().st_mode & 0o777 == 0o600
    again = AnswerLog(tmp_path, keep_days=10)
    again.start(NOON)
    again.stop()
    assert version(hello, until=-1) is None


def test_nothing_answered_before_there_was_a_log(tmp_path: Path) -> None:
    conversation = Conversation(said="hello", who="")
    with open_answers(tmp_path) as answers:
        assert answers.version_of(ALIAS, conversation, since=NOON, until=NOON) is None


def test_log_forgets_what_is_too_old_while_it_goes_on(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, keep_days=10)
    log.start(NOON)
    hello, later = Conversation(said="hello", who=""), Conversation(said="later", who="")
    for conversation, days in ((hello, 0), (later, 11)):
        log.put(Answer(conversation=conversation, alias=ALIAS, version="v1", at=NOON + timedelta(days=days)))
    log.stop()
    with open_answers(tmp_path) as answers:
        span = {"since": NOON, "until": NOON + timedelta(days=20)}
        assert answers.version_of(ALIAS, hello, **span) is None
        assert answers.version_of(ALIAS, later, **span) == "v1"


def test_answer_that_cannot_be_written_down_does_not_end_the_log(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, keep_days=10)
    log.start(NOON)
    with sqlite3.connect(tmp_path / "proxy" / "answers.sqlite3") as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON answers WHEN NEW.version = 'v1' BEGIN SELECT RAISE(FAIL, 'no'); END"
        )
    first, second = Conversation(said="first", who=""), Conversation(said="second", who="")
    for conversation, version in ((first, "v1"), (second, "v2")):
        log.put(Answer(conversation=conversation, alias=ALIAS, version=version, at=NOON))
    log.stop()
    with open_answers(tmp_path) as answers:
        assert answers.version_of(ALIAS, first, since=NOON, until=NOON) is None
        assert answers.version_of(ALIAS, second, since=NOON, until=NOON) == "v2"


def test_secret_is_the_same_for_all_who_ask_for_it_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: secret_of(tmp_path), range(64)))) == 1
    assert len(secret_of(tmp_path)) == 32


def test_routes_are_read_anew_when_they_change_and_the_secret_stays(tmp_path: Path) -> None:
    file = RoutesFile(tmp_path)
    assert file.current() == Routes()
    write_routes(tmp_path, Routes(routes=(ROUTE,)))
    assert file.current().of(ALIAS) == ROUTE
    assert file.current().of("other:latest") is None
    write_routes(tmp_path, Routes())
    assert file.current() == Routes()
    assert secret_of(tmp_path) == secret_of(tmp_path)
    assert (tmp_path / "proxy" / "secret").stat().st_mode & 0o777 == 0o600
