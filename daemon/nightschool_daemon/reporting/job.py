"""Job `page`: the marks of exams, the track record of a specialty, and the page with its plots."""

from __future__ import annotations

import logging
import math
import sqlite3
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from nightschool_daemon import codec
from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.embedding import EmbeddingError, open_embed
from nightschool_daemon.evaluation.marks import marks_of
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks, PluginFailed
from nightschool_daemon.jobs import Job, write_durably
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.reporting import plots
from nightschool_daemon.reporting.page import html_of
from nightschool_daemon.reporting.records import (
    CorrectedAnswer,
    ExamMarks,
    ExamPaper,
    InUse,
    PageRequest,
    PageResult,
    TrackMaterial,
    TrackRecord,
)
from nightschool_daemon.reporting.sheet import Picture, Section, Sheet
from nightschool_daemon.reporting.track import track_of
from nightschool_daemon.reporting.words import EXAM, LEFT_OUT, NIGHTS, nights_section, track_table
from nightschool_hookspecs.corrections import is_good
from nightschool_hookspecs.records import (
    Context,
    Event,
    ExamAnswer,
    ExamItem,
    FeedbackType,
    ItemRole,
    Message,
    Role,
    Sitting,
)
from nightschool_hookspecs.services import GenerationError, Measure

logger = logging.getLogger(__name__)

FILE = "report.html"
SCORING_S = 20.0
"""For answers in use: tests that came with feedback may take seconds each."""


def run(context: WorkContext) -> None:
    """Work the figures out, draw, and leave `PageResult` and the page."""
    directory = context.run.step(Job.PAGE)
    request = codec.from_json((directory / "request.json").read_bytes(), PageRequest)
    marks = tuple(marked(context.hooks, paper) for paper in request.papers)
    material = with_marks(request.material, marks)
    track = _tracked(context, material)
    if request.sheet is None:
        context.run.finish(Job.PAGE, PageResult(track=track, marks=marks))
        return
    sheet, problem = _drawn(with_track(request.sheet, track), request, track)
    write_durably(directory / FILE, html_of(sheet))
    context.run.finish(Job.PAGE, PageResult(track=track, marks=marks, sheet=sheet, problem=problem))


def _tracked(context: WorkContext, material: TrackMaterial) -> TrackRecord:
    """The track record; without drift where no embedding can be had."""
    seed = context.info.seed
    in_use = in_use_of(material.corrected, context.hooks)
    try:
        track = track_of(material, open_embed(context.settings), seed)
    except (EmbeddingError, OllamaError, OSError, sqlite3.Error) as error:
        logger.warning("Whether prompts changed is not told: %s", error)
        track = track_of(material, no_embeddings, seed)
    return replace(track, in_use=in_use)


# --------------------------------------------------------------------------- answers in use


def in_use_of(corrected: Iterable[CorrectedAnswer], hooks: Hooks) -> tuple[InUse, ...]:
    """How far answers were from their corrections, by version; what there is no time for, and nobody scores, is not."""
    measure, deadline = CombinedMeasure(hooks, no_embeddings), time.monotonic() + SCORING_S
    scores: dict[str, list[float]] = {}
    for one in corrected:
        if time.monotonic() > deadline:
            break
        score = _score(one, hooks, measure)
        if score is not None:
            scores.setdefault(one.version, []).append(score)
    return tuple(
        InUse(version=version, answers=len(found), score=statistics.fmean(found)) for version, found in scores.items()
    )


def _score(one: CorrectedAnswer, hooks: Hooks, measure: Measure) -> float | None:
    try:
        found = hooks.validate_answer(item=one.item, answer=one.text, measure=measure, generate=_asks_nobody)
    except (GenerationError, PluginFailed):
        return None
    return found.score if found is not None else None


def _asks_nobody(messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
    """`Generate` where a page is made."""
    raise GenerationError("No model is asked for a page.")


# --------------------------------------------------------------------------- marks


def marked(hooks: Hooks, paper: ExamPaper) -> ExamMarks:
    """How both did over the questions that count."""
    items = {item.id: item for item in paper.items if item.role is ItemRole.GAIN}
    of = {
        sitting: [one for one in paper.answers if one.sitting is sitting and one.item_id in items]
        for sitting in (Sitting.INCUMBENT, Sitting.CANDIDATE)
    }
    rewards = {
        sitting: _mean_reward(hooks, paper, [(items[one.item_id], one) for one in answers])
        for sitting, answers in of.items()
    }
    return ExamMarks(
        run_id=paper.run_id,
        incumbent=marks_of(of[Sitting.INCUMBENT]),
        candidate=marks_of(of[Sitting.CANDIDATE]),
        incumbent_reward=rewards[Sitting.INCUMBENT],
        candidate_reward=rewards[Sitting.CANDIDATE],
    )


def _mean_reward(hooks: Hooks, paper: ExamPaper, given: Sequence[tuple[ExamItem, ExamAnswer]]) -> float | None:
    """What the answers would be worth as feedback; None where no plugin can say."""
    try:
        rewards = [
            hooks.score_reward(
                event=event, difficulty=hooks.score_difficulty(event=event), peers=paper.peers, now=paper.at
            ).reward
            for event in (_as_event(paper, item, answer) for item, answer in given)
        ]
    except PluginFailed as failure:
        logger.warning("Rewards are not told: %s", failure)
        return None
    finite = [one for one in rewards if math.isfinite(one)]
    return statistics.fmean(finite) if finite else None


def _as_event(paper: ExamPaper, item: ExamItem, answer: ExamAnswer) -> Event:
    """An answer of the exam as feedback on it would be: its score says whether it was a success."""
    system = next((one.content for one in item.messages if one.role is Role.SYSTEM), None)
    return Event(
        id=f"{paper.run_id}/{item.id}",
        timestamp=paper.at,
        feedback_type=FeedbackType.SUCCESS if is_good(answer) else FeedbackType.VALIDATION_FAILURE,
        input_data=item.messages[-1].content,
        artifact_type=item.artifact_type,
        context=Context(
            system=system, messages=tuple(one for one in item.messages[:-1] if one.role is not Role.SYSTEM)
        ),
        ai_output=answer.text,
        validation_score=answer.score,
        source="exam",
    )


def with_marks(material: TrackMaterial, marks: Sequence[ExamMarks]) -> TrackMaterial:
    """The material with what was worked out just now."""
    of = {one.run_id: one for one in marks}
    return replace(material, exams=tuple(replace(one, marks=of.get(one.run_id, one.marks)) for one in material.exams))


# --------------------------------------------------------------------------- the page


def with_track(sheet: Sheet, track: TrackRecord) -> Sheet:
    """The sheet with what is told of the nights before."""
    told = sheet.with_section(nights_section(track), before=LEFT_OUT)
    if not track.exams:
        return told
    table = Section(title="Track record", table=track_table(track))
    return replace(told, technical=(*told.technical, table))


def _drawn(sheet: Sheet, request: PageRequest, track: TrackRecord) -> tuple[Sheet, str | None]:
    """The sheet with its plots; where they cannot be drawn, why."""
    try:
        of_exam = [plots.exam_picture(request.questions)] if request.questions else []
        of_nights = list(_pictures_of_nights(request, track))
    except ImportError as error:
        return sheet, f"There are no plots ({error}). `pip install nightschool[train]` brings what draws them."
    return sheet.with_pictures(EXAM, of_exam).with_pictures(NIGHTS, of_nights), None


def _pictures_of_nights(request: PageRequest, track: TrackRecord) -> Iterator[Picture]:
    if track.exams:
        yield plots.nights_picture(track)
    feedback = plots.feedback_picture(request.material.said, track)
    if feedback is not None:
        yield feedback
