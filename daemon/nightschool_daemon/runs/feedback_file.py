"""A file of feedback that a person names: nobody is writing to it any more, and it is no part of any ledger."""

import dataclasses
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.runs.errors import RunRefused
from nightschool_hookspecs.records import Context, Event, FeedbackFile, FeedbackType, ParsedFeedback


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
    return "it ends in the middle" if parsed.incomplete else "it is empty"


# --------------------------------------------------------------------------- prompts alone


def read_prompts(data: Path) -> tuple[Event, ...]:
    """The prompts of a file that holds nothing else, as events of which nothing is known; none where it is another.

    JSON and JSONL: texts, or objects with a `prompt` and perhaps a `system` text. Any other file: a prompt a line.
    """
    modified = datetime.fromtimestamp(data.stat().st_mtime, UTC)
    try:
        records = _records(data.name, data.read_text(encoding="utf-8"))
    except ValueError:
        # it is no text, or no JSON
        return ()
    found = [_unanswered(number, record, modified) for number, record in enumerate(records, start=1)]
    return tuple(one for one in found if one is not None) if all(found) else ()


def _records(name: str, text: str) -> list[object]:
    if name.endswith(".json"):
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    lines: list[object] = [line for line in text.splitlines() if line.strip()]
    return [json.loads(str(line)) for line in lines] if name.endswith(".jsonl") else lines


def _unanswered(number: int, record: object, at: datetime) -> Event | None:
    """A prompt by itself; None: it is something else."""
    known = record if isinstance(record, dict) else {"prompt": record}
    prompt, system = known.get("prompt"), known.get("system")
    if not (isinstance(prompt, str) and prompt.strip() and known.keys() <= {"prompt", "system"}):
        return None
    return Event(
        id=str(number),
        timestamp=at,
        feedback_type=FeedbackType.SUCCESS,
        input_data=prompt,
        context=Context(system=system if isinstance(system, str) else None),
        source="prompts",
    )
