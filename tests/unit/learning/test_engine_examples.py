"""Every example is learned from once an epoch, none that is watched is, and the rate warms up and cools down."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.learning.engine.examples import WATCHED_FROM, Answer, Example, batches, divided, order_of
from nightschool_daemon.learning.engine.loop import FINAL_RATE, schedule
from nightschool_hookspecs.records import Hyperparameters
from nightschool_hookspecs.testing import SAMPLE_SPECIALTY, FakeStore
from nightschool_plugins.tuning_fixed import TuningFixed

COUNTS, SEEDS = st.integers(1, 120), st.integers(0, 2**31)


def numbered(count: int) -> list[Example]:
    return [Example(prompt=(number,), answers=(Answer(tokens=(1,)),)) for number in range(count)]


@given(count=COUNTS, seed=SEEDS, epochs=st.integers(1, 6), size=st.integers(1, 16))
def test_what_is_held_out_is_not_learned_from_and_nothing_is_lost(
    count: int, seed: int, epochs: int, size: int
) -> None:
    examples, settings = numbered(count), Hyperparameters(num_epochs=epochs, batch_size=size)
    split = divided(examples, seed, settings)
    assert split == divided(examples, seed, settings)
    assert split.watched
    assert split.held == (count >= WATCHED_FROM and epochs > split.first_judged)
    if split.held:
        assert sorted((*split.learned, *split.watched), key=lambda one: one.prompt) == examples
    else:
        assert list(split.learned) == examples
        assert set(split.watched) <= set(examples)


@given(groups=st.lists(st.integers(0, 30), min_size=WATCHED_FROM, max_size=120), seed=SEEDS, named=st.booleans())
def test_what_belongs_together_is_watched_or_learned_from_together(groups: list[int], seed: int, named: bool) -> None:
    """By the group of its event, where it is known, else by the prompt."""
    examples = [
        Example(prompt=(number if named else group,), answers=(Answer(tokens=(number,)),), group=f"{group}" * named)
        for number, group in enumerate(groups)
    ]
    split = divided(examples, seed, Hyperparameters(num_epochs=9, batch_size=1))
    sides = [{one.group or one.prompt for one in side} for side in (split.learned, split.watched)]
    if split.held:
        assert not sides[0] & sides[1]
        assert len(split.learned) + len(split.watched) == len(examples)
        assert 1 <= len(split.watched) <= len(examples) // 10
    else:
        assert min(groups.count(one) for one in groups) > len(groups) // 10


@pytest.mark.parametrize(
    ("count", "size", "epoch"), [(240, 8, 3), (80, 8, 3), (79, 8, 3), (72, 8, 4), (40, 8, 6), (17, 8, 10), (3, 8, 30)]
)
def test_no_epoch_is_judged_before_the_third_nor_before_thirty_steps(count: int, size: int, epoch: int) -> None:
    assert divided(numbered(count), 0, Hyperparameters(num_epochs=3, batch_size=size)).first_judged == epoch


@pytest.mark.parametrize(("count", "epochs"), [(240, 4), (73, 4), (72, 5), (56, 6), (40, 7), (39, None)])
def test_from_so_many_epochs_on_some_examples_are_kept_aside(count: int, epochs: int | None) -> None:
    """As config.toml says of `num_epochs`."""
    found = (
        number
        for number in range(1, 20)
        if divided(numbered(count), 0, Hyperparameters(num_epochs=number, batch_size=8)).held
    )
    assert next(found, None) == epochs


@given(count=st.integers(1, 400), beside=st.integers(0, 100))
def test_with_the_default_number_of_epochs_nothing_is_kept_aside(count: int, beside: int) -> None:
    """Whatever is learned beside the lesson, by which the number of epochs is not chosen."""
    usual = TuningFixed().nightschool_suggest_hyperparameters(SAMPLE_SPECIALTY, count, FakeStore(), 0)
    again = [replace(one, beside=True) for one in numbered(count + beside)[count:]]
    assert not divided([*numbered(count), *again], 0, usual).held


@given(count=COUNTS, size=st.integers(1, 50), epoch=st.integers(0, 3), seed=SEEDS)
def test_an_epoch_has_every_example_once(count: int, size: int, epoch: int, seed: int) -> None:
    examples = numbered(count)
    steps = batches([examples[place] for place in order_of(count, epoch, seed)], size)
    order = [one.prompt[0] for step in steps for one in step]
    assert sorted(order) == list(range(count))
    assert [len(step) for step in steps[:-1]] == [size] * (math.ceil(count / size) - 1)
    assert epoch > 0 or order == list(range(count))


@given(steps=st.integers(1, 500), warmup=st.floats(0, 1))
def test_the_rate_warms_up_once_and_cools_down(steps: int, warmup: float) -> None:
    rates = [schedule(step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates[top:]) >= FINAL_RATE
    assert warmup == 1 or max(rates) == 1
