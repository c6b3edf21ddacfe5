"""Work in a process of its own, whose memory goes with it and is counted by itself, beside a server that is kept up."""

import contextlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from benchmarks import results
from support.ollama_server import OllamaServer

T = TypeVar("T")


@contextlib.contextmanager
def kept_up(server: OllamaServer) -> Iterator[None]:
    """Start a server again that went away, and end one under which a cell failed: it may hang."""
    if not server.is_running():
        try:
            server.restart()
        except RuntimeError as error:
            raise results.CellFailed(str(error)) from error
    try:
        yield
    except results.CellFailed:
        server.stop()
        raise


def answered(work: Callable[[Path], T], limit_s: float) -> T:
    """What comes of work, which is given an empty directory. Raises `CellFailed` in its place, and after so long."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as text:
        process = context.Process(target=_answer, args=(sender, work, Path(text)))
        process.start()
        sender.close()
        try:
            if not receiver.poll(limit_s):
                raise results.CellFailed(f"it took longer than {limit_s / 60:.0f} minutes and was ended")
            found: T | results.CellFailed = receiver.recv()
        except EOFError as error:
            raise results.CellFailed("its process was killed, or broke down with what is told above") from error
        finally:
            # the workers of its steps end with it
            process.kill()
            process.join()
    if isinstance(found, results.CellFailed):
        raise found
    return found


def _answer(sender: Connection, work: Callable[[Path], object], directory: Path) -> None:
    try:
        sender.send(work(directory))
    except results.CellFailed as failure:
        sender.send(failure)
