"""An installation whose nights are carried out as the daemon does, on a real Ollama; only the calendar is made up."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx

from benchmarks import forms, results, tasks
from nightschool_daemon import codec, config, night
from nightschool_daemon.comparisons import Comparison
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.examiner import score_answer
from nightschool_daemon.evaluation.local_model import LocalModel, pinned_options
from nightschool_daemon.evaluation.patience import patiently
from nightschool_daemon.evaluation.similarity import CombinedMeasure
from nightschool_daemon.installation import working
from nightschool_daemon.ledger import LedgerError
from nightschool_daemon.ollama.errors import OllamaError, OllamaInterrupted, OllamaRefused
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_daemon.runs.listener import SilentListener
from nightschool_hookspecs.records import (
    ExamItem,
    ItemRole,
    Message,
    Outcome,
    Recipe,
    Role,
    RunEnd,
    RunReport,
)
from support.base_models import MODELS
from support.night import Night, import_base
from support.ollama_server import OllamaServer

SERVED = "0.34.3"
TYPE = "shell"
START = datetime(2026, 1, 5, tzinfo=UTC)
CORES = len(os.sched_getaffinity(0))
"""That this process may use: a bench that is held to one of two leaves the other to a second call."""
THREADS = CORES if (os.cpu_count() or 1) > CORES else None
"""Of Ollama, where it cannot see that by itself: threads that share a core wait for each other by spinning."""
SETTINGS = f"""
[training]
threads = {CORES}

[exam]
max_answer_tokens = 48
context_tokens = 1024
"""
"""Commands are short. All else is as it comes."""
WHOLE = SETTINGS + "max_items = 1000\nround_items = 1000\n"
"""The same where everything is asked, also when less would tell."""
LIMIT_S = 7200.0
LOG_LINES = 20
SEED = 1
"""Of every question. At temperature 0 it decides nothing."""
BROKEN = (RuntimeError, OSError, subprocess.SubprocessError, httpx.HTTPError, OllamaError, LedgerError)
"""What ends a season, and not the night of the machine."""


@contextmanager
def serving(bases: Iterable[str]) -> Iterator[OllamaServer]:
    """A server that has these bases and nothing else."""
    with tempfile.TemporaryDirectory() as text, _served(bases, Path(text)) as server:
        yield server


@contextmanager
def _served(bases: Iterable[str], directory: Path) -> Iterator[OllamaServer]:
    with OllamaServer(SERVED, directory=directory) as server:
        for base in bases:
            import_base(server, MODELS[base], forms.fetched(base, MODELS[base]), threads=THREADS)
        yield server


@contextmanager
def installation(base: str) -> Iterator[Night]:
    """One of its own, with a server that has this base and nothing else.

    Raises `CellFailed` for what breaks in the meantime, with the end of the server's log.
    """
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        try:
            with _served((base,), directory / "ollama") as server:
                yield Night(directory / "night", server.url, server.models_directory, settings=SETTINGS)
        except (results.CellFailed, *BROKEN) as error:
            log = _end_of(directory / "ollama" / "ollama.log")
            raise results.CellFailed(f"{error}\nOllama's log ends:\n{log}") from error


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-LOG_LINES:])


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that is over."""

    day: int
    recipe: Recipe
    end: RunEnd
    reason: str
    outcome: Outcome | None
    """What the judge found; None, as the next two: the run did not get so far."""
    gain: float | None
    """In its exam, in points of 0..100."""
    interval: tuple[float, float] | None
    """95 % of that gain."""

    @classmethod
    def of(cls, day: int, report: RunReport) -> "Ended":
        """What is kept of a report."""
        verdict = report.verdict
        return cls(
            day=day,
            recipe=report.run.recipe,
            end=report.end,
            reason=report.reason,
            outcome=None if verdict is None else verdict.outcome,
            gain=None if verdict is None else verdict.gain,
            interval=None if verdict is None else verdict.interval,
        )


def correction(name: str, base: str, pair: tasks.Pair, at: datetime, artifact_type: str = TYPE) -> dict[str, object]:
    """An answer that somebody put right: a command, where nothing else is told."""
    return {
        "id": name,
        "timestamp": at.isoformat(),
        "artifact_type": artifact_type,
        "model": MODELS[base].tag,
        "input_data": pair.prompt,
        "corrected_output": pair.answer,
        "feedback_type": "user_correction",
        "validation_score": 0,
        "source": "bench",
    }


def day_and_night(here: Night, day: int, events: Sequence[Mapping[str, object]]) -> tuple[RunReport, ...]:
    """Feedback comes by day; the runs that are due go to their end by night. Raises `CellFailed` where one does not."""
    moment = START + timedelta(days=day, hours=27)
    here.drop(events)
    with working(config.load(here.configuration)) as found:
        found.intake.scan(moment)
        found.runs.look_at_feedback(moment)
        reports = night.run_due(found, SilentListener(), clock=partial(_same, moment), may_go_on=_always)
        waiting = found.runs.unfinished()
    require_ended(reports, waiting)
    return reports


def require_ended(reports: Sequence[RunReport], waiting: Sequence[str]) -> None:
    """Raise `CellFailed` where a run failed or stopped in its middle: what comes after it is no season."""
    if failed := [one.reason for one in reports if one.end is RunEnd.FAILED]:
        raise results.CellFailed(f"a run failed: {failed[0]}")
    if waiting:
        raise results.CellFailed(f"the run {waiting[0]} waits for what is not there")


def noon(day: int) -> datetime:
    """When a day's feedback comes."""
    return START + timedelta(days=day, hours=12)


def compared(here: Night, first: str, second: str, base: str, pairs: Sequence[tasks.Pair]) -> Comparison:
    """What `nightschool exam` says of two models when all these commands are asked."""
    usual = here.configuration.read_text(encoding="utf-8")
    file = here.directory / "asked.jsonl"
    rows = [correction(f"asked-{number}", base, pair, START) for number, pair in enumerate(pairs)]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    here.configuration.write_text(usual.replace(SETTINGS, WHOLE), encoding="utf-8")
    try:
        done = here.run("exam", first, second, "--data", str(file), "--json", limit_s=LIMIT_S)
    finally:
        here.configuration.write_text(usual, encoding="utf-8")
    if done.returncode != 0:
        raise RuntimeError(f"`nightschool exam` ended with {done.returncode}: {done.stderr}")
    return codec.build(Comparison, json.loads(done.stdout))


def scores(here: Night, model: str, pairs: Sequence[tasks.Pair]) -> tuple[float, ...]:
    """What a model's answers to commands are worth, 0..100 each, asked and scored as in an exam."""
    with working(config.load(here.configuration)) as found:
        exam, library = found.settings.exam, OllamaLibrary(found.settings.ollama)
        measure, judge = CombinedMeasure(found.hooks, open_embed(found.settings)), LocalModel(library, model, exam)
        options = pinned_options(exam, SEED)

        def score(pair: tasks.Pair) -> float:
            item = _asked(pair)
            try:
                said = patiently(lambda: library.chat(model, item.messages, options))
            except (OllamaInterrupted, OllamaRefused):
                # as in an exam, where a model that repeats one token for ever has failed
                return 0.0
            return round(score_answer(found.hooks, measure, judge, item, said.text).score, 1)

        return tuple(map(score, pairs))


def _asked(pair: tasks.Pair) -> ExamItem:
    return ExamItem(
        id="asked",
        event_id="asked",
        artifact_type=TYPE,
        role=ItemRole.GAIN,
        messages=(Message(role=Role.USER, content=pair.prompt),),
        reference=pair.answer,
    )


def _same(moment: datetime) -> datetime:
    return moment


def _always() -> bool:
    return True
