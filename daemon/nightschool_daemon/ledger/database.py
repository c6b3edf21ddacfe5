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
PRIMARY_CODE = 0xFF
"""SQLite keeps the details of an error in the higher bits."""


class Database:
    """A connection that several threads share, one statement or transaction at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path
        self._lock = threading.RLock()
        self._failure: str | None = None
        """What the disk said when a write failed: after that nothing is known of what is on it."""

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Open for writing, create and migrate where needed. Raises `LedgerError`."""
        path = path.absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            database = cls(_connect(path.as_uri()), path)
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"{path} cannot be opened: {error}. See to its directory's permissions.") from error
        try:
            database._prepare(path)
        except sqlite3.Error as error:
            database.close()
            raise LedgerError(f"{path} cannot be opened: {error}. A copy of it is your history; keep one.") from error
        except LedgerError:
            database.close()
            raise
        return database

    @classmethod
    def open_read_only(cls, path: Path) -> "Database":
        """Open for reading; never writes. Raises `LedgerError`."""
        path = path.absolute()
        if not path.is_file():
            raise LedgerError(f"{path} does not exist yet. `nightschool serve` or `nightschool run` makes it.")
        try:
            database = cls(_connect(f"{path.as_uri()}?mode=ro"), path)
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
            self._refuse_after_failure()
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
                self._note_failure(error)
                raise LedgerError(
                    f"the ledger could not be written: {error}. See to it that the disk of {self._path.parent} has "
                    "room and can be written to."
                ) from error

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

    def _note_failure(self, error: sqlite3.Error) -> None:
        # after a failed fsync the kernel may take lost pages for written: trying again would hide the loss
        if getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE == sqlite3.SQLITE_IOERR:
            self._failure = str(error)

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise LedgerError(
                f"the ledger is not written any more, because the disk of {self._path.parent} failed "
                f"({self._failure}). Look at the disk, then start Night School again."
            )

    def _prepare(self, path: Path) -> None:
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = FULL")
        self.execute("PRAGMA foreign_keys = ON")
        self._migrate(path)

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
