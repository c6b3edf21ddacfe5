"""How a run is taken through its steps: what is repeated, what is waited for, what ends it."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from nightschool_daemon.config import OllamaSettings, Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import NOTES, Step
from nightschool_daemon.ledger import FILE_NAME, Ledger, LedgerError
from nightschool_daemon.ollama.errors import OllamaUnreachable
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.reasons import ASKED
from nightschool_daemon.runs import RunRefused, Runs, pipeline, worker_process
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.listener import SilentListener
from nightschool_hookspecs.records import RunEnd, Specialty
from support.night import TINY, import_tiny
from support.ollama_server import OllamaServer

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
GREETING = Specialty(base=TINY, artifact_type="greeting")


class Notes(SilentListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, run_id: str, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def runs(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Iterator[Runs]:
    import_tiny(fresh_ollama, tiny_gguf)
    settings = Settings(ollama=OllamaSettings(host=fresh_ollama.url), state=StateSettings(directory=tmp_path))
    ollama = OllamaHttp(settings.ollama)
    ledger = Ledger.open(tmp_path / FILE_NAME)
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
    yield Runs(settings=settings, ledger=ledger, hooks=hooks, ollama=ollama, clock=lambda: NOW)
    ollama.close()
    ledger.close()


@pytest.fixture
def context(runs: Runs) -> StepContext:
    return runs.context_of(runs.start(GREETING, ASKED, NOW), Notes())


def notes(context: StepContext) -> list[str]:
    assert isinstance(context.listener, Notes)
    return context.listener.texts


def writes(context: StepContext, step: Step, text: str, times: list[Step]) -> None:
    """A step that leaves a file beside its result, and is counted."""
    times.append(step)
    (context.directory.step(step) / "made.txt").write_text(text)
    context.directory.finish(step, {"of": step.value})


def take(context: StepContext, texts: dict[Step, str], times: list[Step]) -> None:
    for step, text in texts.items():
        pipeline._take(context, step, partial(writes, context, step, text, times))


@pytest.fixture(autouse=True)
def _accept_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "ACCEPT", {})


def test_finished_steps_are_not_taken_again(context: StepContext) -> None:
    times: list[Step] = []
    for _ in range(2):
        take(context, {Step.SPLIT: "s", Step.SELECT: "t", Step.TRAIN: "u"}, times)
    assert times == [Step.SPLIT, Step.SELECT, Step.TRAIN]


def test_damaged_step_is_taken_again_and_with_it_all_that_was_made_from_something_else(context: StepContext) -> None:
    times: list[Step] = []
    steps = {Step.SPLIT: "s", Step.SELECT: "one", Step.TRAIN: "u"}
    take(context, steps, times)
    (context.directory.step(Step.SELECT) / "made.txt").write_text("torn")
    take(context, {**steps, Step.SELECT: "two"}, times)
    assert times == [Step.SPLIT, Step.SELECT, Step.TRAIN, Step.SELECT, Step.TRAIN]
    assert len(notes(context)) == 2


def test_damaged_step_that_comes_out_the_same_leaves_later_ones_alone(context: StepContext) -> None:
    times: list[Step] = []
    steps = {Step.SPLIT: "s", Step.SELECT: "one", Step.TRAIN: "u"}
    take(context, steps, times)
    (context.directory.step(Step.SELECT) / "made.txt").unlink()
    take(context, steps, times)
    assert times == [Step.SPLIT, Step.SELECT, Step.TRAIN, Step.SELECT]


def test_what_a_worker_says_is_told_once_and_whole(context: StepContext) -> None:
    file = context.directory.step(Step.EXPORT) / NOTES
    assert worker_process._tell_notes(context, Step.EXPORT, 0) == 0
    file.parent.mkdir()
    file.write_text("split costs 5 MB.\nhalf a sen")
    told = worker_process._tell_notes(context, Step.EXPORT, 0)
    assert notes(context) == ["export: split costs 5 MB."]
    file.write_text("split costs 5 MB.\nhalf a sentence, gr\u00f6\u00dfer.\n", encoding="utf-8")
    told = worker_process._tell_notes(context, Step.EXPORT, told)
    assert notes(context) == ["export: split costs 5 MB.", "export: half a sentence, gr\u00f6\u00dfer."]
    assert worker_process._tell_notes(context, Step.EXPORT, told) == told
    assert len(notes(context)) == 2


def test_what_does_not_last_is_no_part_of_a_step(context: StepContext) -> None:
    times: list[Step] = []
    take(context, {Step.TRAIN: "u"}, times)
    directory = context.directory.step(Step.TRAIN)
    (directory / "checkpoints").mkdir()
    for name in ("worker.log", "progress.json", "checkpoints/c.pt", "model.gguf", ".hidden"):
        (directory / name).write_text("x")
    take(context, {Step.TRAIN: "u"}, times)
    assert times == [Step.TRAIN]


def test_outage_is_waited_for_however_long_the_step_has_lasted(
    context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is counted from the outage: an exam may have lasted for an hour before it."""
    monkeypatch.setattr(pipeline, "SERVER_WAIT_S", 0.5)
    monkeypatch.setattr(pipeline, "SERVER_POLL_S", 0.05)
    tried: list[int] = []

    def perform() -> None:
        tried.append(1)
        if len(tried) < 3:
            time.sleep(0.6)
            raise OllamaUnreachable("It went away.")
        context.directory.finish(Step.EXAMINE, {})

    pipeline._take(context, Step.EXAMINE, perform)
    assert len(tried) == 3


def test_server_that_stays_away_is_given_up(
    context: StepContext, fresh_ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "SERVER_WAIT_S", 0.5)
    monkeypatch.setattr(pipeline, "SERVER_POLL_S", 0.05)
    fresh_ollama.stop()

    def perform() -> None:
        raise OllamaUnreachable("It went away.")

    with pytest.raises(OllamaUnreachable):
        pipeline._take(context, Step.EXAMINE, perform)


def broken(error: Exception) -> Callable[[StepContext], None]:
    def perform(_context: StepContext) -> None:
        raise error

    return perform


def test_step_that_breaks_in_an_unforeseen_way_ends_its_run_alone(
    runs: Runs, context: StepContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "PERFORM", {**pipeline.PERFORM, Step.PREPARE: broken(ZeroDivisionError("oops"))})
    report = runs.execute(context.info.id)
    assert report.end is RunEnd.FAILED
    assert "prepare: ZeroDivisionError: oops" in report.reason
    assert "Traceback" in caplog.text
    assert runs.unfinished() == ()
    runs.start(GREETING, ASKED, NOW)


def test_ending_that_breaks_ends_the_run_instead_of_blocking_it(
    runs: Runs, context: StepContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nightschool_daemon.runs.conclude.perform", lambda *_: 1 / 0)
    report = runs.execute(context.info.id)
    assert report.end is RunEnd.FAILED
    assert "ZeroDivisionError" in report.reason
    assert "Traceback" in caplog.text
    assert runs.unfinished() == ()


def test_ledger_that_cannot_be_written_leaves_the_run_to_go_on_later(
    runs: Runs, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PERFORM", {**pipeline.PERFORM, Step.PREPARE: broken(LedgerError("disk full"))})
    with pytest.raises(LedgerError):
        runs.execute(context.info.id)
    assert runs.unfinished() == (context.info.id,)


def test_second_run_of_a_specialty_waits_for_the_first(runs: Runs, context: StepContext) -> None:
    with pytest.raises(RunRefused, match=context.info.id):
        runs.start(GREETING, ASKED, NOW)


@pytest.mark.parametrize("base", ["absent:1b", "m:" + "t" * 70])
def test_base_that_cannot_learn_is_refused_before_a_run_is_written_down(runs: Runs, base: str) -> None:
    with pytest.raises(RunRefused, match="ollama"):
        runs.start(Specialty(base=base, artifact_type="greeting"), ASKED, NOW)
    assert runs.unfinished() == ()
