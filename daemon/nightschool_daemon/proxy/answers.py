"""Which version answered which conversation, and when: what feedback that names the alias alone is told apart by.

A small SQLite file beside the ledger that the proxy alone writes. It holds digests, no texts.
"""

import logging
import queue
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nightschool_daemon.proxy.conversation import Conversation
from nightschool_daemon.proxy.routes import directory_of

logger = logging.getLogger(__name__)

FILE_NAME = "answers.sqlite3"
FORGET_EVERY = timedelta(hours=1)
LATE = timedelta(minutes=1)
"""Clocks of applications may be a little behind."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    said TEXT NOT NULL,
    who TEXT NOT NULL,
    alias TEXT NOT NULL,
    version TEXT NOT NULL,
    at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS answers_by_conversation ON answers (said);
CREATE INDEX IF NOT EXISTS answers_by_time ON answers (at);
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer that the proxy passed on."""

    conversation: Conversation
    alias: str
    version: str
    at: datetime


class AnswerLog:
    """Writes answers down in a thread of its own; no request waits for the disk."""

    def __init__(self, state_directory: Path, keep_days: float) -> None:
        self._state_directory = state_directory
        self._keep = timedelta(days=keep_days)
        self._forgot = datetime.min.replace(tzinfo=UTC)
        self._queue: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="answers", daemon=True)

    def start(self, now: datetime) -> None:
        """Open the file, and forget what is too old."""
        with closing(_connect(self._state_directory)) as connection:
            self._forget(connection, now)
        self._thread.start()

    def put(self, answer: Answer) -> None:
        """Have an answer written down soon."""
        self._queue.put(answer)

    def stop(self) -> None:
        """Write what waits, then end."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        with closing(_connect(self._state_directory)) as connection:
            while (answer := self._queue.get()) is not None:
                try:
                    self._put_down(connection, answer)
                except sqlite3.Error:
                    # feedback that names the alias alone then counts for nobody
                    logger.exception("It could not be written down which version answered")

    def _put_down(self, connection: sqlite3.Connection, answer: Answer) -> None:
        conversation = answer.conversation
        connection.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?)",
            (conversation.said, conversation.who, answer.alias, answer.version, answer.at.isoformat()),
        )
        if answer.at - self._forgot > FORGET_EVERY:
            self._forget(connection, answer.at)

    def _forget(self, connection: sqlite3.Connection, now: datetime) -> None:
        connection.execute("DELETE FROM answers WHERE at < ?", ((now - self._keep).isoformat(),))
        self._forgot = now


class Answers:
    """What the proxy wrote down, as the daemon reads it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def version_of(self, alias: str, conversation: Conversation, *, since: datetime, until: datetime) -> str | None:
        """The version that answered a conversation within a time; None where none did, or several."""
        rows = self._connection.execute(
            "SELECT DISTINCT version, who FROM answers WHERE said = ? AND alias = ? AND at >= ? AND at <= ?",
            (conversation.said, alias, since.isoformat(), (until + LATE).isoformat()),
        ).fetchall()
        same_person = _only(version for version, who in rows if who == conversation.who)
        return same_person or _only(version for version, _ in rows)


@contextmanager
def open_answers(state_directory: Path) -> Iterator[Answers]:
    """Open what the proxy wrote down."""
    with closing(_connect(state_directory)) as connection:
        yield Answers(connection)


def _only(versions: Iterable[str]) -> str | None:
    different = set(versions)
    return different.pop() if len(different) == 1 else None


def _connect(state_directory: Path) -> sqlite3.Connection:
    file = directory_of(state_directory) / FILE_NAME
    connection = sqlite3.connect(file, timeout=10.0, isolation_level=None)
    file.chmod(0o600)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(SCHEMA)
    return connection
