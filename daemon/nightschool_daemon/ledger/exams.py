"""Exam items, answers and verdicts of runs."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime

from nightschool_daemon import codec
from nightschool_daemon.ledger.database import Database
from nightschool_daemon.ledger.rows import WAS_IN_USE, KeptLesson, MoveState
from nightschool_daemon.reporting.records import ExamMarks, NightExam
from nightschool_hookspecs.records import (
    ExamAnswer,
    ExamItem,
    FirstScore,
    ItemRole,
    MoveKind,
    Sitting,
    Specialty,
    Verdict,
)


class Exams:
    """Tables `exam_items`, `exam_answers`, `verdicts` and `marks`."""

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

    def answered_by_both(self, run_id: str) -> tuple[tuple[ExamItem, ExamAnswer, ExamAnswer], ...]:
        """The items that both answered in a run's exam, in their order: with the incumbent's answer, then the other."""
        answers = self.answers(run_id)
        before, after = (
            {one.item_id: one for one in answers if one.sitting is sitting}
            for sitting in (Sitting.INCUMBENT, Sitting.CANDIDATE)
        )
        return tuple(
            (item, before[item.id], after[item.id])
            for item in self.items(run_id)
            if item.id in before and item.id in after
        )

    def first_scores(self, lineage: Sequence[str]) -> tuple[FirstScore, ...]:
        """How the versions of a line, by their tags, did at what each had learned, where it was asked first."""
        rows = self._database.execute(
            """
            WITH line (tag) AS (SELECT value FROM json_each(?)), asked AS (
                SELECT run_id, item_id, json_extract(body, '$.event_id') AS event_id,
                       json_extract(body, '$.reference') AS reference, json_extract(body, '$.role') AS role
                FROM exam_items)
            SELECT i.event_id, i.reference, a.score, json_extract(a.body, '$.is_relative') AS is_relative
            FROM exam_answers a JOIN asked i USING (run_id, item_id) JOIN runs r ON r.id = a.run_id
            LEFT JOIN evidence e USING (run_id) LEFT JOIN versions v ON v.run_id = a.run_id
            WHERE NOT json_extract(a.body, '$.failed') AND (
                (a.sitting = ? AND i.role = ? AND e.incumbent IN line)
                OR (a.sitting = ? AND i.role IN (?, ?) AND v.tag IN line))
            ORDER BY r.started_at, r.rowid, a.position
            """,
            (
                json.dumps(lineage),
                *(Sitting.INCUMBENT.value, ItemRole.LEARNED.value),
                *(Sitting.CANDIDATE.value, ItemRole.LEARNED.value, ItemRole.LESSON.value),
            ),
        )
        found: dict[tuple[str, str | None], FirstScore] = {}
        for row in rows:
            first = FirstScore(
                event_id=row["event_id"],
                reference=row["reference"],
                score=row["score"],
                # NULL in answers that were stored before it was told
                is_relative=bool(row["is_relative"]),
            )
            found.setdefault((first.event_id, first.reference), first)
        return tuple(found.values())

    def store_verdict(self, run_id: str, verdict: Verdict) -> None:
        """Store the verdict of a run."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (run_id, codec.to_json(verdict)))

    def verdict(self, run_id: str) -> Verdict | None:
        """The verdict of a run, if it came so far."""
        rows = self._database.execute("SELECT body FROM verdicts WHERE run_id = ?", (run_id,))
        return codec.from_json(rows[0]["body"], Verdict) if rows else None

    def store_marks(self, marks: Iterable[ExamMarks]) -> None:
        """Store how both did in the exams of runs. Storing it again replaces it."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO marks VALUES (?, ?)", [(one.run_id, codec.to_json(one)) for one in marks]
            )

    def of_specialty(self, specialty: Specialty, limit: int) -> tuple[NightExam, ...]:
        """The newest exams of a specialty that were judged, oldest first."""
        rows = self._database.execute(
            """
            SELECT r.id, r.started_at, e.incumbent, n.tag, n.state, n.lesson, v.body AS verdict, m.body AS marks,
                   EXISTS (SELECT 1 FROM moves o WHERE o.from_tag = n.tag AND o.kind IN (?, ?) AND o.state = ?)
                   AS taken_back
            FROM verdicts v JOIN runs r ON r.id = v.run_id LEFT JOIN evidence e ON e.run_id = r.id
            LEFT JOIN versions n ON n.run_id = r.id LEFT JOIN marks m ON m.run_id = r.id
            WHERE r.base = ? AND r.artifact_type = ? ORDER BY r.started_at DESC, r.rowid DESC LIMIT ?
            """,
            (
                *(MoveKind.UNDO.value, MoveKind.ROLL_BACK.value, MoveState.DONE.value),
                *(specialty.base, specialty.artifact_type, limit),
            ),
        )
        return tuple(_night(row) for row in reversed(rows))


def _night(row: sqlite3.Row) -> NightExam:
    verdict = codec.from_json(row["verdict"], Verdict)
    return NightExam(
        run_id=row["id"],
        at=datetime.fromisoformat(row["started_at"]),
        incumbent=row["incumbent"] or "",
        version=row["tag"] or row["id"],
        promoted=row["state"] in WAS_IN_USE,
        taken_back=bool(row["taken_back"]),
        questions=verdict.items,
        incumbent_mean=verdict.incumbent_mean,
        gain=verdict.gain,
        interval=verdict.interval,
        marks=codec.from_json(row["marks"], ExamMarks) if row["marks"] is not None else None,
        watched=codec.from_json(row["lesson"], KeptLesson).watched if row["lesson"] is not None else None,
    )
