"""`make bench-tuning`: how many tokens a search for hyperparameters takes, against Optuna's TPE without pruning.

Real trainings on SmolLM2 135M and shell commands (NL2Bash), over the plugin's own space. For each seed the peer tries
out a fixed number of trainings to their end. The loss that it comes to, and a hundredth above it as nobody can tell
these apart, is what ours is to reach: once both begin from the given hyperparameters, as a run does it, and once from
nothing. Where ours has spent as much as the peer did in all without reaching it, the row falls short whatever the sums.

Both sides draw by the same chance: what one tried out and the other proposes too is not trained again, but counted
again, as far as that side would have taken it. So what is compared differs by what was stopped, and by nothing else.

What counts is tokens learned from, and a third of those measured on: these only go forth through the network.

What they learn from is small: 24 examples, where the plugin searches from 200 on, in smaller batches and fewer epochs.
So it tells how much of a search is saved by stopping, not how much better a specialty becomes.

Trainings are kept under `benchmarks/results/tuning/` and not done again, so the bench can be stopped at any time. About
an hour on two cores; `--quick`, one seed of few and short trainings, shows within minutes that it works.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import optuna
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import forms, results, tasks  # noqa: E402 - found through the path above
from nightschool_daemon.learning import defaults, gguf_file  # noqa: E402
from nightschool_daemon.learning.engine.trying import Slices, Watch  # noqa: E402
from nightschool_daemon.learning.gguf_file import GgufFile  # noqa: E402
from nightschool_daemon.learning.lesson import block_of_neurons  # noqa: E402
from nightschool_daemon.learning.loading import load_tokens  # noqa: E402
from nightschool_daemon.learning.packed_route import PackedTrials, neurons_of  # noqa: E402
from nightschool_hookspecs import (  # noqa: E402
    Hyperparameters,
    Judge,
    SearchTask,
    Specialty,
    TrainedForm,
    TrainingTrial,
    TrialEnd,
    TriedOut,
)
from nightschool_hookspecs.testing import FakeStore  # noqa: E402
from nightschool_plugins.tuning_fixed import TuningFixed  # noqa: E402
from nightschool_plugins.tuning_optuna import JOURNAL, Search, Space, TuningOptuna, applied, sampler_of  # noqa: E402
from support.base_models import MODELS  # noqa: E402
from support.training_jobs import training_job  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "tuning"
WORK = ROOT / "build" / "tuning"
MODEL = "smollm2"
SPECIALTY = Specialty(base="smollm2:135m", artifact_type="shell")
ALIKE = 1.01
"""Losses so near to each other are the same."""
FORTH = 1 / 3
"""What a token costs that is measured, of one that is learned from."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    seeds: int
    learned: int
    """Examples."""
    measured: int
    trainings: int
    """Of the peer."""
    most_epochs: int
    random_trials: int
    """Before the estimator proposes, of either side."""
    directory: Path
    """Where trainings are kept."""
    goal: float | None
    """Of the ratio; None: it proves nothing."""

    @property
    def examples(self) -> int:
        """In all."""
        return self.learned + self.measured

    @property
    def plugin(self) -> TuningOptuna:
        """As it comes, but that batches are smaller and epochs fewer, as the examples are."""
        return TuningOptuna(
            batch_size=(2, 16),
            num_epochs=(1, self.most_epochs),
            random_trials=self.random_trials,
            fewest_steps=0,
            most_trials=1000,
            time_limit_minutes=math.inf,
        )


FULL = Size(seeds=3, learned=24, measured=8, trainings=20, most_epochs=6, random_trials=10, directory=RESULTS, goal=0.4)
QUICK = Size(
    seeds=1, learned=12, measured=4, trainings=4, most_epochs=3, random_trials=2, directory=WORK / "quick", goal=None
)


def main() -> int:
    """Train what is missing, print the table. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the next call goes on")
    parser.add_argument("--quick", action="store_true", help="one seed of few and short trainings")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores to use")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    size, name = (QUICK, "tuning-quick") if given.quick else (FULL, "tuning")
    deadline = time.monotonic() + 60 * given.minutes
    searches = []
    for seed in range(size.seeds):
        try:
            searches.append(searched(size, seed, deadline))
        except OutOfMinutes:
            break
    return results.presented(name, "Tokens of a search for hyperparameters", rows_of(size, searches))


# --------------------------------------------------------------------------- trainings


class OutOfMinutes(Exception):
    """No training is begun any more."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where a training may be stopped."""

    epochs: float
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A training, looked at on its way."""

    steps_an_epoch: int
    steps: int
    marks: tuple[Mark, ...]
    loss: float | None
    """None: it was stopped, or became no number."""
    is_whole: bool
    """It was not stopped, which is where its last mark lies."""

    @classmethod
    def read(cls, line: str) -> "tuple[str, Curve]":
        """A line of the file that keeps them."""
        kept = json.loads(line)
        curve = kept["curve"]
        return kept["trained"], cls(**{**curve, "marks": tuple(Mark(**one) for one in curve["marks"])})

    def up_to(self, number: int) -> "Curve":
        """The same, stopped at one of its marks."""
        marks = self.marks[: number + 1]
        return replace(self, marks=marks, steps=marks[-1].step, loss=None, is_whole=False)

    @property
    def epochs(self) -> float:
        """Learned."""
        return self.steps / self.steps_an_epoch

    @property
    def measurements(self) -> int:
        """One at each mark and after each epoch."""
        ends = range(self.steps_an_epoch, self.steps + 1, self.steps_an_epoch)
        return len({*ends, *(mark.step for mark in self.marks)})


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Takes trainings of one seed as far as they are wanted, each once, and keeps what they came to."""

    size: Size
    seed: int
    deadline: float
    work: Path

    @cached_property
    def file(self) -> GgufFile:
        """Of the base."""
        return gguf_file.read(forms.fetched(MODEL, MODELS[MODEL]))

    @cached_property
    def given(self) -> Hyperparameters:
        """With what a specialty trains by default when it is searched for first."""
        examples = self.size.plugin.fewest_examples
        plain = TuningFixed().nightschool_suggest_hyperparameters(SPECIALTY, examples, FakeStore(), 0)
        form = TrainedForm.NEURONS
        return replace(
            plain, form=form, learning_rate=defaults.rate_of(self.file, form), neurons=neurons_of(self.file, 0)
        )

    @cached_property
    def space(self) -> Space:
        """What both sides search in."""
        task = SearchTask(
            specialty=SPECIALTY,
            base_digest=MODEL,
            events=self.size.examples,
            examples=self.size.examples,
            tried_on=self.size.learned,
            given=self.given,
            neuron_step=block_of_neurons(self.file),
            fixed=(),
            directory=self.work,
        )
        return Space.of(self.size.plugin, task)

    @cached_property
    def trials(self) -> PackedTrials:
        """Each seed has other examples."""
        tokens = load_tokens(self.file, MODEL, forms.cached())
        pairs = tasks.shell(self.seed, self.size.learned, self.size.measured)
        learned, measured = (
            tuple(forms.rows_of(one, MODELS[MODEL], tokens)) for one in (pairs.learned, pairs.held_out)
        )
        job = replace(training_job(self.work, self.file.path, self.given), seed=self.seed)
        return PackedTrials(self.file, job, self.given, Slices(learned=learned, measured=measured), self.work)

    @cached_property
    def epoch_tokens(self) -> int:
        """Learned from in an epoch."""
        return sum(map(len, self.trials.slices.learned))

    @cached_property
    def measured_tokens(self) -> int:
        """Of the examples that are measured on."""
        return sum(map(len, self.trials.slices.measured))

    @property
    def kept(self) -> Path:
        """A line a training. Its name says what they depend on besides their hyperparameters."""
        size = self.size
        return size.directory / f"{size.learned}-{size.measured}-{size.most_epochs}-{self.seed}.jsonl"

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Trainings by their hyperparameters; of each what was kept last."""
        lines = self.kept.read_text(encoding="utf-8").splitlines() if self.kept.exists() else []
        return dict(map(Curve.read, lines))

    def carried(self, settings: Hyperparameters, judge: Judge) -> Curve:
        """A training as far as a judge lets it go. What is known of it is not trained again. Raises `OutOfMinutes`."""
        key = json.dumps(dataclasses.asdict(settings), sort_keys=True)
        known = self.curves.get(key)
        heard = () if known is None else known.marks
        stopped = next((at for at, mark in enumerate(heard) if not judge(mark.epochs, mark.loss)), None)
        if known is not None and (stopped is not None or known.is_whole):
            return known if stopped is None else known.up_to(stopped)
        if time.monotonic() > self.deadline:
            raise OutOfMinutes
        self.curves[key] = self._trained(settings, judge, known=len(heard))
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        with self.kept.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"trained": key, "curve": dataclasses.asdict(self.curves[key])}) + "\n")
        return self.curves[key]

    def _trained(self, settings: Hyperparameters, judge: Judge, known: int) -> Curve:
        """`known`: so many marks the judge has heard of."""
        step, marks, is_whole = 0, list[Mark](), True

        def report(done: int, _total: int, _text: str) -> None:
            nonlocal step
            step = done

        def heard(epochs: float, loss: float) -> bool:
            nonlocal is_whole
            marks.append(Mark(epochs=epochs, step=step, loss=loss))
            is_whole = len(marks) <= known or judge(epochs, loss)
            return is_whole

        began = time.monotonic()
        marks_at = self.size.plugin.marks(self.size.learned, settings)
        trial = TrainingTrial(hyperparameters=settings, title="", marks=marks_at)
        found = self.trials.try_out(Watch(trial=trial, judge=heard, report=report))
        rate = found.tokens / (time.monotonic() - began)
        print(f"seed {self.seed}: rate {settings.learning_rate:.2g}, {found} ({rate:.0f} tokens/s)", flush=True)
        return Curve(
            steps_an_epoch=math.ceil(self.size.learned / settings.batch_size),
            steps=step,
            marks=tuple(marks),
            loss=found.loss,
            is_whole=is_whole,
        )


# --------------------------------------------------------------------------- both sides


@dataclass(frozen=True, kw_only=True)
class Told:
    """After a training of a search: what was spent in all, and the least loss so far; None: none came to its end."""

    spent: float
    loss: float | None


@dataclass(kw_only=True)
class Counted:
    """`TryOut` that counts, and has no time left from a loss on, or when so much was spent."""

    trainer: Trainer
    reached: float = 0.0
    most: float = math.inf
    told: list[Told] = field(default_factory=list)

    def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
        """Tell what the training comes to. Marks that are not asked for cost nothing."""
        curve = self.trainer.carried(trial.hyperparameters, judge)
        curve = curve if trial.marks else replace(curve, marks=())
        found = TriedOut(
            end=TrialEnd.STOPPED if curve.loss is None else TrialEnd.COMPLETE,
            loss=curve.loss,
            tokens=round(curve.epochs * self.trainer.epoch_tokens),
            measured_tokens=curve.measurements * self.trainer.measured_tokens,
            seconds=0.0,
        )
        self._count(found)
        return found

    def _count(self, found: TriedOut) -> None:
        best = min((one for one in (self.loss, found.loss) if one is not None), default=None)
        self.told.append(Told(spent=self.spent + found.tokens + FORTH * found.measured_tokens, loss=best))

    @property
    def spent(self) -> float:
        """Tokens so far."""
        return self.told[-1].spent if self.told else 0.0

    @property
    def loss(self) -> float | None:
        """The least so far."""
        return self.told[-1].loss if self.told else None

    def seconds_left(self) -> float:
        """None where there is nothing more to show."""
        is_reached = self.loss is not None and self.loss <= self.reached
        return 0.0 if is_reached or self.spent >= self.most else math.inf

    def spent_until(self, loss: float) -> float:
        """Tokens until a loss was reached; all, where it was not."""
        return next((one.spent for one in self.told if one.loss is not None and one.loss <= loss), self.spent)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Tokens to the loss that the peer came to, of one seed and one beginning."""

    peer: float
    ours: float
    is_reached: bool
    """By ours, before it had spent as much as the peer did in all."""


@dataclass(frozen=True, kw_only=True)
class Searches:
    """Of one seed."""

    warm: Sides
    """Both begin from the given hyperparameters."""
    cold: Sides
    """Both begin from nothing."""


def searched(size: Size, seed: int, deadline: float) -> Searches:
    """Both sides, from either beginning. Raises `OutOfMinutes`."""
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as text:
        trainer = Trainer(size=size, seed=seed, deadline=deadline, work=Path(text))
        return Searches(warm=compared(trainer, (trainer.space.given,)), cold=compared(trainer, ()))


def compared(trainer: Trainer, known: Sequence[Mapping[str, float]]) -> Sides:
    """Both sides from one beginning. Raises `OutOfMinutes`."""
    peer = by_peer(trainer, known)
    if peer.loss is None:
        raise RuntimeError(f"Of seed {trainer.seed} no training of the peer came to a loss.")
    target = ALIKE * peer.loss
    ours = by_ours(trainer, known, Counted(trainer=trainer, reached=target, most=peer.spent))
    return Sides(
        peer=peer.spent_until(target),
        ours=ours.spent_until(target),
        is_reached=ours.loss is not None and ours.loss <= target,
    )


def by_peer(trainer: Trainer, known: Sequence[Mapping[str, float]]) -> Counted:
    """Optuna's TPE, every training to its end, those first that are known."""
    counted, space = Counted(trainer=trainer), trainer.space
    study = optuna.create_study()
    for values in known:
        study.enqueue_trial(space.parameters(values))
    for number in range(trainer.size.trainings):
        study.sampler = sampler_of(trainer.seed, number, trainer.size.random_trials)
        trial = study.ask(fixed_distributions=space.distributions())
        begun = known[number] if number < len(known) else space.values(trial.params)
        tried = counted(trial_of(space, begun), lambda _epochs, _loss: True)
        state = optuna.trial.TrialState.PRUNED if tried.loss is None else None
        study.tell(trial, tried.loss, state=state)
    return counted


def trial_of(space: Space, values: Mapping[str, float]) -> TrainingTrial:
    """A training by these, looked at on its way by nobody."""
    return TrainingTrial(hyperparameters=applied(space.task.given, values), title="")


def by_ours(trainer: Trainer, known: Sequence[Mapping[str, float]], counted: Counted) -> Counted:
    """The plugin's search, until it is where the peer came to."""
    with tempfile.TemporaryDirectory(dir=trainer.work) as text:
        journal = Path(text) / JOURNAL
        Search(trainer.size.plugin, trainer.space, counted, known, journal, trainer.seed).carried_out()
    return counted


# --------------------------------------------------------------------------- the table


def rows_of(size: Size, searches: Sequence[Searches]) -> list[results.Row]:
    """Of all seeds that are finished, together."""
    if not searches:
        return []
    told = f"{size.trainings} trainings of {size.learned} examples, {len(searches)} seeds"
    warm, cold = [one.warm for one in searches], [one.cold for one in searches]
    return [
        row_of(f"tokens to the loss of TPE, both from what is given ({told})", warm, size.goal),
        row_of(f"the same, both from nothing ({told})", cold, size.goal),
    ]


def row_of(title: str, sides: Sequence[Sides], goal: float | None) -> results.Row:
    """Of all seeds together. A loss that one of them did not reach makes it fall short: what it took is not known."""
    ours, peer = sum(one.ours for one in sides), sum(one.peer for one in sides)
    missed = sum(not one.is_reached for one in sides)
    shown = f"{title}, {missed} of them not reached" if missed else title
    holds = None if goal is None else not missed and ours <= goal * peer
    return results.row(shown, ours, peer, goal, holds=holds)


if __name__ == "__main__":
    sys.exit(main())
