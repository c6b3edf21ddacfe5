"""The reward: finite, monotone, and a correction counts as the correction."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from nightschool_hookspecs import Event, FeedbackType, Metadata, Peers, RewardScore, is_minor
from nightschool_plugins.reward_plain import RewardPlain

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PEERS = Peers(count_of_type=1, mean_count=1.0)
scores = st.one_of(st.none(), st.floats(0, 100))
types = st.sampled_from(FeedbackType)


def event(kind: FeedbackType, score: float | None, corrected: str | None = None, weight: float = 1.0) -> Event:
    return Event(
        id="1",
        timestamp=NOW,
        feedback_type=kind,
        input_data="q",
        ai_output="a",
        corrected_output=corrected,
        validation_score=score,
        metadata=Metadata(weight=weight),
    )


def reward(one: Event, correction_score: float | None = None) -> RewardScore:
    return RewardPlain().nightschool_score_reward(one, 0.5, PEERS, NOW, correction_score)


@given(types, st.one_of(st.none(), st.floats()), st.one_of(st.none(), st.text()), st.floats())
def test_it_is_finite_for_any_input(
    kind: FeedbackType, score: float | None, corrected: str | None, weight: float
) -> None:
    found = reward(event(kind, score, corrected, weight))
    assert math.isfinite(found.priority)
    assert -1 <= found.reward <= 1


@given(types, st.floats(0, 100), st.floats(0, 100))
def test_it_rises_with_the_score(kind: FeedbackType, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert reward(event(kind, low)).priority <= reward(event(kind, high)).priority


def test_seventy_one_and_eighty_nine_differ() -> None:
    kind = FeedbackType.SUCCESS
    assert reward(event(kind, 71)).priority < reward(event(kind, 89)).priority


@given(types, scores)
def test_a_correction_counts_as_the_correction_whatever_its_type(kind: FeedbackType, score: float | None) -> None:
    plain = event(FeedbackType.USER_CORRECTION, None, "better")
    assert reward(event(kind, score, "better")) == reward(plain)


def test_a_correction_counts_as_its_validator_says_and_whatever_else_does_not() -> None:
    correction, success = event(FeedbackType.USER_CORRECTION, None, "better"), event(FeedbackType.SUCCESS, 80)
    assert reward(correction, 0.0).priority < reward(correction, 50.0).priority < reward(correction, 100.0).priority
    assert reward(correction, 100.0) == reward(correction)
    assert reward(success, 0.0) == reward(success)


def test_no_correction_counts_more_than_the_setting_says() -> None:
    correction = event(FeedbackType.USER_CORRECTION, None, "better")
    plugin = RewardPlain(correction_score=80.0)
    found = [plugin.nightschool_score_reward(correction, 0.5, PEERS, NOW, one).priority for one in (60.0, 100.0, None)]
    assert found[0] < found[1] == found[2] == pytest.approx(0.6 + 0.5)


def test_a_correction_of_a_bad_answer_is_worth_more_than_a_mediocre_success() -> None:
    correction = event(FeedbackType.VALIDATION_FAILURE, 0, "better")
    assert reward(correction).priority > reward(event(FeedbackType.SUCCESS, 71)).priority


def test_a_larger_weight_makes_a_good_event_worth_more() -> None:
    light = event(FeedbackType.SUCCESS, 90)
    heavy = replace(light, metadata=Metadata(weight=2.0))
    assert reward(heavy).priority == 2 * reward(light).priority


# --------------------------------------------------------------------------- minor corrections

COMMAND = "find /var/log -type f -name '*.log' -mtime +30 -size +10M -exec gzip --best --keep {} + -print | sort -n"


def correction(kind: str | None, given: str, better: str) -> Event:
    return replace(event(FeedbackType.USER_CORRECTION, None, better), artifact_type=kind, ai_output=given)


@pytest.mark.parametrize("kind", ["other", "architecture", "api_docs"])
@pytest.mark.parametrize(
    ("given", "better"),
    [
        ("The gateway asks the ledger", "The gateway asks the ledger."),
        ("the Gateway  asks\nthe ledger", "The gateway asks the ledger"),
        ("Use `ls -a` here", "use `ls -a` here!"),
    ],
)
def test_a_minor_correction_of_prose_weighs_a_quarter(kind: str, given: str, better: str) -> None:
    minor, whole = correction(kind, given, better), correction(kind, "something else", better)
    assert reward(minor).priority == pytest.approx(reward(whole).priority / 4)


@pytest.mark.parametrize(
    ("kind", "given", "better"),
    [
        ("shell", COMMAND, COMMAND.replace("--keep", "--Keep")),
        ("shell", COMMAND, COMMAND.replace("sort -n", "sort -N")),
        ("shell", COMMAND, COMMAND + "."),
        ("shell", COMMAND, COMMAND.replace("-mtime +30", "-mtime -30")),
        ("code_prototype", "if a:\n  b()", "if a:\n    b()"),
        ("workflows", "on: push", "on:  push"),
        ("erd", "erDiagram A", "erDiagram a"),
        (None, "no type", "No type."),
        ("other", COMMAND, COMMAND.replace("-mtime +30", "-mtime -30")),
        ("other", "Call it Ann", "Call it Anne"),
        ("other", "Run `ls -a` now", "Run `ls -A` now"),
        ("other", "So:\n```\nsort -n x\n```\nDone", "So:\n```\nsort -N x\n```\nDone"),
        ("architecture", "| Gateway | asks |", "| gateway | asks |"),
        (
            "api_docs",
            '{"openapi": "3.1.0", "info": {"title": "Pets"}}',
            '{"openapi": "3.1.0", "info": {"title": "pets"}}',
        ),
        ("api_docs", "openapi: 3.1.0\ninfo:\n  title: Pets", "openapi: 3.1.0\ninfo:\n  title: pets"),
    ],
)
def test_every_other_correction_is_a_lesson_of_its_own(kind: str | None, given: str, better: str) -> None:
    assert not is_minor(correction(kind, given, better))
    assert reward(correction(kind, given, better)).priority == 1.5


def test_one_changed_flag_is_no_minor_correction_although_the_texts_are_alike_by_any_metric() -> None:
    changed = COMMAND.replace("-size +10M", "-size +10G")
    assert Levenshtein.normalized_similarity(COMMAND, changed) > 0.95
    assert not any(is_minor(correction(kind, COMMAND, changed)) for kind in ("shell", "other", "api_docs"))


@given(st.text(), st.text(), st.sampled_from(["other", "shell"]))
def test_minor_does_not_depend_on_which_text_came_first(one: str, other: str, kind: str) -> None:
    assert is_minor(correction(kind, one, other)) == is_minor(correction(kind, other, one))
