"""How a worker hears that it is to end: by SIGTERM, between two things that belong together, not by its terminal."""

import contextlib
import signal
from collections.abc import Iterator

from nightschool_daemon.jobs import OF_TERMINALS


class Terminated(BaseException):
    """SIGTERM came: a worker ends where it is."""


def heed() -> None:
    """Have SIGTERM raise `Terminated` from now on, in the main thread."""
    signal.signal(signal.SIGTERM, _terminate)


def leave_terminals_to_others() -> None:
    """Have their signals do nothing here from now on, in the main thread, and whatever they do in programs below.

    A worker begins with them blocked, which those would inherit; of a handler they are free.
    """
    for one in OF_TERMINALS:
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_TERMINALS)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """What is done in the block is done as a whole: a SIGTERM that comes meanwhile counts at its end."""
    came: list[int] = []
    usual = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)
    if came:
        signal.raise_signal(signal.SIGTERM)


def _terminate(_signal: int, _frame: object) -> None:
    raise Terminated
