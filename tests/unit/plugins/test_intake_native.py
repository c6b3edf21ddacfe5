"""The native format: every field's rule, and no byte of hostile input that gets further."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Chunk, Event, FeedbackFile, FeedbackType, Message, ParsedFeedback, Role
from nightschool_plugins.intake_native import IntakeNative, RecordError, read_event

NOW = datetime(2026, 11, 21, tzinfo=UTC)
EXAMPLE = {
    "id": "e-17",
    "timestamp": "2026-11-20T21:04:05Z",
    "artifact_type": "shell",
    "model": "qwen3:0.6b",
    "input_data": "List the five largest files",
    "context": {"system": "Answer with one shell command."},
    "ai_output": "ls -S | head -5",
    "corrected_output": "find . -type f -printf '%s %p\\n' | sort -nr | head -5",
    "validation_score": 20,
    "feedback_type": "user_correction",
    "retries": 1,
    "source": "my-editor",
    "metadata": {"reason": "not recursive"},
}
LIKED = {"input_data": "q", "ai_output": "a", "feedback_type": "success"}


def parse(path: Path, content: bytes, name: str = "feedback.json", limit: int = 4096) -> ParsedFeedback:
    path.write_bytes(content)
    file = FeedbackFile(path=path, name=name, modified_at=NOW, settled=True)
    found = IntakeNative(max_record_bytes=limit).nightschool_parse_feedback(file)
    assert found is not None
    return found


def read(**changes: object) -> Event:
    """An event from a liked answer with changes; None removes nothing, it is JSON's null."""
    return read_event({**LIKED, **changes}, NOW)


def refusal(**changes: object) -> str:
    with pytest.raises(RecordError) as caught:
        read(**changes)
    return str(caught.value)


def test_the_documented_example_reads_field_by_field() -> None:
    event = read_event(EXAMPLE, NOW)
    assert (event.id, event.source, event.model, event.artifact_type) == ("e-17", "my-editor", "qwen3:0.6b", "shell")
    assert event.timestamp == datetime(2026, 11, 20, 21, 4, 5, tzinfo=UTC)
    assert event.context.system == "Answer with one shell command."
    assert event.target == EXAMPLE["corrected_output"]
    assert (event.validation_score, event.retries, event.metadata.reason) == (20.0, 1, "not recursive")
    assert event.feedback_type is FeedbackType.USER_CORRECTION


def test_what_is_missing_has_a_default() -> None:
    event = read()
    assert (event.source, event.retries, event.validation_score, event.model) == ("dropdir", 0, None, None)
    assert (event.timestamp, event.metadata.clock_flag, event.artifact_type) == (NOW, False, None)


def test_tests_and_schema_are_read_from_the_metadata() -> None:
    metadata = read(metadata={"tests": "assert f()", "schema": {"type": "object", "a": 1}}).metadata
    assert (metadata.tests, metadata.schema) == ("assert f()", '{"a": 1, "type": "object"}')
    assert read(metadata={"schema": "CREATE TABLE t (a)"}).metadata.schema == "CREATE TABLE t (a)"
    assert "metadata.tests" in refusal(metadata={"tests": 3})


def test_an_id_is_made_from_the_content() -> None:
    assert read().id == read().id
    assert read().id != read(ai_output="b").id
    assert read_event(dict(reversed(LIKED.items())), NOW).id == read().id


@pytest.mark.parametrize(
    ("alias", "kind", "preference"),
    [
        ("thumbs_up", FeedbackType.EXPLICIT_POSITIVE, False),
        ("thumbs_down", FeedbackType.EXPLICIT_NEGATIVE, False),
        ("correction", FeedbackType.USER_CORRECTION, False),
        ("preference", FeedbackType.USER_CORRECTION, True),
    ],
)
def test_aliases_of_feedback_types(alias: str, kind: FeedbackType, *, preference: bool) -> None:
    event = read(feedback_type=alias, corrected_output="better")
    assert (event.feedback_type, event.metadata.preference) == (kind, preference)


@pytest.mark.parametrize(
    ("given", "expected", "flagged"),
    [
        (1764000000, datetime(2025, 11, 24, 16, 0, tzinfo=UTC), False),
        (1764000000000, datetime(2025, 11, 24, 16, 0, tzinfo=UTC), False),
        ("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC), False),
        ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), False),
        (0, datetime(1970, 1, 1, tzinfo=UTC), True),
        ("2099-01-01T00:00:00Z", datetime(2099, 1, 1, tzinfo=UTC), True),
    ],
)
def test_times(given: object, expected: datetime, *, flagged: bool) -> None:
    event = read(timestamp=given)
    assert (event.timestamp, event.metadata.clock_flag) == (expected, flagged)
    assert event.timestamp.utcoffset() is not None
    assert event.timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("validation_score", "90"),
        ("validation_score", 101),
        ("validation_score", -1),
        ("validation_score", True),
        ("retries", -1),
        ("retries", 1.5),
        ("retries", True),
        ("timestamp", "yesterday"),
        ("timestamp", True),
        ("timestamp", 10**18),
        ("timestamp", "0001-01-01T00:00:00+14:00"),
        ("id", ""),
        ("id", "x" * 201),
        ("id", 7),
        ("feedback_type", "meh"),
        ("feedback_type", None),
        ("input_data", None),
        ("input_data", ""),
        ("input_data", 5),
        ("input_data", "half a character \ud800"),
        ("input_data", "a NUL \x00"),
        ("ai_output", None),
        ("ai_output", ["a"]),
        ("model", 3),
        ("context", 5),
        ("metadata", "m"),
        ("source", 1),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_and_in_a_sentence(field: str, value: object) -> None:
    reason = refusal(**{field: value})
    assert field in reason
    assert reason.endswith(".")


def test_corrections_must_correct() -> None:
    assert "corrected_output" in refusal(feedback_type="user_correction")
    assert "equals" in refusal(feedback_type="user_correction", corrected_output=" a\n")
    assert read(feedback_type="explicit_negative", corrected_output="b").is_correction
    assert read(feedback_type="user_correction", ai_output=None, corrected_output="b").target == "b"


def test_input_that_is_no_text_becomes_canonical_json() -> None:
    assert read(input_data={"b": 1, "a": ["é"]}).input_data == '{"a":["é"],"b":1}'
    assert read(input_data=[1, 2]).input_data == "[1,2]"


def test_context_as_text_is_the_system_prompt() -> None:
    assert read(context="Be brief.").context.system == "Be brief."


def test_messages_chunks_and_unknown_context_keys() -> None:
    context = read(
        context={
            "messages": [
                {"role": "human", "content": "hi"},
                {"role": "gpt", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ],
            "chunks": [{"text": "c", "source": "s", "score": 0.5}],
            "editor": "vi",
        }
    ).context
    assert context.messages == (Message(role=Role.USER, content="hi"), Message(role=Role.ASSISTANT, content="a\nb"))
    assert context.chunks == (Chunk(text="c", source="s", score=0.5),)
    assert context.extra_json == '{"editor": "vi"}'


@pytest.mark.parametrize(
    "context",
    [
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": ["x"]},
        {"messages": {"role": "user"}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        {"chunks": [{"source": "s"}]},
        {"chunks": [{"text": "t", "score": "high"}]},
        {"system": 5},
    ],
)
def test_broken_context_is_refused(context: object) -> None:
    assert "context" in refusal(context=context)


def test_unknown_fields_are_kept_in_the_metadata() -> None:
    metadata = read(editor="vi", metadata={"colour": "red", "extra": {"deep": [1]}, "tags": ["a", 1]}).metadata
    assert json.loads(metadata.extra_json or "") == {"editor": "vi", "colour": "red", "deep": [1]}
    assert metadata.tags == ("a", "1")


def test_null_metadata_is_as_if_left_out() -> None:
    metadata = read(metadata={"weight": None, "weak": None, "tags": None, "source_version": None}).metadata
    assert (metadata.weight, metadata.weak, metadata.tags) == (1.0, False, ())


def test_a_tombstone_needs_its_key_alone() -> None:
    event = read_event({"id": "1", "source": "s", "metadata": {"deleted": True, "source_version": 3}}, NOW)
    assert (event.id, event.source, event.metadata.deleted, event.metadata.source_version) == ("1", "s", True, "3")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (json.dumps(LIKED).encode("utf-16"), "UTF-16"),
        (b"\xef\xbb\xbf" + json.dumps(LIKED).encode(), "byte order mark"),
        (b'{"a": "\x00"}', "NUL at byte 7"),
        (b'{"a": "\xff"}', "Byte 7 is not UTF-8"),
        (b'{"validation_score": NaN}', "NaN"),
        (b'{"validation_score": -Infinity}', "-Infinity"),
        (b'{"validation_score": 1e999}', "too large"),
        (b'{"validation_score": ' + b"9" * 400 + b"}", "400 digits"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 65 + b"]" * 65, "nested deeper"),
        (b'{"a" 1}', "not JSON"),
        (b'{"feedback_type": "success",, }', "not JSON"),
        (b"5", "object"),
        (b" " * 40_000, "larger than"),
    ],
)
def test_hostile_files_are_refused_each_with_its_reason(tmp_path: Path, content: bytes, says: str) -> None:
    found = parse(tmp_path / "f", content, limit=200_000 if len(content) == 100_000 else 4096)
    assert found.events == ()
    assert [says in one.reason for one in found.refused] == [True], found
    assert len(found.refused[0].text) <= 2000


def test_lone_surrogates_are_refused_wherever_they_would_be_stored(tmp_path: Path) -> None:
    half = '"\\ud800"'
    for field in ("input_data", "ai_output", "id", "model", "source"):
        content = json.dumps({**LIKED, field: "@"}).replace('"@"', half).encode()
        assert "surrogate" in parse(tmp_path / "f", content).refused[0].reason
    for metadata in ('{"tags": ["\\ud800"]}', '{"source_version": "\\ud800"}'):
        content = json.dumps({**LIKED, "metadata": 0}).replace('"metadata": 0', f'"metadata": {metadata}').encode()
        assert "surrogate" in parse(tmp_path / "f", content).refused[0].reason
    kept = parse(tmp_path / "f", json.dumps(LIKED)[:-1].encode() + b', "x\\ud800": "\\udfff"}').events[0].metadata
    assert (kept.extra_json or "").isascii()


def test_one_bad_record_of_an_array_does_not_cost_the_others(tmp_path: Path) -> None:
    found = parse(tmp_path / "f", json.dumps([LIKED, {"input_data": "q"}, EXAMPLE, 5]).encode())
    assert len(found.events) == 2
    assert [one.position for one in found.refused] == [2, 4]


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    good = json.dumps(LIKED)
    long = json.dumps({**LIKED, "ai_output": "x" * 5000})
    content = f'{good}\n\n{{broken\n{long}\n{{"id": "1", \n{good}\n{good[:-4]}'.encode()
    found = parse(tmp_path / "f", content, name="f.jsonl")
    assert len(found.events) == 2
    assert [(one.position, one.code) for one in found.refused] == [(3, "invalid"), (4, "too_large"), (5, "invalid")]
    assert found.incomplete


def test_a_line_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    line = json.dumps({**LIKED, "ai_output": "x"}).encode()
    padded = line.replace(b'"x"', b'"' + b"x" * (4097 - len(line)) + b'"') + b"\n"
    assert len(padded) == 4096 + len(b"\n")
    assert len(parse(tmp_path / "f", padded + line + b"\n", name="f.ndjson").events) == 2


def test_other_names_are_for_other_parsers(tmp_path: Path) -> None:
    file = FeedbackFile(path=tmp_path / "f", name="f.csv", modified_at=NOW, settled=True)
    assert IntakeNative().nightschool_parse_feedback(file) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), texts
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(texts, plain, min_size=1, max_size=4), st.booleans())
def test_every_beginning_of_a_record_is_incomplete_and_never_an_event(
    tmp_path_factory: pytest.TempPathFactory, extra: dict[str, object], ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("cut") / "f"
    content = json.dumps({"editor": extra, **LIKED}, ensure_ascii=ascii_only).encode()
    assert len(parse(path, content, limit=10**6).events) == 1
    for length in random.Random(len(content)).sample(range(1, len(content)), 12):
        assert parse(path, content[:length], limit=10**6) == ParsedFeedback(incomplete=True), content[:length]


@given(st.one_of(plain, st.dictionaries(st.sampled_from(sorted(EXAMPLE)), plain)))
def test_any_value_is_an_event_or_a_sentence(record: object) -> None:
    assert outcome(record).endswith(".")


def outcome(record: object) -> str:
    """The refusal's sentence, or one that says that there is none."""
    try:
        event = read_event(record, NOW)
    except RecordError as error:
        return str(error)
    return "It is an event." if event.input_data or event.metadata.deleted else "It is an event without input"


@given(st.binary(max_size=200))
def test_any_bytes_end_somewhere(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "f"
    for name in ("f.json", "f.jsonl"):
        parse(path, content, name=name)
