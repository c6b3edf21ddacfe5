"""`make bench-tuning`: how many tokens a search for hyperparameters takes, against Optuna's TPE without pruning.

Real trainings on SmolLM2 135M and shell commands (NL2Bash), both sides by the same engine, over the same space, on the
same examples, measured on the same others. For each seed the peer tries out a fixed number of trainings to their end.
The loss that it comes to, and a hundredth above it as nobody can tell these apart, is what ours is to reach: by pruning
alone, and as a run does it, which begins from the given hyperparameters. It has reached nothing where it takes more
than the peer took in all.

What counts is tokens learned from, and a third of those measured on: these only go forth through the network.

Finished searches are kept under `benchmarks/results/tuning/` and not run again, so the bench can be stopped at any
time. About an hour on two cores; `--quick`, one seed and fewer trainings, takes eight minutes and proves little.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import optuna
import torch
from optuna.storages.journal import JournalFileBackend

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import forms, results, tasks  # noqa: E402 - found through the path above
from nightschool_daemon.learning import defaults, gguf_file  # noqa: E402
from nightschool_daemon.learning.engine.examples import MEASURED_SHARE  # noqa: E402
from nightschool_daemon.learning.engine.route import PackedTrials, neurons_of  # noqa: E402
from nightschool_daemon.learning.engine.trying import Slices, Watch  # noqa: E402
from nightschool_daemon.learning.gguf_file import GgufFile  # noqa: E402
from nightschool_daemon.learning.lesson import block_of_neurons  # noqa: E402
from nightschool_daemon.learning.loading import load_tokens  # noqa: E402
from nightschool_daemon.learning.rows import Row  # noqa: E402
from nightschool_hookspecs import (  # noqa: E402
    Hyperparameters,
    Judge,
    SearchTask,
    Specialty,
    TrainedForm,
    TrainingText,
    TriedOut,
)
from nightschool_hookspecs.testing import FakeStore  # noqa: E402
from nightschool_plugins.tuning_fixed import TuningFixed  # noqa: E402
from nightschool_plugins.tuning_optuna import JOURNAL, Search, Space, TuningOptuna  # noqa: E402
from support.base_models import MODELS  # noqa: E402
from support.training_jobs import training_job, unheard  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "tuning"
WORK = ROOT / "build" / "tuning"
MODEL = "smollm2"
SPECIALTY = Specialty(base="smollm2:135m", artifact_type="shell")
ALIKE = 1.01
"""Losses so near to each other are the same."""
GOAL = 0.4
GOAL_OF_JOURNAL = 0.5
FORTH = 1 / 3
"""What a token costs that is measured, of one that is learned from."""
KEPT_TRIALS = 30
"""By which it is timed what keeping one costs."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    name: str
    seeds: int
    examples: int
    """A fifth of them is measured on."""
    most_epochs: int
    trials: int
    """Of the peer."""


FULL = Size(name="full", seeds=3, examples=80, most_epochs=6, trials=20)
QUICK = Size(name="quick", seeds=1, examples=40, most_epochs=4, trials=8)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a search went: after each training, what was spent so far, and the least loss. 0: none came to its end."""

    spent: tuple[float, ...]
    losses: tuple[float, ...]
    stopped: int
    seconds: float

    def spent_until(self, loss: float) -> float | None:
        """Tokens until a loss was reached; None where it was not."""
        return next((spent for spent, found in zip(self.spent, self.losses, strict=True) if 0 < found <= loss), None)


def main() -> int:
    """Run what is missing, print the table. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the next call goes on")
    parser.add_argument("--quick", action="store_true", help="one seed and fewer trainings")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores to use")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    size = QUICK if given.quick else FULL
    WORK.mkdir(parents=True, exist_ok=True)
    results.carry_out(dict(searches(size, forms.fetched(MODEL, MODELS[MODEL]))), given.minutes)
    return results.presented("tuning", "Tokens of a search", rows_of(size))


def searches(size: Size, gguf: Path) -> Iterator[tuple[Path, Callable[[], Course]]]:
    """Every search by the file that keeps it; those of ours come after the peer's that they are held against."""
    for seed in range(size.seeds):
        yield file_of(size, "peer", seed), partial(by_peer, size, gguf, seed)
        for name, warm in (("pruning", False), ("warm", True)):
            yield file_of(size, name, seed), partial(by_ours, size, gguf, seed, warm=warm)


def file_of(size: Size, name: str, seed: int) -> Path:
    """Where a search is kept."""
    return RESULTS / f"{size.name}-{name}-{seed}.json"


def read(file: Path) -> Course:
    """A search that was kept."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    return Course(**{**kept, "spent": tuple(kept["spent"]), "losses": tuple(kept["losses"])})


# --------------------------------------------------------------------------- both sides


class Counted:
    """`TryOut` that counts, and has no time left from a loss on, or beyond so many tokens."""

    def __init__(self, trials: PackedTrials, *, reached: float = 0.0, most: float = math.inf) -> None:
        self._trials, self._reached, self._most = trials, reached, most
        self._spent: list[float] = []
        self._losses: list[float] = []
        self._stopped = 0
        self._began = time.monotonic()

    def __call__(
        self,
        hyperparameters: Hyperparameters,
        *,
        title: str,
        marks: Sequence[float],
        judge: Judge,
        seconds: float,
        answers: int = 0,
    ) -> TriedOut:
        found = self._trials.try_out(hyperparameters, Watch(marks=marks, judge=judge, seconds=math.inf, report=unheard))
        cost = found.tokens + FORTH * found.measured_tokens
        self._spent.append(cost + (self._spent[-1] if self._spent else 0.0))
        before = self._losses[-1] if self._losses else 0.0
        self._losses.append(min(one for one in (before, found.loss) if one) if before or found.loss else 0.0)
        self._stopped += found.loss is None
        print(f"{title}: {found.loss}, {self._spent[-1]:.0f} tokens", flush=True)
        return found

    def seconds_left(self) -> float:
        """None where there is nothing more to show."""
        if not self._spent:
            return math.inf
        return 0.0 if 0 < self._losses[-1] <= self._reached or self._spent[-1] >= self._most else math.inf

    def course(self) -> Course:
        """How it went."""
        seconds = time.monotonic() - self._began
        return Course(spent=tuple(self._spent), losses=tuple(self._losses), stopped=self._stopped, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What both sides search in."""

    space: Space
    trials: PackedTrials
    plugin: TuningOptuna


def setting_of(size: Size, gguf: Path, seed: int, directory: Path) -> Setting:
    """Each seed has other examples. The examples are few, so that trainings of few steps are tried out too."""
    plugin = TuningOptuna(
        num_epochs=(1, size.most_epochs), fewest_steps=0, most_trials=1000, time_limit_minutes=math.inf
    )
    file = gguf_file.read(gguf)
    measured = size.examples // MEASURED_SHARE
    pairs = tasks.shell(seed, size.examples - measured, measured)
    tokens = load_tokens(file, MODEL, forms.cached())
    learned, kept_apart = (forms.rows_of(one, MODELS[MODEL], tokens) for one in (pairs.learned, pairs.held_out))
    given = given_of(file, size)
    texts = [TrainingText(event_id=one.prompt, prompt=one.prompt, completion=one.answer) for one in pairs.learned]
    job = replace(training_job(directory, gguf, given, texts=texts), seed=seed)
    slices: Slices[Row] = Slices(learned=tuple(learned), measured=tuple(kept_apart))
    task = SearchTask(
        specialty=SPECIALTY,
        examples=size.examples,
        given=given,
        neuron_step=block_of_neurons(file),
        fixed=(),
        directory=directory,
    )
    trials = PackedTrials(file, job, given, slices, directory)
    return Setting(space=Space.of(plugin, task), trials=trials, plugin=plugin)


def given_of(file: GgufFile, size: Size) -> Hyperparameters:
    """What trains by default."""
    plain = TuningFixed().nightschool_suggest_hyperparameters(SPECIALTY, size.examples, FakeStore(), 0)
    form = TrainedForm.NEURONS
    return replace(plain, form=form, learning_rate=defaults.rate_of(file, form), neurons=neurons_of(file, 0))


def by_peer(size: Size, gguf: Path, seed: int) -> Course:
    """Optuna's TPE as it comes, every training to its end."""
    with tempfile.TemporaryDirectory(dir=WORK) as text:
        setting = setting_of(size, gguf, seed, Path(text))
        counted, distributions = Counted(setting.trials), setting.space.distributions()
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        for number in range(size.trials):
            trial = study.ask(fixed_distributions=distributions)
            tried = counted(
                replace(setting.space.task.given, **setting.space.values(trial.params)),  # type: ignore[arg-type]  # by name
                title=f"seed {seed}, peer, trial {number + 1} of {size.trials}",
                marks=(),
                judge=lambda _epochs, _loss: True,
                seconds=math.inf,
            )
            if tried.loss is None:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, tried.loss)
        return counted.course()


def by_ours(size: Size, gguf: Path, seed: int, *, warm: bool) -> Course:
    """The plugin's search, until it is where the peer came to."""
    peer = read(file_of(size, "peer", seed))
    with tempfile.TemporaryDirectory(dir=WORK) as text:
        setting = setting_of(size, gguf, seed, Path(text))
        counted = Counted(setting.trials, reached=ALIKE * peer.losses[-1], most=peer.spent[-1])
        known = [setting.space.given] if warm else []
        Search(setting.plugin, setting.space, counted, known, Path(text) / JOURNAL, seed).carried_out()
        return counted.course()


# --------------------------------------------------------------------------- the table


def rows_of(size: Size) -> list[results.Row]:
    """Medians over the seeds that are finished."""
    seeds = [
        seed
        for seed in range(size.seeds)
        if all(file_of(size, name, seed).exists() for name in ("peer", "pruning", "warm"))
    ]
    if not seeds:
        return []
    told = f"{size.trials} trainings, {len(seeds)} seeds"
    return [
        row_of(size, seeds, "pruning", f"tokens to the loss of TPE, by pruning alone ({told})"),
        row_of(size, seeds, "warm", f"tokens to the loss of TPE, as a run searches ({told})"),
        kept_row(),
    ]


def row_of(size: Size, seeds: Sequence[int], name: str, measure: str) -> results.Row:
    """Tokens until the peer's loss was reached; where it was not, all that was spent: as much as the peer's."""
    spent, of_peer = [], []
    for seed in seeds:
        peer, ours = read(file_of(size, "peer", seed)), read(file_of(size, name, seed))
        loss = ALIKE * peer.losses[-1]
        spent.append(ours.spent_until(loss) or ours.spent[-1])
        of_peer.append(peer.spent_until(loss) or peer.spent[-1])
    ratio = statistics.median(one / other for one, other in zip(spent, of_peer, strict=True))
    medians = statistics.median(spent), statistics.median(of_peer)
    return results.row(measure, *medians, GOAL, holds=ratio <= GOAL, ratio=ratio)


def kept_row() -> results.Row:
    """What it costs to keep a training in the journal, and in SQLite."""
    ours = kept_ms(lambda directory: optuna.storages.JournalStorage(JournalFileBackend(str(directory / JOURNAL))))
    peer = kept_ms(lambda directory: optuna.storages.RDBStorage(f"sqlite:///{directory}/study.sqlite3"))
    return results.row(
        "ms to keep a trial, journal against SQLite", ours, peer, GOAL_OF_JOURNAL, holds=ours <= GOAL_OF_JOURNAL * peer
    )


def kept_ms(open_storage: Callable[[Path], optuna.storages.BaseStorage]) -> float:
    """A trial of seven values, each with three marks."""
    with tempfile.TemporaryDirectory(dir=WORK) as text:
        sampler = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(storage=open_storage(Path(text)), sampler=sampler)
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            f"value{number}": optuna.distributions.FloatDistribution(0, 1) for number in range(7)
        }
        began = time.perf_counter()
        for _ in range(KEPT_TRIALS):
            trial = study.ask(fixed_distributions=distributions)
            for mark in range(3):
                trial.report(0.5, mark)
            study.tell(trial, 0.5)
        return (time.perf_counter() - began) / KEPT_TRIALS * 1000


if __name__ == "__main__":
    sys.exit(main())
