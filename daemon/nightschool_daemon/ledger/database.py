"""The SQLite file: one writing connection behind a lock, durable at every commit."""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nightschool_daemon.ledger.migrations import MIGRATIONS
from nightschool_daemon.ledger.rows import LedgerError

BUSY_TIMEOUT_S = 10.0


class Database:
    """A connection that several threads share, one statement or transaction at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Open for writing, create and migrate where needed. Raises `LedgerError`."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            database = cls(_connect(path.as_uri()))
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            database._migrate(path)
        except sqlite3.Error as error:
            raise LedgerError(f"{path} cannot be opened: {error}. A copy of it is your history; keep one.") from error
        return database

    @classmethod
    def open_read_only(cls, path: Path) -> "Database":
        """Open for reading; never writes. Raises `LedgerError`."""
        if not path.is_file():
            raise LedgerError(f"{path} does not exist yet. `nightschool serve` or `nightschool run` makes it.")
        try:
            database = cls(_connect(f"{path.as_uri()}?mode=ro"))
            _refuse_newer(path, database.version())
        except sqlite3.Error as error:
            raise LedgerError(f"{path} cannot be read: {error}") from error
        return database

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: durable when the block is left, undone where it raises.

        Raises `LedgerError` where it could not be made durable, such as on a full disk.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    self._connection.rollback()
                    raise
                self._connection.commit()
            except sqlite3.IntegrityError as error:
                raise LedgerError(f"the ledger refuses this: {error}") from error
            except sqlite3.Error as error:
                self._undo()
                raise LedgerError(f"the ledger could not be written: {error}. Is the disk full?") from error

    def execute(self, statement: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Run one statement and return its rows."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def version(self) -> int:
        """How many migrations were applied."""
        return int(self.execute("PRAGMA user_version")[0][0])

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.rollback()

    def _migrate(self, path: Path) -> None:
        version = self.version()
        _refuse_newer(path, version)
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            with self._lock:
                self._connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _refuse_newer(path: Path, version: int) -> None:
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{path} was written by a newer Night School (schema {version}, this one knows {len(MIGRATIONS)}). "
            "Install that version again."
        )
