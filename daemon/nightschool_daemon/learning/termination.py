"""How a worker hears that it is to end: by SIGTERM, between two things that belong together."""

import contextlib
import signal
from collections.abc import Iterator


class Terminated(BaseException):
    """SIGTERM came: a worker ends where it is."""


def heed() -> None:
    """Have SIGTERM raise `Terminated` from now on, in the main thread."""
    signal.signal(signal.SIGTERM, _terminate)


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
