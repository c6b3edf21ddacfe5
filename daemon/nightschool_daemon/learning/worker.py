"""A worker: one heavy step of a run, in a process that ends with it.

    python -m nightschool_daemon.learning <step> <run directory> --parent <process id> [--seconds <left>]

It reads the results of earlier steps from the run's directory, leaves its own there, and as its last act
renames `result.json` into place. Where it gives up it leaves `failure.json` and exits with 1.
"""

import argparse
import ctypes
import importlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon import codec, disk
from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks, KnownStrikes, PluginFailed
from nightschool_daemon.jobs import NOTES, Job, PluginAtFault, Progress, RunDirectory, Step, WorkerFailure
from nightschool_daemon.learning.termination import Terminated, heed, leave_terminals_to_others
from nightschool_daemon.ledger import FILE_NAME, Ledger
from nightschool_daemon.ollama.errors import OllamaUnreachable
from nightschool_hookspecs.records import RunInfo

EXIT_FAILED = 1
EXIT_TERMINATED = 128 + signal.SIGTERM
PR_SET_PDEATHSIG = 1
PARENT_EVERY_S = 1.0
"""How often a worker looks for its parent where the kernel does not tell of its end."""

STEPS: Mapping[Step | Job, str] = {
    Step.SPLIT: "nightschool_daemon.learning.split",
    Step.SELECT: "nightschool_daemon.learning.dataset",
    Step.TRAIN: "nightschool_daemon.learning.training",
    Step.EXPORT: "nightschool_daemon.learning.export",
    Step.VERIFY: "nightschool_daemon.learning.verification",
    Step.RANK: "nightschool_daemon.learning.ranking",
    Step.EXAMINE: "nightschool_daemon.evaluation.examiner",
    Step.JUDGE: "nightschool_daemon.learning.judging",
    Job.PLAN: "nightschool_daemon.learning.planning",
    Job.COMPARE: "nightschool_daemon.learning.comparison",
    Job.PAGE: "nightschool_daemon.reporting.job",
}
"""Where each step's `run(context)` stands. Only the one that is asked for is imported."""

QUIET: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
"""Nothing is fetched from anywhere, and libraries print nothing."""


UNMAPPED = "failed to map segment from shared object"
"""How the dynamic linker's sentence about a library ends that found no room."""
NO_ROOM = (
    "The libraries that train do not fit into the address space that `ulimit -v` leaves. Raise it, to some times the "
    "memory that is used; to limit memory itself, set MemoryMax of the service."
)


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What a step works with."""

    step: Step | Job
    run: RunDirectory
    info: RunInfo
    settings: Settings
    hooks: Hooks
    left_s: float | None = None
    """What an earlier try left of the step's time; None: all of it."""

    @property
    def time_s(self) -> float:
        """How long the step may take from its beginning."""
        return self.settings.training.time_limit_s if self.left_s is None else self.left_s

    def progress(self, done: int, total: int, text: str) -> None:
        """Say how far the step is. The daemon reads it from `progress.json`."""
        progress = Progress(step=self.step, done=done, total=total, text=text, at=datetime.now(UTC))
        file = self.run.step(self.step) / "progress.json"
        temporary = file.with_name(".progress.tmp")
        temporary.write_text(codec.to_json(progress), encoding="utf-8")
        temporary.replace(file)

    def note(self, text: str) -> None:
        """Say one sentence to whoever looks on, and to the log."""
        with (self.run.step(self.step) / NOTES).open("a", encoding="utf-8") as stream:
            stream.write(f"{' '.join(text.split())}\n")


def main(arguments: list[str] | None = None) -> int:
    """Do one step. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="nightschool_daemon.learning")
    parser.add_argument("step", type=_step, choices=list(STEPS))
    parser.add_argument("run", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--seconds", type=float, help="what is left of training.time_limit_minutes, if not all")
    given = parser.parse_args(arguments)
    die_with_parent(given.parent)
    leave_terminals_to_others()
    heed()
    os.environ.update(QUIET)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    run = RunDirectory(path=given.run)
    context: WorkerContext | None = None
    try:
        context = open_context(given.step, run, given.seconds)
        _function_of(given.step)(context)
    except Terminated:
        return EXIT_TERMINATED
    except Exception as error:  # noqa: BLE001 - whatever it is, the daemon must hear of it
        _leave_failure(run.step(given.step), error, context)
        return EXIT_FAILED
    return 0


def _step(text: str) -> Step | Job:
    return Job(text) if text in set(Job) else Step(text)


def open_context(step: Step | Job, run: RunDirectory, left_s: float | None = None) -> WorkerContext:
    """Read the frozen settings and load the same plugins as the daemon, which has checked their files."""
    settings = codec.from_json(run.settings.read_bytes(), Settings)
    hooks = Hooks.load(
        plugin_directory=settings.plugin_directory,
        tables=settings.plugin_tables,
        plugins=settings.plugins,
        strikes=_strikes(settings),
        check_files=False,
    )
    return WorkerContext(step=step, run=run, info=run.read_info(), settings=settings, hooks=hooks, left_s=left_s)


def _strikes(settings: Settings) -> KnownStrikes:
    """What the ledger holds against plugins: one that failed too often is not asked in a worker either."""
    file = settings.state_directory / FILE_NAME
    if not file.exists():
        return KnownStrikes({})
    ledger = Ledger.open_read_only(file)
    try:
        return KnownStrikes(ledger.plugins.all_strikes())
    finally:
        ledger.close()


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent ends: a killed daemon leaves no worker behind."""
    if not asked_of_kernel():
        threading.Thread(target=watch_parent, args=(parent,), name="parent", daemon=True).start()
    if os.getppid() != parent:
        # the parent was gone before the lines above took effect
        os.kill(os.getpid(), signal.SIGKILL)


def asked_of_kernel() -> bool:
    """Ask Linux to kill this process when its parent ends; False: this is another system, or it does not."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0


def watch_parent(parent: int, every_s: float = PARENT_EVERY_S) -> None:
    """Return never: kill this process once its parent is another."""
    while os.getppid() == parent:
        time.sleep(every_s)
    os.kill(os.getpid(), signal.SIGKILL)


def _function_of(step: Step | Job) -> Callable[[WorkerContext], None]:
    function = importlib.import_module(STEPS[step]).run
    if not callable(function):
        raise TypeError(f"{STEPS[step]}.run is no function")
    return function  # type: ignore[no-any-return]  # the table above is the type's witness


def _leave_failure(directory: Path, error: Exception, context: WorkerContext | None) -> None:
    unreachable = isinstance(error, OllamaUnreachable) or isinstance(error.__cause__, OllamaUnreachable)
    failure = WorkerFailure(
        reason=NO_ROOM if str(error).endswith(UNMAPPED) else disk.told(error, directory),
        plugin=None if unreachable else _plugin_at_fault(error, context),
        server_unreachable=unreachable,
        traceback=traceback.format_exc(),
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "failure.json").write_text(codec.to_json(failure), encoding="utf-8")


def _plugin_at_fault(error: Exception, context: WorkerContext | None) -> PluginAtFault | None:
    if not isinstance(error, PluginFailed) or context is None:
        return None
    return PluginAtFault(name=error.plugin, content_digest=context.hooks.digest_of(error.plugin))
