"""What the exams of a specialty have shown, kept from night to night."""

from collections.abc import Sequence

from nightschool_daemon.ledger.database import Database
from nightschool_daemon.ledger.rows import MoveState
from nightschool_hookspecs.records import CountedItem, Evidence, MoveKind, Recipe, Specialty


class EvidenceBook:
    """Tables `evidence` and `evidence_items`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def so_far(self, specialty: Specialty, incumbent: str, recipe: Recipe = Recipe.TRAINING) -> Evidence:
        """What is known of candidates of one recipe against this incumbent.

        A promotion ends what its evidence was for. What was asked stays used: an incumbent that an undo brought back
        was already seen losing on these items, and would lose on them again.
        """
        against = (specialty.base, specialty.artifact_type, incumbent, recipe.value)
        last = self._database.execute(
            "SELECT log_e_value FROM evidence e JOIN runs r ON r.id = e.run_id "
            "WHERE e.base = ? AND e.artifact_type = ? AND e.incumbent = ? AND r.recipe = ? AND NOT e.settled "
            "ORDER BY r.started_at DESC, r.rowid DESC LIMIT 1",
            against,
        )
        items = self._database.execute(
            "SELECT i.key, i.gain, e.settled FROM evidence e JOIN evidence_items i USING (run_id) "
            "JOIN runs r ON r.id = e.run_id "
            "WHERE e.base = ? AND e.artifact_type = ? AND e.incumbent = ? AND r.recipe = ? "
            "ORDER BY r.started_at, r.rowid, i.position",
            against,
        )
        return Evidence(
            log_e_value=last[0]["log_e_value"] if last else 0.0,
            counted=tuple(
                CountedItem(key=row["key"], gain=row["gain"])
                for row in items
                if row["gain"] is not None and not row["settled"]
            ),
            used=tuple(dict.fromkeys(row["key"] for row in items)),
        )

    def store(
        self,
        run_id: str,
        specialty: Specialty,
        incumbent: str,
        *,
        log_e_value: float,
        asked: Sequence[str],
        counted: Sequence[CountedItem],
    ) -> None:
        """Store what a run's exam asked and what it showed. Storing it again replaces it.

        `log_e_value` goes on from what was known when the run began. A promotion since then has ended that.
        """
        gains = {one.key: one.gain for one in counted}
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM evidence_items WHERE run_id = ?", (run_id,))
            connection.execute(
                f"INSERT INTO evidence VALUES (?, ?, ?, ?, ?, {_PROMOTED_SINCE}) "
                "ON CONFLICT DO UPDATE SET incumbent = excluded.incumbent, log_e_value = excluded.log_e_value",
                (
                    run_id,
                    specialty.base,
                    specialty.artifact_type,
                    incumbent,
                    log_e_value,
                    specialty.base,
                    specialty.artifact_type,
                    run_id,
                ),
            )
            connection.executemany(
                "INSERT INTO evidence_items VALUES (?, ?, ?, ?)",
                [(run_id, key, number, gains.get(key)) for number, key in enumerate(dict.fromkeys(asked))],
            )

    def settle(self, specialty: Specialty) -> None:
        """A version was promoted: whatever was shown before has done its work. Idempotent."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE evidence SET settled = 1 WHERE base = ? AND artifact_type = ?",
                (specialty.base, specialty.artifact_type),
            )


_PROMOTED_SINCE = f"""EXISTS (
SELECT 1 FROM moves m JOIN versions v ON v.tag = m.to_tag JOIN runs r ON m.done_at >= r.started_at
WHERE m.kind = '{MoveKind.PROMOTE.value}' AND m.state = '{MoveState.DONE.value}'
  AND v.base = ? AND v.artifact_type = ? AND r.id = ?)"""
"""Whether a version of a specialty was promoted since a run began."""
