"""Exam items, answers and verdicts of runs."""

from collections.abc import Sequence

from nightschool_daemon import codec
from nightschool_daemon.ledger.database import Database
from nightschool_hookspecs.records import ExamAnswer, ExamItem, Verdict


class Exams:
    """Tables `exam_items`, `exam_answers` and `verdicts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def store(self, run_id: str, items: Sequence[ExamItem], answers: Sequence[ExamAnswer]) -> None:
        """Store an exam. Storing it again replaces it."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM exam_items WHERE run_id = ?", (run_id,))
            connection.execute("DELETE FROM exam_answers WHERE run_id = ?", (run_id,))
            connection.executemany(
                "INSERT INTO exam_items VALUES (?, ?, ?, ?)",
                [(run_id, item.id, number, codec.to_json(item)) for number, item in enumerate(items)],
            )
            connection.executemany(
                "INSERT INTO exam_answers VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (run_id, one.item_id, one.sitting.value, number, one.score, codec.to_json(one))
                    for number, one in enumerate(answers)
                ],
            )

    def items(self, run_id: str) -> tuple[ExamItem, ...]:
        """The items of a run's exam in their order."""
        rows = self._database.execute("SELECT body FROM exam_items WHERE run_id = ? ORDER BY position", (run_id,))
        return tuple(codec.from_json(row["body"], ExamItem) for row in rows)

    def answers(self, run_id: str) -> tuple[ExamAnswer, ...]:
        """The answers of a run's exam in their order."""
        rows = self._database.execute("SELECT body FROM exam_answers WHERE run_id = ? ORDER BY position", (run_id,))
        return tuple(codec.from_json(row["body"], ExamAnswer) for row in rows)

    def store_verdict(self, run_id: str, verdict: Verdict) -> None:
        """Store the verdict of a run."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (run_id, codec.to_json(verdict)))

    def verdict(self, run_id: str) -> Verdict | None:
        """The verdict of a run, if it came so far."""
        rows = self._database.execute("SELECT body FROM verdicts WHERE run_id = ?", (run_id,))
        return codec.from_json(rows[0]["body"], Verdict) if rows else None
