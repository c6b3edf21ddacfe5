"""Difficulty, batching, selection, negatives, curriculum, augmentation, tuning."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import (
    BatchStatistics,
    Budget,
    Context,
    Event,
    FeedbackType,
    Matrix,
    Message,
    Role,
    ScoredEvent,
    Specialty,
    TrainingExample,
)
from nightschool_plugins.augmentation_letters import AugmentationLetters
from nightschool_plugins.batching_threshold import BatchingThreshold
from nightschool_plugins.curriculum_shuffle import nightschool_arrange_examples
from nightschool_plugins.difficulty_length import DifficultyLength
from nightschool_plugins.negatives_plain import NegativesPlain
from nightschool_plugins.selection_priority import SelectionPriority
from nightschool_plugins.tuning_fixed import TuningFixed

SPECIALTY = Specialty(base="tiny:latest", artifact_type="shell")
MANY = Budget(events=10_000, tokens=10_000_000)


class NoStore:
    def get(self, key: str) -> str | None:
        return None

    def put(self, key: str, value: str) -> None:
        raise AssertionError(key)

    def delete(self, key: str) -> None:
        raise AssertionError(key)


def no_measure(left: object, right: object) -> Matrix:
    raise AssertionError("a plain plugin measures nothing")


def no_generate(messages: object, *, max_tokens: int, temperature: float, seed: int) -> str:
    raise AssertionError("a plain plugin asks no model")


def scored(
    identifier: str,
    priority: float = 0.0,
    text: str = "x",
    *,
    kind: FeedbackType = FeedbackType.USER_CORRECTION,
    retries: int = 0,
    system: str | None = None,
) -> ScoredEvent:
    event = Event(
        id=identifier,
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        feedback_type=kind,
        input_data=text,
        context=Context(system=system),
        corrected_output="y",
        retries=retries,
    )
    return ScoredEvent(event=event, priority=priority, reward=0.0, difficulty=0.5, group=identifier, trained_on=False)


def example(identifier: str, prompt: str = "List files") -> TrainingExample:
    return TrainingExample(event_id=identifier, messages=(Message(role=Role.USER, content=prompt),), target="ls")


# --------------------------------------------------------------------------- difficulty


@given(st.text(), st.text())
def test_difficulty_stays_in_its_range_and_grows_with_the_text(text: str, more: str) -> None:
    plugin = DifficultyLength()
    short, long = scored("1", text=text).event, scored("1", text=text + more).event
    assert 0 <= plugin.nightschool_score_difficulty(short) <= plugin.nightschool_score_difficulty(long) <= 1


def test_the_hardest_event_has_difficulty_one() -> None:
    event = scored("1", text="x" * 9000, system="s" * 20_000).event
    assert DifficultyLength().nightschool_score_difficulty(event) == 1.0


# --------------------------------------------------------------------------- batching


def batch(available: int, corrections: int) -> int:
    statistics = BatchStatistics(
        available=available, corrections=corrections, average_quality=0.5, total_seen=available, batches_made=0
    )
    return BatchingThreshold().nightschool_choose_batch_size(SPECIALTY, statistics)


@pytest.mark.parametrize(
    ("available", "corrections", "size"),
    [(0, 0, 0), (11, 11, 0), (12, 12, 12), (12, 6, 0), (12, 7, 12), (15, 0, 0), (16, 0, 16), (500, 500, 100)],
)
def test_a_specialty_is_due_from_its_floor(available: int, corrections: int, size: int) -> None:
    assert batch(available, corrections) == size


@pytest.mark.parametrize(
    ("available", "corrections", "seen", "batches", "size"),
    [
        (8, 8, 20, 1, 8),
        (7, 7, 19, 1, 0),
        (8, 8, 20, 0, 0),
        (8, 8, 40, 1, 0),
        (12, 12, 52, 3, 12),
        (8, 4, 20, 1, 0),
    ],
)
def test_a_young_specialty_that_was_examined_waits_for_less(
    available: int, corrections: int, seen: int, batches: int, size: int
) -> None:
    statistics = BatchStatistics(
        available=available, corrections=corrections, average_quality=0.5, total_seen=seen, batches_made=batches
    )
    assert BatchingThreshold().nightschool_choose_batch_size(SPECIALTY, statistics) == size


@given(st.integers(0, 10_000), st.data())
def test_a_batch_never_exceeds_what_there_is(available: int, data: st.DataObject) -> None:
    assert batch(available, data.draw(st.integers(0, available))) <= available


# --------------------------------------------------------------------------- selection

priorities = st.lists(st.floats(-3, 3), max_size=30)


def select(events: list[ScoredEvent], budget: Budget) -> tuple[str, ...]:
    chosen = SelectionPriority().nightschool_select_events(tuple(events), budget)
    priorities = {one.event.key: one.priority for one in events}
    assert all(score == priorities[key] for key, score in chosen)
    return tuple(key for key, _ in chosen)


@given(priorities)
def test_within_budget_nothing_is_lost(values: list[float]) -> None:
    events = [scored(str(index), value) for index, value in enumerate(values)]
    assert sorted(select(events, MANY)) == sorted(f"dropdir/{index}" for index in range(len(values)))


@given(priorities, st.randoms())
def test_the_order_of_arrival_does_not_matter(values: list[float], chance: random.Random) -> None:
    events = [scored(str(index), value) for index, value in enumerate(values)]
    shuffled = list(events)
    chance.shuffle(shuffled)
    assert select(events, MANY) == select(shuffled, MANY)


@given(priorities, st.integers(0, 30), st.integers(0, 60))
def test_the_budget_holds_and_the_best_come_first(values: list[float], most: int, tokens: int) -> None:
    events = [scored(str(index), value) for index, value in enumerate(values)]
    chosen = select(events, Budget(events=most, tokens=tokens))
    by_key = {f"dropdir/{one.event.id}": one.priority for one in events}
    found = [by_key[key] for key in chosen]
    assert len(chosen) == min(most, tokens, len(values))  # each of these events costs one token
    assert found == sorted(values, reverse=True)[: len(found)]


def test_what_no_run_has_chosen_comes_first_and_of_equal_ones_the_latest() -> None:
    old, dear, new = scored("a"), scored("b", 2.0), scored("z")
    later = replace(new, event=replace(new.event, timestamp=new.event.timestamp + timedelta(days=1)))
    assert select([old, later], Budget(events=1, tokens=100)) == ("dropdir/z",)
    chosen_before = [replace(one, is_fresh=False) for one in (dear, later)]
    assert select([old, *chosen_before], Budget(events=2, tokens=100)) == ("dropdir/a", "dropdir/b")


def test_an_event_too_large_makes_room_for_smaller_ones() -> None:
    events = [scored("large", 2.0, "x" * 3000), scored("small", 1.0)]
    assert select(events, Budget(events=5, tokens=100)) == ("dropdir/small",)


# --------------------------------------------------------------------------- negatives


def test_what_the_model_failed_at_weighs_more() -> None:
    events = (
        scored("fine"),
        scored("failed", kind=FeedbackType.VALIDATION_FAILURE),
        scored("retried", retries=2),
        scored("hopeless", kind=FeedbackType.EXPLICIT_NEGATIVE, retries=100),
    )
    found = dict(NegativesPlain().nightschool_select_negatives(events, no_measure, 1))
    assert found == {"dropdir/failed": 1.5, "dropdir/retried": 1.5, "dropdir/hopeless": 3.0}


# --------------------------------------------------------------------------- curriculum


@given(st.integers(0, 50), st.integers(0, 2**63))
def test_a_shuffle_loses_nothing_and_repeats_itself(count: int, seed: int) -> None:
    examples = tuple(example(str(index)) for index in range(count))
    arranged = nightschool_arrange_examples(examples, NoStore(), seed)
    assert sorted(arranged, key=lambda one: int(one.event_id)) == list(examples)
    assert arranged == nightschool_arrange_examples(examples, NoStore(), seed)


def test_another_seed_gives_another_order() -> None:
    examples = tuple(example(str(index)) for index in range(50))
    one = nightschool_arrange_examples(examples, NoStore(), 1)
    assert one != nightschool_arrange_examples(examples, NoStore(), 2)


# --------------------------------------------------------------------------- augmentation


def variants(count: int, prompt: str) -> tuple[TrainingExample, ...]:
    plugin = AugmentationLetters(variants_per_example=count)
    return plugin.nightschool_augment_examples((example("a/1", prompt),), no_generate, no_measure, 7)


def test_augmentation_is_off_by_default() -> None:
    plugin = AugmentationLetters()
    assert plugin.nightschool_augment_examples((example("a/1"),), no_generate, no_measure, 7) == ()


@given(st.text(), st.integers(0, 2))
def test_a_variant_differs_in_its_prompt_alone_and_names_its_parent(prompt: str, count: int) -> None:
    original = example("a/1", prompt)
    found = variants(count, prompt)
    assert len(found) <= count
    assert len({variant.messages for variant in found} | {original.messages}) == len(found) + 1
    assert all(variant.parent == "a/1" and variant.target == original.target for variant in found)


def test_the_forms_of_a_prompt() -> None:
    forms = {variant.messages[0].content for seed in range(20) for variant in _with_seed(seed)}
    assert forms == {"list files.", "List files", "list files"}


def _with_seed(seed: int) -> tuple[TrainingExample, ...]:
    plugin = AugmentationLetters(variants_per_example=2)
    return plugin.nightschool_augment_examples((example("a/1", "List files."),), no_generate, no_measure, seed)


def test_more_than_two_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="0, 1 or 2"):
        AugmentationLetters(variants_per_example=3)


# --------------------------------------------------------------------------- tuning


@pytest.mark.parametrize("examples", [0, 3, 300])
def test_wanted_answers_do_not_bound_the_batch(examples: int) -> None:
    """Preferences are learned with the same settings, and there may be many where nothing better is known."""
    plugin = TuningFixed(batch_size=8, learning_rate=1e-3)
    found = plugin.nightschool_suggest_hyperparameters(SPECIALTY, examples, NoStore(), 1)
    assert (found.batch_size, found.learning_rate) == (8, 1e-3)


@pytest.mark.parametrize(
    ("examples", "epochs"), [(0, 3), (1, 6), (17, 6), (40, 6), (41, 5), (72, 4), (73, 3), (3000, 3)]
)
def test_few_examples_are_learned_in_more_epochs(examples: int, epochs: int) -> None:
    found = TuningFixed(batch_size=8).nightschool_suggest_hyperparameters(SPECIALTY, examples, NoStore(), 1)
    assert found.num_epochs == epochs


def test_epochs_are_what_is_set_where_no_steps_are_wanted() -> None:
    plugin = TuningFixed(batch_size=8, num_epochs=2, fewest_steps=0)
    assert plugin.nightschool_suggest_hyperparameters(SPECIALTY, 5, NoStore(), 1).num_epochs == 2


@pytest.mark.parametrize("settings", [{"fewest_steps": -1}, {"most_epochs": 0}])
def test_impossible_epochs_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"epochs|steps"):
        TuningFixed(**settings)  # type: ignore[arg-type]
