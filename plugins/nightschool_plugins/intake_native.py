"""Reads the native format: an event object, an array of them (`*.json`), or one a line (`*.jsonl`, `*.ndjson`).

A bad record is refused with a reason, the others are taken. Unknown top-level fields are kept in the
metadata; one that looks like a misspelt field of ours is not, since what it says would be lost. docs/feedback.md
tells the fields.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from nightschool_hookspecs import (
    Chunk,
    Context,
    Event,
    FeedbackFile,
    FeedbackType,
    Message,
    Metadata,
    ParsedFeedback,
    RefusedRecord,
    Role,
    hookimpl,
)

LINES = (".jsonl", ".ndjson")
FIELDS = frozenset(
    {
        "id",
        "timestamp",
        "artifact_type",
        "model",
        "input_data",
        "context",
        "ai_output",
        "corrected_output",
        "validation_score",
        "feedback_type",
        "retries",
        "source",
        "metadata",
    }
)
SIMILAR = 0.88
"""How alike an unknown key is to a field that was probably meant (difflib's ratio)."""
SWITCHES = frozenset({"weak", "weight", "preference", "demonstration", "deleted"})
"""Keys of the metadata that change what is learned."""
ALIASES: Mapping[str, str] = {
    "thumbs_up": "explicit_positive",
    "thumbs_down": "explicit_negative",
    "correction": "user_correction",
    "preference": "user_correction",
}
"""What other tools write."""
ROLES: Mapping[str, Role] = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "human": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
    "bot": Role.ASSISTANT,
    "model": Role.ASSISTANT,
    "ai": Role.ASSISTANT,
    "tool": Role.TOOL,
    "observation": Role.TOOL,
    "function_response": Role.TOOL,
}
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
MILLISECONDS_FROM = 1e11
MAX_ID, MAX_DEPTH, SHOWN = 200, 64, 2000
RECORDS_A_FILE = 8
"""A whole `.json` file may be so many times as large as one record."""
MAX_DIGITS = 300
"""Of a whole number: what still fits a float."""
CUT_TOKEN = re.compile(r"|-|t|tr|tru|f|fa|fal|fals|n|nu|nul|\.|[eE][+-]?|u[0-9a-fA-F]{0,4}")
"""What can stand behind the last whole token of a text that was cut off."""
SURROGATE = re.compile(r"[\ud800-\udfff]")
Value = TypeVar("Value")


class RecordError(ValueError):
    """A record is not an event; the message says which field and what to do."""

    def __init__(self, message: str, code: str = "invalid") -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class IntakeNative:
    """`[plugins.intake_native]`"""

    max_record_bytes: int = 4 * 1024 * 1024
    """Larger records are refused."""

    def __post_init__(self) -> None:
        if self.max_record_bytes < 1024:
            raise ValueError("max_record_bytes must be 1024 or more")

    @hookimpl
    def nightschool_parse_feedback(self, file: FeedbackFile) -> ParsedFeedback | None:
        suffix = "." + file.name.rsplit(".", 1)[-1].lower()
        if suffix in LINES:
            return self._parse_lines(file)
        return self._parse_whole(file) if suffix == ".json" else None

    def _parse_lines(self, file: FeedbackFile) -> ParsedFeedback:
        events: list[Event] = []
        refused: list[RefusedRecord] = []
        incomplete = False
        for number, line in enumerate(self._lines(file), start=1):
            if line is None:
                refused.append(
                    _refused(
                        f"The record has over {self.max_record_bytes} bytes. Shorten it, or raise max_record_bytes.",
                        "",
                        number,
                        "too_large",
                    )
                )
            elif not line.endswith(b"\n"):
                incomplete = True
            elif line.strip():
                self._take(line, file, number, events, refused)
        return ParsedFeedback(events=tuple(events), refused=tuple(refused), incomplete=incomplete)

    def _lines(self, file: FeedbackFile) -> Iterator[bytes | None]:
        """Lines in bounded memory; None for one that is too long."""
        with file.path.open("rb") as stream:
            while line := stream.readline(self.max_record_bytes + 1):
                if len(line) <= self.max_record_bytes or line.endswith(b"\n"):
                    yield line
                    continue
                while (rest := stream.readline(self.max_record_bytes)) and not rest.endswith(b"\n"):
                    pass
                yield None

    def _parse_whole(self, file: FeedbackFile) -> ParsedFeedback:
        with file.path.open("rb") as stream:
            content = stream.read(self.max_record_bytes * RECORDS_A_FILE + 1)
        if len(content) > self.max_record_bytes * RECORDS_A_FILE:
            limit = self.max_record_bytes * RECORDS_A_FILE
            reason = f"The file is larger than {limit} bytes. Write one event a line into a .jsonl file."
            return ParsedFeedback(refused=(_refused(reason, "", None, "too_large"),))
        try:
            value = _load(content)
        except RecordError as error:
            if error.code == "incomplete":
                return ParsedFeedback(incomplete=True)
            return ParsedFeedback(refused=(_refused(str(error), _text(content), None, error.code),))
        records = value if isinstance(value, list) else [value]
        events: list[Event] = []
        refused: list[RefusedRecord] = []
        for number, record in enumerate(records, start=1):
            try:
                events.append(read_event(record, file.modified_at))
            except RecordError as error:
                refused.append(_refused(str(error), json.dumps(record, ensure_ascii=False), number, error.code))
        return ParsedFeedback(events=tuple(events), refused=tuple(refused))

    def _take(
        self, line: bytes, file: FeedbackFile, number: int, events: list[Event], refused: list[RefusedRecord]
    ) -> None:
        try:
            events.append(read_event(_load(line), file.modified_at))
        except RecordError as error:
            # a line that has its end is not incomplete but broken
            code = "invalid" if error.code == "incomplete" else error.code
            refused.append(_refused(str(error), _text(line), number, code))


def read_event(record: object, modified_at: datetime) -> Event:
    """Turn a decoded record into an event. Raises `RecordError`."""
    if not isinstance(record, dict):
        raise RecordError(f"An event is an object, this is {_kind(record)}. Put the fields between {{ and }}.")
    metadata = _metadata(record)
    _refuse_misplaced(record)
    source = _string(record, "source") or "dropdir"
    identifier = _identifier(record)
    if metadata.deleted:
        return _tombstone(identifier, source, metadata, modified_at)
    kind = _feedback_type(record)
    if record.get("feedback_type") == "preference":
        metadata = replace(metadata, preference=True)
    timestamp, flagged = _timestamp(record, modified_at)
    answer, correction = _string(record, "ai_output"), _string(record, "corrected_output")
    _require_answer(kind, answer, correction)
    return Event(
        id=identifier,
        timestamp=timestamp,
        feedback_type=kind,
        input_data=_input(record),
        artifact_type=_string(record, "artifact_type"),
        model=_string(record, "model"),
        context=_context(record),
        ai_output=answer,
        corrected_output=correction,
        validation_score=_score(record),
        retries=_retries(record),
        source=source,
        metadata=replace(metadata, clock_flag=flagged),
    )


# --------------------------------------------------------------------------- bytes to values


def _load(content: bytes) -> object:
    """Decode JSON strictly. Raises `RecordError`, with the code `incomplete` where the text only ends too early."""
    if content.startswith((b"\x1f\x8b",)):
        raise RecordError("This is gzip, not JSON. Unpack it first.", "encoding")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecordError("This is UTF-16 (byte 0). Save it as UTF-8.", "encoding")
    if content.startswith(b"\xef\xbb\xbf"):
        raise RecordError("There is a byte order mark at byte 0. Save it as UTF-8 without BOM.", "encoding")
    if b"\x00" in content:
        raise RecordError(f"There is a NUL at byte {content.index(0)}. Save it as plain UTF-8.", "encoding")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end == len(content) and error.reason == "unexpected end of data":
            raise RecordError("The file ends in the middle of a character.", "incomplete") from None
        raise RecordError(f"Byte {error.start} is not UTF-8. Save it as UTF-8.", "encoding") from None
    if not text.strip():
        raise RecordError("It is empty.", "incomplete")
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_int=_whole, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError:
        raise RecordError(f"It is nested deeper than {MAX_DEPTH} levels.", "too_deep") from None
    except json.JSONDecodeError as error:
        ended = "Unterminated string" in error.msg or CUT_TOKEN.fullmatch(text[error.pos :].rstrip())
        raise RecordError(
            f"It is not JSON: {error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}.",
            "incomplete" if ended else "invalid",
        ) from None
    _check_depth(value)
    return value


def _refuse_constant(name: str) -> object:
    raise RecordError(f"{name} is no JSON number. Leave the field out instead.")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RecordError(f"A number has {len(digits)} digits. Write it as a text.")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RecordError(f"{digits[:80]} is too large for a number. Write it as a text.")
    return number


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise RecordError(f"The key {key[:80]!r} stands there twice. Keep one of them.")
        found[key] = value
    return found


def _check_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
        if not level:
            return
    raise RecordError(f"It is nested deeper than {MAX_DEPTH} levels.", "too_deep")


# --------------------------------------------------------------------------- fields


def _refuse_misplaced(record: Mapping[str, object]) -> None:
    """Raise for a key that was probably meant to be one of ours."""
    for key in record.keys() - FIELDS:
        near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=SIMILAR)
        if near:
            raise RecordError(f"{key[:80]} is no field. Did you mean {near[0]}?")
        if key in SWITCHES and isinstance(record[key], bool | int | float):
            raise RecordError(f"{key} stands in the wrong place. Move it into metadata.")


def _identifier(record: Mapping[str, object]) -> str:
    given = _string(record, "id")
    if given is None:
        canonical = json.dumps(record, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]
    if not 1 <= len(given) <= MAX_ID:
        raise RecordError(f"id has {len(given)} characters; it needs 1 to {MAX_ID}.")
    return given


def _feedback_type(record: Mapping[str, object]) -> FeedbackType:
    given = record.get("feedback_type")
    known = ", ".join(one.value for one in FeedbackType)
    if not isinstance(given, str):
        raise RecordError(f"feedback_type is missing. It is one of {known}.")
    try:
        return FeedbackType(ALIASES.get(given, given))
    except ValueError:
        raise RecordError(f"feedback_type {given[:80]!r} is not known. It is one of {known}.") from None


def _require_answer(kind: FeedbackType, answer: str | None, correction: str | None) -> None:
    if kind is FeedbackType.USER_CORRECTION and correction is None:
        raise RecordError("A user_correction needs corrected_output: what the model should have said.")
    if answer is None and correction is None:
        raise RecordError("ai_output is missing: what the model said.")
    if answer is not None and correction is not None and answer.strip() == correction.strip():
        raise RecordError("corrected_output equals ai_output. Send it as explicit_positive if the answer was right.")


def _input(record: Mapping[str, object]) -> str:
    given = record.get("input_data")
    if given is None or given == "":
        raise RecordError("input_data is missing: what the model was asked.")
    if isinstance(given, str):
        return _sound("input_data", given)
    if isinstance(given, dict | list):
        return _sound("input_data", json.dumps(given, sort_keys=True, ensure_ascii=False, separators=(",", ":")))
    raise RecordError(f"input_data is {_kind(given)}. It is a text, an object or an array.")


def _score(record: Mapping[str, object]) -> float | None:
    given = record.get("validation_score")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise RecordError(f"validation_score is {_kind(given)}. It is a number from 0 to 100.")
    if not (math.isfinite(given) and 0 <= given <= 100):
        raise RecordError(f"validation_score is {given:g}. It is a number from 0 to 100.")
    return float(given)


def _retries(record: Mapping[str, object]) -> int:
    given = record.get("retries")
    if given is None:
        return 0
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise RecordError("retries is a whole number, 0 or more.")
    return given


def _timestamp(record: Mapping[str, object], modified_at: datetime) -> tuple[datetime, bool]:
    """The time, and whether it lies where no clock should be."""
    given = record.get("timestamp")
    found = modified_at if given is None else _moment(given)
    return found, not EARLIEST <= found <= modified_at + timedelta(days=1)


def _moment(given: object) -> datetime:
    try:
        if isinstance(given, str):
            found = datetime.fromisoformat(given)
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        if isinstance(given, int | float) and not isinstance(given, bool):
            seconds = given / 1000 if abs(given) > MILLISECONDS_FROM else given
            return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise RecordError("timestamp is no time. Write it as 2026-11-20T21:04:05Z, or as seconds since 1970.")


def _context(record: Mapping[str, object]) -> Context:
    given = record.get("context")
    if given is None:
        return Context()
    if isinstance(given, str):
        return Context(system=_sound("context", given))
    if not isinstance(given, dict):
        raise RecordError(f"context is {_kind(given)}. It is an object or a text.")
    extra = {key: value for key, value in given.items() if key not in ("system", "messages", "chunks")}
    return Context(
        system=_string(given, "system", "context.system"),
        messages=tuple(_message(one) for one in _list(given, "messages", "context.messages")),
        chunks=tuple(_chunk(one) for one in _list(given, "chunks", "context.chunks")),
        extra_json=json.dumps(extra, sort_keys=True) if extra else None,
    )


def _message(given: object) -> Message:
    role = given.get("role") if isinstance(given, dict) else None
    content = given.get("content") if isinstance(given, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        raise RecordError(f"context.messages: the role {str(role)[:40]!r} is not known. Use system, user or assistant.")
    if isinstance(content, list):
        content = _joined(content)
    if not isinstance(content, str):
        raise RecordError("context.messages: every message needs a text as content.")
    return Message(role=ROLES[role], content=_sound("context.messages", content))


def _joined(parts: list[object]) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RecordError("context.messages holds an image or a file; only text is learned.")
        texts.append(str(part["text"]))
    return "\n".join(texts)


def _chunk(given: object) -> Chunk:
    if not isinstance(given, dict) or not isinstance(given.get("text"), str):
        raise RecordError("context.chunks: every chunk is an object with a text.")
    score = given.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise RecordError("context.chunks: score is a number.")
    return Chunk(
        text=_sound("context.chunks", str(given["text"])),
        source=_string(given, "source", "context.chunks.source"),
        score=float(score) if score is not None else None,
    )


def _metadata(record: Mapping[str, object]) -> Metadata:
    given = record.get("metadata")
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise RecordError(f"metadata is {_kind(given)}. It is an object.")
    known = set(Metadata.__dataclass_fields__) - {"clock_flag", "extra_json"}
    extra: dict[str, object] = {key: value for key, value in given.items() if key not in known and key != "extra"}
    if isinstance(given.get("extra"), dict):
        extra |= given["extra"]
    extra |= {key: value for key, value in record.items() if key not in FIELDS}
    return Metadata(
        weak=_typed(given, "weak", bool, False),
        weight=_weight(given),
        preference=_typed(given, "preference", bool, False),
        demonstration=_typed(given, "demonstration", bool, False),
        deleted=_typed(given, "deleted", bool, False),
        source_id=_string(given, "source_id", "metadata.source_id"),
        source_version=_version(given),
        user=_string(given, "user", "metadata.user"),
        reason=_string(given, "reason", "metadata.reason"),
        comment=_string(given, "comment", "metadata.comment"),
        tags=tuple(_sound("metadata.tags", str(one)) for one in _list(given, "tags", "metadata.tags")),
        fim_suffix=_string(given, "fim_suffix", "metadata.fim_suffix"),
        tests=_string(given, "tests", "metadata.tests"),
        schema=_schema(given),
        extra_json=json.dumps(extra, sort_keys=True) if extra else None,
    )


def _schema(given: Mapping[str, object]) -> str | None:
    schema = given.get("schema")
    if isinstance(schema, dict):
        return _sound("metadata.schema", json.dumps(schema, sort_keys=True, ensure_ascii=False))
    return _string(given, "schema", "metadata.schema")


def _weight(given: Mapping[str, object]) -> float:
    weight = given.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise RecordError("metadata.weight is a number from 0 to 1.")
    return float(weight)


def _version(given: Mapping[str, object]) -> str | None:
    version = given.get("source_version")
    return _sound("metadata.source_version", str(version)) if isinstance(version, int | float | str) else None


def _tombstone(identifier: str, source: str, metadata: Metadata, modified_at: datetime) -> Event:
    """A withdrawn event: only its key counts."""
    return Event(
        id=identifier,
        timestamp=modified_at,
        feedback_type=FeedbackType.EXPLICIT_NEGATIVE,
        input_data="",
        source=source,
        metadata=metadata,
    )


def _string(record: Mapping[str, object], key: str, shown: str | None = None) -> str | None:
    given = record.get(key)
    if given is None:
        return None
    if not isinstance(given, str):
        raise RecordError(f"{shown or key} is {_kind(given)}. It is a text.")
    return _sound(shown or key, given)


def _typed(given: Mapping[str, object], key: str, kind: type[Value], default: Value) -> Value:
    value = given.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise RecordError(f"metadata.{key} is {_kind(value)}. It is true or false.")
    return value


def _list(given: Mapping[str, object], key: str, shown: str) -> list[object]:
    value = given.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RecordError(f"{shown} is {_kind(value)}. It is an array.")
    return value


def _sound(key: str, text: str) -> str:
    """Refuse what no tokenizer can take."""
    if SURROGATE.search(text):
        raise RecordError(f"{key} holds half a character (a lone surrogate). Write it as UTF-8.", "encoding")
    if "\x00" in text:
        raise RecordError(f"{key} holds a NUL. Remove it.", "encoding")
    return text


def _kind(value: object) -> str:
    names: Mapping[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "an array",
        dict: "an object",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def _refused(reason: str, text: str, position: int | None, code: str) -> RefusedRecord:
    return RefusedRecord(reason=reason, text=text[:SHOWN], position=position, code=code)


def _text(content: bytes) -> str:
    return content[: SHOWN * 4].decode("utf-8", "replace")


@hookimpl
def nightschool_register_settings() -> type[IntakeNative]:
    return IntakeNative
