"""What became of a piece of feedback: `nightschool explain EVENT`."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from nightschool_daemon import codec
from nightschool_daemon.config import SpecialtyMode
from nightschool_daemon.installation import Installation
from nightschool_daemon.jobs import MARKS, EventMark, EventRow, RunDirectory, SelectResult, Step, read_lines
from nightschool_daemon.ledger import RunRow
from nightschool_daemon.reporting.words import LEARNED_BY
from nightschool_daemon.runs import RunRefused
from nightschool_hookspecs.records import ExamItem, ItemRole, RunEnd, Side, Sitting, TrainingResult

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
    """Score of the model in use, 0..100."""
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
    events = installation.ledger.events
    keys = events.keys_of(name)
    if len(keys) > 1:
        raise RunRefused(f"{len(keys)} events are called {name}: {', '.join(keys)}. Name one of these.")
    is_pooled = installation.settings.specialties.mode is SpecialtyMode.POOLED
    event = events.get(keys[0], pooled=is_pooled) if keys else None
    if event is None:
        raise RunRefused(f"There is no event {name}. Its name is `source/id`, as feedback files and reports have it.")
    nights = (_night(event, row) for row in installation.ledger.runs.latest(NIGHTS))
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


def _night(row: EventRow, run: RunRow) -> EventNight | None:
    """None: the run had nothing to do with it, or nothing is left of it."""
    try:
        return _read_night(row, run)
    except (OSError, codec.CodecError):
        # half of it is gone, or another release wrote it
        return _night_of(run, "The files of this run cannot be read.")


def _night_of(run: RunRow, fate: str) -> EventNight:
    return EventNight(
        run=run.id, specialty=str(run.specialty), started_at=run.started_at, end=run.end, fate=fate, mark=None
    )


def _read_night(row: EventRow, run: RunRow) -> EventNight | None:
    directory = RunDirectory(path=run.directory)
    if not directory.is_done(Step.SELECT):
        return None
    key = row.event.key
    fate = _fate(key, directory, is_over=run.end is not None)
    questions = tuple(_asked(row.event.input_data, directory))
    own = next((one for item, one in questions if item.event_id == key), None)
    if fate is None and own is None:
        return None
    return replace(
        _night_of(run, fate or "It was asked in the exam, and not learned from."),
        mark=_mark(key, directory),
        asked=own,
        kin=_kin(key, questions),
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


def _mark(key: str, directory: RunDirectory) -> EventMark | None:
    file = directory.step(Step.SELECT) / MARKS
    if not file.exists():
        return None
    return next((one for one in read_lines(file, EventMark) if one.event_id == key), None)


def _asked(prompt: str, directory: RunDirectory) -> Iterator[tuple[ExamItem, Asked]]:
    """Every question that the model in use and the new one, or a trial model, answered."""
    from rapidfuzz import fuzz

    if not directory.is_done(Step.EXAMINE):
        return
    scores: dict[str, dict[Sitting, float]] = {}
    for answer in directory.exam_answers():
        scores.setdefault(answer.item_id, {})[answer.sitting] = answer.score
    for item in directory.exam_items():
        found = scores.get(item.id, {})
        if Sitting.CANDIDATE not in found or Sitting.INCUMBENT not in found:
            continue
        question = item.messages[-1].content
        yield (
            item,
            Asked(
                question=question,
                alike=fuzz.token_sort_ratio(prompt, question) / 100,
                before=_before(found),
                after=found[Sitting.CANDIDATE],
            ),
        )


def _before(scores: Mapping[Sitting, float]) -> float:
    return statistics.fmean(score for sitting, score in scores.items() if sitting is not Sitting.CANDIDATE)


def _kin(key: str, questions: Sequence[tuple[ExamItem, Asked]]) -> tuple[Asked, ...]:
    alike = [
        one
        for item, one in questions
        if item.event_id != key and item.role is ItemRole.GAIN and one.alike >= LEAST_ALIKE
    ]
    return tuple(sorted(alike, key=lambda one: -one.alike)[:MOST_KIN])
