"""Seasons of exams and sheets, made up."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from nightschool_daemon.jobs import EventMark
from nightschool_daemon.reporting.records import NightExam, Said
from nightschool_daemon.reporting.sheet import Asked, Piece, Section, Sheet, Shown
from nightschool_daemon.reporting.words import EXAM, LEFT_OUT, PIECES

START = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
BASE = "tiny-nightschool:1b.base-123456789abc"


def night(
    number: int,
    gain: float,
    *,
    incumbent: str = BASE,
    mean: float = 50.0,
    promoted: bool = False,
    taken_back: bool = False,
    questions: int = 20,
) -> NightExam:
    """An exam of version `v<number>`, whose gain is known to 5 points."""
    return NightExam(
        run_id=f"r{number}",
        at=START + timedelta(days=number),
        incumbent=incumbent,
        version=f"v{number}",
        promoted=promoted,
        taken_back=taken_back,
        questions=questions,
        incumbent_mean=mean,
        gain=gain,
        interval=(gain - 5, gain + 5),
    )


def said(negative: Sequence[bool]) -> tuple[Said, ...]:
    """Feedback in use, one an hour."""
    return tuple(Said(at=START + timedelta(hours=number), negative=bool(one)) for number, one in enumerate(negative))


def sheet(text: str = "List files") -> Sheet:
    """A whole sheet in which somebody else's text stands wherever it can."""
    mark = EventMark(event_id=text, priority=1.5, reward=1.0, difficulty=0.5, weight=1.5)
    asked = Asked(question=text, alike=0.8, before=12.0, after=90.0)
    piece = Piece(name=text, prompt=text, said="corrected", score=40.0, fate=text, mark=mark, asked=asked)
    shown = Shown(prompt=text, wanted=text, unwanted=text, before=text, before_score=12.0, after=text, after_score=90.0)
    return Sheet(
        headline="A better model is in use",
        subject="tiny:1b / shell, run r",
        at=START,
        summary=("Call `ollama run it`.", text),
        sections=(
            Section(title="Before and after", shown=(shown,)),
            Section(title=EXAM, sentences=("It is better.",)),
            Section(title=LEFT_OUT, points=(text,)),
            Section(title=PIECES, pieces=(piece, replace(piece, score=None, mark=None, asked=None))),
        ),
        technical=(Section(title="Judgement", points=("p = 0.01",)),),
    )
