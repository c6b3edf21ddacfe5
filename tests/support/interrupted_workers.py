"""Whoever watches over a worker, in a process of its own, which may be interrupted.

python -m support.interrupted_workers <step> <run directory> [<what is started in the place of the worker>]
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from nightschool_daemon import codec
from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import RunDirectory, Step
from nightschool_daemon.ledger import FILE_NAME, Ledger
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs.context import StepContext, StopSignals
from nightschool_daemon.runs.listener import SilentListener
from nightschool_daemon.runs.worker_process import run_worker

OBSTINATE = f"""#!{sys.executable}
import pathlib, signal, time
here = pathlib.Path(__file__)
signal.signal(signal.SIGTERM, lambda *_: here.with_name("asked").open("a").write("again\\n"))
here.with_name("begun").touch()
while True:
    time.sleep(600)
"""
"""A worker that does not end when it is asked to, but writes down how often it was."""


class Notes(SilentListener):
    """Says the sentences that it hears."""

    def note(self, run_id: str, text: str) -> None:
        print(text, flush=True)


@contextmanager
def context_of(run: RunDirectory) -> Iterator[StepContext]:
    """What a step of a run is handed that has its settings, and needs no server."""
    settings = codec.from_json(run.settings.read_bytes(), Settings)
    settings.state_directory.mkdir(exist_ok=True)
    with (
        closing(Ledger.open(settings.state_directory / FILE_NAME)) as ledger,
        closing(OllamaHttp(settings.ollama)) as ollama,
    ):
        yield StepContext(
            info=run.read_info(),
            directory=run,
            settings=settings,
            ledger=ledger,
            ollama=ollama,
            hooks=Hooks.load(plugin_directory=None, tables={}, built_in=()),
            listener=Notes(),
            signals=StopSignals(cancelled=Event(), interrupted=Event()),
            clock=lambda: datetime.now(UTC),
        )


def obstinate(directory: Path) -> Path:
    """The executable of a worker that tells by files beside it that it has begun, and that it was asked to end."""
    directory.mkdir()
    file = directory / "python"
    file.write_text(OBSTINATE)
    file.chmod(0o755)
    return file


def begun(run: RunDirectory, step: Step, executable: Path | None = None) -> "subprocess.Popen[bytes]":
    """Somebody who watches over a worker, in a process group of their own as a terminal gives one to each command.

    What they hear of it is on their standard output.
    """
    command = [sys.executable, "-m", "support.interrupted_workers", step.value, str(run.path)]
    command += [str(executable)] if executable else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment(), process_group=0)


def waited_for(is_enough: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Wait until something is so, as long as a process lives."""
    while not is_enough():
        assert process.poll() is None
        time.sleep(0.005)


def ctrl_c(process: "subprocess.Popen[bytes]") -> None:
    """What a terminal does: SIGINT to all processes of the group."""
    os.killpg(process.pid, signal.SIGINT)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}


def main(arguments: list[str]) -> None:
    """Watch over a worker until its end."""
    if len(arguments) > 2:
        sys.executable = arguments[2]
    with context_of(RunDirectory(path=Path(arguments[1]))) as context:
        run_worker(context, Step(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
