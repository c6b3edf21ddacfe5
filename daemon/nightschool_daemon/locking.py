"""One process a state directory: whoever holds the lock may write the ledger."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "lock"
TRIES, BETWEEN_S = 20, 0.01
"""How often a lock is tried, and after what time again: who looks whether it is held has it for a moment."""


class LockedError(Exception):
    """Another process works on the state directory; the message names it."""


@dataclass(frozen=True, kw_only=True)
class StateLock:
    """A held lock. The kernel releases it when the process ends, however it ends."""

    descriptor: int

    @classmethod
    def take(cls, directory: Path) -> "StateLock":
        """Take the lock of a state directory. Raises `LockedError`."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = directory / FILE_NAME
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _locked(descriptor):
            holder = os.read(descriptor, 64).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise LockedError(
                f"{directory} is in use by {holder}. `nightschool status` talks to it; stop it to run another one."
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)
        return cls(descriptor=descriptor)

    def release(self) -> None:
        """Give the lock back."""
        os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)


def _locked(descriptor: int) -> bool:
    for _ in range(TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(BETWEEN_S)
    return False


def is_locked(directory: Path) -> bool:
    """Whether somebody works on a state directory; one that is not there is nobody's, and stays away."""
    try:
        descriptor = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        # shared: two who look see nothing of each other
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """A block that one process is in at a time: the others wait at its beginning."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
