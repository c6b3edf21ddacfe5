"""Work in a process of its own, which may be killed, and SIGTERM as a worker hears it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nightschool_daemon.learning.termination import heed

FORK = multiprocessing.get_context("fork")
Counts = Callable[[str, tuple[object, ...]], bool]
"""Whether an audit event and its arguments are one of those that are counted."""


@contextmanager
def heeding() -> Iterator[None]:
    """Where SIGTERM is what it is to a worker."""
    before = signal.getsignal(signal.SIGTERM)
    heed()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code_of(work: Callable[[], object]) -> int | None:
    """Do some work in a fork of this process. Returns with what it ended; less than 0: by which signal."""
    process = FORK.Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def killed(work: Callable[[], object], at: int, counts: Counts) -> bool:
    """Do some work in a process that is killed at the n-th event of a kind, from 0. Whether it came so far."""

    def run() -> None:
        left = [at]

        def heard(event: str, arguments: tuple[object, ...]) -> None:
            if counts(event, arguments):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(heard)
        work()
        os._exit(0)

    code = exit_code_of(run)
    assert code in (0, -signal.SIGKILL)
    return code != 0
