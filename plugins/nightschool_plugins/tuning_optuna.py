"""Searches for better hyperparameters than the given ones, by trying some out: Optuna's TPE, and successive halving.

A specialty is searched for when it has `fewest_examples`, and again when its events are `growth` times as many; until
then it trains by what was found. First the given hyperparameters are tried out, then what the last search found, both
to their end, then what the tree-structured Parzen estimator proposes (Bergstra et al. 2011, Algorithms for
Hyper-Parameter Optimization). Where there was no time for the first two nothing was found, and the next run searches
again.

Most of what it proposes is seen to be worse long before its end. At its first mark, and at each mark `reduction` times
as far, one in `reduction` goes on of those that came so far (Li et al. 2020, A System for Massively Parallel
Hyperparameter Tuning, arXiv 1810.05934). A median would let half of them go on, and each bracket of hyperband would
need `random_trials` of its own before the estimator is of use. The first mark lies where `first_mark` epochs and
`first_steps` steps are behind: after its very first step a good rate may have a higher loss than a bad one.

The search is kept in Optuna's journal, so that a kill costs the training that was under way, and no other.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool_hookspecs import (
    GenerationError,
    Hyperparameters,
    HyperparameterSearch,
    SearchTask,
    Store,
    TrainedForm,
    TrainingError,
    TrainingTrial,
    TrialEnd,
    TriedOut,
    TryOut,
    hookimpl,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial

Values = Mapping[str, float]
"""Hyperparameters by their names."""

KEY = "tuning_optuna"
"""In the store."""
JOURNAL, STUDY = "journal.log", "search 2"
"""The study has another number where its results have another form: an earlier one that is under way begins anew."""
VALUES, RESULT = "values", "result"
"""What the journal keeps of a trial besides: what was tried out, and what came of it."""
PASSED = "seconds"
"""And of a search: how long it took so far."""
LOGARITHMIC = frozenset({"learning_rate", "batch_size", "lora_r", "lora_alpha", "neurons"})
"""Where it is the factor that counts, not the difference."""
WHOLE = frozenset({"batch_size", "num_epochs", "lora_r", "lora_alpha", "neurons"})
COMMON = ("learning_rate", "batch_size", "num_epochs", "warmup_ratio")
OF_FORM: Mapping[TrainedForm, tuple[str, ...]] = {
    TrainedForm.LORA: ("lora_r", "lora_alpha", "lora_dropout"),
    TrainedForm.GROUPED: ("lora_r", "lora_alpha", "lora_dropout"),
    TrainedForm.NEURONS: ("neurons",),
}


class Objective(StrEnum):
    """By what trainings are compared."""

    LOSS = "loss"
    """On examples that are kept apart."""
    SCORE = "score"
    """Of the validators, on answers of the trained network to some of them."""


@dataclass(frozen=True, kw_only=True)
class TuningOptuna:
    """`[plugins.tuning_optuna]`"""

    fewest_examples: int = 200
    """With fewer nothing is searched for."""
    growth: float = 2.0
    """The next search begins when there are so many times the events of the last one, whatever of them a night learns
    and in how many variants."""
    most_trials: int = 50
    """Trainings that are tried out."""
    time_limit_minutes: float = 60.0
    """Of a search. `training.time_limit_minutes` bounds it too, less what the training itself will take."""
    objective: Objective = Objective.LOSS
    """By what those are compared that came to their end; they are stopped early by their loss in any case."""
    scored_answers: int = 16
    """Of each of these, where it is the score."""
    least_gain: float = 0.01
    """Share by which the loss must be lower, or by which the score must come nearer to 100. Else what was found before
    stays, or what is given: from what was learned in another shape no training can go on."""
    random_trials: int = 10
    """From which the estimator learns before it proposes anything."""
    first_mark: float = 0.5
    """Epochs after which a training may be stopped for the first time."""
    first_steps: int = 4
    """Of the optimiser, before that too: large batches are seen through more epochs."""
    reduction: int = 3
    """One in so many goes on at a mark, and each mark is so many times as far as the one before."""
    fewest_steps: int = 30
    """Of the optimiser: with fewer a model has not learned to end its answers, and its loss hardly shows it. What would
    make fewer is done in more epochs, up to the most."""
    learning_rate: tuple[float, float] = (1e-6, 1e-2)
    """Least and most, as below. Each range reaches to the given value where that lies outside."""
    batch_size: tuple[int, int] = (8, 64)
    num_epochs: tuple[int, int] = (1, 10)
    warmup_ratio: tuple[float, float] = (0.0, 0.2)
    lora_r: tuple[int, int] = (4, 64)
    lora_alpha: tuple[int, int] = (8, 128)
    lora_dropout: tuple[float, float] = (0.0, 0.2)
    neurons: tuple[float, float] = (0.25, 4.0)
    """As multiples of the given number: forms without a rank have this in its place."""

    def __post_init__(self) -> None:
        if min(self.fewest_examples, self.most_trials, self.random_trials, self.scored_answers) < 1:
            raise ValueError("fewest_examples, most_trials, random_trials and scored_answers must be 1 or more")
        if self.reduction < 2 or min(self.first_steps, self.fewest_steps) < 0:
            raise ValueError("reduction must be 2 or more, first_steps and fewest_steps 0 or more")
        if not (self.growth > 1 and self.time_limit_minutes > 0 and self.first_mark > 0):
            raise ValueError("growth must be above 1, time_limit_minutes and first_mark above 0")
        if not 0 <= self.least_gain < 1:
            raise ValueError("least_gain must lie within 0..1, below 1")
        for name in (*COMMON, *OF_FORM[TrainedForm.LORA], *OF_FORM[TrainedForm.NEURONS]):
            self._require_range(name)

    def _require_range(self, name: str) -> None:
        low, high = getattr(self, name)
        if name in ("warmup_ratio", "lora_dropout"):
            if not 0 <= low <= high < 1:
                raise ValueError(f"{name} must be a least and a most value within 0..1, below 1")
        elif not 0 < low <= high < math.inf:
            raise ValueError(f"{name} must be a least and a most value above 0")

    @hookimpl
    def nightschool_search_hyperparameters(
        self, task: SearchTask, try_out: TryOut, store: Store, seed: int
    ) -> HyperparameterSearch | None:
        space = Space.of(self, task)
        before = Found.read(store, space)
        if not self._is_due(task, before):
            return None if before is None else before.answer(task.given)
        if task.is_rehearsal:
            return self._announced(task)
        known = [space.given] if before is None or not before.values else [space.given, before.values]
        try:
            found = Search(self, space, try_out, known, task.directory / JOURNAL, seed).carried_out()
        except (TrainingError, GenerationError) as error:
            values = {} if before is None else before.values
            return HyperparameterSearch(
                hyperparameters=applied(task.given, values),
                reason=f"No hyperparameters could be tried out, and those it has trained by are taken. {error}",
            )
        if found.is_settled:
            store.put(KEY, Found.of(task, found.values).text())
        return found.answer(task.given)

    def _is_due(self, task: SearchTask, before: Found | None) -> bool:
        if task.examples < self.fewest_examples:
            return False
        return before is None or task.events >= self.growth * before.events

    def _announced(self, task: SearchTask) -> HyperparameterSearch:
        return HyperparameterSearch(
            hyperparameters=task.given,
            reason=(
                f"Before it trains, it searches for hyperparameters: at most {self.most_trials} trainings on a part of "
                f"the {task.examples} examples, within {self.time_limit_minutes:g} min."
            ),
            trials=self.most_trials,
            seconds=60 * self.time_limit_minutes,
        )

    def marks(self, examples: int, training: Hyperparameters) -> tuple[float, ...]:
        """Epochs after which a training is compared with others, at its n-th mark with what they came to at theirs."""
        steps_an_epoch = math.ceil(examples / training.batch_size)
        first = max(self.first_mark, self.first_steps / steps_an_epoch)
        marks = (first * self.reduction**number for number in itertools.count())
        return tuple(itertools.takewhile(lambda mark: mark < training.num_epochs, marks))


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the store keeps of a search."""

    events: int
    """That there were."""
    beside: Mapping[str, object]
    """For what it was found."""
    values: Values
    """What was found; empty where nothing was better."""

    @classmethod
    def of(cls, task: SearchTask, values: Values) -> Found:
        """To be kept."""
        return cls(events=task.events, beside=_beside(task), values=values)

    @classmethod
    def read(cls, store: Store, space: Space) -> Found | None:
        """Of the last search; None where there was none for what is trained today: for this base, in this form.

        What may not be searched for today stays as it is given, whatever was found.
        """
        text = store.get(KEY)
        kept = {} if text is None else json.loads(text)
        if kept.get("beside") != _beside(space.task):
            return None
        found = cls(**kept)
        return replace(found, values=space.within(found.values))

    def text(self) -> str:
        """For the store."""
        return json.dumps(dataclasses.asdict(self))

    def answer(self, given: Hyperparameters) -> HyperparameterSearch | None:
        """By what it trains until the next search."""
        if not self.values:
            return None
        reason = f"Taken is what a search found when there were {self.events} events: {_shown(self.values)}."
        return HyperparameterSearch(hyperparameters=applied(given, self.values), reason=reason)


def _beside(task: SearchTask) -> Mapping[str, object]:
    """What no search changes and what is found depends on, as it comes out of the store.

    What else is given may follow from how much there is, or from chance, and is tried out first whenever it is due.
    """
    given = task.given
    return {
        "base": task.base_digest,
        "form": given.form.value,
        "layers": list(given.lora_layers),
        "max_length": given.max_length,
    }


def applied(given: Hyperparameters, values: Mapping[str, Any]) -> Hyperparameters:
    """The given hyperparameters with others in their place."""
    return replace(given, **values)


def _shown(values: Values) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


# --------------------------------------------------------------------------- the space


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may be tried out."""

    task: SearchTask
    ranges: Mapping[str, tuple[float, float]]
    """Least and most of what is searched for, the given value within. Neurons are counted in steps."""
    fewest_steps: int

    @classmethod
    def of(cls, settings: TuningOptuna, task: SearchTask) -> Space:
        """For this training."""
        names = [name for name in (*COMMON, *OF_FORM[task.given.form]) if name not in task.fixed]
        ranges: dict[str, tuple[float, float]] = {}
        for name in names:
            given: float = getattr(task.given, name)
            low, high = getattr(settings, name)
            if name == "neurons":
                given //= task.neuron_step
                low, high = max(1, round(low * given)), max(1, round(high * given))
            ranges[name] = min(low, given), max(high, given)
        return cls(task=task, ranges=ranges, fewest_steps=settings.fewest_steps)

    @property
    def given(self) -> Values:
        """The given hyperparameters that are searched for."""
        return {name: getattr(self.task.given, name) for name in self.ranges}

    @property
    def most_epochs(self) -> int:
        """Of a training."""
        return int(self.ranges["num_epochs"][1])

    def distributions(self) -> dict[str, BaseDistribution]:
        """The same for Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for name, (low, high) in self.ranges.items():
            if name in WHOLE:
                found[name] = IntDistribution(int(low), int(high), log=name in LOGARITHMIC)
            else:
                found[name] = FloatDistribution(low, high, log=name in LOGARITHMIC)
        return found

    def parameters(self, values: Values) -> dict[str, float]:
        """Values as Optuna has them, within the ranges."""
        found = {**self.given, **values}
        if "neurons" in found:
            found["neurons"] //= self.task.neuron_step
        return {name: min(max(low, found[name]), high) for name, (low, high) in self.ranges.items()}

    def within(self, values: Values) -> Values:
        """Of what an earlier search found that which is searched for today, within today's ranges."""
        known = {name: value for name, value in values.items() if name in self.ranges}
        bounded = self.parameters(known)
        return {name: bounded[name] * (self.task.neuron_step if name == "neurons" else 1) for name in known}

    def values(self, parameters: Mapping[str, float]) -> Values:
        """What Optuna proposes, in as many epochs as make the fewest steps."""
        values = dict(parameters)
        if "neurons" in values:
            values["neurons"] *= self.task.neuron_step
        steps_an_epoch = math.ceil(self.task.tried_on / values["batch_size"])
        needed = min(self.most_epochs, math.ceil(self.fewest_steps / steps_an_epoch))
        return {**values, "num_epochs": max(needed, values["num_epochs"])}


# --------------------------------------------------------------------------- a search


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a search."""

    values: Values
    """By which it trains; empty: the given hyperparameters hold."""
    is_settled: bool
    """What is known was compared with what was proposed; else the time was over before, and nothing was found."""
    trials: int
    stopped: int
    tokens: int
    measured_tokens: int
    seconds: float
    best: TriedOut | None
    """None: no training came to its end."""
    taken: TriedOut | None
    """Of the values; None where it is not known, as below."""
    given: TriedOut | None
    before: TriedOut | None
    """Of what the last search found."""

    def answer(self, given: Hyperparameters) -> HyperparameterSearch:
        """For the run."""
        return HyperparameterSearch(
            hyperparameters=applied(given, self.values),
            reason=self._reason(),
            trials=self.trials,
            stopped=self.stopped,
            tokens=self.tokens,
            measured_tokens=self.measured_tokens,
            seconds=self.seconds,
            loss=None if self.taken is None else self.taken.loss,
            given_loss=None if self.given is None else self.given.loss,
        )

    def _reason(self) -> str:
        if not self.is_settled:
            return (
                f"Hyperparameters were searched for, but after {self.trials} trainings the time was over, and what it "
                "has trained by was not compared. That holds, and the next run searches again. Raise "
                "time_limit_minutes in [plugins.tuning_optuna], or training.time_limit_minutes."
            )
        if self.best is None:
            return (
                f"Hyperparameters were searched for, but none of {self.trials} trainings came to its end. The given "
                "ones are taken."
            )
        beside = "".join(
            f", {name} to {_result_shown(one)}"
            for name, one in (("the given hyperparameters", self.given), ("those found before", self.before))
            if one is not None
        )
        found = (
            f"Of {self.trials} trainings that were tried out, {self.stopped} of which were stopped early, the best "
            f"came to {_result_shown(self.best)} on examples kept apart{beside}"
        )
        if self.taken in (self.given, self.before):
            held = "Those found before" if self.values else "The given ones"
            return f"{found}. {held} are taken, as nothing is better by enough."
        return f"{found}. Taken: {_shown(self.values)}."


def _result_shown(tried: TriedOut) -> str:
    score = "" if tried.score is None else f"{tried.score:.1f} of 100 and "
    return f"{score}{tried.loss:.3f} nats an answer token"


class Search:
    """A search that begins, or goes on after a kill."""

    def __init__(
        self,
        settings: TuningOptuna,
        space: Space,
        try_out: TryOut,
        known: Sequence[Values],
        journal: Path,
        seed: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`known`: what is tried out before anything is proposed: what is given, and behind it what was found before.

        `clock`: seconds.
        """
        self._settings, self._space, self._try_out, self._known, self._seed = settings, space, try_out, known, seed
        self._distributions = space.distributions()
        self._study = _opened(journal)
        self._clock, self._began = clock, clock()
        self._earlier_s: float = self._study.user_attrs.get(PASSED, 0.0)

    def carried_out(self) -> Outcome:
        """Try out as many as there may be, or as there is time for."""
        while len(self._finished()) < self._settings.most_trials and (seconds := self._seconds_left()) > 0:
            self._try_next(seconds)
        return self._outcome()

    def _passed_s(self) -> float:
        return self._earlier_s + self._clock() - self._began

    def _keep_time(self) -> None:
        """Of what a kill cuts short nothing else is left but the time that it took."""
        self._study.set_user_attr(PASSED, self._passed_s())

    def _seconds_left(self) -> float:
        return min(60 * self._settings.time_limit_minutes - self._passed_s(), self._try_out.seconds_left())

    # ----------------------------------------------------------------------- a training

    def _try_next(self, seconds: float) -> None:
        self._keep_time()
        number = len(self._finished())
        # what all others are compared with is seen to its end
        is_known = number < len(self._known)
        trial = self._ask(number)
        values = self._known[number] if is_known else self._space.values(trial.params)
        task, hyperparameters = self._space.task, applied(self._space.task.given, values)
        marks = self._settings.marks(task.tried_on, hyperparameters)

        def judge(epochs: float, loss: float) -> bool:
            mark = marks.index(epochs)
            trial.report(loss, mark)
            self._keep_time()
            return is_known or self._is_promising(mark, loss)

        training = TrainingTrial(
            hyperparameters=hyperparameters,
            title=self._title(number),
            marks=marks,
            seconds=seconds,
            answers=self._settings.scored_answers if self._settings.objective is Objective.SCORE else 0,
        )
        tried = self._try_out(training, judge)
        trial.set_user_attr(VALUES, dict(values))
        trial.set_user_attr(RESULT, dataclasses.asdict(tried))
        self._keep_time()
        self._tell(trial, tried)

    def _ask(self, number: int) -> Trial:
        """The next trial."""
        from optuna.trial import TrialState

        self._study.sampler = sampler_of(self._seed, number, self._settings.random_trials)
        waits = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if number < len(self._known) and not waits:
            self._study.enqueue_trial(self._space.parameters(self._known[number]))
        return self._study.ask(fixed_distributions=self._distributions)

    def _is_promising(self, mark: int, loss: float) -> bool:
        """Whether it is among the best of those that came to a mark: one in `reduction`, and one at least.

        As in Optuna's `SuccessiveHalvingPruner`, which would count what a kill cut short and what repeats it twice.
        """
        others = [one.intermediate_values[mark] for one in self._finished() if mark in one.intermediate_values]
        better = [other for other in others if other < loss]
        return len(better) < max(1, (len(others) + 1) // self._settings.reduction)

    def _tell(self, trial: Trial, tried: TriedOut) -> None:
        from optuna.trial import TrialState

        if tried.end is TrialEnd.COMPLETE:
            self._study.tell(trial, self._value(tried), state=TrialState.COMPLETE)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _value(self, tried: TriedOut) -> float | None:
        """By which a training is compared that came to its end, less is better."""
        if self._settings.objective is Objective.LOSS:
            return tried.loss
        return None if tried.score is None else 100 - tried.score

    def _title(self, number: int) -> str:
        best = self._best()
        so_far = "" if best is None else f", best {_result_shown(_result_of(best))}"
        return f"trial {number + 1} of {self._settings.most_trials}{so_far}"

    # ----------------------------------------------------------------------- what came of them

    def _finished(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        return list(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def _best(self) -> FrozenTrial | None:
        from optuna.trial import TrialState

        completed = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return min(completed, key=_value_of, default=None)

    def _outcome(self) -> Outcome:
        results = [_result_of(one) for one in self._finished()]
        known = [one if one.end is TrialEnd.COMPLETE else None for one in results[: len(self._known)]]
        given, before = itertools.islice(itertools.chain(known, (None, None)), 2)
        best, is_settled = self._best(), self._is_settled(results)
        taken = self._taken(best) if is_settled else None
        return Outcome(
            values=self._values(taken, is_settled=is_settled),
            is_settled=is_settled,
            trials=len(results),
            stopped=sum(one.end is not TrialEnd.COMPLETE for one in results),
            tokens=sum(one.tokens for one in results),
            measured_tokens=sum(one.measured_tokens for one in results),
            seconds=self._passed_s(),
            best=None if best is None else _result_of(best),
            taken=None if taken is None else _result_of(taken),
            given=given,
            before=before,
        )

    def _is_settled(self, results: Sequence[TriedOut]) -> bool:
        """Whether all that is known came to its end, or could not be trained by."""
        ended = [one for one in results[: len(self._known)] if one.end in (TrialEnd.COMPLETE, TrialEnd.UNFIT)]
        return len(ended) == len(self._known)

    def _taken(self, best: FrozenTrial | None) -> FrozenTrial | None:
        """The best, if it is better by enough than what it has trained by; None where nothing can be trained by."""
        held = self._held()
        if held is None:
            return best
        bound = _value_of(held) * (1 - self._settings.least_gain)
        return held if best is None or _value_of(best) >= bound else best

    def _held(self) -> FrozenTrial | None:
        """What it has trained by: what was found before, else what is given; None where neither can be trained by."""
        known = [one for one in self._finished()[: len(self._known)] if one.value is not None]
        return known[-1] if known else None

    def _values(self, taken: FrozenTrial | None, *, is_settled: bool) -> Values:
        if not is_settled:
            return self._known[1] if len(self._known) > 1 else {}
        is_given = bool(self._known) and taken is not None and taken.number == self._finished()[0].number
        return {} if taken is None or is_given else taken.user_attrs[VALUES]


def sampler_of(seed: int, number: int, random_trials: int) -> TPESampler:
    """What proposes a trial. Its chance follows from how many are finished: what a kill cut short is proposed again."""
    from optuna.samplers import TPESampler

    chance = random.Random(f"{seed}/{number}").getrandbits(32)  # noqa: S311 - no secret
    return TPESampler(seed=chance, n_startup_trials=random_trials)


def _result_of(trial: FrozenTrial) -> TriedOut:
    found = trial.user_attrs[RESULT]
    return TriedOut(**{**found, "end": TrialEnd(found["end"])})


def _value_of(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value


# --------------------------------------------------------------------------- the journal


def _opened(journal: Path) -> Study:
    """The study that a journal holds, or a new one. What a kill cut short has failed."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import TrialState

    class Alone(JournalFileOpenLock):  # type: ignore[misc]  # optuna is not read by mypy
        """No other process has this directory, and the file of a lock would outlive a kill."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _cut_off(journal)
    storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=Alone(str(journal))))
    study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _cut_off(journal: Path) -> None:
    """Take away a last line that was not written whole."""
    content = journal.read_bytes() if journal.is_file() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(journal, whole)


@hookimpl
def nightschool_register_settings() -> type[TuningOptuna]:
    return TuningOptuna
