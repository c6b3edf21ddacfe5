"""Runs and their steps."""

import sqlite3
from datetime import datetime
from pathlib import Path

from nightschool_daemon.jobs import Step
from nightschool_daemon.ledger.database import Database
from nightschool_daemon.ledger.rows import RunRow, StepRow, StepState
from nightschool_hookspecs.records import Recipe, RunEnd, Specialty


class Runs:
    """Tables `runs` and `steps`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, row: RunRow) -> None:
        """Write a new run down."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO runs (id, base, artifact_type, seed, reason, started_at, directory, recipe) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.id,
                    row.specialty.base,
                    row.specialty.artifact_type,
                    row.seed,
                    row.reason,
                    row.started_at.isoformat(),
                    str(row.directory),
                    row.recipe.value,
                ),
            )

    def get(self, run_id: str) -> RunRow | None:
        """A run by its id."""
        rows = self._database.execute("SELECT * FROM runs WHERE id = ?", (run_id,))
        return _run(rows[0]) if rows else None

    def latest(
        self, limit: int, specialty: Specialty | None = None, recipe: Recipe | None = None
    ) -> tuple[RunRow, ...]:
        """The newest runs, of one specialty or of all, of one recipe or of all, newest first."""
        rows = self._database.execute(
            "SELECT * FROM runs WHERE (? OR (base = ? AND artifact_type = ?)) AND (? OR recipe = ?) "
            "ORDER BY started_at DESC, rowid DESC LIMIT ?",
            (
                specialty is None,
                specialty.base if specialty else "",
                specialty.artifact_type if specialty else "",
                recipe is None,
                recipe.value if recipe else "",
                limit,
            ),
        )
        return tuple(_run(row) for row in rows)

    def newest_first(self) -> tuple[RunRow, ...]:
        """Every run."""
        return tuple(map(_run, self._database.execute("SELECT * FROM runs ORDER BY started_at DESC, rowid DESC")))

    def unfinished(self) -> tuple[RunRow, ...]:
        """Runs without an end, oldest first."""
        rows = self._database.execute("SELECT * FROM runs WHERE end IS NULL ORDER BY started_at, id")
        return tuple(_run(row) for row in rows)

    def finish(self, run_id: str, end: RunEnd, reason: str, at: datetime) -> None:
        """Write down how a run ended."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE runs SET end = ?, outcome_reason = ?, finished_at = ? WHERE id = ?",
                (end.value, reason, at.isoformat(), run_id),
            )

    def begin_step(self, run_id: str, step: Step, input_digest: str, at: datetime) -> None:
        """A step begins, or begins again."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO steps (run_id, step, state, attempt, input_digest, started_at) VALUES (?, ?, ?, 1, ?, ?) "
                "ON CONFLICT DO UPDATE SET state = excluded.state, attempt = attempt + 1, output_digest = NULL, "
                "input_digest = excluded.input_digest, started_at = excluded.started_at, finished_at = NULL, "
                "reason = ''",
                (run_id, step.value, StepState.RUNNING.value, input_digest, at.isoformat()),
            )

    def finish_step(self, run_id: str, step: Step, output_digest: str, at: datetime) -> None:
        """A step's result is there."""
        self._end_step(run_id, step, StepState.DONE, output_digest, "", at)

    def fail_step(self, run_id: str, step: Step, reason: str, at: datetime) -> None:
        """A step failed."""
        self._end_step(run_id, step, StepState.FAILED, None, reason, at)

    def steps(self, run_id: str) -> tuple[StepRow, ...]:
        """The steps of a run in their order."""
        rows = self._database.execute("SELECT * FROM steps WHERE run_id = ?", (run_id,))
        order = list(Step)
        return tuple(sorted((_step(row) for row in rows), key=lambda one: order.index(one.step)))

    def _end_step(
        self, run_id: str, step: Step, state: StepState, output_digest: str | None, reason: str, at: datetime
    ) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE steps SET state = ?, output_digest = ?, reason = ?, finished_at = ? "
                "WHERE run_id = ? AND step = ?",
                (state.value, output_digest, reason, at.isoformat(), run_id, step.value),
            )


def _run(row: sqlite3.Row) -> RunRow:
    return RunRow(
        id=row["id"],
        specialty=Specialty(base=row["base"], artifact_type=row["artifact_type"]),
        seed=row["seed"],
        reason=row["reason"],
        started_at=datetime.fromisoformat(row["started_at"]),
        finished_at=datetime.fromisoformat(row["finished_at"]) if row["finished_at"] else None,
        end=RunEnd(row["end"]) if row["end"] else None,
        outcome_reason=row["outcome_reason"],
        directory=Path(row["directory"]),
        recipe=Recipe(row["recipe"]),
    )


def _step(row: sqlite3.Row) -> StepRow:
    return StepRow(
        step=Step(row["step"]),
        state=StepState(row["state"]),
        attempt=row["attempt"],
        input_digest=row["input_digest"],
        output_digest=row["output_digest"],
        started_at=datetime.fromisoformat(row["started_at"]),
        finished_at=datetime.fromisoformat(row["finished_at"]) if row["finished_at"] else None,
        reason=row["reason"],
    )
