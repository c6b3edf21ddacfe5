"""Workers that load a base, and the room for it: Ollama is asked to take idle models out of memory."""

from datetime import datetime, timedelta
from functools import partial

from nightschool_daemon.jobs import Step
from nightschool_daemon.ollama.errors import ModelMissing, OllamaRefused
from nightschool_daemon.ollama.http import LoadedModel
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.worker_process import run_worker

FOR_EVER = timedelta(days=365)
"""A model that is to stay longer than that was asked to stay for ever: it is left alone."""


def run_with_room(context: StepContext, step: Step, *, limit_s: float | None = None) -> None:
    """Run a step that loads the base in a worker, as `run_worker`, once what is idle is out of its way.

    Models that were loaded since the training began would be, or since an earlier try.
    """
    make_room(context)
    run_worker(context, step, limit_s=limit_s, before_again=partial(make_room, context))


def make_room(context: StepContext) -> None:
    """Unload what nobody asked to keep. A model that is in use stays, and is told of."""
    if not context.settings.training.unload_models:
        return
    for model in context.ollama.loaded():
        if _is_kept(model, context.clock()):
            continue
        try:
            context.ollama.unload(model.name)
        except ModelMissing:
            # its tag was deleted while it was loaded: its time in memory runs out by itself
            continue
        except OllamaRefused as error:
            context.note(str(error))


def _is_kept(model: LoadedModel, now: datetime) -> bool:
    try:
        return datetime.fromisoformat(model.expires_at) - now > FOR_EVER
    except ValueError:
        # no time that can be read: better to leave it
        return True
