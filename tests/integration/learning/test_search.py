"""A search for hyperparameters by real trainings: what it finds, what a kill costs, and that it never sees the exam."""

import gc
import json
import os
import signal
import sqlite3
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nightschool_daemon import codec
from nightschool_daemon.config import (
    EngineChoice,
    OllamaSettings,
    PluginSettings,
    Settings,
    StateSettings,
    TrainingSettings,
)
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    HELD_OUT_PAIRS,
    NOTES,
    BaseSnapshot,
    PrepareResult,
    RunDirectory,
    SplitResult,
    Step,
    StoreWrite,
    read_lines,
)
from nightschool_daemon.learning import gguf_file, loading, peft_route, searching, training
from nightschool_daemon.learning.engine import machine, memory, trying
from nightschool_daemon.learning.engine.curriculum import Arrange, nobody_arranges
from nightschool_daemon.learning.engine.examples import Split, parted
from nightschool_daemon.learning.engine.layout import Branches
from nightschool_daemon.learning.engine.loop import Objective, Plan, teach
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.scoring import likeliest
from nightschool_daemon.learning.engine.trying import Follow, IsLate, Slices, Trials, Watch, answered
from nightschool_daemon.learning.loading import Base, Tokens, load_base, load_tokens
from nightschool_daemon.learning.packed_route import PackedTrials, example_of, formed
from nightschool_daemon.learning.peft_route import LoadedTrials
from nightschool_daemon.learning.rows import FILES, Row, rows_of
from nightschool_daemon.learning.searching import TryingOut
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import (
    Hyperparameters,
    HyperparameterSearch,
    LearnedExample,
    Material,
    Message,
    MethodChoice,
    PairText,
    Role,
    RunInfo,
    SearchTask,
    Specialty,
    Stretch,
    TrainedForm,
    TrainingMethod,
    TrainingResult,
    TrainingSoFar,
    TrainingText,
    TrainingTrial,
    TrialEnd,
    TriedOut,
)
from nightschool_hookspecs.services import GenerationError, Judge, TrainingError, TryOut
from support.kills import exit_code_of
from support.step_results import SELECTED
from support.training_jobs import fine_tune, greetings, training_job, unheard

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
CLOSING = "<|im_end|>"
GIVEN = Hyperparameters(
    form=TrainedForm.LORA, learning_rate=1e-3, batch_size=8, num_epochs=2, lora_r=4, lora_alpha=8, max_length=64
)
SMALL: dict[str, object] = {
    "fewest_examples": 30,
    "most_trials": 5,
    "random_trials": 2,
    "fewest_steps": 0,
    "learning_rate": [1e-4, 1e-2],
    "num_epochs": [1, 3],
    "lora_r": [2, 8],
    "neurons": [0.5, 2.0],
}
HELD_OUT = ("items.jsonl", "regression.jsonl", HELD_OUT_PAIRS, "events.jsonl", "prompts.jsonl", "ranked.jsonl")
"""What holds prompts of the exam, or all events of the specialty."""


@pytest.fixture(autouse=True)
def _one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much goes through at once depends on what the process holds, and what is learned a little on that."""
    torch.set_num_threads(1)
    monkeypatch.setattr(memory, "held_bytes", lambda _network: 0)


@dataclass(frozen=True, kw_only=True)
class Watched(WorkerContext):
    """A worker's context that is heard."""

    heard: Callable[[str], None]

    def progress(self, done: int, total: int, text: str) -> None:
        """Say it, and write it down."""
        self.heard(text)
        super().progress(done, total, text)


@dataclass(frozen=True, kw_only=True)
class Night:
    """A run that is about to train."""

    directory: Path
    gguf: Path
    given: Hyperparameters = GIVEN
    engine: EngineChoice = EngineChoice.AUTO
    method: MethodChoice = MethodChoice.SFT
    enabled: tuple[str, ...] = ("tuning_optuna",)
    folded: int = 0
    folded_pairs: int = 0
    warm_start: Path | None = None
    """What the version in use learned."""
    table: dict[str, object] | None = None

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(path=self.directory)

    def laid_out(self, texts: Sequence[TrainingText]) -> "Night":
        """The steps before the training, with what is held out beside what is learned from."""
        for step in (Step.PREPARE, Step.SPLIT, Step.SELECT, Step.TRAIN):
            self.run.step(step).mkdir(parents=True, exist_ok=True)
        base = BaseSnapshot(
            name="tiny:latest",
            tag_digest="",
            weights_digest=sha256_of(self.gguf),
            architecture="llama",
            capabilities=(),
            pin="tiny:pin",
            gguf=self.gguf,
        )
        prepared = PrepareResult(
            base=base, incumbent="", undo_tag="", undo_digest="", events=len(texts), warm_start=self.warm_start
        )
        self.run.finish(Step.PREPARE, prepared)
        self.run.finish(Step.SPLIT, SplitResult(choices=(), training_events=0, held_out_events=0))
        selected = replace(
            SELECTED,
            material=Material(
                examples=len(texts), better_known=len(texts), pairs=80, liked=3, disliked=3, learnable=len(texts)
            ),
            folded=self.folded,
            folded_pairs=self.folded_pairs,
            hyperparameters=self.given,
            closing=CLOSING,
        )
        self.run.finish(Step.SELECT, selected)
        for name in FILES.values():
            (self.run.step(Step.SELECT) / name).write_text("")
        lines = "".join(f"{codec.to_json(one)}\n" for one in texts)
        (self.run.step(Step.SELECT) / FILES[TrainingMethod.SFT]).write_text(lines)
        for step in (Step.PREPARE, Step.SELECT):
            for name in HELD_OUT:
                (self.run.step(step) / name).write_text('{"secret": "of the exam"}\n')
        return self

    def context(self, heard: Callable[[str], None] = lambda _text: None) -> WorkerContext:
        tables = {"tuning_optuna": {**SMALL, **(self.table or {})}}
        hooks = Hooks.load(plugin_directory=None, tables=tables, plugins=PluginSettings(enabled=self.enabled))
        info = RunInfo(
            id="run",
            specialty=Specialty(base="tiny:latest", artifact_type="shell"),
            seed=7,
            started_at=NOW,
            reason="test",
            directory=self.directory,
        )
        settings = Settings(
            # nobody listens there: a search needs no server
            ollama=OllamaSettings(host="http://127.0.0.1:9"),
            state=StateSettings(directory=self.directory.parent / "state"),
            training=TrainingSettings(threads=1, engine=self.engine, method=self.method),
        )
        return Watched(step=Step.TRAIN, run=self.run, info=info, settings=settings, hooks=hooks, heard=heard)

    def trained(self, heard: Callable[[str], None] = lambda _text: None) -> TrainingResult:
        training.run(self.context(heard))
        return self.run.result(Step.TRAIN, TrainingResult)


def lessons(count: int = 40) -> list[TrainingText]:
    """Greetings, two of which are near-duplicates each time."""
    return [
        replace(one, group=f"group-{number // 2}", messages=(Message(role=Role.USER, content=one.prompt),))
        for number, one in enumerate(greetings(count))
    ]


def adapter_bytes(result: TrainingResult) -> bytes:
    (file,) = result.adapter.glob("*.safetensors")
    return file.read_bytes()


def unsearched(directory: Path, gguf: Path, **changed: Any) -> TrainingResult:
    """The same night without the plugin."""
    return Night(directory=directory, gguf=gguf, enabled=(), **changed).laid_out(lessons()).trained()


# --------------------------------------------------------------------------- what it finds


@pytest.mark.parametrize("form", [TrainedForm.LORA, TrainedForm.NEURONS])
def test_a_run_trains_by_the_best_that_was_tried_out(tmp_path: Path, tiny_gguf: Path, form: TrainedForm) -> None:
    heard: list[str] = []
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, given=replace(GIVEN, form=form)).laid_out(lessons())
    result = night.trained(heard.append)
    found = result.search
    assert found is not None
    assert (found.trials, found.tokens > 0, found.measured_tokens > 0) == (5, True, True)
    assert found.loss is not None
    assert found.given_loss is not None
    assert found.loss < found.given_loss * 0.99
    assert result.hyperparameters == found.hyperparameters != night.given
    assert found.hyperparameters.form is form
    # what was tried out is gone, and what was found is told and kept
    left = (night.run.step(Step.TRAIN) / "search").iterdir()
    assert sorted(one.name for one in left) == ["found.json", "journal.log", "plan.json"]
    assert any(text.startswith("trial 5 of 5, best ") and ": epoch 1 of" in text for text in heard)
    assert found.reason in (night.run.step(Step.TRAIN) / NOTES).read_text()
    (write,) = read_lines(night.run.step(Step.TRAIN) / "store.jsonl", StoreWrite)
    assert write.value is not None
    assert json.loads(write.value)["values"]["learning_rate"] == found.hyperparameters.learning_rate


@pytest.mark.parametrize("engine", [EngineChoice.AUTO, EngineChoice.TRANSFORMERS])
def test_a_training_after_a_search_is_as_without_one(tmp_path: Path, tiny_gguf: Path, engine: EngineChoice) -> None:
    """Nothing is left in the base of what was tried out before; here nothing is better by enough."""
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, engine=engine, table={"least_gain": 0.999})
    result = night.laid_out(lessons()).trained()
    assert result.search is not None
    assert (result.search.trials, result.hyperparameters) == (5, GIVEN)
    alone = unsearched(tmp_path / "alone", tiny_gguf, engine=engine)
    assert alone.search is None
    assert adapter_bytes(result) == adapter_bytes(alone)


def test_what_an_earlier_search_found_is_trained_by(tmp_path: Path, tiny_gguf: Path) -> None:
    first = Night(directory=tmp_path / "first", gguf=tiny_gguf).laid_out(lessons())
    found = first.trained().search
    assert found is not None
    second = Night(directory=tmp_path / "second", gguf=tiny_gguf).laid_out(lessons(44))
    (write,) = read_lines(first.run.step(Step.TRAIN) / "store.jsonl", StoreWrite)
    # a plugin of the select step wrote beside it
    (second.run.step(Step.PREPARE) / "store.json").write_text(json.dumps({write.key: "{}", "other": "1"}))
    (second.run.step(Step.SELECT) / "store.jsonl").write_text(
        "".join(f"{codec.to_json(one)}\n" for one in (write, StoreWrite(key="other", value=None)))
    )
    result = second.trained()
    assert result.search is not None
    assert (result.search.trials, result.hyperparameters) == (0, found.hyperparameters)
    assert not (second.run.step(Step.TRAIN) / "store.jsonl").exists()


def test_by_score_the_trained_network_is_asked(tmp_path: Path, tiny_gguf: Path) -> None:
    """One that has learned says `hello` and ends; one that has not runs on, and is cut."""
    table: dict[str, object] = {
        "objective": "score",
        "scored_answers": 4,
        "first_mark": 20.0,
        "learning_rate": [1e-6, 1e-5],
        "num_epochs": [1, 1],
    }
    given = replace(GIVEN, learning_rate=5e-3, num_epochs=6)
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, given=given, table=table).laid_out(lessons())
    found = night.trained().search
    assert found is not None
    assert "came to 100.0 of 100 and" in found.reason
    journal = (night.run.step(Step.TRAIN) / "search" / "journal.log").read_text()
    kept = [json.loads(line)["user_attr"]["result"] for line in journal.splitlines() if '"result"' in line]
    scores = {one["loss"]: one["score"] for one in kept}
    assert len(scores) == 5
    assert scores.pop(min(scores)) == 100
    assert all(0 <= score < 50 for loss, score in scores.items() if loss > 2)
    assert max(scores) > 2


def test_the_base_is_let_go_though_somebody_holds_on_to_what_opened_it(tmp_path: Path, tiny_gguf: Path) -> None:
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(lessons())
    context, opened = night.context(), list[Any]()
    engine = training.Engine(context, gguf_file.read(tiny_gguf))

    def open_trials(*given: Any) -> Any:
        trials = engine.trials(*given)
        opened.append(weakref.ref(trials))
        return trials

    hooks = Searching(context.hooks)
    searching.searched(
        replace(context, hooks=hooks),  # type: ignore[arg-type]  # all that the search asks of the hooks
        training.make_job(context),
        gguf_file.read(tiny_gguf),
        open_trials,
    )
    assert [one.loss is not None for one in hooks.tried] == [True]
    gc.collect()
    assert [one() for one in opened] == [None]


class Searching:
    """Hooks, one of which tries out what is given, holds on to all it was handed, and answers what it is told to."""

    def __init__(self, hooks: Hooks, answer: Hyperparameters | None = None) -> None:
        self.hooks, self.answer = hooks, answer
        self.held: list[object] = []
        self.tasks: list[SearchTask] = []
        self.tried: list[TriedOut] = []

    def search_hyperparameters(self, *, task: SearchTask, try_out: TryOut, **_others: object) -> HyperparameterSearch:
        self.held.append(try_out)
        self.tasks.append(task)
        if self.answer is None:
            trial = TrainingTrial(hyperparameters=task.given, title="it")
            self.tried.append(try_out(trial, lambda _epochs, _loss: True))
        return HyperparameterSearch(hyperparameters=self.answer or task.given, reason="")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hooks, name)


# --------------------------------------------------------------------------- where it does not search


def test_trial_candidates_do_not_search(tmp_path: Path, tiny_gguf: Path) -> None:
    night = Night(directory=tmp_path / "crossfit" / "01", gguf=tiny_gguf).laid_out(lessons())
    assert night.run.is_trial
    assert night.trained().search is None
    assert not (night.run.step(Step.TRAIN) / "search").exists()


@pytest.mark.parametrize(("items", "pairs"), [(3, 0), (0, 3)])
def test_what_trial_candidates_are_asked_is_not_measured(
    tmp_path: Path, tiny_gguf: Path, items: int, pairs: int
) -> None:
    """It is learned from, and all of it is the exam: a search would choose by what that asks."""
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, folded=items, folded_pairs=pairs).laid_out(lessons())
    assert night.trained().search is None
    assert not (night.run.step(Step.TRAIN) / "search").exists()


def test_near_duplicates_alone_cannot_be_measured(tmp_path: Path, tiny_gguf: Path) -> None:
    texts = [replace(one, group="all") for one in greetings(40)]
    assert Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(texts).trained().search is None


@pytest.mark.parametrize(
    ("method", "searches"),
    [(MethodChoice.SFT, True), (MethodChoice.AUTO, True), (MethodChoice.DPO, False), (MethodChoice.KTO, False)],
)
def test_only_wanted_answers_are_tried_out(
    tmp_path: Path, tiny_gguf: Path, method: MethodChoice, searches: bool
) -> None:
    """With "auto" pairs are learned on top of them."""
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, method=method).laid_out(lessons())
    context, asked = night.context(), []

    def open_trials(*_given: object) -> Any:
        asked.append(1)
        raise LookupError

    job = training.make_job(context)
    file = gguf_file.read(tiny_gguf)
    try:
        searching.searched(context, job, file, open_trials)
    except Exception as error:  # noqa: BLE001 - the guard of plugins has wrapped it
        assert "LookupError" in str(error)  # noqa: PT017 - where it searches alone
    assert bool(asked) == searches


def test_the_form_may_not_be_changed(tmp_path: Path, tiny_gguf: Path) -> None:
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(lessons())
    context = night.context()
    hooks = Searching(context.hooks, replace(GIVEN, max_length=8))
    meddled = replace(context, hooks=hooks)  # type: ignore[arg-type]  # as above
    with pytest.raises(searching.SearchError, match="changed max_length, which must stay 64"):
        searching.searched(meddled, training.make_job(context), gguf_file.read(tiny_gguf), lambda *_: _never())


def _never() -> Any:
    raise AssertionError("nothing is tried out")


def test_a_brought_adapter_keeps_its_shape(tmp_path: Path, tiny_gguf: Path) -> None:
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(lessons())
    context = night.context()
    settings = replace(context.settings, training=replace(context.settings.training, start_from=tmp_path / "brought"))
    job, file = training.make_job(context), gguf_file.read(tiny_gguf)
    texts = Slices(learned=tuple(lessons(32)), measured=tuple(lessons(8)))
    brought = searching.task_of(replace(context, settings=settings), job, file, tmp_path, texts)
    free = searching.task_of(context, job, file, tmp_path, texts)
    assert (free.fixed, brought.fixed) == ((), ("lora_r", "neurons"))


def test_what_trainings_learn_from_that_are_tried_out_is_counted(tmp_path: Path, tiny_gguf: Path) -> None:
    """Four fifths of the lesson, and all of what is learned beside it."""
    beside = [replace(one, event_id="", beside=True) for one in greetings(10)]
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out([*lessons(), *beside])
    context = night.context()
    hooks = Searching(context.hooks, GIVEN)
    searching.searched(
        replace(context, hooks=hooks),  # type: ignore[arg-type]  # as above
        training.make_job(context),
        gguf_file.read(tiny_gguf),
        lambda *_: _never(),
    )
    assert [one.tried_on for one in hooks.tasks] == [32 + 10]


# --------------------------------------------------------------------------- the time that is kept for the training


class Timed(Trials[Any]):
    """Trainings that come to their end at once, an epoch of which takes 10 s at rank 4, and in proportion else."""

    def __init__(self) -> None:
        super().__init__(Slices(learned=(), measured=()))
        self.bounds: list[float] = []

    def epoch_seconds(self, settings: Hyperparameters) -> float:
        return 10.0 * settings.lora_r / 4

    def pupil(self, settings: Hyperparameters) -> Any:
        raise NotImplementedError

    def try_out(self, watch: Watch) -> TriedOut:
        self.bounds.append(watch.trial.seconds)
        return TriedOut(end=TrialEnd.COMPLETE, loss=1.0, tokens=1, measured_tokens=1, seconds=0.0)


def timed(context: WorkerContext, method: MethodChoice = MethodChoice.SFT) -> tuple[TryingOut, Timed]:
    """1000 s in all, of which 100 are over; 32 examples are learned from, and 8 measured."""
    seconds, trials = iter([0.0, *[100.0] * 20]), Timed()
    training_settings = replace(context.settings.training, time_limit_minutes=1000 / 60, method=method)
    limited = replace(context, settings=replace(context.settings, training=training_settings))
    job = training.make_job(limited)
    texts = Slices(learned=tuple(lessons(32)), measured=tuple(lessons(8)))
    stages = searching.stages_of(limited, job)
    file = gguf_file.read(job.base_gguf)
    return TryingOut(limited, job, file, texts, lambda *_: trials, stages, clock=lambda: next(seconds)), trials


def attempted(try_out: TryingOut, **changed: Any) -> TriedOut:
    trial = TrainingTrial(hyperparameters=replace(GIVEN, **changed), title="it")
    return try_out(trial, lambda _epochs, _loss: True)


def test_what_is_tried_out_leaves_the_training_by_it_its_time(tmp_path: Path, tiny_gguf: Path) -> None:
    """Half as much again as that is expected to take, over all examples and in its own form."""
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(lessons())
    try_out, trials = timed(night.context())
    # two epochs of 12.5 s
    assert try_out.seconds_left() == pytest.approx(900 - 1.5 * 25)
    attempted(try_out)
    attempted(try_out, lora_r=8, num_epochs=10)
    attempted(try_out, lora_r=16, num_epochs=8)
    assert trials.bounds == pytest.approx([900 - 1.5 * 25, 900 - 1.5 * 250, 900 - 1.5 * 400])
    assert try_out.seconds_left() == pytest.approx(900 - 1.5 * 400)


def test_what_the_training_has_no_time_for_is_not_tried_out(tmp_path: Path, tiny_gguf: Path) -> None:
    """Nor does it take others their time."""
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(lessons())
    try_out, trials = timed(night.context())
    assert attempted(try_out, lora_r=64, num_epochs=10).end is TrialEnd.UNFIT
    assert not trials.bounds
    assert try_out.seconds_left() == pytest.approx(900 - 1.5 * 25)


def test_time_is_kept_for_what_is_learned_on_top(tmp_path: Path, tiny_gguf: Path) -> None:
    """An epoch of pairs, of which there is as much text as of wanted answers."""
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(lessons())
    pairs = [
        PairText(event_id="", prompt=one.prompt, chosen=one.completion[:5], rejected=one.completion[5:])
        for one in lessons()
    ]
    lines = "".join(f"{codec.to_json(one)}\n" for one in pairs)
    (night.run.step(Step.SELECT) / FILES[TrainingMethod.DPO]).write_text(lines)
    try_out, _ = timed(night.context(), MethodChoice.AUTO)
    assert try_out.seconds_left() == pytest.approx(900 - 1.5 * 12.5 * 3)


@pytest.mark.parametrize("route", ["packed", "transformers"])
def test_a_wider_form_takes_longer(tmp_path: Path, tiny_gguf: Path, tokens: Tokens, route: str) -> None:
    """By its share of the work, before it was tried out and after."""
    job, slices = training_job(tmp_path, tiny_gguf, GIVEN), slices_of(tokens)
    if route == "packed":
        trials: PackedTrials | LoadedTrials = PackedTrials(gguf_file.read(tiny_gguf), job, GIVEN, slices, tmp_path)
    else:
        trials = LoadedTrials(load_base(tiny_gguf, job.base_digest, tmp_path), job, slices)
    wide = replace(GIVEN, lora_r=64)
    before = [trials.epoch_seconds(one) for one in (GIVEN, wide)]
    assert before[1] > 1.1 * before[0]
    assert trials.try_out(watch(wide)).loss is not None
    assert [trials.epoch_seconds(one) for one in (GIVEN, wide)] == pytest.approx(before)


# --------------------------------------------------------------------------- what stands in its way


def test_in_rows_that_we_do_not_know_nothing_is_tried_out_nor_trained(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, engine=EngineChoice.TRANSFORMERS).laid_out(lessons())
    monkeypatch.setattr(loading, "PERMUTED", frozenset())
    with pytest.raises(TrainingError, match=r"The layout of blk\.\d\.attn_\w\.weight .*'llama' is not known"):
        night.trained(heard.append)
    assert set(heard) == {"load the base model"}


def test_the_weights_of_a_base_are_compared_once_for_all_trainings(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, engine=EngineChoice.TRANSFORMERS).laid_out(lessons())
    compared: list[str] = []

    def compare(base: Base, modules: Iterable[str]) -> None:
        names = list(modules)
        compared.extend(names)
        loading.require_same_weights(base, names)

    monkeypatch.setattr(peft_route, "require_same_weights", compare)
    assert night.trained().search is not None
    assert len(compared) == len(set(compared)) > 0


def test_memory_that_became_short_takes_no_training_down(
    tmp_path: Path, tiny_gguf: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill what is given is tried out in what there is, as it is trained; what is larger is not."""
    job = training_job(tmp_path, tiny_gguf, GIVEN)

    def opened() -> PackedTrials:
        return PackedTrials(gguf_file.read(tiny_gguf), job, GIVEN, slices_of(tokens), tmp_path)

    before = opened().try_out(watch())
    monkeypatch.setattr(memory, "available_bytes", lambda _network: 1)
    trials = opened()
    assert trials.epoch_seconds(GIVEN) > 0
    assert trials.try_out(watch()).loss == before.loss
    larger = trials.try_out(watch(replace(GIVEN, lora_r=8)))
    assert (larger.end, larger.problem) == (TrialEnd.UNFIT, "Memory is short for so many parameters.")


def test_where_nothing_can_be_tried_out_it_is_trained_all_the_same(tmp_path: Path, tiny_gguf: Path) -> None:
    """All that would be measured is too long, and all the rest fits."""
    texts = lessons()
    _, measured = parted(texts, 7)
    apart = {one.event_id for one in measured}
    long = [replace(one, prompt=one.prompt * 20) if one.event_id in apart else one for one in texts]
    # which texts are measured follows from the groups alone
    assert {one.event_id for one in parted(long, 7)[1]} == apart
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(long)
    result = night.trained()
    assert (result.hyperparameters, result.left_out) == (GIVEN, len(apart))
    assert "Too few examples fit into 64 tokens" in (night.run.step(Step.TRAIN) / NOTES).read_text()


@pytest.mark.parametrize("error", [TrainingError("Memory is short."), GenerationError("Nobody listens.")])
def test_what_fails_beneath_a_search_ends_no_run(tmp_path: Path, tiny_gguf: Path, error: Exception) -> None:
    """As a judge that cannot be asked."""

    class Failing(Searching):
        def search_hyperparameters(self, **_asked: object) -> HyperparameterSearch:
            raise error

    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(lessons())
    context = night.context()
    meddled = replace(context, hooks=Failing(context.hooks))  # type: ignore[arg-type]  # as above
    job, file = training.make_job(context), gguf_file.read(tiny_gguf)
    assert searching.searched(meddled, job, file, lambda *_: _never()) is None
    assert f"Hyperparameters are not searched for. {error}" in (night.run.step(Step.TRAIN) / NOTES).read_text()


def test_a_brought_adapter_that_the_route_does_not_take_is_not_searched_for(tmp_path: Path, tiny_gguf: Path) -> None:
    """The training says so at once, not after the hour of a search."""
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, engine=EngineChoice.TRANSFORMERS).laid_out(lessons())
    context = night.context()
    job = replace(training.make_job(context), warm_start=tmp_path / "brought", requires_start=True)
    engine = training.Engine(context, gguf_file.read(tiny_gguf))
    texts = Slices(learned=tuple(lessons(32)), measured=tuple(lessons(8)))
    with pytest.raises(TrainingError, match="Only the packed engine begins from an adapter"):
        engine.trials(job, texts)


# --------------------------------------------------------------------------- it never sees the exam


def test_nothing_is_opened_but_what_is_learned_from(tmp_path: Path, tiny_gguf: Path) -> None:
    """A real search and the training after it, in a process in which opening anything else of a run fails.

    So does the ledger, which holds all events; by loss and by score.
    """
    table: dict[str, object] = {"objective": "score", "scored_answers": 2}
    night = Night(directory=tmp_path / "run", gguf=tiny_gguf, table=table).laid_out(lessons())

    def searched() -> None:
        def heard(event: str, arguments: tuple[object, ...]) -> None:
            if event == "sqlite3.connect":
                raise PermissionError("the ledger is not to be opened")
            if event == "open" and not _is_for_trainings(night, os.fsdecode(str(arguments[0]))):
                raise PermissionError(f"{arguments[0]} is not to be opened")

        sys.addaudithook(heard)
        for name in HELD_OUT:
            with pytest.raises(PermissionError, match="not to be opened"):
                (night.run.step(Step.SELECT) / name).read_text()
        with pytest.raises(PermissionError, match="not to be opened"):
            sqlite3.connect(tmp_path / "ledger.sqlite")
        result = night.trained()
        os._exit(0 if result.search is not None and result.search.trials == 5 else 3)

    assert exit_code_of(searched) == 0


FOR_TRAININGS = {
    "prepare": {"result.json", "store.json"},
    "split": {"result.json"},
    "select": {"result.json", "store.jsonl", *FILES.values()},
}
"""By steps before the training, what it may open; of its own it may open all."""


def _is_for_trainings(night: Night, opened: str) -> bool:
    """Whether a file is of no run, or one of those."""
    if not Path(opened).is_relative_to(night.directory):
        return True
    step, *rest = Path(opened).relative_to(night.directory).parts
    return step == "train" or rest[-1] in FOR_TRAININGS.get(step, ())


def test_nothing_that_the_version_in_use_learned_is_in_what_is_tried_out(tmp_path: Path, tiny_gguf: Path) -> None:
    """It knows by heart what is measured: the losses are those of a specialty that has no version."""
    learned = unsearched(tmp_path / "before", tiny_gguf, given=replace(GIVEN, num_epochs=8)).adapter
    assert loss_beside(tmp_path / "new", tiny_gguf, None) == loss_beside(tmp_path / "old", tiny_gguf, learned)


def loss_beside(directory: Path, gguf: Path, learned: Path | None) -> float:
    """Of what is given, tried out in a night of a specialty that has learned this."""
    night = Night(directory=directory, gguf=gguf, warm_start=learned).laid_out(lessons())
    context = night.context()
    hooks, file = Searching(context.hooks), gguf_file.read(gguf)
    job = training.make_job(context)
    assert job.warm_start == learned
    searching.searched(
        replace(context, hooks=hooks),  # type: ignore[arg-type]  # as above
        job,
        file,
        training.Engine(context, file).trials,
    )
    (tried,) = hooks.tried
    assert tried.loss is not None
    return tried.loss


def test_no_group_is_learned_from_and_measured(tmp_path: Path, tiny_gguf: Path) -> None:
    seen: list[Slices[TrainingText]] = []

    def open_trials(_job: object, texts: Slices[TrainingText]) -> Any:
        seen.append(texts)
        raise LookupError

    night = Night(directory=tmp_path / "run", gguf=tiny_gguf).laid_out(lessons())
    context = night.context()
    with pytest.raises(Exception, match="LookupError"):
        searching.searched(context, training.make_job(context), gguf_file.read(tiny_gguf), open_trials)
    (texts,) = seen
    learned, measured = ({one.group for one in part} for part in (texts.learned, texts.measured))
    assert not learned & measured
    assert (len(texts.learned), len(texts.measured)) == (32, 8)


# --------------------------------------------------------------------------- kills


def test_a_search_that_is_killed_goes_on_and_ends_as_the_uninterrupted_one(tmp_path: Path, tiny_gguf: Path) -> None:
    """Killed in the first training, in the third, in the last, and in the training after the search."""
    whole = Night(directory=tmp_path / "whole", gguf=tiny_gguf).laid_out(lessons()).trained()
    night = Night(directory=tmp_path / "cut", gguf=tiny_gguf).laid_out(lessons())

    def dies_at(part: str, times: int) -> Callable[[str], None]:
        left = [times]

        def heard(text: str) -> None:
            left[0] -= text.startswith(part)
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        return heard

    titles: list[str] = []
    for part, times in (("trial 1 of 5", 4), ("trial 3 of 5", 2), ("trial 5 of 5", 2), ("epoch 1 of", 2)):
        assert exit_code_of(partial(night.trained, dies_at(part, times))) == -signal.SIGKILL, part
    again = night.trained(titles.append)
    # the search was over: it is not asked again
    assert not any(text.startswith("trial") for text in titles)
    assert again.search is not None
    assert whole.search is not None
    # each process measures the base anew
    own = {"seconds": 0.0, "measured_tokens": 0}
    assert replace(again.search, **own) == replace(whole.search, **own)  # type: ignore[arg-type]  # by name
    assert again.search.measured_tokens > whole.search.measured_tokens
    assert adapter_bytes(again) == adapter_bytes(whole)
    assert len(list(read_lines(night.run.step(Step.TRAIN) / "store.jsonl", StoreWrite))) == 1


# --------------------------------------------------------------------------- trainings that are tried out


@pytest.fixture(scope="module")
def tokens(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    cache = tmp_path_factory.mktemp("cache")
    return load_tokens(gguf_file.read(tiny_gguf), sha256_of(tiny_gguf), cache)


def slices_of(tokens: Tokens) -> Slices[Row]:
    rows = rows_of(greetings(20), tokens)
    return Slices(learned=tuple(rows[:14]), measured=tuple(rows[14:]))


def watch(settings: Hyperparameters = GIVEN, judge: Judge = lambda _epochs, _loss: True, **bounds: Any) -> Watch:
    return Watch(trial=TrainingTrial(hyperparameters=settings, title="it", **bounds), judge=judge, report=unheard)


def in_two(*, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int) -> Stretch:
    """A batch of the first examples, then those that are left of the epoch, as many of the first again."""
    size = min(training.batch_size, training.left)
    return Stretch(places=tuple(range(size)), stage="first" if training.left == len(examples) else "again")


class Recorded:
    """A curriculum, and what it was told of the training each time."""

    def __init__(self, arrange: Arrange) -> None:
        self.arrange = arrange
        self.told: list[TrainingSoFar] = []

    def __call__(self, *, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int) -> Stretch | None:
        self.told.append(training)
        return self.arrange(examples=examples, training=training, seed=seed)


def brought(directory: Path, gguf: Path, settings: Hyperparameters) -> Path:
    """An adapter that learned something else."""
    texts = [replace(one, completion=f"bye{CLOSING}") for one in greetings(8)]
    job = training_job(directory, gguf, settings, texts=texts)
    tokens = load_tokens(gguf_file.read(gguf), job.base_digest, directory)
    return fine_tune(gguf_file.read(gguf), tokens, job, TrainingMethod.SFT, settings, unheard).adapter


@pytest.mark.parametrize("begins_from_an_adapter", [False, True])
@pytest.mark.parametrize("arrange", [nobody_arranges, in_two])
@pytest.mark.parametrize("settings", [GIVEN, replace(GIVEN, form=TrainedForm.NEURONS, num_epochs=3)])
def test_what_is_tried_out_is_the_training_itself(
    tmp_path: Path,
    tiny_gguf: Path,
    tokens: Tokens,
    settings: Hyperparameters,
    arrange: Arrange,
    begins_from_an_adapter: bool,
) -> None:
    """The same losses as a training that is kept, over the same examples, with a curriculum or without.

    And from the same beginning, of which the curriculum is told the same.
    """
    job, slices = training_job(tmp_path, tiny_gguf, settings), slices_of(tokens)
    if begins_from_an_adapter:
        job = replace(job, warm_start=brought(tmp_path / "brought", tiny_gguf, settings), requires_start=True)
    of_trial, of_training = Recorded(arrange), Recorded(arrange)
    trials = PackedTrials(gguf_file.read(tiny_gguf), job, settings, slices, tmp_path, arrange=of_trial)
    # another one before it leaves no trace
    trials.try_out(watch(replace(settings, learning_rate=1e-2)))
    at: list[tuple[float, float]] = []

    def judge(epochs: float, loss: float) -> bool:
        at.append((epochs, loss))
        return True

    of_trial.told.clear()
    found = trials.try_out(watch(settings, judge, marks=(1.0, 2.0, 8.0)))
    network = Network(gguf_file.read(tiny_gguf), machine.bench())
    network.form, start = formed(network, job, settings)
    learned, measured = (tuple(map(example_of, part)) for part in (slices.learned, slices.measured))
    plan = Plan(
        method=TrainingMethod.SFT,
        hyperparameters=settings,
        seed=job.seed,
        tokens_a_pass=2048,
        output=tmp_path,
        signature="",
        arrange=of_training,
        has_start=start is not None,
    )
    split = Split(learned=learned, watched=measured, held=False, first_judged=9)
    outcome = teach(Objective(network, plan, learned, measured), split, plan, unheard)
    assert found.loss == outcome.watched[-1]
    assert at == list(enumerate(outcome.watched[:-1], start=1))
    assert found.tokens == outcome.tokens
    evaluations = settings.num_epochs * (2 if arrange is in_two else 1)
    # where it begins is measured too, each time
    evaluations += begins_from_an_adapter
    assert found.measured_tokens == evaluations * sum(map(len, measured))
    assert of_trial.told == of_training.told != []


def test_the_likeliest_token_is_the_one_of_the_highest_probability(tiny_gguf: Path, tokens: Tokens) -> None:
    """Whatever else is in its pass."""
    network = Network(gguf_file.read(tiny_gguf), machine.bench(torch.float32))
    texts = [tuple(tokens.prompt(text)) for text in ("greet", "greet guest 7 and all the others", "x")]
    every = tuple((token,) for token in range(network.architecture.vocabulary))
    expected = []
    for text in texts:
        values = network.log_probabilities(network.lay_out([Branches(stem=text, answers=every)]))
        expected.append(int(values.argmax()))
    assert likeliest(network, texts) == expected


@pytest.mark.parametrize("route", ["packed", "transformers"])
def test_a_judge_and_the_clock_end_a_training(tmp_path: Path, tiny_gguf: Path, tokens: Tokens, route: str) -> None:
    job, slices = training_job(tmp_path, tiny_gguf, GIVEN), slices_of(tokens)
    if route == "packed":
        trials: PackedTrials | LoadedTrials = PackedTrials(gguf_file.read(tiny_gguf), job, GIVEN, slices, tmp_path)
    else:
        trials = LoadedTrials(load_base(tiny_gguf, job.base_digest, tmp_path), job, slices)
    assert trials.epoch_seconds(GIVEN) > 0
    whole = trials.try_out(watch())
    assert whole.loss is not None
    epoch = sum(map(len, slices.learned))
    assert (whole.end, whole.tokens) == (TrialEnd.COMPLETE, 2 * epoch)
    stopped = trials.try_out(watch(judge=lambda _epochs, _loss: False, marks=(1.0,)))
    assert (stopped.end, stopped.loss, stopped.tokens) == (TrialEnd.STOPPED, None, epoch)
    late = trials.try_out(watch(seconds=0.0))
    assert (late.end, late.loss) == (TrialEnd.LATE, None)
    assert 0 < late.tokens < epoch
    assert trials.try_out(watch()).loss == whole.loss


def test_a_training_that_goes_astray_costs_no_other(tmp_path: Path, tiny_gguf: Path, tokens: Tokens) -> None:
    job, slices = training_job(tmp_path, tiny_gguf, GIVEN), slices_of(tokens)
    trials = PackedTrials(gguf_file.read(tiny_gguf), job, GIVEN, slices, tmp_path)
    before = trials.try_out(watch())
    astray = trials.try_out(watch(replace(GIVEN, learning_rate=1e25)))
    assert (astray.end, astray.loss) == (TrialEnd.UNFIT, None)
    assert astray.problem.startswith("The loss is no longer a number.")
    wrong = trials.try_out(watch(replace(GIVEN, form=TrainedForm.NEURONS, neurons=7)))
    assert (wrong.end, wrong.loss) == (TrialEnd.UNFIT, None)
    assert "multiples" in wrong.problem
    assert trials.try_out(watch()).loss == before.loss


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_search_goes_on_in_the_type_that_it_began_in(
    tmp_path: Path, tiny_gguf: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, dtypes: tuple[str, str]
) -> None:
    """What is compared must not be the types."""
    losses = []
    for dtype in dtypes:
        monkeypatch.setattr(machine, "fastest_type", lambda _where, dtype=dtype: getattr(torch, dtype))
        job = training_job(tmp_path, tiny_gguf, GIVEN)
        trials = PackedTrials(gguf_file.read(tiny_gguf), job, GIVEN, slices_of(tokens), tmp_path)
        # another form is planned for anew
        losses.append([trials.try_out(watch(replace(GIVEN, lora_r=rank))).loss for rank in (4, 8)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("late", [False, True])
def test_answers_that_take_too_long_leave_the_loss(
    tmp_path: Path, tiny_gguf: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The clock that bounds a training bounds what it is asked too."""
    now = [0.0]
    monkeypatch.setattr(trying, "time", SimpleNamespace(monotonic=lambda: now[0]))
    job, slices = training_job(tmp_path, tiny_gguf, GIVEN), slices_of(tokens)
    trials = PackedTrials(gguf_file.read(tiny_gguf), job, GIVEN, slices, tmp_path)

    def score(follow: Follow, is_late: IsLate) -> float | None:
        now[0] += 101 if late else 99
        prompts = [one.prompt for one in slices.measured[:2]]
        said = answered(follow, prompts, tuple(tokens.completion("", CLOSING)), [3, 3], is_late)
        return None if said is None else 50.0

    found = trials.try_out(replace(watch(seconds=100.0), score=score))
    assert found.loss is not None
    assert (found.end, found.score) == ((TrialEnd.LATE, None) if late else (TrialEnd.COMPLETE, 50.0))


def test_it_ends_as_a_training_ends(tmp_path: Path, tiny_gguf: Path, tokens: Tokens) -> None:
    """After a judged epoch that is worse; the best one counts."""
    rows = rows_of([replace(one, completion=f"{number}{CLOSING}") for number, one in enumerate(greetings(60))], tokens)
    slices = Slices(learned=tuple(rows[:40]), measured=tuple(rows[40:]))
    settings = replace(GIVEN, learning_rate=1e-2, batch_size=4, num_epochs=10)
    trials = PackedTrials(
        gguf_file.read(tiny_gguf), training_job(tmp_path, tiny_gguf, settings), settings, slices, tmp_path
    )
    losses: list[float] = []
    marks = tuple(range(1, 10))

    def judge(_epochs: float, loss: float) -> bool:
        losses.append(loss)
        return True

    found = trials.try_out(watch(settings, judge, marks=marks))
    judged = losses[2:]
    assert len(losses) < 10
    assert judged[-1] >= judged[-2] == found.loss == min(judged)
    assert found.tokens == len(losses) * sum(map(len, slices.learned))
