"""The feedback directory: what may be read, how a file is claimed, where it goes afterwards.

feedback/            applications drop files here
feedback/.claimed/   a `.json` on its way into the ledger
feedback/accepted/   what was taken in
feedback/rejected/   what was refused, with the reason beside it
"""

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nightschool_hookspecs.records import FeedbackFile, RefusedRecord

APPENDED = (".jsonl", ".ndjson")
"""Files that applications append to stay where they are."""
COPY_BYTES = 1024 * 1024
HALF_WRITTEN = (".tmp", ".part", ".partial", ".crdownload", ".swp")
"""Names that programs give a file until it is whole."""
MAX_NAME_BYTES = 180
"""Of 255 that file systems take: room for what is put behind a name."""
RECORD = ".record.txt"
MAX_SUFFIX_BYTES = 40


@dataclass(frozen=True, kw_only=True)
class Directories:
    """The feedback directory and its sub-directories."""

    root: Path

    @property
    def claimed(self) -> Path:
        """Files on their way in."""
        return self.root / ".claimed"

    @property
    def accepted(self) -> Path:
        """Files that were taken in."""
        return self.root / "accepted"

    @property
    def rejected(self) -> Path:
        """Records and files that were refused."""
        return self.root / "rejected"

    def make(self) -> None:
        """Make them all."""
        for one in (self.root, self.claimed, self.accepted, self.rejected):
            one.mkdir(parents=True, exist_ok=True)


def candidates(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Entries of the directory that are not ours and not hidden, without following links."""
    with os.scandir(directory) as entries:
        found = [Path(entry.path) for entry in entries if not _is_passed_over(entry.name)]
    for path in sorted(found):
        try:
            status = path.lstat()
        except FileNotFoundError:
            # it was taken away between the two calls
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield path, status


def printable(name: str) -> str:
    """A file name as it can stand in a log, in the ledger and in the name of another file."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def why_not_opened(status: os.stat_result) -> str | None:
    """Why an entry is left where it is and never opened; None for an ordinary file."""
    if stat.S_ISREG(status.st_mode):
        return None
    kinds = (
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISCHR, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(status.st_mode)), "no ordinary file")


def is_appended(path: Path) -> bool:
    """Whether applications may append to a file of this name."""
    return path.suffix.lower() in APPENDED


def require_readable(path: Path) -> None:
    """Raise `OSError` for a file that we may not read, before a plugin is blamed for it."""
    with path.open("rb"):
        pass


def claim(path: Path, directories: Directories) -> Path:
    """Take a file for ourselves by one rename. A name that is claimed already gets a number."""
    target = free_name(directories.claimed, printable(path.name))
    path.rename(target)
    return target


def feedback_file(path: Path, name: str, status: os.stat_result, now: datetime, settle_s: float) -> FeedbackFile:
    """The file as parsers see it."""
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return FeedbackFile(
        path=path, name=name, modified_at=modified, settled=(now - modified).total_seconds() >= settle_s
    )


def accept(path: Path, directories: Directories, *, keep: bool) -> None:
    """Put a claimed file away once its events are durable."""
    if keep:
        kept = path.rename(free_name(directories.accepted, path.name))
        # how long it is kept counts from now, not from when it was written
        os.utime(kept)
    else:
        path.unlink()


def reject_record(record: RefusedRecord, name: str, directories: Directories) -> Path:
    """Write a refused record down with the reason beside it. Returns the reason's file.

    The very same record in the same place, refused before a restart, is not written twice.
    """
    target, text = _record_file(record, name, directories), _record_bytes(record)
    if not is_rejected(record, name, directories):
        target = free_name(directories.rejected, target.name, RECORD)
        target.write_bytes(text)
    return _write_reason(target, record.reason)


def is_rejected(record: RefusedRecord, name: str, directories: Directories) -> bool:
    """Whether the very same record in the same place was refused before."""
    file = _record_file(record, name, directories)
    return file.is_file() and file.read_bytes() == _record_bytes(record)


def _record_file(record: RefusedRecord, name: str, directories: Directories) -> Path:
    place = f"{name}.{record.position}" if record.position is not None else name
    return directories.rejected / f"{_cut(place, MAX_NAME_BYTES)}{RECORD}"


def _record_bytes(record: RefusedRecord) -> bytes:
    return record.text.encode(errors="backslashreplace")


def reject_file(path: Path, name: str, reason: str, directories: Directories) -> Path:
    """Put a whole file away with the reason beside it. Returns the reason's file."""
    target = free_name(directories.rejected, name)
    try:
        path.rename(target)
    except OSError:
        # another file system mounted below the feedback directory
        shutil.move(path, target)
    return _write_reason(target, reason)


def remove_old(directories: Directories, now: datetime, keep_days: int) -> None:
    """Delete accepted files that are older than the configuration keeps them."""
    limit = now.timestamp() - keep_days * 86400
    for path, status in candidates(directories.accepted):
        if status.st_mtime < limit:
            path.unlink(missing_ok=True)


def free_name(directory: Path, name: str, suffix: str | None = None) -> Path:
    """A path in the directory that nobody uses, short enough for the file system.

    `suffix` is the part of the name that stays at its end; the file's own where None.
    """
    suffix = Path(name).suffix if suffix is None else suffix
    stem = _cut(name.removesuffix(suffix), MAX_NAME_BYTES)
    suffix = _cut(suffix, MAX_SUFFIX_BYTES)
    path = directory / f"{stem}{suffix}"
    number = 1
    while path.exists():
        number += 1
        path = directory / f"{stem}.{number}{suffix}"
    return path


def _cut(text: str, limit: int) -> str:
    """As many characters as fit into so many bytes."""
    return text.encode()[:limit].decode(errors="ignore")


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.endswith("~") or name.lower().endswith(HALF_WRITTEN)


def _write_reason(target: Path, reason: str) -> Path:
    file = target.with_name(f"{target.name.removesuffix(RECORD)}.reason.txt")
    file.write_text(reason.rstrip() + "\n", encoding="utf-8", errors="backslashreplace")
    return file
