"""The folds of a run, on a real server: taken once, within the night's time, and gone when they are answered."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from nightschool_daemon.config import OllamaSettings, Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    BaseSnapshot,
    CrossfitResult,
    ExamineResult,
    PrepareResult,
    SelectResult,
    SplitResult,
    Step,
)
from nightschool_daemon.ledger import FILE_NAME, Ledger
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.reasons import ASKED, REBUILD
from nightschool_daemon.runs import Runs, crossfit, register, room
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import StepFailed, TimeUp
from nightschool_daemon.runs.listener import SilentListener
from nightschool_hookspecs.records import (
    Material,
    Side,
    Specialty,
    TrainingResult,
)
from support.night import TINY, import_tiny
from support.ollama_server import OllamaServer
from support.step_results import SELECTED, TRAINED

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
GREETING = Specialty(base=TINY, artifact_type="greeting")
PIN = "tiny-nightschool:1m.base-pinned"
FOLDS = (("a",), ("b",), ("c",), ("d",))


class Workers:
    """In the place of workers and uploads: leave what they leave, and count them."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Step]] = []
        self.limits: dict[tuple[str, Step], float] = {}
        self.out_of_time_at: str | None = None
        self.fails_at: tuple[str, Step] | None = None
        self.decides_at: str | None = None
        self.empty_without: str | None = None
        self.seconds = 60.0

    def run(self, context: StepContext, step: Step, *, limit_s: float | None = None, **_: object) -> None:
        number = context.directory.path.name
        self.taken.append((number, step))
        self.limits[number, step] = limit_s if limit_s is not None else context.settings.training.time_limit_s
        if step is Step.TRAIN and number == self.out_of_time_at:
            raise TimeUp("train took longer than 1 s and was ended.")
        if (number, step) == self.fails_at:
            raise StepFailed("it broke.")
        if step is Step.SELECT:
            context.directory.finish(step, selected(examples=0 if number == self.empty_without else 3))
        elif step is Step.TRAIN:
            (context.directory.step(step) / "adapter").mkdir()
            context.directory.finish(step, trained(context.directory.step(step) / "adapter", self.seconds))
        elif step is Step.EXAMINE:
            assert names.trial_of(context.info.id, int(number)) in {one.name for one in context.ollama.tags()}
            decided = number == self.decides_at
            context.directory.finish(step, ExamineResult(answers=1, failed=0, seconds=1.0, decided=decided))
        else:
            context.directory.finish(step, {})

    def register(self, context: StepContext, tag: str) -> None:
        self.taken.append((context.directory.path.name, Step.REGISTER))
        context.ollama.copy(TINY, tag)
        context.directory.finish(Step.REGISTER, {})


class Told(SilentListener):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, run_id: str, text: str) -> None:
        self.notes.append(text)


def selected(*, examples: int = 4, folded: int = 4) -> SelectResult:
    material = Material(examples=examples, better_known=examples, pairs=0, liked=0, disliked=0)
    return replace(SELECTED, material=material, folded=folded)


def trained(adapter: Path, seconds: float) -> TrainingResult:
    return replace(TRAINED, adapter=adapter, examples=4, base_loss=1.0, trained_loss=0.5, seconds=seconds)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    made = Workers()
    for module in (crossfit, room):
        monkeypatch.setattr(module, "run_worker", made.run)
    monkeypatch.setattr(register, "perform_for_trial", made.register)
    return made


@pytest.fixture
def context(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Iterator[StepContext]:
    import_tiny(fresh_ollama, tiny_gguf)
    settings = Settings(ollama=OllamaSettings(host=fresh_ollama.url), state=StateSettings(directory=tmp_path))
    settings = replace(settings, training=replace(settings.training, time_limit_minutes=5.0))
    ollama, ledger = OllamaHttp(settings.ollama), Ledger.open(tmp_path / FILE_NAME)
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
    runs = Runs(settings=settings, ledger=ledger, hooks=hooks, ollama=ollama, clock=lambda: NOW)
    yield laid_out(runs.context_of(runs.start(GREETING, ASKED, NOW), SilentListener()), seconds=60.0)
    ollama.close()
    ledger.close()


def laid_out(context: StepContext, *, seconds: float) -> StepContext:
    """As a run is when its candidate was verified."""
    directory = context.directory
    for step in (Step.PREPARE, Step.SPLIT, Step.SELECT, Step.TRAIN, Step.CROSSFIT):
        directory.step(step).mkdir(exist_ok=True)
    (directory.step(Step.PREPARE) / "events.jsonl").write_text("")
    (entry,) = (one for one in context.ollama.tags() if one.name == TINY)
    base = BaseSnapshot(
        name=TINY,
        tag_digest=entry.digest,
        weights_digest="",
        architecture="llama",
        capabilities=(),
        pin=PIN,
        gguf=directory.path,
    )
    directory.finish(
        Step.PREPARE, PrepareResult(base=base, incumbent="", undo_tag="", undo_digest="", events=len(FOLDS))
    )
    sides = {key: Side.TRAINING for fold in FOLDS for key in fold}
    directory.finish(
        Step.SPLIT, SplitResult(choices=(), training_events=4, held_out_events=0, sides=sides, folds=FOLDS)
    )
    directory.finish(Step.SELECT, selected())
    directory.finish(Step.TRAIN, trained(directory.step(Step.TRAIN), seconds))
    return context


def test_idle_models_are_unloaded_before_each_step_that_loads_the_base(
    context: StepContext, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.decides_at = "01"
    loaded: dict[Step, int] = {}
    chat = {"model": TINY, "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 1}}

    def run(trial: StepContext, step: Step, *, limit_s: float | None = None, **_: object) -> None:
        loaded[step] = len(trial.ollama.loaded())
        if step in (Step.SELECT, Step.TRAIN):
            url = f"{context.settings.ollama.host}/api/chat"
            httpx.post(url, json={**chat, "stream": False}, timeout=60).raise_for_status()
        workers.run(trial, step, limit_s=limit_s)

    for module in (crossfit, room):
        monkeypatch.setattr(module, "run_worker", run)
    crossfit.perform(context)
    assert (loaded[Step.TRAIN], loaded[Step.EXPORT]) == (0, 0)


def found(context: StepContext) -> tuple[int, int, float]:
    result = context.result(Step.CROSSFIT, CrossfitResult)
    return result.folds, result.examined, result.seconds


def trial_tags(context: StepContext) -> set[str]:
    return {entry.name for entry in context.ollama.tags() if names.run_of_trial(entry.name)}


ALL = (Step.SELECT, Step.TRAIN, Step.EXPORT, Step.REGISTER, Step.EXAMINE)


def test_every_fold_is_answered_and_leaves_no_tag_and_no_weights(context: StepContext, workers: Workers) -> None:
    crossfit.perform(context)
    assert workers.taken == [(f"{number:02}", step) for number in (1, 2, 3, 4) for step in ALL]
    assert found(context) == (4, 4, 240.0)
    assert trial_tags(context) == set()
    assert not list(context.directory.step(Step.CROSSFIT).glob("*/train/adapter"))
    assert [len(one.result(Step.SPLIT, SplitResult).sides) for one in context.directory.trials()] == [4] * 4


def test_a_fold_finds_the_base_pinned_though_the_pin_was_gone(context: StepContext, workers: Workers) -> None:
    workers.decides_at = "01"
    assert PIN not in {one.name for one in context.ollama.tags()}
    crossfit.perform(context)
    assert PIN in {one.name for one in context.ollama.tags()}


def test_a_fold_that_broke_goes_on_where_it_was_and_those_before_it_are_not_taken_again(
    context: StepContext, workers: Workers
) -> None:
    workers.fails_at = ("02", Step.EXAMINE)
    with pytest.raises(StepFailed, match=r"fold 2 of 4: it broke\."):
        crossfit.perform(context)
    assert trial_tags(context) == {names.trial_of(context.info.id, 2)}
    workers.fails_at = None
    workers.taken.clear()
    crossfit.perform(context)
    assert workers.taken == [("02", Step.EXAMINE), *((number, step) for number in ("03", "04") for step in ALL)]
    assert found(context) == (4, 4, 240.0)
    assert trial_tags(context) == set()


def test_what_a_run_that_ends_leaves_of_its_folds_is_removed(context: StepContext, workers: Workers) -> None:
    workers.fails_at = ("02", Step.EXAMINE)
    with pytest.raises(StepFailed):
        crossfit.perform(context)
    assert list(crossfit.clear(context)) == []
    assert trial_tags(context) == set()
    assert not list(context.directory.step(Step.CROSSFIT).glob("*/train/adapter"))


def test_when_the_exam_is_decided_the_other_folds_are_not_trained(context: StepContext, workers: Workers) -> None:
    workers.decides_at = "02"
    crossfit.perform(context)
    assert {number for number, _ in workers.taken} == {"01", "02"}
    assert found(context) == (4, 2, 120.0)


def test_a_fold_without_which_nothing_is_left_to_learn_is_asked_of_nobody(
    context: StepContext, workers: Workers
) -> None:
    workers.empty_without = "02"
    crossfit.perform(context)
    assert [step for number, step in workers.taken if number == "02"] == [Step.SELECT]
    assert [one.path.name for one in context.directory.trials()] == ["01", "03", "04"]
    assert found(context) == (4, 3, 180.0)


def test_trainings_share_the_time_of_the_night(context: StepContext, workers: Workers) -> None:
    """Of five minutes the candidate took one, and each trial candidate takes one. What is no training has its own."""
    crossfit.perform(context)
    of = {step: [limit for (_, one), limit in workers.limits.items() if one is step] for step in ALL}
    assert of[Step.TRAIN] == [240.0, 180.0, 120.0, 60.0]
    assert of[Step.SELECT] == of[Step.EXPORT] == of[Step.EXAMINE] == [300.0] * 4


def test_where_the_time_runs_out_the_folds_so_far_are_the_exam(context: StepContext, workers: Workers) -> None:
    workers.out_of_time_at = "03"
    told = Told()
    crossfit.perform(replace(context, listener=told))
    assert found(context) == (4, 2, 120.0)
    assert [one.path.name for one in context.directory.trials()] == ["01", "02"]
    assert trial_tags(context) == set()
    assert told.notes[-1] == (
        "crossfit: fold 3 of 4: train took longer than 1 s and was ended. The exam is what 2 of 4 folds answered."
    )


def test_where_the_time_does_not_last_for_one_fold_the_run_ends(context: StepContext, workers: Workers) -> None:
    workers.out_of_time_at = "01"
    with pytest.raises(TimeUp, match="fold 1 of 4"):
        crossfit.perform(context)


def test_two_folds_are_taken_where_four_do_not_fit(context: StepContext, workers: Workers) -> None:
    laid_out(context, seconds=100.0)
    crossfit.perform(context)
    assert found(context) == (2, 2, 120.0)
    first = context.directory.trials()[0].result(Step.SPLIT, SplitResult)
    assert {key for key, side in first.sides.items() if side is Side.HELD_OUT} == {"a", "c"}


def test_a_rebuild_and_a_grown_specialty_have_no_folds(context: StepContext, workers: Workers) -> None:
    crossfit.perform(replace(context, info=replace(context.info, reason=REBUILD)))
    assert found(context) == (0, 0, 0.0)
    context.directory.finish(Step.SELECT, selected(folded=0))
    crossfit.perform(context)
    assert found(context) == (0, 0, 0.0)
    assert workers.taken == []
