"""A secret of the installation, by which it tells again what it wrote down in no readable form."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from nightschool_daemon.disk import sync

FILE_NAME = "secret"
BYTES = 32


def secret_of(directory: Path) -> bytes:
    """The secret in a directory, made where there is none: whoever comes first, it is everybody's.

    It is on the disk when this returns, before anything that nothing else could make sense of.
    """
    file = directory / FILE_NAME
    if not file.is_file():
        # 0600, and whole under its name or not there
        with tempfile.NamedTemporaryFile(dir=directory) as fresh:
            fresh.write(secrets.token_bytes(BYTES))
            fresh.flush()
            os.fsync(fresh.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(fresh.name, file)
        sync(directory)
    return _whole(file)


def read_secret(directory: Path) -> bytes:
    """The same; empty where there is none, as nothing was written by it yet."""
    file = directory / FILE_NAME
    return _whole(file) if file.is_file() else b""


def _whole(file: Path) -> bytes:
    found = file.read_bytes()
    if len(found) != BYTES:
        raise OSError(
            f"{file} has {len(found)} bytes in place of {BYTES}. Put the one back that was kept with the ledger"
        )
    return found
