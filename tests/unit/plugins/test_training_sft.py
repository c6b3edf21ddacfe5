"""What an example weighs, and what stands in its prompt."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nightschool_daemon.hooks import Hooks
from nightschool_hookspecs import Chunk, Context, Event, FeedbackType, Message, Metadata, Peers, Role, ScoredEvent
from nightschool_hookspecs.testing import sample_event
from nightschool_plugins.training_sft import TrainingSft
from nightschool_plugins.tuning_fixed import TuningFixed

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


# --------------------------------------------------------------------------- retrieved texts

MANUAL = Chunk(text="ls lists files\n")
GIVEN_BY_THE_APPLICATION = {
    "system text": replace(CORRECTION, context=Context(system="Use: ls lists files", chunks=(MANUAL,))),
    "earlier turn": replace(
        CORRECTION, context=Context(messages=(Message(role=Role.USER, content="ls lists files"),), chunks=(MANUAL,))
    ),
    "prompt": replace(CORRECTION, input_data="ls lists files. Show all.", context=Context(chunks=(MANUAL,))),
}


def prompt_of(event: Event, plugin: TrainingSft | None = None) -> str:
    """The last message, with the texts that were retrieved for the event."""
    scored = ScoredEvent(event=event, priority=1.0, reward=1.0, difficulty=0.5, group="g", trained_on=False)
    example = (plugin or TrainingSft()).nightschool_build_example(scored, event.context.chunks)
    assert example is not None
    return example.messages[-1].content


@pytest.mark.parametrize("place", GIVEN_BY_THE_APPLICATION)
def test_a_text_that_the_application_has_shown_is_not_shown_again(place: str) -> None:
    event = GIVEN_BY_THE_APPLICATION[place]
    assert prompt_of(event) == event.input_data


@pytest.mark.parametrize("place", GIVEN_BY_THE_APPLICATION)
def test_nor_does_its_length_count_again(place: str) -> None:
    event = GIVEN_BY_THE_APPLICATION[place]
    bare = replace(event, context=replace(event.context, chunks=()))
    assert (event.characters, event.context_characters) == (bare.characters, bare.context_characters)


def with_texts(*texts: tuple[str, float | None]) -> Event:
    return replace(CORRECTION, context=Context(chunks=tuple(Chunk(text=text, score=score) for text, score in texts)))


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        ([("aaaa", 0.1), ("bbbb", 0.9), ("cccc", 0.5)], "bbbb cccc"),
        ([("aaaaaa", 0.9), ("bbbbbb", 0.5), ("cccc", 0.1)], "aaaaaa cccc"),
        ([("aaaa", None), ("bbbb", None), ("cccc", 0.1)], "aaaa cccc"),
        ([("aaaaa", 0.5), ("bbbbb", 0.5)], "aaaaa bbbbb"),
        ([("aaaaaaaaaaa", 0.9)], ""),
    ],
)
def test_the_best_texts_that_fit_stand_in_their_order(texts: list[tuple[str, float | None]], kept: str) -> None:
    event = with_texts(*texts)
    plain = TrainingSft(chunk_template="{text}", context_template="{chunks} {prompt}", max_context_characters=10)
    assert prompt_of(event, plain).replace("\n", " ") == f"{kept} {event.input_data}".strip()


def test_an_example_with_many_texts_is_as_long_as_a_training_takes_by_default() -> None:
    event = with_texts(*((f"{number} " + "word " * 200, number / 20) for number in range(20)))
    most = TrainingSft().max_context_characters
    assert len(prompt_of(event)) <= most + 100
    assert most / 3 < TuningFixed().max_length


def test_a_budget_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_context_characters must be 0 or more"):
        TrainingSft(max_context_characters=-1)
