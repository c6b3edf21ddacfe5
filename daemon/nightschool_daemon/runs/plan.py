"""A plan of a training: a worker is asked, and nothing is left behind, in Ollama neither."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.config import Settings
from nightschool_daemon.jobs import EventRow, Job, RunDirectory, Step
from nightschool_daemon.ollama import names, storage
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.plans import PlanRequest, TrainingPlan
from nightschool_daemon.runs.errors import RunRefused, StepFailed
from nightschool_daemon.runs.worker_process import run_job
from nightschool_hookspecs.records import RunInfo, Specialty

SEED = 1
"""Of a plan where the configuration names none: chance decides little of what a training takes."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What would be learned from."""

    rows: Sequence[EventRow]
    store: Mapping[str, str]
    """What plugins keep for the specialty."""


def plan(
    settings: Settings, ollama: OllamaHttp, specialty: Specialty, tag: str, feedback: Feedback | None, now: datetime
) -> TrainingPlan:
    """Say what a training of the specialty would take, on the base that `tag` holds. `feedback` None: by assumption.

    Raises `RunRefused` where nothing can be told, `OllamaError` where there is no such model.
    """
    if (problem := names.base_problem(specialty.base)) is not None:
        raise RunRefused(problem)
    shown = ollama.show(tag)
    request = PlanRequest(
        base=tag,
        weights_digest=shown.weights_digest,
        gguf=storage.locate_blob(settings.ollama, shown),
        method=settings.training.method,
        system=shown.modelfile.system,
        loaded_bytes=sum(one.size for one in ollama.loaded()) if settings.training.unload_models else 0,
        has_events=feedback is not None,
    )
    with tempfile.TemporaryDirectory(prefix="nightschool-plan-") as text:
        directory = RunDirectory(path=Path(text))
        _prepare(directory, settings, specialty, request, feedback, now)
        try:
            run_job(directory, Job.PLAN)
        except StepFailed as error:
            raise RunRefused(str(error)) from error
        return directory.result(Job.PLAN, TrainingPlan)


def _prepare(
    directory: RunDirectory,
    settings: Settings,
    specialty: Specialty,
    request: PlanRequest,
    feedback: Feedback | None,
    now: datetime,
) -> None:
    """Lay out what the worker reads."""
    info = RunInfo(
        id="plan",
        specialty=specialty,
        seed=settings.training.seed or SEED,
        started_at=now,
        reason="plan",
        directory=directory.path,
    )
    for step in (Step.PREPARE, Job.PLAN):
        directory.step(step).mkdir()
    directory.settings.write_text(codec.to_json(settings), encoding="utf-8")
    directory.info.write_text(codec.to_json(info), encoding="utf-8")
    (directory.step(Job.PLAN) / "request.json").write_text(codec.to_json(request), encoding="utf-8")
    if feedback is not None:
        lines = "".join(codec.to_json(row) + "\n" for row in feedback.rows)
        (directory.step(Step.PREPARE) / "events.jsonl").write_text(lines, encoding="utf-8")
        (directory.step(Step.PREPARE) / "store.json").write_text(codec.to_json(dict(feedback.store)), encoding="utf-8")
