"""Records survive the way to JSON and back, and nothing else gets in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.codec import CodecError, build, from_json, to_json


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    exact: bool
    inner: Inner
    many: tuple[Inner, ...] = ()
    pair: tuple[str, int] = ("", 0)
    table: Mapping[str, float] | None = None
    colour: Colour = Colour.RED
    when: datetime | None = None
    at: time | None = None
    file: Path | None = None


TEXT = st.text()
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
INNER = st.builds(Inner, name=TEXT, weight=NUMBER)
OUTER = st.builds(
    Outer,
    count=st.integers(),
    exact=st.booleans(),
    inner=INNER,
    many=st.lists(INNER, max_size=3).map(tuple),
    pair=st.tuples(TEXT, st.integers()),
    table=st.none() | st.dictionaries(TEXT, NUMBER, max_size=3),
    colour=st.sampled_from(Colour),
    when=st.none() | st.datetimes(timezones=st.just(UTC)),
    at=st.none() | st.times(),
    file=st.none() | st.text(min_size=1).map(Path),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(OUTER)
def test_record_survives(record: Outer) -> None:
    assert from_json(to_json(record), Outer) == record


@given(OUTER)
def test_text_is_the_same_every_time(record: Outer) -> None:
    assert to_json(from_json(to_json(record), Outer)) == to_json(record)


@given(JSON)
def test_anything_else_is_a_codec_error(value: object) -> None:
    """No other exception escapes, whatever the value."""
    try:
        record = build(Outer, value)
    except CodecError:
        return
    assert isinstance(record, Outer)


@given(OUTER, st.text(min_size=1).filter(lambda key: key not in Outer.__dataclass_fields__))
def test_unknown_key_is_refused_with_its_path(record: Outer, key: str) -> None:
    plain = json.loads(to_json(record))
    plain["inner"][key] = 1
    if key in Inner.__dataclass_fields__:
        return
    with pytest.raises(CodecError, match="unknown key") as caught:
        build(Outer, plain)
    assert caught.value.path == f"inner.{key}"


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"count": True}, "count", "a whole number expected, not true"),
        ({"count": 1.0}, "count", "a whole number expected, not 1.0"),
        ({"exact": 1}, "exact", "true or false expected, not 1"),
        ({"inner": {"name": None}}, "inner.name", "a text expected, not null"),
        ({"inner": {}}, "inner.name", "is missing"),
        ({"many": [{"name": "a"}, {"name": 2}]}, "many[1].name", "a text expected, not 2"),
        ({"pair": ["a"]}, "pair", "a list of 2 expected, not of 1"),
        ({"table": {"a": "b"}}, "table.a", "a number expected"),
        ({"colour": "green"}, "colour", "one of 'red', 'blue' expected"),
        ({"when": "yesterday"}, "when", "a date and time expected"),
        ({"innr": {}}, "innr", "did you mean 'inner'?"),
    ],
)
def test_fault_is_named_where_it_is(change: dict[str, object], path: str, reason: str) -> None:
    with pytest.raises(CodecError) as caught:
        build(Outer, {"count": 1, "exact": True, "inner": {"name": "n"}, **change})
    assert caught.value.path == path
    assert reason in caught.value.reason


@pytest.mark.parametrize("text", ["", "{", "\x00", "nul"])
def test_what_is_not_json_is_a_codec_error(text: str) -> None:
    with pytest.raises(CodecError, match="not JSON"):
        from_json(text, Outer)


def test_numbers_that_json_does_not_have_are_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Inner(name="n", weight=float("nan")))
