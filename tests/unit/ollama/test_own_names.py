"""Names of our tags: they parse back to what they were made of, and Ollama takes them."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.names import Kind, OwnName
from nightschool_hookspecs.records import Specialty

OLLAMA_PART = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
"""What Ollama takes as the tag of a name."""

models = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,30}", fullmatch=True) | st.from_regex(
    r"[a-z]{1,8}/[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True
)
base_tags = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,24}", fullmatch=True)
bases = st.builds(lambda model, tag: f"{model}:{tag}", models, base_tags)
types = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,63}", fullmatch=True).filter(lambda one: names.type_problem(one) is None)
short_types = types.map(lambda one: one[:30]).filter(lambda one: names.type_problem(one) is None)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)


def specialty(base: str, artifact_type: str) -> Specialty:
    return Specialty(base=base, artifact_type=artifact_type)


@given(bases, short_types)
@example("llama3.2:3b", "erd")
@example("a:b.c.v7", "erd")
def test_an_alias_parses_back(base: str, artifact_type: str) -> None:
    parsed = names.parse(names.alias_of(specialty(base, artifact_type)))
    assert parsed == OwnName(kind=Kind.ALIAS, base=base, artifact_type=artifact_type)


@given(bases, short_types, st.integers(1, 999_999))
def test_a_version_parses_back(base: str, artifact_type: str, number: int) -> None:
    parsed = names.parse(names.version_of(specialty(base, artifact_type), number))
    assert parsed == OwnName(kind=Kind.VERSION, base=base, artifact_type=artifact_type, number=number)


@given(bases, digests)
def test_a_pin_and_a_saved_tag_parse_back(base: str, digest: str) -> None:
    assert names.parse(names.pin_of(base, digest)) == OwnName(kind=Kind.PIN, base=base)
    assert names.parse(names.saved_of(base, digest)) == OwnName(kind=Kind.SAVED, base=base)


@given(bases, types, st.integers(1, 999_999))
@example("m:" + "t" * 25, "x" * 64, 999_999)
def test_ollama_takes_the_tag_of_every_version(base: str, artifact_type: str, number: int) -> None:
    model, _, tag = names.version_of(specialty(base, artifact_type), number).rpartition(":")
    assert OLLAMA_PART.fullmatch(tag), tag
    assert model == base.rpartition(":")[0] + names.SUFFIX


@given(bases, types, types)
@example("m:" + "t" * 25, "x" * 63 + "a", "x" * 63 + "b")
def test_two_types_never_share_an_alias(base: str, one: str, other: str) -> None:
    assume(one != other)
    assert names.alias_of(specialty(base, one)) != names.alias_of(specialty(base, other))


@given(bases, types)
def test_a_type_that_was_cut_is_still_an_alias_of_its_base(base: str, artifact_type: str) -> None:
    parsed = names.parse(names.alias_of(specialty(base, artifact_type)))
    assert parsed is not None
    assert (parsed.kind, parsed.base) == (Kind.ALIAS, base)
    assert parsed.artifact_type is not None
    assert names.type_problem(parsed.artifact_type) is None


@given(st.integers(25, 62), digests)
def test_a_pin_behind_a_long_base_tag_is_still_a_pin(length: int, digest: str) -> None:
    base = "m:" + "t" * length
    tag = names.pin_of(base, digest)
    assert names.parse(tag) == OwnName(kind=Kind.PIN, base=base)
    assert len(tag.rpartition(":")[2]) <= names.MAX_PART


@given(bases)
def test_names_of_others_are_not_ours(base: str) -> None:
    model = base.rpartition(":")[0]
    assume(not model.endswith(names.SUFFIX))
    assert names.parse(base) is None


@pytest.mark.parametrize("reserved", ["cloud", "local", "gpt-cloud", "v7", "base-0123456789ab", "saved-0123456789ab"])
def test_a_reserved_type_is_refused(reserved: str) -> None:
    problem = names.type_problem(reserved)
    assert problem is not None
    assert "choose another" in problem


@pytest.mark.parametrize("bad", ["", "ERD", "e.rd", "e rd", "-erd", "../x", "é", "x" * 65, "erd\n"])
def test_a_type_that_no_tag_could_hold_is_refused(bad: str) -> None:
    assert "is not allowed" in (names.type_problem(bad) or "")


@pytest.mark.parametrize("good", ["erd", "v", "v7a", "cloudy", "base-0123", "local-cache", "_", "x" * 64])
def test_a_type_that_only_resembles_a_reserved_one_is_allowed(good: str) -> None:
    assert names.type_problem(good) is None


@pytest.mark.parametrize(
    ("given_name", "normal"),
    [
        ("Llama3.2", "llama3.2:latest"),
        (" llama3.2:3B ", "llama3.2:3b"),
        ("localhost:5000/me/model", "localhost:5000/me/model:latest"),
        ("me/model:x", "me/model:x"),
    ],
)
def test_a_name_is_written_out(given_name: str, normal: str) -> None:
    assert names.normalise(given_name) == normal
    assert names.normalise(normal) == normal


def test_the_readable_examples() -> None:
    erd = specialty("llama3.2:3b", "erd")
    assert names.alias_of(erd) == "llama3.2-nightschool:3b.erd"
    assert names.version_of(erd, 7) == "llama3.2-nightschool:3b.erd.v7"
    assert names.pin_of("llama3.2:3b", "0123456789abcdef") == "llama3.2-nightschool:3b.base-0123456789ab"
    assert names.is_probe("nightschool-probe:123")
    assert not names.is_probe("nightschool:123")


@pytest.mark.parametrize("base", ["m" * 69 + ":1b", "hf.co/u/" + "m" * 69 + ":1b", "m:" + "t" * 62])
def test_base_that_leaves_no_room_is_told_so(base: str) -> None:
    problem = names.base_problem(base)
    assert problem is not None
    assert "ollama cp" in problem


@pytest.mark.parametrize("base", ["m" * 68 + ":1b", "hf.co/" + "u" * 70 + "/" + "m" * 68 + ":1b", "m:" + "t" * 61])
def test_every_name_beside_a_base_with_room_is_taken(base: str) -> None:
    assert names.base_problem(base) is None
    digest = "a" * 64
    longest = Specialty(base=base, artifact_type="x" * 64)
    for name in (names.version_of(longest, 999_999), names.pin_of(base, digest), names.saved_of(base, digest)):
        model, _, tag = name.rsplit("/", 1)[-1].rpartition(":")
        assert OLLAMA_PART.fullmatch(tag), tag
        assert len(model) <= names.MAX_PART


@pytest.mark.parametrize(
    "name",
    [
        "llama3.2",
        "llama3.2:3b",
        "Qwen3:0.6B",
        "user/model:tag",
        "hf.co/bartowski/Llama-3.2-3B-GGUF:Q4_K_M",
        "localhost:5000/a/b:c",
    ],
)
def test_names_that_ollama_takes_are_models(name: str) -> None:
    assert names.model_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "a:",
        "evil\x1b[31m:1m",
        "x; rm -rf ~ #",
        "a\nb",
        "x`touch /tmp/p`:1",
        "../../etc/passwd",
        "m" * 81,
        "a:b:c",
        "a b",
    ],
)
def test_what_ollama_would_not_take_is_no_model_and_is_shown_harmlessly(name: str) -> None:
    problem = names.model_problem(name)
    assert problem is not None
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("llama3.2:3b", "`ollama pull llama3.2:3b` brings it anew."),
        ("llama3.2-nightschool:3b.base-0123456789ab", "`ollama pull llama3.2:3b` brings it anew."),
        ("llama3.2-nightschool:3b.saved-0123456789ab", "`ollama pull llama3.2:3b` brings it anew."),
        (
            "llama3.2-nightschool:3b.erd.v7",
            "`ollama pull` cannot bring it anew, as Night School made it of llama3.2:3b: choose that one.",
        ),
    ],
)
def test_nobody_is_told_to_pull_what_night_school_named(name: str, told: str) -> None:
    assert names.anew(name) == told
