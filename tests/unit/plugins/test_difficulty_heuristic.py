"""The difficulty by artifact type and lengths: by hand, within its range, and without what the model scored."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Chunk, Context, Event, FeedbackType, Message, Role
from nightschool_hookspecs.testing import check_plugin
from nightschool_plugins import difficulty_heuristic
from nightschool_plugins.difficulty_heuristic import DifficultyHeuristic

TYPES = ("erd", "api_docs", "workflows", "architecture", "code_prototype", "other", "shell", None)
contexts = st.builds(
    Context,
    system=st.one_of(st.none(), st.text()),
    messages=st.lists(st.builds(Message, role=st.sampled_from(Role), content=st.text()), max_size=3).map(tuple),
    chunks=st.lists(st.builds(Chunk, text=st.text()), max_size=3).map(tuple),
)


def event(artifact_type: str | None, text: str = "", context: Context | None = None) -> Event:
    return Event(
        id="1",
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        feedback_type=FeedbackType.USER_CORRECTION,
        input_data=text,
        artifact_type=artifact_type,
        context=context or Context(),
        corrected_output="y",
    )


def difficulty(one: Event) -> float:
    return DifficultyHeuristic().nightschool_score_difficulty(one)


def test_it_keeps_the_contract() -> None:
    check_plugin(difficulty_heuristic)


@pytest.mark.parametrize(
    ("artifact_type", "characters", "context_characters", "expected"),
    [
        ("erd", 0, 0, 0.15),
        ("api_docs", 0, 0, 0.25),
        ("workflows", 0, 0, 0.3),
        ("architecture", 0, 0, 0.35),
        ("code_prototype", 0, 0, 0.4),
        ("other", 0, 0, 0.25),
        ("shell", 0, 0, 0.25),
        (None, 0, 0, 0.25),
        ("erd", 2500, 0, 0.3),
        ("erd", 5000, 0, 0.45),
        ("erd", 500_000, 0, 0.45),
        ("erd", 0, 5000, 0.25),
        ("erd", 0, 10_000, 0.35),
        ("code_prototype", 1000, 2500, 0.51),
        ("code_prototype", 9000, 90_000, 0.9),
    ],
)
def test_the_formula_by_hand(artifact_type: str, characters: int, context_characters: int, expected: float) -> None:
    one = event(artifact_type, "x" * characters, Context(system="s" * context_characters))
    assert difficulty(one) == pytest.approx(expected)


def test_lengths_are_those_of_the_text_and_not_of_an_objects_repr() -> None:
    """The repr of an empty context is longer than a hundred characters, and would count."""
    spread = Context(
        system="s" * 1000, messages=(Message(role=Role.USER, content="m" * 2000),), chunks=(Chunk(text="c" * 3000),)
    )
    assert difficulty(event("erd")) == 0.15
    assert difficulty(event("erd", "", spread)) == difficulty(event("erd", "", Context(system="s" * 6000)))
    assert difficulty(event("erd", "", replace(spread, extra_json="{}" * 5000))) == difficulty(event("erd", "", spread))


@given(st.one_of(st.none(), st.floats(0, 100)), st.integers(0, 9), st.sampled_from(FeedbackType))
def test_what_the_model_scored_is_no_part_of_it(score: float | None, retries: int, kind: FeedbackType) -> None:
    """The reward, which has the difficulty as a factor, counts the score already."""
    plain = event("erd", "x" * 100)
    assert difficulty(replace(plain, validation_score=score, retries=retries, feedback_type=kind)) == difficulty(plain)


@given(st.sampled_from(TYPES), st.text(), st.text(), contexts)
def test_it_stays_in_its_range_and_grows_with_the_text(
    artifact_type: str | None, text: str, more: str, context: Context
) -> None:
    bare, short, long = (
        difficulty(one)
        for one in (
            event(artifact_type, text),
            event(artifact_type, text, context),
            event(artifact_type, text + more, context),
        )
    )
    assert 0 <= bare <= short <= long <= 1


def test_the_hardest_event_has_difficulty_one() -> None:
    one = event("code_prototype", "x" * 5000, Context(system="s" * 10_000))
    assert DifficultyHeuristic(code_prototype=1.0).nightschool_score_difficulty(one) == 1.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"artifact_weight": 0.6}, "artifact_weight.*add up to 1"),
        ({"artifact_weight": -0.1}, "not be negative"),
        ({"input_weight": math.nan}, "input_weight"),
        ({"hard_input_characters": 0}, "hard_input_characters"),
        ({"hard_context_characters": 0}, "hard_context_characters"),
        ({"erd": 1.1}, "erd.*within 0..1"),
        ({"other": -0.1}, "other must lie within 0..1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DifficultyHeuristic(**settings)
