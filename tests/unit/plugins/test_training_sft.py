"""What an example weighs."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nightschool_daemon.hooks import Hooks
from nightschool_hookspecs import Event, FeedbackType, Metadata, Peers, ScoredEvent
from nightschool_hookspecs.testing import sample_event

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CORRECTION = replace(sample_event(), corrected_output="better", feedback_type=FeedbackType.USER_CORRECTION)
BARELY_GOOD = replace(
    CORRECTION,
    corrected_output=None,
    ai_output="good",
    feedback_type=FeedbackType.SUCCESS,
    validation_score=71.0,
)


def weight_of(event: Event) -> float:
    """By the built-in reward, and the built-in example."""
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("reward_plain", "training_sft"))
    peers = Peers(count_of_type=1, mean_count=1.0)
    reward = hooks.score_reward(event=event, difficulty=0.5, peers=peers, now=NOW)
    scored = ScoredEvent(
        event=event, priority=reward.priority, reward=reward.reward, difficulty=0.5, group="g", trained_on=False
    )
    example = hooks.build_example(event=scored, chunks=())
    assert example is not None
    return example.weight


@pytest.mark.parametrize("weight", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("event", [CORRECTION, BARELY_GOOD], ids=["correction", "liked"])
def test_the_weight_that_a_source_gave_counts_once(event: Event, weight: float) -> None:
    given = replace(event, metadata=replace(event.metadata, weight=weight))
    assert weight_of(given) == pytest.approx(weight * weight_of(replace(event, metadata=Metadata())))


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 0.2), (3.0, 0.2), (0.5, 0.1), (0.001, 0.002), (0.0, 0.002)])
def test_what_is_worth_nothing_keeps_a_floor_that_its_source_may_lower(weight: float, expected: float) -> None:
    worthless = replace(BARELY_GOOD, validation_score=0.0, metadata=Metadata(weight=weight))
    assert weight_of(worthless) == pytest.approx(expected)
