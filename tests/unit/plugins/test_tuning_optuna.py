"""When hyperparameters are searched for, what is tried out, what is stopped, and what a kill costs."""

import itertools
import json
import math
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend

from nightschool_hookspecs import (
    Hyperparameters,
    HyperparameterSearch,
    Judge,
    SearchTask,
    Specialty,
    TrainedForm,
    TrainingError,
    TrainingTrial,
    TrialEnd,
    TriedOut,
)
from nightschool_hookspecs.testing import FakeStore, FakeTryOut
from nightschool_plugins.tuning_optuna import JOURNAL, KEY, STUDY, Objective, Outcome, Search, Space, TuningOptuna
from support.kills import exit_code_of, killed

LORA = Hyperparameters(form=TrainedForm.LORA, learning_rate=2e-3, batch_size=8)
NEURONS = Hyperparameters(form=TrainedForm.NEURONS, learning_rate=4e-3, batch_size=8, neurons=192)
FEW = TuningOptuna(most_trials=6)
BESIDE = {"base": "of the base", "form": "lora", "layers": [], "max_length": 2048}
"""For what it is searched."""


def task_in(directory: Path, given: Hyperparameters = LORA, examples: int = 400, **changed: Any) -> SearchTask:
    directory.mkdir(exist_ok=True)
    task = SearchTask(
        specialty=Specialty(base="tiny:latest", artifact_type="shell"),
        base_digest="of the base",
        events=examples,
        examples=examples,
        tried_on=4 * examples // 5,
        given=given,
        neuron_step=32 if given.form is TrainedForm.NEURONS else 0,
        fixed=(),
        directory=directory,
    )
    return replace(task, **changed)


def search(
    plugin: TuningOptuna, task: SearchTask, try_out: FakeTryOut | None = None, store: FakeStore | None = None
) -> HyperparameterSearch | None:
    return plugin.nightschool_search_hyperparameters(task, try_out or FakeTryOut(), store or FakeStore(), 7)


def tried(try_out: FakeTryOut) -> list[Hyperparameters]:
    return [trial.hyperparameters for trial, _ in try_out.tried]


def never(_hyperparameters: Hyperparameters, _epochs: float) -> float:
    raise AssertionError("nothing is to be tried out")


# --------------------------------------------------------------------------- when


def test_few_examples_are_not_searched_for(tmp_path: Path) -> None:
    store = FakeStore()
    assert search(FEW, task_in(tmp_path, examples=199), FakeTryOut(never), store) is None
    assert (store.values, list(tmp_path.iterdir())) == ({}, [])


def test_what_was_found_holds_until_the_examples_have_doubled(tmp_path: Path) -> None:
    store = FakeStore()
    first = search(FEW, task_in(tmp_path / "first", examples=200), store=store)
    assert first is not None
    assert first.trials == 6
    for examples in (150, 200, 399):
        later = task_in(tmp_path / "later", replace(LORA, num_epochs=6), examples=examples)
        held = search(FEW, later, FakeTryOut(never), store)
        assert held is not None
        assert held.hyperparameters == first.hyperparameters
        assert (held.trials, held.seconds) == (0, 0.0)
        assert held.reason.startswith("Taken is what a search found when there were 200 events: learning_rate")
    again = FakeTryOut()
    assert search(FEW, task_in(tmp_path / "again", examples=400), again, store) is not None
    # it begins from what is given, and from what was best before
    assert tried(again)[:2] == [LORA, first.hyperparameters]


@given(before=st.integers(200, 5000), now=st.integers(1, 20_000), growth=st.floats(1.1, 5))
@settings(max_examples=15)
def test_a_search_is_due_from_the_growth_on(before: int, now: int, growth: float) -> None:
    plugin = TuningOptuna(growth=growth, most_trials=1)
    store = FakeStore()
    with tempfile.TemporaryDirectory() as text:
        search(plugin, task_in(Path(text), examples=before), store=store)
    rehearsal = search(plugin, task_in(Path(text), examples=now, is_rehearsal=True), FakeTryOut(never), store)
    assert (rehearsal is not None and rehearsal.trials > 0) == (now >= max(200, growth * before))


@pytest.mark.parametrize(("events", "examples", "is_due"), [(399, 1200, False), (400, 250, True), (900, 199, False)])
def test_it_is_events_that_grow_and_examples_that_are_enough(
    tmp_path: Path, events: int, examples: int, is_due: bool
) -> None:
    """Variants make no search due, and a budget that takes as many each night puts none off."""
    task = task_in(tmp_path, examples=examples, events=events, is_rehearsal=True)
    found = search(FEW, task, FakeTryOut(never), found_before(lora_r=8))
    assert found is not None
    assert bool(found.trials) == is_due


@pytest.mark.parametrize(
    "changed", [{"form": TrainedForm.GROUPED}, {"max_length": 512}, {"lora_layers": ("attn_q",)}, {"base": "another"}]
)
def test_what_was_found_for_something_else_does_not_hold(tmp_path: Path, changed: dict[str, Any]) -> None:
    store = FakeStore()
    search(FEW, task_in(tmp_path / "first"), store=store)
    base = changed.pop("base", "of the base")
    task = task_in(tmp_path / "second", replace(LORA, **changed), base_digest=base)
    found = search(FEW, replace(task, examples=199), FakeTryOut(never), store)
    assert found is None
    assert search(FEW, task, store=store) is not None


@pytest.mark.parametrize("changed", [{"learning_rate": 1e-3}, {"batch_size": 32, "num_epochs": 7}, {"beta": 0.2}])
def test_what_was_found_holds_whatever_else_is_suggested(tmp_path: Path, changed: dict[str, Any]) -> None:
    """It may follow from how many examples there are, or from the seed."""
    given = replace(LORA, **changed)
    held = search(FEW, task_in(tmp_path, given, examples=399), FakeTryOut(never), found_before(learning_rate=3e-3))
    assert held is not None
    assert held.hyperparameters == replace(given, learning_rate=3e-3)


def test_what_was_found_keeps_to_the_ranges_of_today(tmp_path: Path) -> None:
    store = found_before(learning_rate=9e-3, num_epochs=9, lora_r=8)
    narrow = replace(FEW, learning_rate=(1e-4, 5e-3), num_epochs=(1, 4))
    held = search(narrow, task_in(tmp_path, examples=399), FakeTryOut(never), store)
    assert held is not None
    assert held.hyperparameters == replace(LORA, learning_rate=5e-3, num_epochs=4, lora_r=8)


def test_neurons_that_were_found_hold(tmp_path: Path) -> None:
    store = FakeStore(
        {KEY: json.dumps({"events": 200, "beside": {**BESIDE, "form": "neurons"}, "values": {"neurons": 96}})}
    )
    held = search(FEW, task_in(tmp_path, NEURONS, examples=399), FakeTryOut(never), store)
    assert held is not None
    assert held.hyperparameters == replace(NEURONS, neurons=96)


def test_a_plan_tries_nothing_out_and_says_what_a_run_would_do(tmp_path: Path) -> None:
    store = FakeStore()
    found = search(TuningOptuna(), task_in(tmp_path, is_rehearsal=True), FakeTryOut(never), store)
    assert found is not None
    assert found.hyperparameters == LORA
    assert (found.trials, found.seconds) == (50, 3600)
    assert "at most 50 trainings on a part of the 400 examples, within 60 min" in found.reason
    assert (store.values, list(tmp_path.iterdir())) == ({}, [])


# --------------------------------------------------------------------------- what is tried out

ranges = st.tuples(st.floats(1e-6, 1e-4), st.floats(1e-4, 1e-1))
whole_ranges = st.tuples(st.integers(1, 8), st.integers(9, 200))


@given(
    form=st.sampled_from([TrainedForm.LORA, TrainedForm.GROUPED, TrainedForm.NEURONS]),
    rate=st.floats(1e-5, 0.1),
    neurons=st.integers(1, 40),
    rates=ranges,
    batches=whole_ranges,
    fixed=st.sets(st.sampled_from(["lora_r", "neurons"])).map(tuple),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=15)
def test_all_that_is_tried_out_lies_within_the_space_and_so_does_what_is_given(
    form: TrainedForm,
    rate: float,
    neurons: int,
    rates: tuple[float, float],
    batches: tuple[int, int],
    fixed: tuple[str, ...],
    seed: int,
) -> None:
    plugin = TuningOptuna(most_trials=8, random_trials=3, learning_rate=rates, batch_size=batches)
    wanted = replace(LORA, form=form, learning_rate=rate, neurons=32 * neurons, lora_dropout=0.3)
    try_out = FakeTryOut()
    with tempfile.TemporaryDirectory() as text:
        task = task_in(Path(text), wanted, neuron_step=32, fixed=fixed)
        plugin.nightschool_search_hyperparameters(task, try_out, FakeStore(), seed)
    assert tried(try_out)[0] == wanted
    # it reaches to what is given and no further
    low, high = min(rates[0], rate), max(rates[1], rate)
    for one in tried(try_out):
        assert low * 0.999 <= one.learning_rate <= high * 1.001
        assert min(batches[0], 8) <= one.batch_size <= max(batches[1], 8)
        assert 1 <= one.num_epochs <= 10
        assert 0 <= one.warmup_ratio <= 0.2
        assert (one.form, one.lora_layers, one.max_length, one.beta) == (form, (), 2048, 0.1)
        assert all(getattr(one, name) == getattr(wanted, name) for name in fixed)
        if form is TrainedForm.NEURONS:
            assert one.neurons % 32 == 0
            assert max(1, round(0.25 * neurons)) * 32 <= one.neurons <= 4 * neurons * 32
            assert (one.lora_r, one.lora_alpha) == (16, 32)
        else:
            assert (one.neurons, 4 <= one.lora_r <= 64, 8 <= one.lora_alpha <= 128) == (32 * neurons, True, True)
            assert 0 <= one.lora_dropout <= 0.3


@given(st.integers(200, 3000), st.integers(8, 64), st.integers(1, 10))
def test_fewer_steps_than_teach_an_end_are_not_proposed(examples: int, batch: int, epochs: int) -> None:
    """What counts is what they learn from which are tried out, not what is measured with it."""
    space = Space.of(TuningOptuna(), task_in(Path(), examples=examples))
    proposed = space.values({"batch_size": batch, "num_epochs": epochs, "learning_rate": 1e-3})
    an_epoch = -(-(4 * examples // 5) // batch)
    steps = an_epoch * proposed["num_epochs"]
    assert steps >= 30 or proposed["num_epochs"] == 10
    assert proposed["num_epochs"] == epochs or steps - 30 < an_epoch


def test_marks_lie_where_those_are_that_are_tried_out(tmp_path: Path) -> None:
    """Four steps of 160 examples in batches of 64 are behind after an epoch and a third, not after one."""
    try_out = FakeTryOut()
    search(FEW, task_in(tmp_path, replace(LORA, batch_size=64), examples=200), try_out)
    assert try_out.tried[0][0].marks == pytest.approx((4 / 3,))


def test_the_space_is_the_usual_one_but_for_rates_as_high_as_those_of_small_models() -> None:
    plugin = TuningOptuna()
    assert plugin.learning_rate == (1e-6, 1e-2)
    assert (plugin.batch_size, plugin.num_epochs, plugin.warmup_ratio) == ((8, 64), (1, 10), (0.0, 0.2))
    assert (plugin.lora_r, plugin.lora_alpha, plugin.lora_dropout) == ((4, 64), (8, 128), (0.0, 0.2))
    assert (plugin.most_trials, plugin.fewest_examples, plugin.objective) == (50, 200, Objective.LOSS)


@pytest.mark.parametrize("given", [LORA, NEURONS])
def test_what_is_found_is_the_best_of_those_that_came_to_their_end(tmp_path: Path, given: Hyperparameters) -> None:
    try_out, store = FakeTryOut(), FakeStore()
    found = search(TuningOptuna(most_trials=30), task_in(tmp_path, given), try_out, store)
    assert found is not None
    ended = [(result.loss, one.hyperparameters) for one, result in try_out.tried if result.loss is not None]
    best, hyperparameters = min(ended, key=lambda one: one[0])
    assert (found.loss, found.hyperparameters) == (best, hyperparameters)
    assert (found.trials, found.stopped) == (30, 30 - len(ended))
    assert 0 < found.stopped < 30
    assert found.given_loss == ended[0][0]
    assert found.tokens == sum(result.tokens for _, result in try_out.tried)
    assert found.measured_tokens == sum(result.measured_tokens for _, result in try_out.tried)
    assert f"the best came to {best:.3f} nats" in found.reason
    assert json.loads(store.values[KEY])["values"]["learning_rate"] == hyperparameters.learning_rate


def test_the_rate_is_found(tmp_path: Path) -> None:
    """The fake's loss is least at 1e-3, and the given rate twice that."""
    found = search(TuningOptuna(), task_in(tmp_path))
    assert found is not None
    assert 7e-4 < found.hyperparameters.learning_rate < 1.4e-3


def test_progress_is_told(tmp_path: Path) -> None:
    try_out = FakeTryOut()
    search(FEW, task_in(tmp_path), try_out)
    first, second, *_ = (trial.title for trial, _ in try_out.tried)
    assert first == "trial 1 of 6"
    assert second.startswith("trial 2 of 6, best 1.")


def test_little_gain_leaves_what_is_given(tmp_path: Path) -> None:
    """Another shape would have the training begin from the base again."""
    store = FakeStore()
    found = search(TuningOptuna(most_trials=12, least_gain=0.9), task_in(tmp_path), store=store)
    assert found is not None
    assert found.hyperparameters == LORA
    assert "The given ones are taken, as nothing is better by enough" in found.reason
    # until the next search nobody has anything to say
    assert search(FEW, task_in(tmp_path, examples=500), FakeTryOut(never), store) is None


def test_what_was_found_before_stays_unless_something_is_better_by_enough(tmp_path: Path) -> None:
    """It has the shape in which the specialty has learned until now."""
    before = replace(LORA, learning_rate=1.1e-3, lora_r=8)
    store = found_before(learning_rate=1.1e-3, lora_r=8)
    try_out = FakeTryOut(lambda one, _: {LORA: 2.0, before: 1.0}.get(one, 0.95))
    found = search(replace(FEW, least_gain=0.1), task_in(tmp_path), try_out, store)
    assert found is not None
    assert (found.hyperparameters, found.loss, found.given_loss) == (before, 1.0, 2.0)
    assert "Those found before are taken, as nothing is better by enough" in found.reason
    assert json.loads(store.values[KEY])["events"] == 400


def test_what_was_found_before_is_seen_to_its_end(tmp_path: Path) -> None:
    """However it begins: it may be the better one with more examples too."""

    def loss(one: Hyperparameters, epochs: float) -> float:
        return 9.0 if one.lora_r == 9 and epochs < 3 else 1 / one.lora_r

    try_out = FakeTryOut(loss)
    search(FEW, task_in(tmp_path), try_out, found_before(lora_r=9))
    assert try_out.tried[1][1].loss == 1 / 9


def test_a_loss_is_not_compared_with_scores(tmp_path: Path) -> None:
    """Where there was no time for answers it is as if it had been stopped."""

    class Silent(FakeTryOut):
        def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
            found = super().__call__(trial, judge)
            return replace(found, end=TrialEnd.LATE, score=None) if len(self.tried) > 1 else found

    found = search(TuningOptuna(most_trials=6, objective=Objective.SCORE), task_in(tmp_path), Silent())
    assert found is not None
    assert (found.hyperparameters, found.trials, found.stopped) == (LORA, 6, 5)


def test_answers_may_be_what_counts(tmp_path: Path) -> None:
    """Of the score the fake makes what grows with the batch, whatever the loss."""

    class Answering(FakeTryOut):
        def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
            assert trial.answers == 5
            found = super().__call__(trial, judge)
            return replace(found, score=None if found.loss is None else float(trial.hyperparameters.batch_size))

    plugin = TuningOptuna(most_trials=20, objective=Objective.SCORE, scored_answers=5)
    try_out = Answering()
    found = search(plugin, task_in(tmp_path), try_out)
    assert found is not None
    ended = [one.hyperparameters.batch_size for one, result in try_out.tried if result.loss is not None]
    assert found.hyperparameters.batch_size == max(ended) > 8
    assert f"{max(ended)}.0 of 100 and" in found.reason


def test_what_cannot_be_trained_is_passed_over(tmp_path: Path) -> None:
    class Diverging(FakeTryOut):
        def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
            if trial.hyperparameters.learning_rate > 2e-3:
                return TriedOut(end=TrialEnd.UNFIT, loss=None, tokens=1, measured_tokens=0, seconds=1.0)
            return super().__call__(trial, judge)

    found = search(TuningOptuna(most_trials=20, learning_rate=(1e-4, 1e-1)), task_in(tmp_path), Diverging())
    assert found is not None
    assert found.trials == 20
    assert found.hyperparameters.learning_rate <= 2e-3


# --------------------------------------------------------------------------- how long


@pytest.mark.parametrize("trainings", [1, 4])
def test_a_search_ends_when_its_time_does(tmp_path: Path, trainings: int) -> None:
    try_out = FakeTryOut(trainings=trainings)
    found = search(TuningOptuna(), task_in(tmp_path), try_out)
    assert found is not None
    assert found.trials == len(try_out.tried) == trainings


def found_before(**values: float) -> FakeStore:
    """As a search on 200 examples leaves it."""
    return FakeStore({KEY: json.dumps({"events": 200, "beside": BESIDE, "values": values})})


@pytest.mark.parametrize("trainings", [0, 1])
def test_a_search_that_could_not_compare_what_is_known_changes_nothing(tmp_path: Path, trainings: int) -> None:
    store = found_before(learning_rate=3e-3, lora_r=8)
    kept = dict(store.values)
    found = search(TuningOptuna(), task_in(tmp_path / "first"), FakeTryOut(trainings=trainings), store)
    assert found is not None
    assert found.hyperparameters == replace(LORA, learning_rate=3e-3, lora_r=8)
    assert (found.trials, found.loss, store.values) == (trainings, None, kept)
    assert "Raise time_limit_minutes in [plugins.tuning_optuna]" in found.reason
    # the next run has more time
    again = FakeTryOut(trainings=2)
    later = search(TuningOptuna(), task_in(tmp_path / "second"), again, store)
    assert later is not None
    assert (later.trials, json.loads(store.values[KEY])["events"]) == (2, 400)


def test_without_time_for_one_what_is_given_holds_and_it_is_searched_for_again(tmp_path: Path) -> None:
    store = FakeStore()
    found = search(TuningOptuna(), task_in(tmp_path / "first"), FakeTryOut(trainings=0), store)
    assert found is not None
    assert (found.hyperparameters, found.trials, found.loss, store.values) == (LORA, 0, None, {})
    again = search(FEW, task_in(tmp_path / "second"), FakeTryOut(), store)
    assert again is not None
    assert again.trials == 6


def test_a_clock_that_ends_what_is_known_settles_nothing(tmp_path: Path) -> None:
    """It was not compared, whatever else there is time for."""

    class Late(FakeTryOut):
        def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
            found = super().__call__(trial, judge)
            return replace(found, end=TrialEnd.LATE, loss=None) if len(self.tried) == 2 else found

    store = found_before(lora_r=8)
    found = search(FEW, task_in(tmp_path), Late(), store)
    assert found is not None
    assert (found.hyperparameters, found.trials) == (replace(LORA, lora_r=8), 6)
    assert json.loads(store.values[KEY])["events"] == 200


def test_where_nothing_can_be_tried_out_it_trains_as_before(tmp_path: Path) -> None:
    class Unprepared(FakeTryOut):
        def seconds_left(self) -> float:
            raise TrainingError("Memory is short.")

    store = found_before(lora_r=8)
    kept = dict(store.values)
    found = search(FEW, task_in(tmp_path), Unprepared(), store)
    assert found is not None
    assert (found.hyperparameters, found.trials, store.values) == (replace(LORA, lora_r=8), 0, kept)
    assert found.reason.endswith("Memory is short.")


def test_what_was_found_before_and_cannot_be_trained_by_any_more_is_given_up(tmp_path: Path) -> None:
    class Short(FakeTryOut):
        def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
            found = super().__call__(trial, judge)
            return replace(found, end=TrialEnd.UNFIT, loss=None) if trial.hyperparameters.lora_r == 9 else found

    store = found_before(lora_r=9)
    found = search(replace(FEW, most_trials=2), task_in(tmp_path), Short(), store)
    assert found is not None
    assert found.hyperparameters == LORA
    assert json.loads(store.values[KEY]) == {"events": 400, "beside": BESIDE, "values": {}}


def test_nothing_that_is_fixed_today_is_taken_from_an_earlier_search(tmp_path: Path) -> None:
    """What is trained begins from an adapter of that shape."""
    store = found_before(learning_rate=3e-3, lora_r=8)
    task = task_in(tmp_path / "held", examples=399, fixed=("lora_r", "neurons"))
    held = search(FEW, task, FakeTryOut(never), store)
    assert held is not None
    assert held.hyperparameters == replace(LORA, learning_rate=3e-3)
    assert "lora_r" not in held.reason
    try_out = FakeTryOut()
    search(FEW, replace(task, events=400), try_out, store)
    assert tried(try_out)[1] == held.hyperparameters
    only_shape = found_before(lora_r=8)
    assert search(FEW, task, FakeTryOut(never), only_shape) is None


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_that_was_spent_before_a_kill_counts(tmp_path: Path) -> None:
    """A training that is killed each time, after 25 s and two marks, is not tried out for ever."""
    plugin, clock = TuningOptuna(time_limit_minutes=1.0), Clock()
    space = Space.of(plugin, task_in(tmp_path, replace(LORA, num_epochs=10)))

    def carried_out(try_out: FakeTryOut) -> Outcome:
        return Search(plugin, space, try_out, [space.given], tmp_path / JOURNAL, 7, clock=clock).carried_out()

    class Slow(FakeTryOut):
        def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
            def heard(epochs: float, loss: float) -> bool:
                clock.now += 12.5
                goes_on = judge(epochs, loss)
                if epochs > 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return goes_on

            return super().__call__(trial, heard)

    for _ in range(3):
        assert exit_code_of(lambda: carried_out(Slow())) == -signal.SIGKILL
    last = FakeTryOut()
    found = carried_out(last)
    assert (found.trials, last.tried, found.seconds) == (0, [], 75.0)


def test_the_time_that_is_left_bounds_each_training(tmp_path: Path) -> None:
    try_out = FakeTryOut()
    search(TuningOptuna(most_trials=3, time_limit_minutes=2), task_in(tmp_path), try_out)
    first, second, third = (trial.seconds for trial, _ in try_out.tried)
    assert 120 >= first > second > third > 0


# --------------------------------------------------------------------------- what is stopped


def test_marks_lie_before_the_end() -> None:
    assert TuningOptuna().marks(400, replace(LORA, num_epochs=10)) == (0.5, 1.5, 4.5)
    assert TuningOptuna(first_mark=1.0, reduction=2).marks(400, replace(LORA, num_epochs=8)) == (1.0, 2.0, 4.0)
    assert TuningOptuna().marks(400, replace(LORA, num_epochs=1)) == (0.5,)


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 10), st.integers(0, 50), st.floats(0.1, 3))
def test_nobody_is_judged_by_fewer_steps_than_tell_anything(
    examples: int, batch: int, epochs: int, steps: int, mark: float
) -> None:
    plugin = TuningOptuna(first_steps=steps, first_mark=mark)
    marks = plugin.marks(examples, replace(LORA, batch_size=batch, num_epochs=epochs))
    steps_an_epoch = math.ceil(examples / batch)
    assert all(mark <= one < epochs and one * steps_an_epoch >= steps * 0.999 for one in marks)
    # it is the first that could be, and none is left out
    assert marks or max(mark, steps / steps_an_epoch) >= epochs
    assert all(later == pytest.approx(3 * one) for one, later in itertools.pairwise(marks))
    assert not marks or 3 * marks[-1] >= epochs * 0.999


def test_a_good_rate_that_shoots_up_with_the_first_step_is_found(tmp_path: Path) -> None:
    """As real ones do: judged by half an epoch alone, large batches would be stopped there, at one step."""

    def loss(one: Hyperparameters, epochs: float) -> float:
        steps = epochs * 200 / one.batch_size
        return 7.0 if steps < 3 and one.learning_rate > 5e-4 else 1 + abs(math.log10(one.learning_rate / 2e-3))

    plugin = TuningOptuna(most_trials=12, batch_size=(64, 64))
    given_badly = replace(LORA, learning_rate=1e-6, batch_size=64)
    found = search(plugin, task_in(tmp_path / "found", given_badly, examples=200), FakeTryOut(loss))
    blind = replace(plugin, first_steps=0)
    missed = search(blind, task_in(tmp_path / "missed", given_badly, examples=200), FakeTryOut(loss))
    assert found is not None
    assert missed is not None
    assert found.hyperparameters.learning_rate > 5e-4 > missed.hyperparameters.learning_rate


curves = st.lists(st.lists(st.floats(0, 10), min_size=3, max_size=3), min_size=1, max_size=12)


@given(curves, st.integers(2, 4))
@settings(max_examples=15)
def test_those_go_on_that_optunas_own_halving_would_take(losses: Sequence[Sequence[float]], reduction: int) -> None:
    """Where nothing was cut short the two are the same rule."""
    epochs = reduction**3
    plugin = TuningOptuna(
        most_trials=len(losses),
        reduction=reduction,
        first_mark=1.0,
        first_steps=0,
        num_epochs=(epochs, epochs),
        fewest_steps=0,
    )
    try_out = Scripted(losses)
    with tempfile.TemporaryDirectory() as text:
        space = Space.of(plugin, task_in(Path(text), replace(LORA, num_epochs=epochs)))
        Search(plugin, space, try_out, [], Path(text) / JOURNAL, 1).carried_out()
    assert try_out.came_to == by_optuna(losses, reduction)


class Scripted(FakeTryOut):
    """Each training has losses of its own at the marks."""

    def __init__(self, losses: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.losses = losses
        self.came_to: list[int] = []
        """The mark at which each was stopped; 3: none."""

    def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
        own = self.losses[len(self.came_to)]
        came_to = next((at for at, mark in enumerate(trial.marks) if not judge(mark, own[at])), 3)
        self.came_to.append(came_to)
        is_whole = came_to == 3
        return TriedOut(
            end=TrialEnd.COMPLETE if is_whole else TrialEnd.STOPPED,
            loss=own[2] if is_whole else None,
            tokens=1,
            measured_tokens=1,
            seconds=0.0,
        )


def by_optuna(losses: Sequence[Sequence[float]], reduction: int) -> list[int]:
    """The same by Optuna."""
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)
    study = optuna.create_study(pruner=pruner)
    found: list[int] = []
    for curve in losses:
        trial = study.ask()
        came_to = 3
        for at, loss in enumerate(curve):
            trial.report(loss, reduction**at)
            if trial.should_prune():
                came_to = at
                break
        found.append(came_to)
        if came_to == 3:
            study.tell(trial, curve[2])
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return found


def test_what_is_given_is_taken_to_its_end(tmp_path: Path) -> None:
    """It is what all others are compared with, however it begins."""
    try_out = FakeTryOut(lambda one, epochs: 9.0 if one == LORA and epochs < 3 else 1.0)
    search(FEW, task_in(tmp_path), try_out)
    assert try_out.tried[0][1].loss is not None


# --------------------------------------------------------------------------- kills


def opens_the_journal(event: str, arguments: tuple[object, ...]) -> bool:
    return event == "open" and str(arguments[0]).endswith(JOURNAL)


def told(found: HyperparameterSearch | None) -> HyperparameterSearch:
    assert found is not None
    return replace(found, seconds=0.0)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_search_that_is_killed_again_and_again_ends_as_the_uninterrupted_one(tmp_path: Path, seed: int) -> None:
    plugin = TuningOptuna(most_trials=8, random_trials=3)
    store = found_before(lora_r=8)

    def carried_out(directory: Path) -> HyperparameterSearch | None:
        task = task_in(directory)
        return plugin.nightschool_search_hyperparameters(task, FakeTryOut(), FakeStore(store.values), seed)

    whole = told(carried_out(tmp_path / "whole"))
    kills = 0
    while killed(lambda: carried_out(tmp_path / "cut"), 55 + 7 * kills % 40, opens_the_journal):
        kills += 1
    assert kills >= 5
    assert told(carried_out(tmp_path / "cut")) == whole
    study = optuna.load_study(study_name=STUDY, storage=storage_of(tmp_path / "cut"))
    states = [one.state.name for one in study.get_trials()]
    # each kill costs the training under way, which has failed and is tried out again
    assert sum(state in ("COMPLETE", "PRUNED") for state in states) == 8
    assert 0 < states.count("FAIL") <= kills


def storage_of(directory: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(directory / JOURNAL)))


@pytest.mark.parametrize("lost", [1, 30])
def test_a_line_that_the_disk_tore_is_cut_off(tmp_path: Path, lost: int) -> None:
    whole = told(search(FEW, task_in(tmp_path)))
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-lost])
    assert told(search(FEW, task_in(tmp_path))) == whole


# --------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"fewest_examples": 0},
        {"most_trials": 0},
        {"growth": 1.0},
        {"time_limit_minutes": 0.0},
        {"reduction": 1},
        {"first_mark": 0.0},
        {"first_steps": -1},
        {"fewest_steps": -1},
        {"least_gain": 1.0},
        {"learning_rate": (0.0, 1e-3)},
        {"learning_rate": (1e-2, 1e-3)},
        {"batch_size": (0, 8)},
        {"lora_dropout": (0.0, 1.0)},
        {"neurons": (0.5, float("inf"))},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TuningOptuna(**wrong)
