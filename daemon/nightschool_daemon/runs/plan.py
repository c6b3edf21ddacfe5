"""A plan of a training: a worker is asked, and nothing is left behind, in Ollama neither."""

from datetime import datetime
from pathlib import Path

from nightschool_daemon.config import Settings
from nightschool_daemon.jobs import Job
from nightschool_daemon.ollama import names, storage
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.plans import PlanRequest, TrainingPlan
from nightschool_daemon.runs.aside import Feedback, desk
from nightschool_daemon.runs.bases import shown_by
from nightschool_daemon.runs.errors import RunRefused, StepFailed
from nightschool_daemon.runs.worker_process import run_job
from nightschool_hookspecs.records import Specialty


def plan(
    settings: Settings,
    ollama: OllamaHttp,
    specialty: Specialty,
    tag: str,
    feedback: Feedback | None,
    now: datetime,
    reason: str = "",
    learned: Path | None = None,
) -> TrainingPlan:
    """Say what a training of the specialty would take, on the base that `tag` holds. `feedback` None: by assumption.

    `reason`: of the run that is planned, where that makes a difference. `learned`: as `PlanRequest` has it.
    The base's file is compared with its name, as a run does, which takes as long as to read it.
    Raises `RunRefused` where nothing can be told, as of a damaged model, `OllamaError` where there is no such model.
    """
    if (problem := names.base_problem(specialty.base)) is not None:
        raise RunRefused(problem)
    shown = shown_by(ollama, tag, RunRefused)
    if (problem := shown.problem()) is not None:
        raise RunRefused(problem)
    blob = storage.locate_blob(settings.ollama, shown)
    storage.check_digest(blob, shown.weights_digest)
    request = PlanRequest(
        base=tag,
        weights_digest=shown.weights_digest,
        gguf=blob,
        method=settings.training.method,
        system=shown.modelfile.system,
        loaded_bytes=sum(one.size for one in ollama.loaded()) if settings.training.unload_models else 0,
        has_events=feedback is not None,
        learned=learned,
    )
    with desk(settings, specialty, Job.PLAN, request, feedback, now, reason) as directory:
        try:
            run_job(directory, Job.PLAN)
        except StepFailed as error:
            raise RunRefused(str(error)) from error
        return directory.result(Job.PLAN, TrainingPlan)
