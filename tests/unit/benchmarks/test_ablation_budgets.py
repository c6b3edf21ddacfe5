"""Equal tokens for every cell."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ablation.budgets import LARGEST_PAIRS, Budget, Count, Fit, apply, fitted
from nightschool_daemon.jobs import RunDirectory, SelectResult, Step, read_lines, write_lines
from nightschool_hookspecs.records import Hyperparameters, Material, PairText, TrainingText
from support.step_results import SELECTED

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)


def budget(tokens: int, *, passes: int = 0, watches: bool = False, fewest_pairs: int | None = None) -> Budget:
    return Budget(tokens=tokens, passes=passes, most_passes=3, watches=watches, seed=3, fewest_pairs=fewest_pairs)


def tokens_of(fit: Fit, lengths: list[int]) -> int:
    return fit.epochs * sum(lengths[place] for place in fit.places)


@given(lengths=LENGTHS, times=st.floats(0.3, 6))
def test_the_tokens_are_met_as_nearly_as_whole_examples_allow(lengths: list[int], times: float) -> None:
    wanted = max(1, round(times * sum(lengths)))
    fit = fitted(lengths, budget(wanted))
    assert fit.places
    assert abs(tokens_of(fit, lengths) - wanted) <= fit.epochs * max(lengths)


@given(lengths=LENGTHS, times=st.floats(0.5, 6))
def test_the_epochs_are_those_that_come_nearest_up_to_those_of_the_raw_pool(lengths: list[int], times: float) -> None:
    wanted = round(times * sum(lengths)) + 1
    fit = fitted(lengths, budget(wanted))
    assert fit.epochs == min(3, max(1, int(wanted / sum(lengths) + 0.5)))


@given(lengths=LENGTHS)
def test_what_fits_is_left_as_it_is(lengths: list[int]) -> None:
    assert fitted(lengths, budget(3 * sum(lengths))) == Fit(epochs=3, places=tuple(range(len(lengths))))


def test_some_are_dropped_or_repeated_and_the_order_stays() -> None:
    lengths = [10] * 20
    dropped, repeated = fitted(lengths, budget(160)), fitted(lengths, budget(480))
    assert dropped.places == tuple(sorted(dropped.places))
    assert len(dropped.places) == 16
    assert (repeated.epochs, repeated.places[:20], len(repeated.places)) == (2, tuple(range(20)), 24)


def test_variants_are_dropped_before_what_they_are_variants_of() -> None:
    lengths, variants = [10] * 20, frozenset(range(10, 20))
    assert fitted(lengths, budget(120), variants).places[:10] == tuple(range(10))
    # only where no variant is left
    assert set(fitted(lengths, budget(60), variants).places) < set(range(10))


def test_epochs_that_nobody_watches_are_one_long_one() -> None:
    lengths = [10] * 8
    watched = fitted(lengths, budget(480, passes=6, watches=True))
    blind = fitted(lengths, budget(480, passes=6))
    assert (watched.epochs, len(watched.places)) == (6, 8)
    assert (blind.epochs, len(blind.places)) == (1, 48)
    assert tokens_of(watched, lengths) == tokens_of(blind, lengths) == 480
    assert sorted(blind.places) == sorted(6 * watched.places)


# --------------------------------------------------------------------------- in a run's directory


def count_of(run: RunDirectory, seen: float = 1.0) -> Count:
    """Characters for tokens. Of what the run is left with, so much of its tokens is seen."""

    def example(text: TrainingText) -> int:
        return len(text.prompt) + len(text.completion)

    def of_all(settings: Hyperparameters) -> int:
        texts = read_lines(run.step(Step.SELECT) / "examples.jsonl", TrainingText)
        return round(seen * settings.num_epochs * sum(map(example, texts)))

    return Count(
        example=example, pair=lambda pair: len(pair.prompt) + len(pair.chosen) + len(pair.rejected), seen=of_all
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(path=tmp_path)
    directory.begin(Step.SELECT)
    texts = [TrainingText(event_id=f"e-{number}", prompt="p" * 6, completion="c" * 4) for number in range(20)]
    pairs = [PairText(event_id="e-1", prompt="p" * 6, chosen="cc", rejected="rr", margin=0.0) for _ in range(20)]
    write_lines(directory.step(Step.SELECT) / "examples.jsonl", texts)
    write_lines(directory.step(Step.SELECT) / "pairs.jsonl", pairs)
    material = Material(examples=20, better_known=20, pairs=20, liked=0, disliked=0)
    hyperparameters = Hyperparameters(num_epochs=3, learning_rate=0.5)
    directory.finish(Step.SELECT, replace(SELECTED, material=material, hyperparameters=hyperparameters))
    return directory


def left(run: RunDirectory) -> tuple[SelectResult, int, int]:
    """What the training is told, and how many examples and pairs it finds."""
    directory = run.step(Step.SELECT)
    examples = sum(1 for _ in read_lines(directory / "examples.jsonl", TrainingText))
    pairs = sum(1 for _ in read_lines(directory / "pairs.jsonl", PairText))
    return run.result(Step.SELECT, SelectResult), examples, pairs


def test_a_run_is_left_with_what_it_may_learn_from(run: RunDirectory) -> None:
    apply(run, budget(300), count_of(run))
    selected, examples, pairs = left(run)
    assert (selected.hyperparameters.num_epochs, examples, pairs) == (2, 15, 0)
    assert (selected.material.examples, selected.material.pairs) == (15, 0)
    assert selected.hyperparameters.learning_rate == 0.5


def test_a_curriculum_that_shows_fewer_tokens_gets_more_examples(run: RunDirectory) -> None:
    apply(run, budget(300), count_of(run, seen=0.75))
    selected, examples, _ = left(run)
    assert (selected.hyperparameters.num_epochs, examples) == (2, 20)
    assert count_of(run, seen=0.75).seen(selected.hyperparameters) == 300


def test_pairs_that_are_learned_from_are_part_of_the_tokens(run: RunDirectory) -> None:
    apply(run, budget(400, fewest_pairs=4), count_of(run))
    selected, examples, pairs = left(run)
    assert pairs == selected.material.pairs == LARGEST_PAIRS * 400 / 10
    assert 10 * selected.hyperparameters.num_epochs * examples + 10 * pairs == 400


def test_sampled_pairs_come_before_corrections(run: RunDirectory) -> None:
    file = run.step(Step.SELECT) / "pairs.jsonl"
    corrections = list(read_lines(file, PairText))
    # the margin of a correction was measured, too, where a validator scored it
    scored = [replace(one, margin=0.8) for one in corrections]
    write_lines(file, [*scored, *(replace(one, margin=0.5, sampled=True) for one in corrections[:3])])
    assert apply(run, budget(400, fewest_pairs=4), count_of(run)) == 3
    assert [one.margin for one in read_lines(file, PairText)][:4] == [0.5, 0.5, 0.5, 0.8]


def test_too_few_pairs_are_none(run: RunDirectory) -> None:
    apply(run, budget(400, fewest_pairs=11), count_of(run))
    selected, _, pairs = left(run)
    assert pairs == selected.material.pairs == 0
