"""What a morning report says, before it is a page: the same sheet becomes Markdown for a terminal and HTML."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from nightschool_daemon.jobs import EventMark

LINE_LETTERS = 160
"""Of a prompt or an answer in the terminal."""
PAGE_LETTERS = 2000
"""Of one on the page."""
UNREADABLE = frozenset({"Cc", "Cs", "Cn", "Co"})
"""Categories of characters that a terminal obeys, or no file can hold."""
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows them."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A question of the exam with what the model said before and says now. Scores 0..100."""

    prompt: str
    wanted: str | None
    unwanted: str | None
    before: str
    before_score: float
    after: str
    after_score: float


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question of the exam that is like a piece of feedback, and how it was answered without and with what was
    learned."""

    question: str
    alike: float
    """0..1, to the event's own prompt, by its words in any order; 1 for the event itself."""
    before: float
    """Score of the model in use, 0..100."""
    after: float
    """Score of the new model, or of the trial model that did not learn it."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of feedback, and what a run made of it."""

    name: str
    """`source/id`."""
    prompt: str
    said: str
    """What was said of the answer, in a word or two."""
    score: float | None
    """0..100, of the answer; None: nobody scored it."""
    fate: str
    """Learned, or left out and why, and what speaks against it. A name in it stands between backticks."""
    mark: EventMark | None
    """What it was worth; None where it was not to be learned from."""
    asked: Asked | None
    """Its own question, else the one of the exam that is most like it; None: none is."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A plot as SVG, with what it shows in words."""

    title: str
    words: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures side by side; the first column names them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it, in this order. A command in a sentence stands between backticks."""

    title: str
    sentences: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    shown: tuple[Shown, ...] = ()
    points: tuple[str, ...] = ()
    table: Table | None = None
    pieces: tuple[Piece, ...] = ()
    """On the page alone, where they can be folded away."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The whole report."""

    headline: str
    subject: str
    """The specialty and the run."""
    at: datetime
    summary: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    technical: tuple[Section, ...] = ()
    """For those who want to know; at the end."""

    def with_section(self, section: Section, *, before: str | None = None) -> "Sheet":
        """With one more section: before the one with a title, else after all others."""
        titles = [one.title for one in self.sections]
        at = titles.index(before) if before in titles else len(titles)
        return replace(self, sections=(*self.sections[:at], section, *self.sections[at:]))

    def without_section(self, title: str) -> "Sheet":
        """Without the section that has a title."""
        return replace(self, sections=tuple(one for one in self.sections if one.title != title))

    def with_pictures(self, title: str, pictures: Iterable[Picture]) -> "Sheet":
        """With plots in the section that has a title."""
        return replace(
            self,
            sections=tuple(
                replace(one, pictures=(*one.pictures, *pictures)) if one.title == title else one
                for one in self.sections
            ),
        )


def clean(text: str) -> str:
    """A text without what moves a terminal's cursor, turns the line round, or cannot be written as UTF-8."""
    return "".join(one if one in "\n\t" or _is_readable(one) else "\N{REPLACEMENT CHARACTER}" for one in text)


def _is_readable(letter: str) -> bool:
    return letter not in TURNING and unicodedata.category(letter) not in UNREADABLE


def shortened(text: str, limit: int) -> str:
    """A text of at most so many letters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line(text: str, limit: int = LINE_LETTERS) -> str:
    """A text in one line, without what would end a Markdown code span."""
    return shortened(" ".join(clean(text).split()).replace("`", "'"), limit)


# --------------------------------------------------------------------------- Markdown


def markdown_of(sheet: Sheet) -> str:
    """The sheet for a terminal. Plots are told in words."""
    lines = [f"# {sheet.headline}", "", sheet.subject, ""]
    for sentence in sheet.summary:
        lines += [sentence, ""]
    for section in sheet.sections:
        lines += _section_lines(section, "##")
    if sheet.technical:
        lines += ["## Technical figures", ""]
    for section in sheet.technical:
        lines += _section_lines(section, "###")
    return clean("\n".join(lines).rstrip()) + "\n"


def _section_lines(section: Section, mark: str) -> Iterator[str]:
    yield from (f"{mark} {section.title}", "")
    for sentence in (*section.sentences, *(one.words for one in section.pictures)):
        yield from (sentence, "")
    for number, one in enumerate(section.shown, start=1):
        yield from _shown_lines(one, number)
    if section.points:
        yield from (f"- {one}" for one in section.points)
        yield ""
    if section.table is not None:
        yield from _table_lines(section.table)


def _shown_lines(shown: Shown, number: int) -> Iterator[str]:
    yield from (f"**Question {number}:** {_code(shown.prompt)}", "")
    if shown.wanted is not None:
        yield f"- wanted: {_code(shown.wanted)}"
    if shown.unwanted is not None:
        yield f"- not wanted: {_code(shown.unwanted)}"
    yield f"- before ({shown.before_score:.0f} of 100): {_code(shown.before)}"
    yield f"- after ({shown.after_score:.0f} of 100): {_code(shown.after)}"
    yield ""


def _code(text: str) -> str:
    line = one_line(text)
    return f"`{line}`" if line else "(nothing)"


def _table_lines(table: Table) -> Iterator[str]:
    yield _row(table.columns)
    yield _row(["---", *["---:"] * (len(table.columns) - 1)])
    yield from map(_row, table.rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
