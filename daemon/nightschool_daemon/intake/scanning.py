"""Reads the feedback directory into the ledger. The scan is the truth; notifications only wake it.

A file leaves the directory after its events are durable. Reading the same events again is harmless,
because they have keys: whatever a crash leaves in the middle is read once more.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from nightschool_daemon.config import FeedbackSettings
from nightschool_daemon.intake import files
from nightschool_daemon.intake.assignment import assign, group_of
from nightschool_daemon.intake.files import Directories
from nightschool_daemon.ledger import FileRow, IncomingEvent, Ledger
from nightschool_daemon.ollama import names
from nightschool_hookspecs.records import Event, FeedbackFile, ParsedFeedback, Refusal, RefusedRecord

logger = logging.getLogger(__name__)

BATCH = 1000
"""Events of one transaction at most."""
HEAD_BYTES = 256
"""What a JSONL file begins with tells whether it was rewritten."""
FORMATS = "*.json with one event or an array of them, *.jsonl and *.ndjson with one event a line"


class IntakeHooks(Protocol):
    """What the intake asks of plugins."""

    def parse_feedback(self, *, file: FeedbackFile) -> ParsedFeedback | None: ...

    def classify_event(self, *, event: Event) -> str: ...

    def validate_event(self, *, event: Event) -> tuple[Refusal, ...]: ...

    def after_event_accepted(self, *, event: Event) -> None: ...


@dataclass(kw_only=True)
class ScanReport:
    """What a scan did."""

    files: int = 0
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    retracted: int = 0
    refused: int = 0
    waiting: int = 0
    """Files that are still being written."""
    ignored: list[str] = field(default_factory=list)
    """Entries that are never opened, each with the reason."""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing came of it."""
        return not (self.added or self.replaced or self.retracted or self.refused)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A file that was parsed and is to be settled with once its events are durable."""

    path: Path
    name: str
    parsed: ParsedFeedback
    incoming: tuple[IncomingEvent, ...]
    row: FileRow | None
    """For a file that stays: how far it was read."""


class Intake:
    """Scans one feedback directory."""

    def __init__(
        self,
        *,
        settings: FeedbackSettings,
        hooks: IntakeHooks,
        ledger: Ledger,
        default_base: Mapping[str, str],
    ) -> None:
        self.directories = Directories(root=settings.directory.expanduser())
        self._settings = settings
        self._hooks = hooks
        self._ledger = ledger
        self._default_base = default_base
        self._told: set[str] = set()

    def scan(self, now: datetime) -> ScanReport:
        """Take in everything that is whole. Raises `LedgerError` where it cannot be made durable."""
        self.directories.make()
        report = ScanReport()
        batch: list[_Read] = []
        for read in self._reads(now, report):
            batch.append(read)
            if sum(len(one.incoming) for one in batch) >= BATCH:
                self._settle(batch, report)
                batch = []
        self._settle(batch, report)
        if self._settings.keep_accepted_days:
            files.remove_old(self.directories, now, self._settings.keep_accepted_days)
        return report

    def _reads(self, now: datetime, report: ScanReport) -> Iterator[_Read]:
        # what a crash left in the middle comes first
        for path, status in files.candidates(self.directories.claimed):
            yield from self._read_claimed(path, path.name, status, now, report)
        for path, status in files.candidates(self.directories.root):
            problem = files.why_not_opened(status)
            if problem is not None:
                self._ignore(path, problem, report)
            elif files.is_appended(path):
                yield from self._read_appended(path, status, now, report)
            else:
                yield from self._read_whole(path, status, now, report)

    # ----------------------------------------------------------------------- files that are claimed

    def _read_whole(self, path: Path, status: os.stat_result, now: datetime, report: ScanReport) -> Iterator[_Read]:
        """Claim a file when it is whole. One that does not parse yet may still be in the writing."""
        file = files.feedback_file(path, path.name, status, now, self._settings.settle_s)
        parsed = self._hooks.parse_feedback(file=file)
        if parsed is None:
            if not file.settled:
                report.waiting += 1
                return
            self._reject(path, path.name, f"{path.name} is not a format that is known. Known: {FORMATS}.", report)
            return
        is_sound = not parsed.incomplete and not parsed.refused
        if not is_sound and not self._is_stale(status, now, incomplete=parsed.incomplete):
            report.waiting += 1
            return
        try:
            claimed = files.claim(path, self.directories)
        except FileNotFoundError:
            return
        yield from self._read_claimed(claimed, path.name, claimed.lstat(), now, report)

    def _read_claimed(
        self, path: Path, name: str, status: os.stat_result, now: datetime, report: ScanReport
    ) -> Iterator[_Read]:
        file = files.feedback_file(path, name, status, now, 0)
        parsed = self._hooks.parse_feedback(file=file)
        if parsed is None:
            self._reject(path, name, f"{name} is not a format that is known. Known: {FORMATS}.", report)
        elif parsed.incomplete and not parsed.events:
            self._reject(path, name, f"{name} is incomplete: it ends in the middle. Write it again.", report)
        else:
            report.files += 1
            yield self._admitted(path, name, parsed, now, None)

    def _is_stale(self, status: os.stat_result, now: datetime, *, incomplete: bool) -> bool:
        age_s = now.timestamp() - status.st_mtime
        return age_s >= (self._settings.incomplete_after_s if incomplete else self._settings.settle_s)

    # ----------------------------------------------------------------------- files that stay

    def _read_appended(self, path: Path, status: os.stat_result, now: datetime, report: ScanReport) -> Iterator[_Read]:
        """Read what was appended since the last time; everything where the file was rewritten."""
        head = _head_digest(path, min(status.st_size, HEAD_BYTES))
        known = self._ledger.events.file(path.name)
        offset = known.offset if known is not None and _is_continued(known, path, status) else 0
        if offset == status.st_size:
            return
        end = _last_line_end(path, offset, status.st_size)
        if end > offset:
            yield self._read_lines(path, status, offset, end, now, report)
            report.files += 1
        if end < status.st_size:
            self._wait_or_refuse_tail(path, status, end, head, now, report)

    def _read_lines(
        self, path: Path, status: os.stat_result, offset: int, end: int, now: datetime, report: ScanReport
    ) -> _Read:
        part = self.directories.claimed / f".{path.name}.part{path.suffix}"
        _copy_part(path, offset, end, part)
        file = files.feedback_file(part, path.name, status, now, 0)
        parsed = self._hooks.parse_feedback(file=file)
        part.unlink()
        row = FileRow(
            name=path.name, inode=status.st_ino, offset=end, head_digest=_head_digest(path, min(end, HEAD_BYTES))
        )
        return self._admitted(path, path.name, parsed or ParsedFeedback(), now, row)

    def _wait_or_refuse_tail(
        self, path: Path, status: os.stat_result, end: int, head: str, now: datetime, report: ScanReport
    ) -> None:
        """A last line without its end is waited for; when nothing comes, it is refused once."""
        if not self._is_stale(status, now, incomplete=True):
            report.waiting += 1
            return
        key = f"{path.name}:{status.st_ino}:{end}:{status.st_size}"
        if key in self._told:
            return
        self._told.add(key)
        with path.open("rb") as stream:
            stream.seek(end)
            text = stream.read(2000).decode("utf-8", "replace")
        reason = f"The last line of {path.name} is incomplete: it has no line end. Append one, or write the line again."
        self._reject_records((RefusedRecord(reason=reason, text=text, code="incomplete"),), path.name, report)

    # ----------------------------------------------------------------------- admission

    def _admitted(self, path: Path, name: str, parsed: ParsedFeedback, now: datetime, row: FileRow | None) -> _Read:
        incoming: list[IncomingEvent] = []
        refused = list(parsed.refused)
        for event in parsed.events:
            outcome = self._admit(event, now)
            if isinstance(outcome, IncomingEvent):
                incoming.append(outcome)
            else:
                refused.append(outcome)
        if parsed.incomplete and row is None:
            reason = f"{name} is incomplete: it ends in the middle. What was whole in it is taken in."
            refused.append(RefusedRecord(reason=reason, text="", code="incomplete"))
        whole = dataclasses.replace(parsed, refused=tuple(refused))
        return _Read(path=path, name=name, parsed=whole, incoming=tuple(incoming), row=row)

    def _admit(self, event: Event, now: datetime) -> IncomingEvent | RefusedRecord:
        if not event.metadata.deleted:
            event = self._classified(event)
            problem = names.type_problem(event.artifact_type or "") or self._objection(event)
            if problem is not None:
                return RefusedRecord(reason=problem.rstrip(".") + ".", text=_shown(event), code="quality")
        assignment = assign(event, self._default_base)
        return IncomingEvent(
            event=event,
            base=assignment.base,
            answered_by=assignment.answered_by,
            group=group_of(event),
            arrived_at=now,
        )

    def _classified(self, event: Event) -> Event:
        artifact_type = event.artifact_type or self._hooks.classify_event(event=event)
        return dataclasses.replace(event, artifact_type=artifact_type)

    def _objection(self, event: Event) -> str | None:
        refusals = self._hooks.validate_event(event=event)
        return refusals[0].reason if refusals else None

    # ----------------------------------------------------------------------- settling

    def _settle(self, batch: list[_Read], report: ScanReport) -> None:
        """Make a batch durable, then put its files away, then tell the observers."""
        if not batch:
            return
        incoming = [one for read in batch for one in read.incoming]
        for start in range(0, len(incoming), BATCH):
            result = self._ledger.events.add(incoming[start : start + BATCH])
            report.added += len(result.added)
            report.replaced += len(result.replaced)
            report.unchanged += result.unchanged
            report.retracted += result.retracted
            for event in (*result.added, *result.replaced):
                self._hooks.after_event_accepted(event=event)
        for read in batch:
            self._reject_records(read.parsed.refused, read.name, report)
            if read.row is not None:
                self._ledger.events.remember_file(read.row)
            elif read.path.exists():
                files.accept(read.path, self.directories, keep=self._settings.keep_accepted_days > 0)

    def _reject_records(self, refused: tuple[RefusedRecord, ...], name: str, report: ScanReport) -> None:
        for record in refused:
            reason = files.reject_record(record, name, self.directories)
            report.refused += 1
            logger.warning("A record of %s was refused: %s See %s.", name, record.reason, reason)

    def _reject(self, path: Path, name: str, reason: str, report: ScanReport) -> None:
        place = files.reject_file(path, name, reason, self.directories)
        report.refused += 1
        logger.warning("%s See %s.", reason, place)

    def _ignore(self, path: Path, problem: str, report: ScanReport) -> None:
        text = f"{path.name} is {problem}: it is left where it is and not read."
        report.ignored.append(text)
        if text not in self._told:
            self._told.add(text)
            logger.warning("%s", text)


def _shown(event: Event) -> str:
    from nightschool_daemon import codec

    return codec.to_json(event)[:2000]


def _is_continued(known: FileRow, path: Path, status: os.stat_result) -> bool:
    """Whether a file begins as it did when it was last read, and did not shrink."""
    if known.inode != status.st_ino or status.st_size < known.offset:
        return False
    return _head_digest(path, min(known.offset, HEAD_BYTES)) == known.head_digest


def _head_digest(path: Path, length: int) -> str:
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(length)).hexdigest()


def _last_line_end(path: Path, start: int, size: int) -> int:
    """Position behind the last line end at or after `start`; `start` where there is none."""
    position = size
    with path.open("rb") as stream:
        while position > start:
            begin = max(start, position - files.COPY_BYTES)
            stream.seek(begin)
            found = stream.read(position - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            position = begin
    return start


def _copy_part(path: Path, start: int, end: int, target: Path) -> None:
    """Copy the new lines, so that a parser sees neither older ones nor what is being appended meanwhile."""
    with path.open("rb") as source, target.open("wb") as sink:
        source.seek(start)
        left = end - start
        while left > 0 and (chunk := source.read(min(left, files.COPY_BYTES))):
            sink.write(chunk)
            left -= len(chunk)
