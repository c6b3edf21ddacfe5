"""The ledger: one SQLite file with everything that must survive."""

from pathlib import Path

from nightschool_daemon.ledger.database import Database
from nightschool_daemon.ledger.events import POOLED_TYPE, POSITIVE, Events, FileRow
from nightschool_daemon.ledger.evidence import EvidenceBook
from nightschool_daemon.ledger.exams import Exams
from nightschool_daemon.ledger.keeping import Bases, Facts, Plugins
from nightschool_daemon.ledger.rows import (
    WAS_IN_USE,
    AddResult,
    Agreement,
    AnsweredRow,
    DeliveredFileRow,
    DisabledPlugin,
    IncomingEvent,
    KeptLesson,
    LedgerError,
    MoveRow,
    MoveState,
    RunRow,
    SpecialtyCount,
    StepRow,
    StepState,
    VersionRow,
    VersionState,
)
from nightschool_daemon.ledger.runs import Runs
from nightschool_daemon.ledger.versions import Moves, Versions

FILE_NAME = "ledger.sqlite3"


class Ledger:
    """The open ledger, one attribute a subject. Several threads may use it."""

    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self.events = Events(database, directory)
        self.runs = Runs(database)
        self.versions = Versions(database)
        self.moves = Moves(database)
        self.exams = Exams(database)
        self.evidence = EvidenceBook(database)
        self.bases = Bases(database)
        self.plugins = Plugins(database)
        self.facts = Facts(database)

    @classmethod
    def open(cls, path: Path) -> "Ledger":
        """Open for writing; create and migrate where needed. Raises `LedgerError`."""
        return cls(Database.open(path), path.parent)

    @classmethod
    def open_read_only(cls, path: Path) -> "Ledger":
        """Open for reading beside a daemon that writes. Raises `LedgerError`."""
        return cls(Database.open_read_only(path), path.parent)

    def close(self) -> None:
        """Close the file."""
        self._database.close()


__all__ = [
    "FILE_NAME",
    "POOLED_TYPE",
    "POSITIVE",
    "WAS_IN_USE",
    "AddResult",
    "Agreement",
    "AnsweredRow",
    "DeliveredFileRow",
    "DisabledPlugin",
    "FileRow",
    "IncomingEvent",
    "KeptLesson",
    "Ledger",
    "LedgerError",
    "MoveRow",
    "MoveState",
    "RunRow",
    "SpecialtyCount",
    "StepRow",
    "StepState",
    "VersionRow",
    "VersionState",
]
