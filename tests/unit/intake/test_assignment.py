"""Which specialty an event belongs to, and which prompts count as the same."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.intake.assignment import Assignment, assign, group_of
from nightschool_hookspecs import Event, FeedbackType

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def event(model: str | None, kind: str | None = "erd", prompt: str = "q") -> Event:
    return Event(
        id="1",
        timestamp=NOW,
        feedback_type=FeedbackType.SUCCESS,
        input_data=prompt,
        artifact_type=kind,
        model=model,
        ai_output="a",
    )


@pytest.mark.parametrize(
    ("model", "base", "answered_by"),
    [
        ("llama3.2:3b", "llama3.2:3b", None),
        ("Llama3.2:3B", "llama3.2:3b", None),
        ("llama3.2", "llama3.2:latest", None),
        ("hub.example/me/llama3.2", "hub.example/me/llama3.2:latest", None),
        ("llama3.2-nightschool:3b.erd", "llama3.2:3b", "llama3.2-nightschool:3b.erd"),
        ("llama3.2-nightschool:3b.erd.v7", "llama3.2:3b", "llama3.2-nightschool:3b.erd.v7"),
        ("me/llama-nightschool:latest.erd.v1", "me/llama:latest", "me/llama-nightschool:latest.erd.v1"),
        ("llama3.2-nightschool:3b.base-0123456789ab", "llama3.2:3b", "llama3.2-nightschool:3b.base-0123456789ab"),
        ("llama3.2-nightschool:3b", "llama3.2-nightschool:3b", None),
    ],
)
def test_a_base_an_alias_and_a_version_count_to_the_base(model: str, base: str, answered_by: str | None) -> None:
    assert assign(event(model), {"*": "other:1b"}) == Assignment(base=base, answered_by=answered_by)


def test_without_a_model_the_default_of_its_type_counts_then_of_all_then_none() -> None:
    defaults = {"erd": "Qwen3", "*": "tiny:1b"}
    assert assign(event(None), defaults).base == "qwen3:latest"
    assert assign(event(None, "workflows"), defaults).base == "tiny:1b"
    assert assign(event(""), {"workflows": "tiny:1b"}).base is None


def test_prompts_that_differ_in_case_space_or_closing_are_one_group() -> None:
    one = group_of(event(None, prompt="List all files"))
    for other in ("list  all\nfiles", " List all files. ", "LIST ALL FILES?!"):
        assert group_of(event(None, prompt=other)) == one
    for other in ("list all file", "list -all files", "listallfiles"):
        assert group_of(event(None, prompt=other)) != one


@given(st.text())
def test_every_prompt_has_a_group(prompt: str) -> None:
    assert group_of(event(None, prompt=prompt)) == group_of(event(None, prompt=f"  {prompt} "))
