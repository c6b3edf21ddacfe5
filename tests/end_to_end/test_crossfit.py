"""A young specialty is proven by cross-fitting on a real server, and a kill in the middle of a fold leaves nothing."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool_daemon.jobs import (
    CrossfitResult,
    PrepareResult,
    RunDirectory,
    SelectResult,
    SplitResult,
    Step,
    read_lines,
)
from nightschool_daemon.ollama import names
from nightschool_hookspecs.records import ItemRole, RunEnd, Sitting, TrainingMethod, TrainingText
from support.night import TINY, TINY_ALIAS, TINY_SETTINGS, Night, greetings, import_tiny, wait_until
from support.ollama_server import OllamaServer

YOUNG = TINY_SETTINGS.replace("folds = 0\ngrown_events = 1\n", "")
IN_TWO_FOLDS = TINY_SETTINGS.replace("folds = 0\ngrown_events = 1\n", "folds = 2\n")

KILLER = '''
"""Kills its process when a worker of a trial candidate has come so far."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from nightschool_hookspecs import RunInfo, hookimpl


@dataclass(frozen=True, kw_only=True)
class Killer:
    order: Path = Path("/nonexistent")

    @hookimpl
    def nightschool_before_step(self, run: RunInfo, step: str) -> None:
        if step == "crossfit" and self.order.is_file():
            awaited = run.directory / "crossfit" / self.order.read_text()
            threading.Thread(target=self._kill, args=(awaited,), daemon=True).start()

    def _kill(self, awaited: Path) -> None:
        while not awaited.exists():
            time.sleep(0.002)
        self.order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


@hookimpl
def nightschool_register_settings() -> type[Killer]:
    return Killer
'''


STARTERS = '''
"""Two starter examples, one of which asks what the feedback is about."""

from nightschool_hookspecs import StarterExample, hookimpl


@hookimpl
def nightschool_offer_examples(artifact_type: str, accepted: int) -> tuple[StarterExample, ...]:
    prompts = ("Greet guest 7", "sing a song")
    return tuple(StarterExample(prompt=one, answer="hello hello", weight=0.1) for one in prompts)
'''


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    import_tiny(fresh_ollama, tiny_gguf)
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory, settings=YOUNG)


@pytest.fixture
def killed(night: Night, fresh_ollama: OllamaServer) -> Callable[[str], None]:
    """Has a run killed when a file of its trial candidates is there. The first fold alone proves nothing."""
    order = night.directory / "order"
    killer = f'\n[plugins.killer]\norder = "{order}"\n'
    night.configure(fresh_ollama.url, fresh_ollama.models_directory, IN_TWO_FOLDS + killer)
    night.add_plugin("killer", KILLER)
    night.drop(greetings(10))

    def kill(moment: str) -> None:
        order.write_text(moment)
        assert night.learn().returncode == -signal.SIGKILL
        assert not order.exists()

    return kill


def test_sixteen_corrections_are_proven_by_cross_fitting(night: Night, fresh_ollama: OllamaServer) -> None:
    night.add_plugin("starters", STARTERS)
    night.drop(greetings(16))

    done = night.learn()

    assert done.returncode == 0, done.stdout + done.stderr
    ledger = night.ledger()
    (run,) = ledger.runs.latest(9)
    assert run.end is RunEnd.PROMOTED, run.outcome_reason
    assert "it was the recipe that was examined (cross-fitting): your feedback was divided into 4 parts" in " ".join(
        night.run("report").stdout.split()
    )
    directory = RunDirectory(path=run.directory)
    assert directory.result(Step.SELECT, SelectResult).items == 0
    assert directory.result(Step.CROSSFIT, CrossfitResult).folds == 4
    _nobody_was_asked_what_it_learned(night, directory)
    _starter_examples_were_no_feedback(night, directory)
    tags = fresh_ollama.tags()
    assert set(tags) == {TINY, TINY_ALIAS, f"{TINY_ALIAS}.v1", *(one for one in tags if ".base-" in one)}
    assert fresh_ollama.blobs() == blobs_of_manifests(fresh_ollama)
    # what was asked once is no evidence again, and what the version in use knows is put to no trial candidate
    night.drop(greetings(8, first=16))
    night.learn()
    second = RunDirectory(path=night.ledger().runs.latest(1)[0].directory)
    assert second.result(Step.PREPARE, PrepareResult).incumbent == f"{TINY_ALIAS}.v1"
    assert {len(fold) for fold in second.result(Step.SPLIT, SplitResult).folds} == {2}
    _nobody_was_asked_what_it_learned(night, second)


def _nobody_was_asked_what_it_learned(night: Night, run: RunDirectory) -> None:
    """By the files of the trainings themselves: each answer that counts is of a model that never saw its event."""
    exams, identifier = night.ledger().exams, run.read_info().id
    items = {one.id: one for one in exams.items(identifier) if one.role is ItemRole.GAIN}
    learned = {names.trial_of(identifier, int(one.path.name)): _learned(one) for one in run.trials()}
    answers = [one for one in exams.answers(identifier) if one.sitting is Sitting.CANDIDATE and one.item_id in items]
    assert len(answers) == len(items) >= 6
    for answer in answers:
        assert items[answer.item_id].event_id not in learned[answer.model]
    asked = {one.event_id for one in items.values()}
    assert asked <= _learned(run)
    for earlier in night.run_directories():
        assert earlier == run.path or not asked & _learned(RunDirectory(path=earlier))


def _starter_examples_were_no_feedback(night: Night, run: RunDirectory) -> None:
    """The one that is close to a prompt was learned by nobody, the other by candidate and trial candidates."""
    for one in (run, *run.trials()):
        beside = [text for text in read_lines(one.step(Step.SELECT) / "examples.jsonl", TrainingText) if text.beside]
        assert [text.event_id for text in beside] == [""]
        assert "sing a song" in beside[0].prompt
        selected = one.result(Step.SELECT, SelectResult)
        assert selected.starters == 1
        assert all(selected.sources[TrainingMethod.SFT])
        assert selected.material.examples == len(selected.sources[TrainingMethod.SFT])
    assert not any("sing" in item.messages[-1].content for item in night.ledger().exams.items(run.read_info().id))
    assert "1 starter example was learned beside it" in " ".join(night.run("report").stdout.split())


def _learned(run: RunDirectory) -> set[str]:
    """The events of its lesson."""
    texts = read_lines(run.step(Step.SELECT) / "examples.jsonl", TrainingText)
    return {one.event_id for one in texts if not one.beside}


def test_kills_in_the_middle_of_a_fold_leave_no_stray_tag_and_the_run_goes_on(
    night: Night, fresh_ollama: OllamaServer, killed: Callable[[str], None]
) -> None:
    """While its trial candidate is trained, and when the run goes on, while it is asked."""
    killed("02/train/checkpoints")
    examined = night.run_directories()[0] / "crossfit" / "01" / "examine" / "answers.jsonl"
    written = examined.stat().st_mtime_ns
    killed("02/examine/answers.jsonl")

    daemon = night.start("serve")
    try:
        wait_until(lambda: not night.ledger().runs.unfinished(), 240)
    finally:
        daemon.terminate()
        assert daemon.wait(60) == 0

    (run,) = night.ledger().runs.latest(9)
    assert run.end is RunEnd.PROMOTED, run.outcome_reason
    assert examined.stat().st_mtime_ns == written
    tags = fresh_ollama.tags()
    assert set(tags) == {TINY, TINY_ALIAS, f"{TINY_ALIAS}.v1", *(one for one in tags if ".base-" in one)}
    assert fresh_ollama.blobs() == blobs_of_manifests(fresh_ollama)


def test_a_run_that_is_given_up_after_a_kill_takes_its_trial_candidate_along(
    night: Night, fresh_ollama: OllamaServer, killed: Callable[[str], None]
) -> None:
    killed("02/examine/answers.jsonl")
    assert any(names.run_of_trial(one) for one in fresh_ollama.tags())

    assert night.run("cancel").returncode == 0

    tags = fresh_ollama.tags()
    assert set(tags) == {TINY, *(one for one in tags if ".base-" in one)}


def blobs_of_manifests(server: OllamaServer) -> set[str]:
    """Names of the blob files that some tag needs."""
    needed: set[str] = set()
    for file in (server.models_directory / "manifests").rglob("*"):
        if file.is_file():
            manifest = json.loads(file.read_bytes())
            needed.update(one["digest"].replace(":", "-") for one in [manifest["config"], *manifest["layers"]])
    return needed
