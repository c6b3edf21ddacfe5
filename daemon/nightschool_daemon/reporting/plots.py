"""The plots of the page as SVG. Runs in a worker: matplotlib is large.

Everything is told by place, shape and filling, never by colour alone: a page is printed in black and white too.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from nightschool_daemon.reporting.records import Question, Said, TrackRecord
from nightschool_daemon.reporting.sheet import Picture, one_line
from nightschool_daemon.reporting.words import CERTAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches, at the sizes of letters below: as wide as the text of the page."""
ROW = 0.27
"""Inches a question."""
LABELLED_ROWS = 40
"""Of more questions no texts stand beside their lines."""
LABEL_LETTERS = 42
SHARE_WINDOW = 10
"""Answers that a point of the plot of feedback is a mean of."""
NIGHTS_WITH_DATES = 12
"""Of more nights not each has its date."""
BEFORE, AFTER, LINE, PALE = "#666666", "#0b4f8a", "#333333", "#bbbbbb"
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def exam_picture(questions: Sequence[Question]) -> Picture:
    """Each question before and after, the largest gain at the top."""
    ordered = sorted(questions, key=lambda one: one.after - one.before)
    better = sum(one.after > one.before for one in ordered)
    worse = sum(one.after < one.before for one in ordered)
    labelled = len(ordered) <= LABELLED_ROWS
    height = 1.1 + (ROW * len(ordered) if labelled else ROW * LABELLED_ROWS / 1.5)
    with _figure(height) as (figure, axes):
        for row, one in enumerate(ordered):
            axes.plot([one.before, one.after], [row, row], color=PALE, linewidth=2, zorder=1)
        rows = range(len(ordered))
        size = 36 if labelled else 14
        befores, afters = [one.before for one in ordered], [one.after for one in ordered]
        axes.scatter(befores, rows, s=size * 1.5, facecolors="white", edgecolors=BEFORE, label="before", zorder=2)
        axes.scatter(afters, rows, s=size * 0.7, color=AFTER, marker="D", label="after", zorder=3)
        axes.set(xlim=(-4, 104), xlabel="points (of 100)", ylim=(-0.8, len(ordered) - 0.2))
        axes.set_yticks(list(rows) if labelled else [])
        if labelled:
            axes.set_yticklabels([one_line(one.text, LABEL_LETTERS) for one in ordered])
        else:
            axes.set_ylabel(f"{len(ordered)} questions, the largest gain at the top")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        svg = _svg_of(figure, "exam")
    equal = len(ordered) - better - worse
    words = (
        f"Of {len(ordered)} questions {better} were answered better than before, {equal} as well as before, "
        f"{worse} worse."
    )
    return Picture(title="Each question of the exam, before and after", words=words, svg=svg)


def nights_picture(track: TrackRecord) -> Picture:
    """The level of every candidate, night after night, and of what was in use."""
    exams = track.exams
    numbers = range(1, len(exams) + 1)
    with _figure(2.9) as (figure, axes):
        if track.base_level is not None:
            axes.axhline(track.base_level, color=LINE, linestyle=":", linewidth=1, label="the base")
        in_use = [*(one.incumbent_level for one in exams), _in_use_now(track)]
        nights = [0.5, *numbers, len(exams) + 0.5]
        axes.step(nights, [*in_use, in_use[-1]], where="post", color=PALE, linewidth=2, label="in use", zorder=1)
        for chosen, label, filled in ((True, "put into use", True), (False, "not put into use", False)):
            places = [number for number in numbers if exams[number - 1].exam.promoted is chosen]
            if not places:
                continue
            levels = [exams[number - 1].level for number in places]
            spread = [[one.points - one.low for one in levels], [one.high - one.points for one in levels]]
            axes.errorbar(
                places,
                [one.points for one in levels],
                yerr=spread,
                fmt="D" if filled else "o",
                color=AFTER if filled else BEFORE,
                markerfacecolor=AFTER if filled else "white",
                linewidth=1,
                capsize=3,
                label=label,
            )
        axes.set(ylabel="level (points)", xlim=(0.5, len(exams) + 0.5))
        _date_the_nights(axes, track)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
        svg = _svg_of(figure, "nights")
    promoted = sum(one.exam.promoted for one in exams)
    now = _in_use_now(track)
    words = (
        f"The level of each new version by its exam, with its 95 % interval: {len(exams)} sat one, {promoted} of them "
        f"went into use, and what is in use stands at {now:.0f} points."
    )
    return Picture(title="New versions over the nights", words=words, svg=svg)


def _in_use_now(track: TrackRecord) -> float:
    """The level of what the last exam left in use."""
    last = track.exams[-1]
    return last.level.points if last.exam.promoted and not last.exam.taken_back else last.incumbent_level


def _date_the_nights(axes: Axes, track: TrackRecord) -> None:
    step = -(-len(track.exams) // NIGHTS_WITH_DATES)
    numbers = list(range(1, len(track.exams) + 1, step))
    axes.set_xticks(numbers)
    axes.set_xticklabels([f"{track.exams[number - 1].exam.at:%d %b}" for number in numbers])
    axes.set_xlabel("night")


def feedback_picture(said: Sequence[Said], track: TrackRecord) -> Picture | None:
    """The share of negative feedback in use; None where there is too little of it."""
    trend = track.trend
    if trend is None:
        return None
    shares = [
        sum(one.negative for one in said[number - SHARE_WINDOW : number]) / SHARE_WINDOW * 100
        for number in range(SHARE_WINDOW, len(said) + 1)
    ]
    changed = trend.p_value < CERTAIN
    with _figure(2.5) as (figure, axes):
        axes.plot(range(SHARE_WINDOW, len(said) + 1), shares, color=AFTER, linewidth=1.2)
        if changed:
            at = next(number for number, one in enumerate(said, start=1) if one.at == trend.changed_at)
            axes.axvline(at, color=LINE, linestyle="--", linewidth=1)
            axes.annotate(f" {trend.changed_at:%d %b %Y}", (at, 103), fontsize=8, annotation_clip=False)
        axes.set(ylim=(-3, 103), ylabel="found wanting, %", xlabel=f"answer (mean of {SHARE_WINDOW})")
        svg = _svg_of(figure, "feedback")
    words = f"Of the last {len(said)} answers in use that somebody judged, {_share(said):.0%} were found wanting."
    return Picture(title="Feedback from use", words=words, svg=svg)


def _share(said: Sequence[Said]) -> float:
    return sum(one.negative for one in said) / len(said)


# --------------------------------------------------------------------------- SVG


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = mpl.rc_context(
        {
            # letters stay letters: they can be searched, and shown in scripts that matplotlib's own font lacks
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.parse_math": False,
        }
    )
    with style, warnings.catch_warnings():
        # letters that matplotlib's own font lacks are drawn by whoever shows the page
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


def _svg_of(figure: Figure, name: str) -> str:
    import matplotlib as mpl

    written = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return for_page(written.getvalue(), name)


def for_page(svg: str, name: str) -> str:
    """An SVG file as a part of a page: no prologue, as wide as there is room, no name twice on one page."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)  # noqa: S314 - matplotlib wrote it a moment ago
    root.set("width", "100%")
    del root.attrib["height"]
    root.set("aria-hidden", "true")
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{SVG}}}metadata":
                parent.remove(child)
    _rename(root, name)
    return ElementTree.tostring(root, encoding="unicode")


def _rename(root: ElementTree.Element, name: str) -> None:
    """Put the plot's name before each of its ids, and wherever one is meant."""
    ids = {one.attrib["id"] for one in root.iter() if "id" in one.attrib}
    for one in root.iter():
        for key, value in one.attrib.items():
            if key == "id":
                one.set(key, f"{name}-{value}")
            elif value.startswith("#") and value[1:] in ids:
                one.set(key, f"#{name}-{value[1:]}")
            elif value.startswith("url(#") and value[5:-1] in ids:
                one.set(key, f"url(#{name}-{value[5:-1]})")
