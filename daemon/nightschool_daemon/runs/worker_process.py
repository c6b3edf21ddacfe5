"""Starts the child process of a heavy step and watches over it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.jobs import (
    KEEPS_ITS_WORK,
    NOTES,
    OF_TERMINALS,
    Job,
    Progress,
    RunDirectory,
    Step,
    WorkerFailure,
)
from nightschool_daemon.ollama.errors import OllamaUnreachable
from nightschool_daemon.plans import duration
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import RunInterrupted, StepFailed, TimeUp, WorkerKilled

POLL_S = 0.1
GRACE_S = 120.0
"""How long a worker may take to end after SIGTERM: a training writes its last step, and at the end of an epoch the best
one before, which of a large model takes most of a minute."""
CLEARING_S = 5.0
"""How long one may take that is not waited for: it may have a tag in Ollama by which it tries what the server takes."""
WAITING = {"GOMP_SPINCOUNT": "2000"}
"""Threads of libgomp, torch's OpenMP on Linux, stay awake for tens of microseconds between two pieces of work, not for
milliseconds. Where others compute on the same cores, as Ollama does, they would hold up the very thread that they wait
for: beside such a load SmolLM2 learned 11 to 23 tokens a second, and so 59 to 67."""
SAYS_HOW = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Where the environment has one of these, it says how they wait."""
MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 26),
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
}
"""glibc gives tensors of a megabyte and more back when they go, beyond the room that a training's heap has for them, in
place of keeping holes between rows of unlike length, and oneDNN, and torch above it, keep the kernels of the last
lengths alone, of which each leaves some 15 MB behind else. SmolLM2 on rows of 512 tokens took 1.9 GB without, and so
1.45."""


def environment() -> dict[str, str]:
    """What a worker is started with. What the environment says already is left to it."""
    waiting = {} if any(name in os.environ for name in SAYS_HOW) else WAITING
    return {**waiting, **MEMORY, **os.environ}


def _nothing() -> None:
    pass


def run_worker(
    context: StepContext, step: Step, *, limit_s: float | None = None, before_again: Callable[[], None] = _nothing
) -> None:
    """Run a step in a child process and return when its result is there.

    The child dies with this process. Where the run goes on later it keeps what it can before. One that is killed, as
    for want of memory, gets a second try in the time that is left: a training goes on from its checkpoint, planned anew
    for the memory that there is then. `before_again` is called before it. Raises `WorkerKilled` where that is killed
    too; `TimeUp` after `limit_s`; `StepFailed` with the worker's reason, or without a limit of its own after
    training.time_limit_minutes; `OllamaUnreachable` where the worker lost the server, `RunCancelled` and
    `RunInterrupted`.
    """
    began = time.monotonic()
    try:
        _run_once(context, step, limit_s, began)
    except WorkerKilled as killed:
        context.note(f"{killed} It is tried once more{', from what it kept' if step in KEEPS_ITS_WORK else ''}.")
        context.directory.begin(step)
        before_again()
        _run_once(context, step, limit_s, began)


def _run_once(context: StepContext, step: Step, limit_s: float | None, began: float) -> None:
    # what a worker said before it was killed has been told
    (context.directory.step(step) / NOTES).unlink(missing_ok=True)
    left_s = context.settings.training.time_limit_s - (time.monotonic() - began)
    with _started(context.directory, step, left_s) as process:
        try:
            _watch(process, context, step, limit_s, began)
        except (RunInterrupted, KeyboardInterrupt) as asked:
            _ask_to_end(process, context, step, asked)
            raise
    _require_result(process, context.directory, step)


Report = Callable[[int, int, str], None]
"""How much is done, of how much, and what is being done."""


def _unheard(_done: int, _total: int, _text: str) -> None:
    pass


def run_job(directory: RunDirectory, job: Job, report: Report = _unheard, *, limit_s: float | None = None) -> None:
    """Do what is no step of a run in a child process, and return when its result is there.

    Raises `StepFailed` with the worker's reason, or after `limit_s`; `OllamaUnreachable` where it lost the server.
    """
    shown: str | None = None
    began = time.monotonic()
    with _started(directory, job) as process:
        while process.poll() is None:
            time.sleep(POLL_S)
            if limit_s is not None and time.monotonic() - began > limit_s:
                raise StepFailed(f"{job} took longer than {limit_s:g} s and was ended.")
            shown = _report_progress(directory.step(job), shown, report)
    _require_result(process, directory, job)


@contextlib.contextmanager
def _started(
    directory: RunDirectory, step: Step | Job, left_s: float | None = None
) -> "Iterator[subprocess.Popen[bytes]]":
    """A worker that is at its end, or ended, when the block is left.

    `left_s`: the time that it has; None: training.time_limit_minutes.
    """
    command = [sys.executable, "-m", "nightschool_daemon.learning", step.value, str(directory.path)]
    command += ["--parent", str(os.getpid())]
    if left_s is not None:
        command += ["--seconds", f"{left_s:.1f}"]
    with (directory.step(step) / "worker.log").open("ab") as log:
        with _without_terminal():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment())
        try:
            yield process
        finally:
            _end(process)


@contextlib.contextmanager
def _without_terminal() -> Iterator[None]:
    """Who is started in the block gets a terminal's signals when it asks for them: we end our workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_TERMINALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _require_result(process: "subprocess.Popen[bytes]", directory: RunDirectory, step: Step | Job) -> None:
    if process.returncode != 0 or not directory.is_done(step):
        raise _failure(directory.step(step), process.returncode, step)


def _watch(
    process: "subprocess.Popen[bytes]", context: StepContext, step: Step, own_limit_s: float | None, began: float
) -> None:
    limit_s = context.settings.training.time_limit_s if own_limit_s is None else own_limit_s
    directory = context.directory.step(step)
    report = partial(context.listener.progress, context.info.id, step)
    shown: str | None = None
    told = 0
    while process.poll() is None:
        context.signals.wait(POLL_S)
        shown = _report_progress(directory, shown, report)
        told = _tell_notes(context, step, told)
        if time.monotonic() - began > limit_s:
            raise (StepFailed if own_limit_s is None else TimeUp)(
                f"{step} took longer than {duration(limit_s)} and was ended. Raise training.time_limit_minutes, "
                "or lower training.max_tokens."
            )
    _report_progress(directory, shown, report)
    _tell_notes(context, step, told)


def _ask_to_end(
    process: "subprocess.Popen[bytes]", context: StepContext, step: Step, asked: RunInterrupted | KeyboardInterrupt
) -> None:
    process.terminate()
    if isinstance(asked, KeyboardInterrupt):
        then = "ends when what it has is kept" if step in KEEPS_ITS_WORK else "ends, and is done again the next time"
        context.note(f"{step} {then}. Ctrl-C again ends it at once.")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a worker whose work is not wanted any more; what it made in Ollama it may take away before."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(CLEARING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _report_progress(directory: Path, shown: str | None, report: Report) -> str | None:
    """Tell what `progress.json` says, if it says something new."""
    try:
        text = (directory / "progress.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return shown
    if text != shown:
        progress = codec.from_json(text, Progress)
        report(progress.done, progress.total, progress.text)
    return text


def _tell_notes(context: StepContext, step: Step, told: int) -> int:
    """Tell the listener the sentences that are new and whole. Returns how many bytes were told."""
    try:
        with (context.directory.step(step) / NOTES).open("rb") as stream:
            stream.seek(told)
            whole, end, _ = stream.read().rpartition(b"\n")
    except FileNotFoundError:
        return told
    for line in whole.decode().splitlines():
        context.note(f"{step}: {line}")
    return told + len(whole) + len(end)


def _failure(directory: Path, code: int, step: Step | Job) -> Exception:
    log = directory / "worker.log"
    try:
        failure = codec.from_json((directory / "failure.json").read_bytes(), WorkerFailure)
    except (FileNotFoundError, codec.CodecError):
        # a full disk, too, takes no reason
        if code == -signal.SIGKILL:
            return WorkerKilled(f"{step} was killed, likely because memory ran out. Close what uses it.")
        return StepFailed(f"{step} ended with code {code} and left no result. Its log is {log}.")
    if failure.server_unreachable:
        return OllamaUnreachable(failure.reason)
    return StepFailed(failure.reason, plugin=failure.plugin)
