"""A file of feedback that a person names: nobody is writing to it any more, and it is no part of any ledger."""

import dataclasses
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.runs.errors import RunRefused
from nightschool_hookspecs.records import FeedbackFile, ParsedFeedback


def read_file(data: Path, hooks: Hooks) -> ParsedFeedback:
    """What a file of feedback holds. Raises `RunRefused` where there is no event in it."""
    modified = datetime.fromtimestamp(data.stat().st_mtime, UTC)
    file = FeedbackFile(path=data, name=data.name, modified_at=modified, settled=True)
    parsed = hooks.parse_feedback(file=file)
    if parsed is not None and parsed.incomplete:
        parsed = _with_its_end(file, hooks)
    if parsed is None or not parsed.events:
        raise RunRefused(f"{data} holds no event that can be learned from: {_why_nothing(parsed)}.")
    return parsed


def _with_its_end(file: FeedbackFile, hooks: Hooks) -> ParsedFeedback | None:
    """Many writers leave the last line without its end; nobody is writing here, so it is as whole as it will be."""
    with tempfile.TemporaryDirectory(prefix="nightschool-") as directory:
        copy = Path(directory) / file.name
        shutil.copyfile(file.path, copy)
        with copy.open("ab") as stream:
            stream.write(b"\n")
        return hooks.parse_feedback(file=dataclasses.replace(file, path=copy))


def _why_nothing(parsed: ParsedFeedback | None) -> str:
    if parsed is None:
        return "it is no *.json or *.jsonl file"
    if parsed.refused:
        return parsed.refused[0].reason.removesuffix(".")
    return "it ends in the middle" if parsed.incomplete else "it is an empty list"
