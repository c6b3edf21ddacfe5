"""Versions of specialties, and every move of an alias."""

import sqlite3
import threading
from datetime import datetime

from nightschool_daemon import codec
from nightschool_daemon.ledger.database import Database
from nightschool_daemon.ledger.rows import DeliveredFileRow, KeptLesson, MoveRow, MoveState, VersionRow, VersionState
from nightschool_hookspecs.records import DeliveryForm, MoveKind, Specialty


class Versions:
    """Table `versions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def next_number(self, specialty: Specialty) -> int:
        """A number that no version of the specialty ever had."""
        row = self._database.execute(
            "SELECT coalesce(max(number), 0) + 1 AS n FROM versions WHERE base = ? AND artifact_type = ?",
            (specialty.base, specialty.artifact_type),
        )[0]
        return int(row["n"])

    def add(self, row: VersionRow) -> None:
        """Write a new version down. Raises `LedgerError` where its tag or number is taken."""
        values = (
            row.tag,
            row.specialty.base,
            row.specialty.artifact_type,
            row.number,
            row.run_id,
            row.form.value if row.form else None,
            row.tag_digest,
            row.weights_digest,
            row.base_tag_digest,
            row.base_weights_digest,
            row.state.value,
            row.created_at.isoformat(),
            codec.to_json(row.files),
            codec.to_json(row.lesson),
        )
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def get(self, tag: str) -> VersionRow | None:
        """A version by its tag."""
        return self._first("tag = ?", tag)

    def by_digest(self, tag_digest: str) -> VersionRow | None:
        """The version whose tag has this manifest digest: a promoted one before others, then the newest."""
        found = self._all("tag_digest = ? AND tag_digest != ''", tag_digest)
        return next((one for one in found if one.state is VersionState.PROMOTED), found[0] if found else None)

    def of_specialty(self, specialty: Specialty) -> tuple[VersionRow, ...]:
        """Every version of a specialty, newest first."""
        return self._all("base = ? AND artifact_type = ?", specialty.base, specialty.artifact_type)

    def lineage(self, tag: str) -> tuple[str, ...]:
        """A version and those that it was examined against, one after the other, back to the base; none for a base."""
        rows = self._database.execute(
            """
            WITH RECURSIVE line (tag) AS (
                SELECT ? UNION
                SELECT e.incumbent FROM line JOIN versions v USING (tag) JOIN evidence e USING (run_id))
            SELECT tag FROM line JOIN versions USING (tag)
            """,
            (tag,),
        )
        return tuple(row["tag"] for row in rows)

    def in_state(self, state: VersionState) -> tuple[VersionRow, ...]:
        """Every version in a state, newest first."""
        return self._all("state = ?", state.value)

    def set_state(self, tag: str, state: VersionState) -> None:
        """Note what became of a version."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE versions SET state = ? WHERE tag = ?", (state.value, tag))

    def set_digests(self, tag: str, tag_digest: str, weights_digest: str) -> None:
        """Note what was read back from Ollama."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE versions SET tag_digest = ?, weights_digest = ? WHERE tag = ?",
                (tag_digest, weights_digest, tag),
            )

    def set_lesson(self, tag: str, lesson: KeptLesson) -> None:
        """Note how much of what was learned is in a version."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE versions SET lesson = ? WHERE tag = ?", (codec.to_json(lesson), tag))

    def latest(self, limit: int) -> tuple[VersionRow, ...]:
        """The newest versions of all specialties, newest first."""
        rows = self._database.execute("SELECT * FROM versions ORDER BY created_at DESC, tag DESC LIMIT ?", (limit,))
        return tuple(_version(row) for row in rows)

    def _first(self, condition: str, *values: object) -> VersionRow | None:
        found = self._all(condition, *values)
        return found[0] if found else None

    def _all(self, condition: str, *values: object) -> tuple[VersionRow, ...]:
        statement = f"SELECT * FROM versions WHERE {condition} ORDER BY number DESC"
        return tuple(_version(row) for row in self._database.execute(statement, values))


class Moves:
    """Table `moves`: an intent is written before an alias is touched."""

    lock: threading.RLock
    """Who moves an alias holds it: runs, feedback and commands do so in threads of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lock = threading.RLock()

    def intend(self, row: MoveRow) -> int:
        """Write an intent down and return its id."""
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO moves (kind, alias, from_digest, to_digest, from_tag, to_tag, reason, run_id, "
                "intended_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.kind.value,
                    row.alias,
                    row.from_digest,
                    row.to_digest,
                    row.from_tag,
                    row.to_tag,
                    row.reason,
                    row.run_id,
                    row.intended_at.isoformat(),
                    MoveState.INTENDED.value,
                ),
            )
            return int(cursor.lastrowid or 0)

    def done(self, identifier: int, at: datetime) -> None:
        """The alias was read back and holds the destination."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE moves SET state = ?, done_at = ? WHERE id = ?",
                (MoveState.DONE.value, at.isoformat(), identifier),
            )

    def abandon(self, identifier: int, at: datetime, reason: str) -> None:
        """The move was given up."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE moves SET state = ?, done_at = NULL, "
                "reason = reason || ' (given up at ' || ? || ': ' || ? || ')' WHERE id = ?",
                (MoveState.ABANDONED.value, at.isoformat(timespec="seconds"), reason, identifier),
            )

    def unfinished(self) -> tuple[MoveRow, ...]:
        """Moves that were intended and not finished, oldest first."""
        return self._all("state = ? ORDER BY id", MoveState.INTENDED.value)

    def history(self, alias: str, limit: int) -> tuple[MoveRow, ...]:
        """The moves of an alias, newest first."""
        return self._all("alias = ? ORDER BY id DESC LIMIT ?", alias, limit)

    def latest(self, limit: int) -> tuple[MoveRow, ...]:
        """The moves of all aliases, newest first."""
        return self._all("1 ORDER BY id DESC LIMIT ?", limit)

    def of_run(self, run_id: str) -> tuple[MoveRow, ...]:
        """The finished moves that a run made, oldest first."""
        return self._all("run_id = ? AND state = ? ORDER BY id", run_id, MoveState.DONE.value)

    def last_done(self, alias: str) -> MoveRow | None:
        """The last finished move of an alias."""
        found = self._all("alias = ? AND state = ? ORDER BY id DESC LIMIT 1", alias, MoveState.DONE.value)
        return found[0] if found else None

    def _all(self, condition: str, *values: object) -> tuple[MoveRow, ...]:
        statement = f"SELECT * FROM moves WHERE {condition}"
        return tuple(_move(row) for row in self._database.execute(statement, values))


def _version(row: sqlite3.Row) -> VersionRow:
    return VersionRow(
        tag=row["tag"],
        specialty=Specialty(base=row["base"], artifact_type=row["artifact_type"]),
        number=row["number"],
        run_id=row["run_id"],
        form=DeliveryForm(row["form"]) if row["form"] else None,
        tag_digest=row["tag_digest"],
        weights_digest=row["weights_digest"],
        base_tag_digest=row["base_tag_digest"],
        base_weights_digest=row["base_weights_digest"],
        state=VersionState(row["state"]),
        created_at=datetime.fromisoformat(row["created_at"]),
        files=codec.from_json(row["files"], tuple[DeliveredFileRow, ...]),
        lesson=codec.from_json(row["lesson"], KeptLesson),
    )


def _move(row: sqlite3.Row) -> MoveRow:
    return MoveRow(
        id=row["id"],
        kind=MoveKind(row["kind"]),
        alias=row["alias"],
        from_digest=row["from_digest"],
        to_digest=row["to_digest"],
        from_tag=row["from_tag"],
        to_tag=row["to_tag"],
        reason=row["reason"],
        run_id=row["run_id"],
        intended_at=datetime.fromisoformat(row["intended_at"]),
        done_at=datetime.fromisoformat(row["done_at"]) if row["done_at"] else None,
        state=MoveState(row["state"]),
    )
