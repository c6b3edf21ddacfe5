"""How a worker hears that it is to end: by SIGTERM, between two things that belong together, and not by Ctrl-C."""

import contextlib
import signal
from collections.abc import Iterator


class Terminated(BaseException):
    """SIGTERM came: a worker ends where it is."""


def heed() -> None:
    """Have SIGTERM raise `Terminated` from now on, in the main thread."""
    signal.signal(signal.SIGTERM, _terminate)


def leave_ctrl_c_to_others() -> None:
    """Have SIGINT do nothing here from now on, in the main thread, and whatever it does in programs that are started.

    A worker begins with the signal blocked, which those would inherit; of a handler they are free.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


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
