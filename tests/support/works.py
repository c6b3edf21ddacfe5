"""Work that is done in a process of its own: what a child process can import, which no test module is to it."""

import os
import signal
import time
from pathlib import Path

from benchmarks.results import CellFailed


def named(directory: Path) -> str:
    return f"{directory.is_dir()}, {os.getpid() != os.getppid()}"


def hang(_: Path) -> None:
    time.sleep(600)


def die(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(_: Path) -> None:
    raise CellFailed("too few pairs")


def break_down(_: Path) -> None:
    raise ValueError("not foreseen")
