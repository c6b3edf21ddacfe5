"""Records to JSON and back, strictly: an unknown key or a wrong type is an error with its path.

It serves the configuration, the job files of workers and the ledger. Own code, because the idle
daemon has no room for the libraries that do the same (7 to 17 MB resident each).
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T")


class CodecError(ValueError):
    """A value does not fit its type. `path` says where, `reason` says what is wrong."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}" if path else reason)


def to_json(record: object) -> str:
    """Write a record as one line of JSON with keys in the order of its fields."""
    return json.dumps(record, default=_plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_plain(record: object) -> Any:
    """Turn a record into dictionaries, lists and scalars."""
    return json.loads(to_json(record))


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Read a record that `to_json` wrote. Raises `CodecError`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CodecError("", f"not JSON: {error}") from error
    return build(kind, value)


def build(kind: type[T], value: object, path: str = "") -> T:
    """Make an instance of `kind` from plain values. Raises `CodecError` with the path of the fault."""
    return cast(T, _build(kind, value, path))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _build(kind: Any, value: object, path: str) -> object:  # noqa: PLR0911 - one case a kind
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _build_optional(kind, value, path)
    if origin is tuple:
        return _build_tuple(typing.get_args(kind), value, path)
    if origin in (dict, Mapping):
        return _build_mapping(typing.get_args(kind), value, path)
    if kind is typing.Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _build_record(cast(type, kind), value, path)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _build_enum(kind, value, path)
    if kind in _FROM_TEXT:
        return _build_from_text(kind, value, path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise CodecError(path, f"a finite number expected, not {_shown(value)}")
    if type(value) is not kind:
        raise CodecError(path, f"{_NAMES.get(kind, str(kind))} expected, not {_shown(value)}")
    return value


_FROM_TEXT: dict[object, Any] = {datetime: datetime.fromisoformat, time: time.fromisoformat, Path: Path}
_NAMES: dict[object, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
    datetime: "a date and time",
    time: "a time",
    Path: "a path",
}


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _build_optional(kind: Any, value: object, path: str) -> object:
    alternatives = [one for one in typing.get_args(kind) if one is not type(None)]
    if value is None and len(alternatives) < len(typing.get_args(kind)):
        return None
    errors: list[CodecError] = []
    for alternative in alternatives:
        try:
            return _build(alternative, value, path)
        except CodecError as error:
            errors.append(error)
    raise errors[0] if len(errors) == 1 else CodecError(path, " or ".join(error.reason for error in errors))


def _build_tuple(kinds: tuple[Any, ...], value: object, path: str) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise CodecError(path, f"a list expected, not {_shown(value)}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_build(kinds[0], one, f"{path}[{index}]") for index, one in enumerate(value))
    if len(value) != len(kinds):
        raise CodecError(path, f"a list of {len(kinds)} expected, not of {len(value)}")
    pairs = zip(kinds, value, strict=True)
    return tuple(_build(kind, one, f"{path}[{index}]") for index, (kind, one) in enumerate(pairs))


def _build_mapping(kinds: tuple[Any, ...], value: object, path: str) -> dict[object, object]:
    if not isinstance(value, Mapping):
        raise CodecError(path, f"a table expected, not {_shown(value)}")
    return {_build(kinds[0], key, path): _build(kinds[1], one, join(path, str(key))) for key, one in value.items()}


def _build_enum(kind: type[Enum], value: object, path: str) -> Enum:
    if isinstance(value, kind):
        return value
    try:
        return kind(value)
    except ValueError:
        allowed = ", ".join(repr(one.value) for one in kind)
        raise CodecError(path, f"one of {allowed} expected, not {_shown(value)}") from None


def _build_from_text(kind: Any, value: object, path: str) -> object:
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        raise CodecError(path, f"{_NAMES[kind]} expected, not {_shown(value)}")
    try:
        return _FROM_TEXT[kind](value)
    except ValueError:
        raise CodecError(path, f"{_NAMES[kind]} expected, not {_shown(value)}") from None


def _build_record(kind: type, value: object, path: str) -> object:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise CodecError(path, f"a table expected, not {_shown(value)}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in value:
        if key not in fields:
            raise CodecError(join(path, str(key)), unknown_key(str(key), list(fields)))
    hints = typing.get_type_hints(kind)
    arguments = {key: _build(hints[key], one, join(path, key)) for key, one in value.items()}
    missing = [name for name, field in fields.items() if name not in arguments and _is_required(field)]
    if missing:
        raise CodecError(join(path, missing[0]), "is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise CodecError(path, str(error)) from error


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def unknown_key(key: str, known: list[str]) -> str:
    """Say that a key is unknown, with the nearest known one or all of them."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean '{near[0]}'?" if near else f"unknown key; known are: {', '.join(known)}"


def join(path: str, key: str) -> str:
    """Extend a path by a key."""
    return f"{path}.{key}" if path else key
