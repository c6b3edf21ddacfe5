"""The disks that a run writes to: what it takes of them, and when what was written is on them."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def delivered_bytes(place: Path, run: Path, base: Path, version_bytes: int) -> int:
    """What a version of a base takes of the disk that a place is on.

    That are its bytes in the run's directory, and as many in Ollama's store, where the base is.
    """
    device = place.stat().st_dev
    return version_bytes * sum(one.stat().st_dev == device for one in (run, base.parent))


def sync(path: Path) -> None:
    """Wait until a file or a directory's list of files is on the disk: what relies on it must not get there before."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """Where a directory's files are written: it gets its name, in place of an earlier one, with all on the disk."""
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    for file in temporary.iterdir():
        sync(file)
    sync(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
    sync(directory.parent)


def told(error: Exception, place: Path, advice: str = "") -> str:
    """An error in a sentence; that of a disk with what can be done.

    `place`: what was written to, where the error does not say. `advice`: what would take less of a full disk.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: {error}. Free some space on the disk of {error.filename or place}{advice}."
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return f"{error.filename or place} is on a disk that is mounted for reading alone. Mount it for writing."
    return str(error) or type(error).__name__
