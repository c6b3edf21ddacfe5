"""Reads the feedback directory into the ledger. The scan is the truth; notifications only wake it.

A file leaves the directory after its events are durable. Reading the same events again is harmless,
because they have keys: whatever a crash leaves in the middle is read once more.
"""

import dataclasses
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from nightschool_daemon.config import FeedbackSettings
from nightschool_daemon.intake import files
from nightschool_daemon.intake.assignment import assign, group_of
from nightschool_daemon.intake.files import Directories
from nightschool_daemon.ledger import FileRow, IncomingEvent, Ledger, LedgerError
from nightschool_daemon.ollama import names
from nightschool_hookspecs.records import Event, FeedbackFile, ParsedFeedback, Refusal, RefusedRecord

logger = logging.getLogger(__name__)

BATCH = 1000
"""Events of one transaction at most."""
HEAD_BYTES = 256
"""The ends of what was read of a JSONL file tell whether it was rewritten."""
PART_BYTES = 8 * 1024 * 1024
"""Of a JSONL file that are parsed at once, to bound the memory."""
LINE_BYTES = 32 * 1024 * 1024
"""A longer line reaches the parsers cut; all refuse it."""
MAX_REFUSALS = 100
"""Records of a file that are written down one by one when they are refused."""
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
    first_line: int = 0
    """Lines before the part that was read."""


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
        self._searched: dict[str, tuple[int, int, int]] = {}
        """Of a line without an end, by file: inode, its start, how far an end was looked for."""
        self._lines: dict[str, tuple[int, int, int]] = {}
        """By file: inode, offset, lines before it."""
        self._lock = threading.Lock()

    def scan(self, now: datetime) -> ScanReport:
        """Take in everything that is whole. Several threads may ask for it.

        What cannot be read now is left where it is. Raises `LedgerError` where it cannot be made durable.
        """
        with self._lock:
            return self._scan(now)

    def _scan(self, now: datetime) -> ScanReport:
        self.directories.make()
        report = ScanReport()
        batch: list[_Read] = []
        size = 0
        for read in self._reads(now, report):
            batch.append(read)
            size += len(read.incoming) + 1
            if size >= BATCH:
                self._settle(batch, report)
                batch, size = [], 0
        self._settle(batch, report)
        if self._settings.keep_accepted_days:
            files.remove_old(self.directories, now, self._settings.keep_accepted_days)
        return report

    def _reads(self, now: datetime, report: ScanReport) -> Iterator[_Read]:
        # what a crash left in the middle comes first
        for path, status in files.candidates(self.directories.claimed):
            yield from self._guarded(path, self._read_claimed(path, path.name, status, now, report), report)
        for path, status in files.candidates(self.directories.root):
            problem = files.why_not_opened(status)
            if problem is not None:
                self._leave(path, f"is {problem}: it is left where it is and not read.", report)
                continue
            read = self._read_appended if files.is_appended(path) else self._read_whole
            yield from self._guarded(path, read(path, status, now, report), report)

    def _guarded(self, path: Path, reads: Iterator[_Read], report: ScanReport) -> Iterator[_Read]:
        """One file that cannot be read, or that a plugin fails on, does not keep the others waiting."""
        try:
            yield from reads
        except LedgerError:
            raise
        except FileNotFoundError:
            # its owner took it away, or another claim was faster
            return
        except OSError as error:
            self._leave(path, f"cannot be read ({error.strerror}): it is left where it is. Free it.", report)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises fails this file alone
            self._leave(path, f"waits: a plugin failed on it ({type(error).__name__}: {error}).", report)

    # ----------------------------------------------------------------------- files that are claimed

    def _read_whole(self, path: Path, status: os.stat_result, now: datetime, report: ScanReport) -> Iterator[_Read]:
        """Claim a file when it is whole. One that does not parse yet may still be in the writing."""
        files.require_readable(path)
        name = files.printable(path.name)
        file = files.feedback_file(path, name, status, now, self._settings.settle_s)
        parsed = self._hooks.parse_feedback(file=file)
        if parsed is None:
            if not file.settled:
                report.waiting += 1
                return
            self._reject(path, name, f"{name} is not a format that is known. Known: {FORMATS}.", report)
            return
        is_sound = not parsed.incomplete and not parsed.refused
        if not is_sound and not self._is_stale(status, now, incomplete=parsed.incomplete):
            report.waiting += 1
            return
        claimed = files.claim(path, self.directories)
        yield from self._read_claimed(claimed, name, claimed.lstat(), now, report)

    def _read_claimed(
        self, path: Path, name: str, status: os.stat_result, now: datetime, report: ScanReport
    ) -> Iterator[_Read]:
        problem = files.why_not_opened(status)
        if problem is not None:
            self._reject(path, name, f"{name} is {problem}. Write an ordinary file.", report)
            return
        files.require_readable(path)
        file = files.feedback_file(path, name, status, now, 0)
        parsed = self._hooks.parse_feedback(file=file)
        if parsed is None:
            self._reject(path, name, f"{name} is not a format that is known. Known: {FORMATS}.", report)
        elif status.st_size == 0 or (parsed.incomplete and _is_blank(path)):
            self._reject(path, name, f"{name} is empty. Write it again.", report)
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
        """Read what was appended since the last time, part by part; everything where the file was rewritten."""
        name = files.printable(path.name)
        known = self._ledger.events.file(name)
        offset = known.offset if known is not None and _is_continued(known, path, status) else 0
        start = offset
        while offset < status.st_size:
            end = self._part_end(path, name, status, offset)
            if end is None and self._is_stale(status, now, incomplete=True) and _is_whole(path, offset, status.st_size):
                # many writers leave the last line without its end
                end = status.st_size
            if end is None:
                self._wait_or_refuse_tail(path, name, status, offset, now, report)
                break
            read = self._read_lines(path, name, status, (offset, end), now)
            if read is None:
                self._leave(path, f"is not a format that is known, and waits. Known: {FORMATS}.", report)
                break
            yield read
            offset = end
        report.files += offset > start

    def _part_end(self, path: Path, name: str, status: os.stat_result, offset: int) -> int | None:
        """Where the next whole lines end; None where not even one is whole."""
        end = _last_line_end(path, offset, min(status.st_size, offset + PART_BYTES))
        if end > offset:
            return end
        inode, start, searched = self._searched.get(name, (status.st_ino, offset, offset))
        begin = searched if (inode, start) == (status.st_ino, offset) else offset
        found = _next_line_end(path, begin, status.st_size)
        self._searched[name] = (status.st_ino, offset, status.st_size)
        return found

    def _read_lines(
        self, path: Path, name: str, status: os.stat_result, span: tuple[int, int], now: datetime
    ) -> _Read | None:
        """Read a part; None where no plugin knows the format."""
        offset, end = span
        part = self.directories.claimed / f".part{path.suffix}"
        before = self._lines_before(path, name, status.st_ino, offset)
        lines = _copy_part(path, offset, end, part)
        self._lines[name] = (status.st_ino, end, before + lines)
        parsed = self._hooks.parse_feedback(file=files.feedback_file(part, name, status, now, 0))
        part.unlink()
        if parsed is None:
            return None
        row = FileRow(name=name, inode=status.st_ino, offset=end, head_digest=_ends_digest(path, end))
        return self._admitted(path, name, parsed, now, row, first_line=before)

    def _lines_before(self, path: Path, name: str, inode: int, offset: int) -> int:
        known = self._lines.get(name)
        return known[2] if known is not None and known[:2] == (inode, offset) else _count_lines(path, offset)

    def _wait_or_refuse_tail(
        self, path: Path, name: str, status: os.stat_result, start: int, now: datetime, report: ScanReport
    ) -> None:
        """A last line without its end is waited for; when nothing comes, it is refused once."""
        if not self._is_stale(status, now, incomplete=True):
            report.waiting += 1
            return
        key = f"{name}:{status.st_ino}:{start}:{status.st_size}"
        if key in self._told:
            return
        self._told.add(key)
        with path.open("rb") as stream:
            stream.seek(start)
            text = stream.read(2000).decode("utf-8", "replace")
        reason = f"The last line of {name} is incomplete: it has no line end. Append one, or write the line again."
        position = self._lines_before(path, name, status.st_ino, start) + 1
        record = RefusedRecord(reason=reason, text=text, position=position, code="incomplete")
        if not files.is_rejected(record, name, self.directories):
            self._reject_record(record, name, report)

    # ----------------------------------------------------------------------- admission

    def _admitted(
        self,
        path: Path,
        name: str,
        parsed: ParsedFeedback,
        now: datetime,
        row: FileRow | None,
        first_line: int = 0,
    ) -> _Read:
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
        return _Read(path=path, name=name, parsed=whole, incoming=tuple(incoming), row=row, first_line=first_line)

    def _admit(self, event: Event, now: datetime) -> IncomingEvent | RefusedRecord:
        if "/" in event.source:
            reason = f"source {event.source[:80]!r} holds a slash. Write it with a colon, as in openwebui:home."
            return RefusedRecord(reason=reason, text=_shown(event))
        if event.model and (problem := names.model_problem(event.model)) is not None:
            return RefusedRecord(reason=f"{problem}.", text=_shown(event))
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
            try:
                self._put_away(read, report)
            except OSError as error:
                # it is read again at the next scan, and its events have keys
                self._leave(read.path, f"could not be put away ({error.strerror}).", report)

    def _put_away(self, read: _Read, report: ScanReport) -> None:
        refused = read.parsed.refused
        if read.row is not None:
            self._reject_records(read, report)
            self._ledger.events.remember_file(read.row)
        elif refused and not read.incoming:
            self._reject(read.path, read.name, _reasons(refused), report, records=len(refused))
        else:
            self._reject_records(read, report)
            files.accept(read.path, self.directories, keep=self._settings.keep_accepted_days > 0)

    def _reject_records(self, read: _Read, report: ScanReport) -> None:
        for record in read.parsed.refused[:MAX_REFUSALS]:
            position = None if record.position is None else record.position + read.first_line
            self._reject_record(dataclasses.replace(record, position=position), read.name, report)
        if rest := read.parsed.refused[MAX_REFUSALS:]:
            reason = f"{len(rest)} more records were refused; these are the texts of the first. {rest[0].reason}"
            texts = "\n".join(one.text.rstrip("\n") for one in rest[:MAX_REFUSALS])
            self._reject_record(RefusedRecord(reason=reason, text=texts), f"{read.name}.rest", report)
            report.refused += len(rest) - 1

    def _reject_record(self, record: RefusedRecord, name: str, report: ScanReport) -> None:
        reason = files.reject_record(record, name, self.directories)
        report.refused += 1
        logger.warning("A record of %s was refused: %s See %s.", name, record.reason, reason)

    def _reject(self, path: Path, name: str, reason: str, report: ScanReport, records: int = 1) -> None:
        place = files.reject_file(path, name, reason, self.directories)
        report.refused += records
        logger.warning("%s was refused: %s See %s.", name, reason.splitlines()[0], place)

    def _leave(self, path: Path, problem: str, report: ScanReport) -> None:
        text = f"{files.printable(path.name)} {problem}"
        report.ignored.append(text)
        if text not in self._told:
            self._told.add(text)
            logger.warning("%s", text)


def _shown(event: Event) -> str:
    from nightschool_daemon import codec

    return codec.to_json(event)[:2000]


def _reasons(refused: tuple[RefusedRecord, ...]) -> str:
    """A line a record, for a file of which nothing was taken."""
    if len(refused) == 1:
        return refused[0].reason
    lines = [f"Record {one.position}: {one.reason}" if one.position else one.reason for one in refused[:MAX_REFUSALS]]
    if len(refused) > MAX_REFUSALS:
        lines.append(f"{len(refused) - MAX_REFUSALS} more records were refused.")
    return "\n".join(lines)


def _is_continued(known: FileRow, path: Path, status: os.stat_result) -> bool:
    """Whether what was read of a file still stands there."""
    if known.inode != status.st_ino or status.st_size < known.offset:
        return False
    return _ends_digest(path, known.offset) == known.head_digest


def _ends_digest(path: Path, length: int) -> str:
    """Digest of the first and the last bytes of a file's first `length` bytes."""
    with path.open("rb") as stream:
        head = stream.read(min(length, HEAD_BYTES))
        stream.seek(max(0, length - HEAD_BYTES))
        return hashlib.sha256(head + stream.read(min(length, HEAD_BYTES))).hexdigest()


def _last_line_end(path: Path, start: int, size: int) -> int:
    """Position behind the last line end between `start` and `size`; `start` where there is none."""
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


def _next_line_end(path: Path, start: int, size: int) -> int | None:
    """Position behind the first line end at or after `start`; None where there is none."""
    position = start
    with path.open("rb") as stream:
        stream.seek(start)
        while position < size and (chunk := stream.read(min(size - position, files.COPY_BYTES))):
            found = chunk.find(b"\n")
            if found >= 0:
                return position + found + 1
            position += len(chunk)
    return None


def _count_lines(path: Path, length: int) -> int:
    """Line ends in the first `length` bytes."""
    count, left = 0, length
    with path.open("rb") as stream:
        while left > 0 and (chunk := stream.read(min(left, files.COPY_BYTES))):
            count += chunk.count(b"\n")
            left -= len(chunk)
    return count


def _copy_part(path: Path, start: int, end: int, target: Path) -> int:
    """Copy the new lines, so that a parser sees neither older ones nor what is being appended meanwhile.

    Returns how many there are. Of a line that is too long only the beginning is copied.
    """
    count = 0
    chunk = b""
    left = min(end - start, LINE_BYTES)
    with path.open("rb") as source, target.open("wb") as sink:
        source.seek(start)
        while left > 0 and (more := source.read(min(left, files.COPY_BYTES))):
            chunk = more
            sink.write(chunk)
            count += chunk.count(b"\n")
            left -= len(chunk)
        if end - start > LINE_BYTES:
            sink.write(b"\n")
            count += 1
        elif end > start and not chunk.endswith(b"\n"):
            sink.write(b"\n")
    return count


def _is_blank(path: Path) -> bool:
    with path.open("rb") as stream:
        return not stream.read(LINE_BYTES).strip()


def _is_whole(path: Path, start: int, end: int) -> bool:
    """Whether what stands after the last line end is a whole record that lacks its line end alone."""
    if end - start > LINE_BYTES:
        return False
    with path.open("rb") as stream:
        stream.seek(start)
        try:
            return isinstance(json.loads(stream.read(end - start)), dict)
        except (ValueError, RecursionError):
            return False
