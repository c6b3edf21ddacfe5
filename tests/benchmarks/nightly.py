"""An installation whose nights are carried out as the daemon does, on a real Ollama; only the calendar is made up."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from benchmarks import forms, tasks
from nightschool_daemon import codec, config, night
from nightschool_daemon.comparisons import Comparison
from nightschool_daemon.installation import working
from nightschool_daemon.runs.listener import SilentListener
from nightschool_hookspecs.records import RunReport
from support.base_models import MODELS
from support.night import Night, import_base
from support.ollama_server import OllamaServer

SERVED = "0.34.3"
TYPE = "shell"
START = datetime(2026, 1, 5, tzinfo=UTC)
SETTINGS = """
[exam]
max_answer_tokens = 48
context_tokens = 1024
"""
"""Commands are short. All else is as it comes."""
WHOLE = SETTINGS + "round_items = 1000\n"
"""The same where everything is asked, also when less would tell."""
LIMIT_S = 7200.0


@contextmanager
def serving(bases: Iterable[str]) -> Iterator[OllamaServer]:
    """A server that has these bases and nothing else."""
    with (
        tempfile.TemporaryDirectory() as text,
        OllamaServer(SERVED, directory=Path(text)) as server,
    ):
        for base in bases:
            import_base(server, MODELS[base], forms.fetched(base, MODELS[base]))
        yield server


@contextmanager
def installation(base: str) -> Iterator[Night]:
    """One of its own, with a server that has this base and nothing else."""
    with tempfile.TemporaryDirectory() as text, serving((base,)) as server:
        yield Night(Path(text) / "night", server.url, server.models_directory, settings=SETTINGS)


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
    """Feedback comes by day; the runs that are due go to their end by night."""
    moment = START + timedelta(days=day, hours=27)
    here.drop(events)
    with working(config.load(here.configuration)) as found:
        found.intake.scan(moment)
        found.runs.look_at_feedback(moment)
        return night.run_due(found, SilentListener(), clock=partial(_same, moment), may_go_on=_always)


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


def _same(moment: datetime) -> datetime:
    return moment


def _always() -> bool:
    return True
