"""What became of a piece of feedback: `nightschool explain EVENT`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from nightschool_daemon import codec
from nightschool_daemon.config import SpecialtyMode
from nightschool_daemon.installation import Installation
from nightschool_daemon.jobs import (
    FINDINGS,
    MARKS,
    EventMark,
    EventRow,
    NoiseRow,
    RunDirectory,
    SelectResult,
    Step,
    read_lines,
)
from nightschool_daemon.ledger import RunRow
from nightschool_daemon.ledger.exams import Exams
from nightschool_daemon.reporting.words import LEARNED_BY
from nightschool_daemon.runs import RunRefused
from nightschool_hookspecs.records import ExamAnswer, ExamItem, ItemRole, RunEnd, Side, TrainingResult

T = TypeVar("T")

NIGHTS = 50
"""Newest runs that are looked through."""
MOST_KIN, LEAST_ALIKE = 3, 0.5
"""Exam questions that are shown as kin of a prompt, and how alike in its words one must be, 0..1."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question of the exam, and how it was answered without and with what was learned."""

    question: str
    alike: float
    """0..1, to the event's own prompt, by its words in any order; 1 for the event itself."""
    before: float
    """Score of the model in use, 0..100, as the report has it."""
    after: float
    """Score of the new model, or of the trial model that did not learn it."""


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
    nights = (_night(event, row, ledger.exams) for row in ledger.runs.latest(NIGHTS))
    return Explanation(event=event, standing=_standing(event), nights=tuple(one for one in nights if one is not None))


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
    key = row.event.key
    answered = exams.answered_by_both(night.run)
    own = next((one for one in answered if one[0].event_id == key), None)
    fate = _fate(key, directory, is_over=night.end is not None)
    noise = next((one for one in _lines(directory, FINDINGS, NoiseRow) if one.finding.event_id == key), None)
    if fate is None and own is None and noise is None:
        return None
    asked = "It was asked in the exam, and not learned from." if own else "It was neither learned from nor asked."
    return replace(
        night,
        fate=fate or asked,
        mark=next((one for one in _lines(directory, MARKS, EventMark) if one.event_id == key), None),
        noise=noise,
        asked=None if own is None else _asked(row, *own),
        kin=_kin(row, answered),
    )


def _fate(key: str, directory: RunDirectory, *, is_over: bool) -> str | None:
    selected = directory.result(Step.SELECT, SelectResult)
    if key in selected.shots:
        return "It was shown to the model as an example."
    chosen = [method for method, keys in selected.sources.items() if key in keys]
    if chosen:
        if not directory.is_done(Step.TRAIN):
            ended = "the run ended before it had learned" if is_over else "the run is under way"
            return f"It was chosen, and {ended}."
        trained = directory.result(Step.TRAIN, TrainingResult).methods
        ways = [LEARNED_BY[method] for method in trained if method in chosen]
        return f"It was learned from: {', then '.join(ways)}." if ways else "This run learned from other kinds."
    reason = next((one.reason for one in selected.left_out if one.event_id == key), None)
    return None if reason is None else f"It was left out: {reason}."


def _lines(directory: RunDirectory, name: str, kind: type[T]) -> Iterator[T]:
    """What `select` left in a file; nothing where a run of an earlier release left none."""
    file = directory.step(Step.SELECT) / name
    return read_lines(file, kind) if file.exists() else iter(())


def _asked(row: EventRow, item: ExamItem, before: ExamAnswer, after: ExamAnswer) -> Asked:
    from rapidfuzz import fuzz

    question = item.messages[-1].content
    alike = fuzz.token_sort_ratio(row.event.input_data, question) / 100
    return Asked(question=question, alike=alike, before=before.score, after=after.score)


def _kin(row: EventRow, answered: Iterable[tuple[ExamItem, ExamAnswer, ExamAnswer]]) -> tuple[Asked, ...]:
    """What counted in the exam and is most like the event's prompt."""
    others = [one for one in answered if one[0].event_id != row.event.key and one[0].role is ItemRole.GAIN]
    alike = (one for one in (_asked(row, *other) for other in others) if one.alike >= LEAST_ALIKE)
    return tuple(sorted(alike, key=lambda one: -one.alike)[:MOST_KIN])
