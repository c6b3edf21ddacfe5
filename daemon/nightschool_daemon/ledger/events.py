"""Feedback events: upserts by key, one training row a content, sides that never change."""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.jobs import EventRow, PromptRow, Wording
from nightschool_daemon.ledger.database import Database
from nightschool_daemon.ledger.rows import (
    WAS_IN_USE,
    AddResult,
    AnsweredRow,
    IncomingEvent,
    LedgerError,
    SpecialtyCount,
)
from nightschool_daemon.reporting.records import IncomingPrompts, Said
from nightschool_daemon.secret import FILE_NAME, secret_of
from nightschool_daemon.wording import fingerprint_of, key_of
from nightschool_hookspecs.records import (
    BatchStatistics,
    Event,
    FeedbackType,
    Metadata,
    Side,
    SideChoice,
    Specialty,
)

logger = logging.getLogger(__name__)

POSITIVE = (FeedbackType.SUCCESS, FeedbackType.EXPLICIT_POSITIVE)
"""Everything else says that an answer was not good enough."""
FEWEST_RECENT = 20
"""Prompts that are the newest where a quarter would be fewer."""
LOOKED_THROUGH = 10
"""Events that are looked through for one that counts: a ledger of many years is not read to its beginning."""
PROMPT_LETTERS = 2000
"""Of a prompt that is only compared with others."""
POOLED_TYPE = "all"
"""The artifact type of a specialty that takes every type of its base."""


@dataclass(kw_only=True)
class _Tally:
    added: list[Event] = field(default_factory=list)
    replaced: list[Event] = field(default_factory=list)
    unchanged: int = 0
    retracted: int = 0
    conflicts: int = 0


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """How far a JSONL file was read."""

    name: str
    inode: int
    offset: int
    head_digest: str


class Events:
    """Tables `events`, `prompts`, `wordings`, `sides`, `uses`, `known_groups` and `files`.

    `directory`: where the secret is by which what was withdrawn is known again.
    """

    def __init__(self, database: Database, directory: Path) -> None:
        self._database, self._directory = database, directory

    def add(self, events: Sequence[IncomingEvent]) -> AddResult:
        """Store a batch in one transaction. When it returns, the batch is durable.

        Same key and content: ignored. Same key, other content: the newer `source_version` wins, else the later time
        where both records give one, else the later arrival. A tombstone retracts, also what comes after it: only a
        newer version, or a record of a later time of its own, brings the event back.
        """
        tally = _Tally()
        with self._database.transaction() as connection:
            for incoming in events:
                _put(connection, incoming, tally, self._fingerprint_of)
        return AddResult(
            added=tuple(tally.added),
            replaced=tuple(tally.replaced),
            unchanged=tally.unchanged,
            retracted=tally.retracted,
            conflicts=tally.conflicts,
        )

    def _kept(self, one: Wording, *, is_gone: bool) -> tuple[str | None, str | None]:
        """What is kept of a wording: its text, or its fingerprint alone where its event is gone or changed."""
        return (None, self._fingerprint_of(one.text)) if is_gone else (one.text, None)

    def _fingerprint_of(self, text: str) -> str:
        return fingerprint_of(text, self._secret)

    def forgotten(self) -> str | None:
        """That withdrawn prompts are not known again, as their secret is gone, in a sentence; None: they are."""
        count = self._lost()
        if not count:
            return None
        return (
            f"{self._directory / FILE_NAME} is gone, by which withdrawn prompts are known again ({count} of them): put "
            "it back as it was kept with the ledger. Until then a prompt like one of them counts as new."
        )

    def _lost(self) -> int:
        """Prompts of which nothing but a fingerprint is left, where there is no secret."""
        if (self._directory / FILE_NAME).is_file():
            return 0
        rows = self._database.execute("SELECT count(DISTINCT prompt_key) FROM wordings WHERE fingerprint IS NOT NULL")
        return int(rows[0][0])

    @cached_property
    def _secret(self) -> bytes:
        try:
            lost, secret = self._lost(), secret_of(self._directory)
        except OSError as error:
            raise LedgerError(
                f"the secret of {self._directory}, by which withdrawn prompts are known again, can neither be read nor "
                f"made: {error}. See to the directory's permissions."
            ) from error
        if lost:
            logger.warning(
                "%s was gone and is made anew, so what was withdrawn before is not known again (%d prompts): one like "
                "it counts as new.",
                self._directory / FILE_NAME,
                lost,
            )
        return secret

    def of_specialty(
        self, specialty: Specialty, *, with_unassigned: bool, lineage: Sequence[str] = ()
    ) -> tuple[EventRow, ...]:
        """Every event of a specialty in order of arrival, one a content: of several verdicts the last one counts.

        `with_unassigned` adds the events that count to no base in particular. `lineage`: the tags of the incumbent and
        of the versions that it came from.
        """
        rows = self._database.execute(
            f"""
            SELECT max(e.arrival) AS arrival, e.body, {_GROUP} AS group_key, s.side,
                   EXISTS (SELECT 1 FROM uses u JOIN events o USING (arrival)
                           WHERE o.content_digest = e.content_digest AND u.base = ? AND u.artifact_type = ?
                             AND u.version_tag IS NOT NULL) AS trained,
                   EXISTS (SELECT 1 FROM uses u JOIN events o USING (arrival)
                           WHERE o.content_digest = e.content_digest AND u.base = ? AND u.artifact_type = ?
                          ) AS looked_at,
                   {_IN_USE},
                   EXISTS (SELECT 1 FROM uses u JOIN events o USING (arrival)
                           WHERE o.content_digest = e.content_digest AND u.base = ? AND u.artifact_type = ?
                             AND u.version_tag IN (SELECT value FROM json_each(?))) AS inherited
            FROM events e {_PLACED}
            WHERE {_OF_SPECIALTY} GROUP BY e.content_digest ORDER BY 1
            """,
            (
                *(specialty.base, specialty.artifact_type),
                *(specialty.base, specialty.artifact_type),
                *(specialty.base, specialty.artifact_type, *_STATES_IN_USE),
                *(specialty.base, specialty.artifact_type, json.dumps(lineage)),
                *(specialty.artifact_type, specialty.artifact_type),
                *_scope(specialty, with_unassigned),
            ),
        )
        return tuple(
            EventRow(
                event=codec.from_json(row["body"], Event),
                group=row["group_key"],
                side=Side(row["side"]) if row["side"] is not None else None,
                trained_on=bool(row["trained"]),
                looked_at=bool(row["looked_at"]),
                in_use=bool(row["in_use"]),
                inherited=bool(row["inherited"]),
                arrival=row["arrival"],
            )
            for row in rows
        )

    def prompts(self, artifact_type: str, base: str = "") -> tuple[PromptRow, ...]:
        """Every prompt of an artifact type, whatever base it was put to, in order of first arrival.

        Behind them what else was learned or asked: prompts that only variants had, and those whose events are gone
        or of another type since.
        `base`: whose versions in use are looked at for what they know.
        """
        known = (base, artifact_type, *_STATES_IN_USE)
        asked = self._database.execute(
            f"""
            SELECT min(e.arrival), e.group_key AS prompt_key, json_extract(e.body, '$.input_data') AS text,
                   NULL AS fingerprint, p.prompt_key IS NOT NULL OR s.side IS NOT NULL AS placed,
                   {_GROUP} AS group_key, s.side, {_IN_USE}
            FROM events e {_PLACED}
            WHERE e.retracted = 0 AND (? OR e.artifact_type = ?) GROUP BY e.group_key ORDER BY 1
            """,
            (*known, artifact_type, artifact_type, artifact_type == POOLED_TYPE, artifact_type),
        )
        remembered = self._database.execute(
            f"""
            SELECT e.group_key AS prompt_key, e.text, e.fingerprint, 1 AS placed, {_GROUP} AS group_key, s.side,
                   {_IN_USE}
            FROM (SELECT prompt_key AS group_key, text, fingerprint FROM wordings
                  UNION ALL
                  SELECT group_key, json_extract(body, '$.input_data'), NULL FROM events
                  WHERE retracted = 0 AND artifact_type != ?) e {_PLACED}
            WHERE s.side IS NOT NULL ORDER BY 1, e.text IS NULL
            """,
            (*known, artifact_type, artifact_type, artifact_type),
        )
        found: dict[str, sqlite3.Row] = {}
        for row in (*asked, *remembered):
            found.setdefault(row["prompt_key"], row)
        return tuple(map(_prompt, found.values()))

    def count_by_specialty(self) -> tuple[SpecialtyCount, ...]:
        """How many events there are of each base and artifact type."""
        rows = self._database.execute(
            "SELECT base, artifact_type, count(*) AS n FROM events WHERE retracted = 0 GROUP BY 1, 2 ORDER BY 1, 2"
        )
        return tuple(
            SpecialtyCount(base=row["base"], artifact_type=row["artifact_type"], count=row["n"]) for row in rows
        )

    def statistics(self, specialty: Specialty, *, with_unassigned: bool) -> BatchStatistics:
        """What the batch size of the next run is chosen from. Fresh is what no run looked at yet.

        The score of a corrected event is that of the answer that was bad. What is learned of it is the corrected text,
        which nobody has scored here: it counts as 100, as in a reward until a validator has looked.
        """
        row = self._database.execute(
            f"""
            SELECT count(*) AS total, avg(iif(e.is_correction, 100, e.score)) AS quality,
                   coalesce(sum(NOT used), 0) AS available,
                   coalesce(sum(NOT used AND e.is_correction), 0) AS corrections
            FROM (SELECT max(e.arrival), e.score, e.is_correction,
                         EXISTS (SELECT 1 FROM uses u JOIN events o USING (arrival)
                                 WHERE o.content_digest = e.content_digest AND u.base = ?
                                   AND u.artifact_type = ?) AS used
                  FROM events e WHERE {_OF_SPECIALTY} GROUP BY e.content_digest) e
            """,
            (specialty.base, specialty.artifact_type, *_scope(specialty, with_unassigned)),
        )[0]
        batches = self._database.execute(
            "SELECT count(DISTINCT run_id) AS n FROM uses WHERE base = ? AND artifact_type = ?",
            (specialty.base, specialty.artifact_type),
        )[0]["n"]
        return BatchStatistics(
            available=row["available"],
            corrections=row["corrections"],
            average_quality=0.5 if row["quality"] is None else row["quality"] / 100,
            total_seen=row["total"],
            batches_made=batches,
        )

    def answered(self, specialty: Specialty, since: datetime) -> tuple[AnsweredRow, ...]:
        """What was said of answers and arrived since a time, in order of arrival.

        Half-hearted signals, demonstrations and choices between two answers are left out.
        """
        rows = self._database.execute(
            f"""
            SELECT {_ANSWERED} FROM events e
            WHERE {_OF_SPECIALTY} AND e.arrived_at >= ? AND {_JUDGES_AN_ANSWER}
            ORDER BY e.arrival
            """,
            (*_scope(specialty, False), since.isoformat()),
        )
        return tuple(map(_answered, rows))

    def corrected_answers(self, specialty: Specialty, limit: int) -> tuple[tuple[AnsweredRow, Event], ...]:
        """The newest corrections of answers of which it is told who gave them, newest first, with their events.

        Of one prompt and name the last.
        """
        rows = self._database.execute(
            f"""
            SELECT max(e.arrival), e.body, {_ANSWERED} FROM events e
            WHERE {_OF_SPECIALTY} AND e.is_correction AND {_JUDGES_AN_ANSWER}
              AND json_extract(e.body, '$.model') IS NOT NULL AND json_extract(e.body, '$.ai_output') IS NOT NULL
            GROUP BY e.group_key, e.answered_by ORDER BY 1 DESC LIMIT ?
            """,
            (*_scope(specialty, False), limit),
        )
        return tuple((_answered(row), codec.from_json(row["body"], Event)) for row in rows)

    def said(self, specialty: Specialty, limit: int) -> tuple[Said, ...]:
        """The newest that was said of answers in use, oldest first: of one prompt, version and source the last word."""
        marks = ", ".join("?" * len(POSITIVE))
        rows = self._database.execute(
            f"""
            SELECT max(e.arrival) AS arrival, e.arrived_at, json_extract(e.body, '$.timestamp') AS at,
                   json_extract(e.body, '$.metadata.clock_flag') AS flagged,
                   json_extract(e.body, '$.feedback_type') NOT IN ({marks}) AS negative
            FROM (SELECT * FROM events e WHERE {_OF_SPECIALTY} ORDER BY arrival DESC LIMIT ?) e
            WHERE {_JUDGES_AN_ANSWER}
            GROUP BY json_extract(e.body, '$.source'), e.answered_by, e.group_key ORDER BY 1 DESC LIMIT ?
            """,
            (*(one.value for one in POSITIVE), *_scope(specialty, False), LOOKED_THROUGH * limit, limit),
        )
        found = (
            Said(
                at=datetime.fromisoformat(row["arrived_at"] if row["flagged"] else row["at"]),
                negative=bool(row["negative"]),
            )
            for row in reversed(rows)
        )
        # what came late was still said when it was said
        return tuple(sorted(found, key=lambda one: one.at))

    def incoming_prompts(self, specialty: Specialty, limit: int) -> IncomingPrompts:
        """The newest quarter of a specialty's different prompts, and those before: at most `limit` each.

        Of the newest the last, of the others some from all times. Long ones are cut.
        """
        arrivals = [
            row["first"]
            for row in self._database.execute(
                f"SELECT min(e.arrival) AS first FROM events e WHERE {_OF_SPECIALTY} GROUP BY e.group_key ORDER BY 1",
                _scope(specialty, True),
            )
        ]
        recent = min(limit, max(len(arrivals) // 4, min(FEWEST_RECENT, len(arrivals) // 2)))
        before = arrivals[: len(arrivals) - recent]
        return IncomingPrompts(
            recent=self._prompt_texts(arrivals[len(before) :]),
            earlier=self._prompt_texts(before[:: max(1, -(-len(before) // limit))]),
        )

    def _prompt_texts(self, arrivals: Sequence[int]) -> tuple[str, ...]:
        marks = ", ".join("?" * len(arrivals))
        rows = self._database.execute(
            f"SELECT substr(json_extract(body, '$.input_data'), 1, ?) AS text FROM events WHERE arrival IN ({marks}) "
            "ORDER BY arrival",
            (PROMPT_LETTERS, *arrivals),
        )
        return tuple(row["text"] for row in rows)

    def last_arrival(self, specialty: Specialty, *, with_unassigned: bool) -> datetime | None:
        """When the newest event of a specialty was taken in; None where there is none."""
        row = self._database.execute(
            f"SELECT max(e.arrived_at) AS newest FROM events e WHERE {_OF_SPECIALTY}",
            _scope(specialty, with_unassigned),
        )[0]
        return datetime.fromisoformat(row["newest"]) if row["newest"] is not None else None

    def corrected(self, specialty: Specialty, *, since: datetime | None = None) -> int:
        """How many different prompts have an answer that was corrected, and how many of them came after a time.

        Events that name no model count.
        """
        rows = self._database.execute(
            f"""
            SELECT count(*) AS n FROM (
                SELECT min(e.arrived_at) AS first FROM events e WHERE {_OF_SPECIALTY} AND e.is_correction
                GROUP BY e.group_key
            ) WHERE first > ?
            """,
            (*_scope(specialty, True), since.isoformat() if since is not None else ""),
        )
        return int(rows[0]["n"])

    def set_sides(
        self, artifact_type: str, choices: Sequence[SideChoice], groups: Mapping[str, str | None] | None = None
    ) -> None:
        """Decide the groups of prompts and the sides of groups, for good.

        `groups` maps a prompt's key to its group, or to None where it goes to neither side. Raises `LedgerError` where
        one of them is decided otherwise.
        """
        with self._database.transaction() as connection:
            for prompt, group in (groups or {}).items():
                connection.execute(
                    "INSERT INTO prompts VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (artifact_type, prompt, group)
                )
                found = connection.execute(
                    "SELECT group_key FROM prompts WHERE artifact_type = ? AND prompt_key = ?", (artifact_type, prompt)
                ).fetchone()["group_key"]
                if found != group:
                    raise LedgerError(f"prompt {prompt} of {artifact_type} is in the group {found} for good")
            for choice in choices:
                connection.execute(
                    "INSERT INTO sides VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (artifact_type, choice.key, choice.side.value),
                )
                decided = connection.execute(
                    "SELECT side FROM sides WHERE artifact_type = ? AND group_key = ?", (artifact_type, choice.key)
                ).fetchone()["side"]
                if decided != choice.side.value:
                    raise LedgerError(f"group {choice.key} of {artifact_type} is on the {decided} side for good")

    def mark_batched(self, specialty: Specialty, run_id: str, seen: Sequence[Event]) -> None:
        """Note that a run chose these events, or had no use for them: they are no longer fresh. Idempotent.

        One that was replaced since the run saw it stays fresh.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO uses SELECT arrival, ?, ?, ?, NULL FROM events WHERE key = ? AND body_digest = ? "
                "ON CONFLICT DO NOTHING",
                [(specialty.base, specialty.artifact_type, run_id, one.key, _digest_of(one)) for one in seen],
            )

    def mark_trained(self, specialty: Specialty, run_id: str, seen: Sequence[Event], version_tag: str) -> None:
        """Note that a version learned these events, as the run saw them. Idempotent."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO uses SELECT arrival, ?, ?, ?, ? FROM events WHERE key = ? AND body_digest = ? "
                "ON CONFLICT DO UPDATE SET version_tag = excluded.version_tag",
                [
                    (specialty.base, specialty.artifact_type, run_id, version_tag, one.key, _digest_of(one))
                    for one in seen
                ],
            )

    def mark_known(self, specialty: Specialty, groups: Iterable[str], version_tag: str) -> None:
        """Note that a version knows these groups of prompts, also where their events change later. Idempotent."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO known_groups VALUES (?, ?, ?, ?)",
                [(specialty.base, specialty.artifact_type, group, version_tag) for group in groups],
            )

    def known_groups(self, specialty: Specialty, lineage: Sequence[str]) -> frozenset[str]:
        """The groups of prompts that versions of a specialty have learned, whatever became of their feedback."""
        rows = self._database.execute(
            "SELECT group_key FROM known_groups WHERE base = ? AND artifact_type = ? "
            "AND version_tag IN (SELECT value FROM json_each(?))",
            (specialty.base, specialty.artifact_type, json.dumps(lineage)),
        )
        return frozenset(row["group_key"] for row in rows)

    def remember(
        self, specialty: Specialty, wordings: Sequence[Wording], seen: Sequence[Event], version_tag: str
    ) -> None:
        """Note what a version learned beside the prompts of events, so that nothing like it is held out. Idempotent.

        What is a prompt already stays in its group, which the version knows from now on. Of events that are not as the
        run saw them any more, or are withdrawn, fingerprints alone are kept.
        """
        base, kind = specialty.base, specialty.artifact_type
        with self._database.transaction() as connection:
            changed = _changed(connection, {one.event_id for one in wordings if one.event_id}, seen)
            for one in wordings:
                key = key_of(one.text)
                group = one.group or key
                connection.execute("INSERT INTO prompts VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (kind, key, group))
                connection.execute(
                    "INSERT INTO sides VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (kind, group, Side.TRAINING.value)
                )
                connection.execute(
                    "INSERT INTO wordings VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (key, one.event_id, *self._kept(one, is_gone=one.event_id in changed)),
                )
                connection.execute(
                    "INSERT OR IGNORE INTO known_groups SELECT ?, ?, group_key, ? FROM prompts "
                    "WHERE artifact_type = ? AND prompt_key = ? AND group_key IS NOT NULL",
                    (base, kind, version_tag, kind, key),
                )

    def keys_of(self, name: str) -> tuple[str, ...]:
        """The keys of the events that a person may mean: the one of this key, else all of this id."""
        rows = self._database.execute(
            "SELECT key FROM events WHERE key = ? OR json_extract(body, '$.id') = ? ORDER BY key != ?, key",
            (name, name, name),
        )
        keys = tuple(row["key"] for row in rows)
        return keys[:1] if keys[:1] == (name,) else keys

    def get(self, key: str, *, pooled: bool = False) -> EventRow | None:
        """An event by its key, retracted or not. `pooled`: its group and side are those of all types together."""
        kind = f"'{POOLED_TYPE}'" if pooled else "e.artifact_type"
        rows = self._database.execute(
            f"""
            SELECT e.arrival, e.body, {_GROUP} AS group_key, s.side,
                   EXISTS (SELECT 1 FROM uses u WHERE u.arrival = e.arrival AND u.version_tag IS NOT NULL) AS trained
            FROM events e {_PLACED.replace("?", kind)} WHERE e.key = ?
            """,
            (key,),
        )
        if not rows:
            return None
        row = rows[0]
        return EventRow(
            event=codec.from_json(row["body"], Event),
            group=row["group_key"],
            side=Side(row["side"]) if row["side"] is not None else None,
            trained_on=bool(row["trained"]),
            arrival=row["arrival"],
        )

    def total(self) -> int:
        """Events that are not retracted."""
        return int(self._database.execute("SELECT count(*) FROM events WHERE retracted = 0")[0][0])

    def file(self, name: str) -> FileRow | None:
        """How far a JSONL file was read."""
        rows = self._database.execute("SELECT * FROM files WHERE name = ?", (name,))
        return FileRow(**dict(rows[0])) if rows else None

    def remember_file(self, row: FileRow) -> None:
        """Note how far a JSONL file was read."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (row.name, row.inode, row.offset, row.head_digest)
            )


_JUDGES_AN_ANSWER = " AND ".join(
    f"NOT coalesce(json_extract(e.body, '$.metadata.{one}'), 0)" for one in ("weak", "demonstration", "preference")
)
_ANSWERED = """
e.key, e.base, e.answered_by, e.group_key, e.arrived_at, json_extract(e.body, '$.timestamp') AS at,
json_extract(e.body, '$.feedback_type') AS feedback_type, json_extract(e.body, '$.source') AS source,
json_extract(e.body, '$.metadata.clock_flag') AS flagged,
(SELECT json_extract(m.value, '$.content') FROM json_each(e.body, '$.context.messages') m
 WHERE json_extract(m.value, '$.role') = 'user' ORDER BY m.key LIMIT 1) AS opening"""
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_OF_SPECIALTY = "e.retracted = 0 AND (? OR e.artifact_type = ?) AND (e.base = ? OR (? AND e.base IS NULL))"


_GROUP = "CASE WHEN p.prompt_key IS NULL THEN e.group_key ELSE p.group_key END"
"""The group that an event's prompt was placed in; before that, the prompt by itself."""
_PLACED = f"""
LEFT JOIN prompts p ON p.artifact_type = ? AND p.prompt_key = e.group_key
LEFT JOIN sides s ON s.artifact_type = ? AND s.group_key = {_GROUP}"""
_MATTERS = """
SELECT NOT EXISTS (SELECT 1 FROM events WHERE group_key = ? AND retracted = 0)
   AND (EXISTS (SELECT 1 FROM prompts JOIN sides USING (artifact_type, group_key) WHERE prompt_key = ?)
        OR EXISTS (SELECT 1 FROM sides WHERE group_key = ?)
        OR EXISTS (SELECT 1 FROM runs WHERE finished_at IS NULL))"""
"""Whether a prompt that an event left behind is told from new ones: nobody asks it any more, and it has a side, or may
get one of a run that is under way, which froze it before."""
_STATES_IN_USE = tuple(state.value for state in WAS_IN_USE)
_IN_USE = f"""EXISTS (
SELECT 1 FROM known_groups k JOIN versions v ON v.tag = k.version_tag
WHERE k.base = ? AND k.artifact_type = ? AND k.group_key = {_GROUP}
  AND v.state IN ({", ".join("?" * len(_STATES_IN_USE))})) AS in_use"""


def _scope(specialty: Specialty, with_unassigned: bool) -> tuple[object, ...]:
    """Values for `_OF_SPECIALTY`."""
    return (specialty.artifact_type == POOLED_TYPE, specialty.artifact_type, specialty.base, with_unassigned)


def _answered(row: sqlite3.Row) -> AnsweredRow:
    return AnsweredRow(
        key=row["key"],
        at=datetime.fromisoformat(row["arrived_at"] if row["flagged"] else row["at"]),
        base=row["base"],
        answered_by=row["answered_by"],
        feedback_type=FeedbackType(row["feedback_type"]),
        source=row["source"],
        opening=row["group_key"] if row["opening"] is None else key_of(row["opening"]),
    )


def _prompt(row: sqlite3.Row) -> PromptRow:
    return PromptRow(
        key=row["prompt_key"],
        text=row["text"],
        placed=bool(row["placed"]),
        group=row["group_key"],
        side=Side(row["side"]) if row["side"] is not None else None,
        fingerprint=row["fingerprint"],
        in_use=bool(row["in_use"]),
    )


def _put(
    connection: sqlite3.Connection, incoming: IncomingEvent, tally: _Tally, fingerprint: Callable[[str], str]
) -> None:
    event = incoming.event
    known = connection.execute(
        "SELECT arrival, source_version, body, body_digest, group_key, artifact_type, retracted FROM events "
        "WHERE key = ?",
        (event.key,),
    ).fetchone()
    if event.metadata.deleted:
        _retract(connection, incoming, known, tally, fingerprint)
        return
    body = codec.to_json(event)
    digest = _digest_of(event)
    if known is None:
        _insert(connection, incoming, body, digest)
        tally.added.append(event)
    elif known["body_digest"] == digest or (known["retracted"] and not _is_newer(event, known)):
        tally.unchanged += 1
    elif _is_older(event, known):
        tally.conflicts += 1
    else:
        connection.execute("DELETE FROM uses WHERE arrival = ?", (known["arrival"],))
        _replace(connection, known["arrival"], incoming, body, digest)
        if known["group_key"] != incoming.group:
            _leave_behind(connection, event.key, known, fingerprint)
        _forget_texts(connection, event.key, fingerprint)
        tally.conflicts += not known["retracted"]
        tally.replaced.append(event)


def _changed(connection: sqlite3.Connection, keys: set[str], seen: Iterable[Event]) -> set[str]:
    """Which of some events are not there as a run saw them."""
    present = connection.execute(
        "SELECT e.key FROM events e JOIN json_each(?) j ON e.key = j.value ->> 0 AND e.body_digest = j.value ->> 1 "
        "WHERE e.retracted = 0",
        (json.dumps([(one.key, _digest_of(one)) for one in seen if one.key in keys]),),
    )
    return keys - {row["key"] for row in present}


def _digest_of(event: Event) -> str:
    """Digest of what an event says. Without its time: where a record has none, it is that of its file."""
    timeless = replace(event, timestamp=_NO_TIME, metadata=replace(event.metadata, clock_flag=False))
    return _sha256(codec.to_json(timeless))


def _retract(
    connection: sqlite3.Connection,
    incoming: IncomingEvent,
    known: sqlite3.Row | None,
    tally: _Tally,
    fingerprint: Callable[[str], str],
) -> None:
    """Put the tombstone in the event's place: what was withdrawn is not kept, and what comes late finds it."""
    gone = _bare(incoming.event)
    body, digest = codec.to_json(gone), _digest_of(gone)
    if known is None:
        _insert(connection, replace(incoming, event=gone), body, digest)
        tally.unchanged += 1
    elif known["retracted"] or _is_older(incoming.event, known):
        tally.unchanged += 1
    else:
        # its content digest stays: a copy of what a run has used is not fresh because the first one went
        connection.execute(
            "UPDATE events SET retracted = 1, body = ?, body_digest = ?, source_version = coalesce(?, source_version) "
            "WHERE arrival = ?",
            (body, digest, incoming.event.metadata.source_version, known["arrival"]),
        )
        _leave_behind(connection, incoming.event.key, known, fingerprint)
        _forget_texts(connection, incoming.event.key, fingerprint)
        tally.retracted += 1


def _bare(event: Event) -> Event:
    """What must be known of a withdrawn event, also where its whole record is sent again with the mark."""
    told = event.metadata
    return Event(
        id=event.id,
        source=event.source,
        timestamp=event.timestamp,
        feedback_type=event.feedback_type,
        input_data="",
        artifact_type=event.artifact_type,
        metadata=Metadata(
            deleted=True,
            source_id=told.source_id,
            source_version=told.source_version,
            clock_flag=told.clock_flag,
        ),
    )


def _leave_behind(
    connection: sqlite3.Connection, key: str, known: sqlite3.Row, fingerprint: Callable[[str], str]
) -> None:
    """Put a fingerprint in the place of the prompt that an event had."""
    if not known["retracted"]:
        _keep(connection, key, {known["group_key"]: codec.from_json(known["body"], Event).input_data}, fingerprint)


def _forget_texts(connection: sqlite3.Connection, key: str, fingerprint: Callable[[str], str]) -> None:
    """The same of what was learned beside its prompt: the event may not say any more what it was of."""
    rows = connection.execute(
        "SELECT prompt_key, text FROM wordings WHERE event_key = ? AND text IS NOT NULL", (key,)
    ).fetchall()
    connection.execute("DELETE FROM wordings WHERE event_key = ? AND text IS NOT NULL", (key,))
    _keep(connection, key, {row["prompt_key"]: row["text"] for row in rows}, fingerprint)


def _keep(
    connection: sqlite3.Connection, key: str, texts: Mapping[str, str], fingerprint: Callable[[str], str]
) -> None:
    """Nothing of what another event still asks, nor of what nobody can have learned or been asked."""
    for prompt, text in texts.items():
        if connection.execute(_MATTERS, (prompt, prompt, prompt)).fetchone()[0]:
            connection.execute(
                "INSERT OR REPLACE INTO wordings VALUES (?, ?, NULL, ?)", (prompt, key, fingerprint(text))
            )


def _is_older(event: Event, known: sqlite3.Row) -> bool:
    """Whether a record is older than what is there: by their versions, else by their own times."""
    return _age(event, known) < 0


def _is_newer(event: Event, known: sqlite3.Row) -> bool:
    return _age(event, known) > 0


def _age(event: Event, known: sqlite3.Row) -> int:
    """-1: older than what is there, 1: newer, 0: nobody can say."""
    version, other = event.metadata.source_version, known["source_version"]
    if version is not None and other is not None:
        return _compared(version, other)
    earlier = codec.from_json(known["body"], Event)
    if event.metadata.clock_flag or earlier.metadata.clock_flag:
        # the time is that of a file, which is touched for many reasons
        return 0
    return (event.timestamp > earlier.timestamp) - (event.timestamp < earlier.timestamp)


def _compared(version: str, other: str) -> int:
    """Compare source versions: as numbers where both are, else as texts (ISO times order so)."""
    try:
        return (float(version) > float(other)) - (float(version) < float(other))
    except ValueError:
        return (version > other) - (version < other)


def _columns(incoming: IncomingEvent, body: str, digest: str) -> dict[str, object]:
    event = incoming.event
    return {
        "source_version": event.metadata.source_version,
        "body": body,
        "body_digest": digest,
        "content_digest": _sha256(
            json.dumps([event.input_data, event.ai_output, event.corrected_output, codec.to_plain(event.context)])
        ),
        "artifact_type": event.artifact_type or "other",
        "base": incoming.base,
        "answered_by": incoming.answered_by,
        "group_key": incoming.group,
        "is_correction": int(event.is_correction),
        "score": event.validation_score,
        "retracted": int(event.metadata.deleted),
        "arrived_at": incoming.arrived_at.isoformat(),
    }


def _insert(connection: sqlite3.Connection, incoming: IncomingEvent, body: str, digest: str) -> None:
    columns = {"key": incoming.event.key} | _columns(incoming, body, digest)
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    connection.execute(f"INSERT INTO events ({names}) VALUES ({marks})", tuple(columns.values()))


def _replace(connection: sqlite3.Connection, arrival: int, incoming: IncomingEvent, body: str, digest: str) -> None:
    columns = _columns(incoming, body, digest)
    assignments = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(
        f"UPDATE events SET {assignments} WHERE arrival = ?",
        (*columns.values(), arrival),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
