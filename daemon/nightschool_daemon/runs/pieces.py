"""The feedback of a run piece by piece, for its report: what each was worth, what became of it, what it taught."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from nightschool_daemon.jobs import EventRow, RunDirectory, Step, read_lines
from nightschool_daemon.reporting.sheet import Asked, Piece, Section, one_line
from nightschool_daemon.reporting.words import PIECES
from nightschool_daemon.runs.fates import Fates
from nightschool_hookspecs.records import Event, FeedbackType

MOST_PIECES, MOST_LEFT_OUT = 50, 10
"""Pieces that are told one by one, and how many of them were left out where more than enough were learned from."""
TELLING = 3
"""Of them, that the terminal gets to see."""
PIECE_LETTERS, TELLING_LETTERS = 300, 80
"""Of a prompt and a question, on the page and in the terminal."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+/=-]{0,199}")
"""One that a shell takes as it stands."""

SAID: Mapping[FeedbackType, str] = {
    FeedbackType.SUCCESS: "used as it was",
    FeedbackType.EXPLICIT_POSITIVE: "liked",
    FeedbackType.USER_CORRECTION: "corrected",
    FeedbackType.VALIDATION_FAILURE: "failed a check",
    FeedbackType.EXPLICIT_NEGATIVE: "disliked",
}

HOW_TO_READ = (
    "Worth goes from -1, a bad answer, to 1, a correction or a very good answer. Weight is how much a piece counted in "
    "the lesson: one of weight 2 counts twice as much as one of weight 1. What a piece taught is seen at the question "
    "of the exam that is most like it, together with the rest of the lesson."
)


def pieces_section(directory: RunDirectory, fates: Fates) -> Iterator[Section]:
    """The pieces that counted most, and the most valuable ones that were left out."""
    learned, left_out = chosen_names(fates)
    if not (learned or left_out):
        return
    events = _events(directory, frozenset((*learned, *left_out)))
    pieces = tuple(_piece(events[name], fates) for name in (*learned, *left_out) if name in events)
    yield Section(
        title=PIECES,
        sentences=(_counted(len(fates.names()), len(learned), len(left_out)), HOW_TO_READ),
        points=(*map(_told, telling(pieces)), _command(pieces)),
        pieces=pieces,
    )


def chosen_names(fates: Fates) -> tuple[Sequence[str], Sequence[str]]:
    """Which are told: of those that were learned from the heaviest, of the others the most valuable."""
    names = sorted(fates.names(), key=lambda name: _rank(name, fates))
    learned = [name for name in names if fates.is_chosen(name)]
    left_out = [name for name in names if not fates.is_chosen(name)]
    places = MOST_PIECES - min(len(left_out), MOST_LEFT_OUT)
    return learned[:places], left_out[: MOST_PIECES - min(len(learned), places)]


def _rank(name: str, fates: Fates) -> tuple[float, float]:
    """By weight, then by priority, the largest first."""
    mark = fates.marks.get(name)
    return (-(mark.weight or 0.0), -mark.priority) if mark is not None else (0.0, math.inf)


def _events(directory: RunDirectory, names: frozenset[str]) -> Mapping[str, Event]:
    """As they were when the run began."""
    rows = read_lines(directory.step(Step.PREPARE) / "events.jsonl", EventRow)
    return {row.event.key: row.event for row in rows if row.event.key in names}


def _piece(event: Event, fates: Fates) -> Piece:
    asked = fates.asked(event) or next(iter(fates.kin(event)), None)
    return Piece(
        name=event.key,
        prompt=one_line(event.input_data, PIECE_LETTERS),
        said=_said(event),
        score=event.validation_score,
        fate=" ".join(filter(None, (fates.fate(event.key), fates.doubt(event.key)))),
        mark=fates.marks.get(event.key),
        asked=None if asked is None else replace(asked, question=one_line(asked.question, PIECE_LETTERS)),
    )


# --------------------------------------------------------------------------- in words


def _said(event: Event) -> str:
    if event.metadata.demonstration:
        return "an example"
    return "corrected" if event.is_correction else SAID[event.feedback_type]


def _counted(total: int, learned: int, left_out: int) -> str:
    """How many there are, and which of them are told."""
    pieces = "1 piece of feedback was" if total == 1 else f"{total} pieces of feedback were"
    told = "it" if total == 1 else "each"
    if learned + left_out < total:
        of_others = f" and of the {left_out} that were worth most of the others" if left_out else ""
        told = f"the {learned} that counted most{of_others}"
    return f"{pieces} not kept for the exam. What became of {told} stands on the page."


def telling(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Those by whose question of the exam most was changed, then those that counted most."""
    return sorted(pieces, key=lambda one: -_change(one.asked))[:TELLING]


def _change(asked: Asked | None) -> float:
    """In points, less where the question is less like the piece."""
    return 0.0 if asked is None else asked.alike * abs(asked.after - asked.before)


def _told(piece: Piece) -> str:
    weight = "" if piece.mark is None or piece.mark.weight is None else f", weight {piece.mark.weight:.2f}"
    told = f"`{one_line(piece.prompt, TELLING_LETTERS)}` ({piece.said}{weight}): {piece.fate}"
    return told if piece.asked is None else f"{told} {_taught(piece, piece.asked)}"


def _taught(piece: Piece, asked: Asked) -> str:
    which = "Its own question"
    if asked.question != piece.prompt:
        which = f"A question of the exam like it, `{one_line(asked.question, TELLING_LETTERS)}`,"
    return f"{which} went from {asked.before:.0f} to {asked.after:.0f} of 100 points."


def _command(pieces: Sequence[Piece]) -> str:
    """How to see the rest: by a name that nobody can have made a command of its own."""
    name = next((one.name for one in telling(pieces) if PLAIN_NAME.fullmatch(one.name)), "EVENT")
    return f"All of one piece, over the nights: `nightschool explain {name}`"
