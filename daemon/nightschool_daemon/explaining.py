"""What became of a piece of feedback: `nightschool explain EVENT`."""

import itertools
import json
from dataclasses import dataclass, replace
from datetime import datetime

from nightschool_daemon import codec
from nightschool_daemon.config import SpecialtyMode
from nightschool_daemon.installation import Installation
from nightschool_daemon.jobs import EventMark, EventRow, NoiseRow, RunDirectory, Step
from nightschool_daemon.ledger import Ledger, RunRow
from nightschool_daemon.ledger.exams import Exams
from nightschool_daemon.reporting.sheet import Asked
from nightschool_daemon.runs import RunRefused
from nightschool_daemon.runs.fates import Fates
from nightschool_hookspecs.records import RunEnd, Side

NIGHTS = 50
"""Newest ones of an event that are told."""
ASKED, UNTOUCHED = "It was asked in the exam, and not learned from.", "It was neither learned from nor asked."


@dataclass(frozen=True, kw_only=True)
class EventNight:
    """What a run made of it."""

    run: str
    specialty: str
    started_at: datetime
    end: RunEnd | None
    fate: str
    """One sentence: learned, left out and why, or asked in the exam."""
    mark: EventMark | None
    """What it was worth; None where it was not to be learned from."""
    noise: NoiseRow | None = None
    """Why it looked wrong; None where it did not, or nobody looked."""
    suspicion: str | None = None
    """The same in words, with what it meant for it."""
    asked: Asked | None = None
    """The event's own question, where it was one."""
    kin: tuple[Asked, ...] = ()
    """The questions most like it, which show what it taught."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What an event says, where it stands, and what each night made of it, newest first."""

    event: EventRow
    standing: str
    nights: tuple[EventNight, ...]


def explanation_of(installation: Installation, name: str) -> Explanation:
    """Explain the event of this `source/id`, or of this id. Raises `RunRefused` where it is none, or not one alone."""
    ledger = installation.ledger
    keys = ledger.events.keys_of(name)
    if len(keys) > 1:
        raise RunRefused(f"{len(keys)} events are called {name}: {', '.join(keys)}. Name one of these.")
    is_pooled = installation.settings.specialties.mode is SpecialtyMode.POOLED
    event = ledger.events.get(keys[0], pooled=is_pooled) if keys else None
    if event is None:
        raise RunRefused(f"There is no event {name}. Its name is `source/id`, as feedback files and reports have it.")
    return Explanation(event=event, standing=_standing(event), nights=nights_of(ledger, event))


def nights_of(ledger: Ledger, row: EventRow) -> tuple[EventNight, ...]:
    """The newest runs that had to do with it, however many others came behind them."""
    found = (_night(row, run, ledger.exams) for run in ledger.runs.newest_first() if _speaks_of(run, row))
    return tuple(itertools.islice((one for one in found if one is not None), NIGHTS))


def _speaks_of(run: RunRow, row: EventRow) -> bool:
    """Whether the event's name stands anywhere in what a run made of its feedback: most runs have never seen it."""
    name = json.dumps(row.event.key)[1:-1].encode()
    files = RunDirectory(path=run.directory).step(Step.SELECT).glob("*.json*")
    try:
        return any(name in file.read_bytes() for file in files)
    except OSError:
        # it may: whoever reads it in earnest tells what is wrong
        return True


def _standing(row: EventRow) -> str:
    if row.event.metadata.deleted:
        return "It was withdrawn: nothing is learned from it."
    if row.group is None:
        return "Its prompt is close to one that is learned from and to one of the exam, so it goes to neither."
    if row.side is Side.HELD_OUT:
        return "Its prompt is kept for the exam: no version learns from it."
    if row.side is Side.TRAINING:
        return "It may be learned from." + (" A version has learned from it." if row.trained_on else "")
    return "No run has decided yet where it belongs."


def _night(row: EventRow, run: RunRow, exams: Exams) -> EventNight | None:
    """None: the run had nothing to do with it, or nothing is left of it."""
    found = EventNight(
        run=run.id,
        specialty=str(run.specialty),
        started_at=run.started_at,
        end=run.end,
        fate="The files of this run cannot be read.",
        mark=None,
    )
    try:
        return _read(row, RunDirectory(path=run.directory), exams, found)
    except (OSError, codec.CodecError):
        # half of it is gone, or another release wrote it
        return found


def _read(row: EventRow, directory: RunDirectory, exams: Exams, night: EventNight) -> EventNight | None:
    if not directory.is_done(Step.SELECT):
        return None
    fates = Fates(directory, exams.answered_by_both(night.run), is_over=night.end is not None)
    fate, asked, noise = fates.fate(row.event.key), fates.asked(row.event), fates.noise.get(row.event.key)
    if fate is None and asked is None and noise is None:
        return None
    return replace(
        night,
        fate=fate or (UNTOUCHED if asked is None else ASKED),
        mark=fates.marks.get(row.event.key),
        noise=noise,
        suspicion=fates.suspicion(row.event.key),
        asked=asked,
        kin=fates.kin(row.event),
    )
