"""Job `compare`: two models sit the same exam, and the judge says whether the second is better. Nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence

from nightschool_daemon import codec
from nightschool_daemon.comparisons import AnswerPair, Comparison, ComparisonRequest
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.examiner import Sitters, choose_items, hold, is_decided, score_answer, to_come
from nightschool_daemon.evaluation.local_model import LocalModel
from nightschool_daemon.evaluation.marks import marks_of
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.jobs import EventRow, Job, Step, read_lines
from nightschool_daemon.learning.dataset import exam_items
from nightschool_daemon.learning.grouping import NearPrompts
from nightschool_daemon.learning.judging import judged
from nightschool_daemon.learning.services import ChunkSearch, JournalStore
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.learning.workshop import Workshop
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_hookspecs.records import Exam, ExamAnswer, ExamItem, ItemRole, Side, Sitting, Verdict

SHOWN_PAIRS = 3


class ComparisonError(Exception):
    """The models cannot be compared; the message says what to do next."""


def run(context: WorkerContext) -> None:
    """Hold the exam, and leave `Comparison`."""
    directory = context.run.step(Job.COMPARE)
    request = codec.from_json((directory / "request.json").read_bytes(), ComparisonRequest)
    settings = context.settings.exam
    measure = CombinedMeasure(context.hooks, open_embed(context.settings))
    judge = LocalModel(OllamaLibrary(context.settings.ollama), settings.judge_model or request.first.name, settings)
    items = choose_items(_items(context, measure, judge), settings, context.info.seed)
    if not any(item.role is ItemRole.GAIN for item in items):
        raise ComparisonError(
            "None of the prompts says what a better answer is: corrections, demonstrations and preferences do."
        )
    answers = hold(
        context,
        items,
        Sitters(incumbent=request.first.name, candidate=request.second.name, candidate_digest=request.second.digest),
        score=lambda item, text: score_answer(context.hooks, measure, judge, item, text),
        decided=lambda given: is_decided(context, _exam(context, request, items, given)),
        file=directory / "answers.jsonl",
    )
    verdict = judged(context, _exam(context, request, items, answers), measure=measure).verdict
    context.run.finish(Job.COMPARE, _result(request, items, answers, verdict))


def _items(context: WorkerContext, measure: CombinedMeasure, judge: LocalModel) -> tuple[ExamItem, ...]:
    rows = tuple(read_lines(context.run.step(Step.PREPARE) / "events.jsonl", EventRow))
    known = [row.event for row in rows if row.side is Side.TRAINING]
    workshop = Workshop(
        hooks=context.hooks,
        info=context.info,
        measure=measure,
        generate=judge,
        judge=judge,
        retrieve=ChunkSearch([chunk for event in known for chunk in event.context.chunks]),
        store=JournalStore({}, context.run.step(Job.COMPARE) / "store.jsonl"),
        find_near=NearPrompts.of(measure, no_embeddings, context.settings).across,
    )
    return exam_items(workshop, [row for row in rows if row.side is Side.HELD_OUT])


def _exam(
    context: WorkerContext, request: ComparisonRequest, items: Sequence[ExamItem], answers: Sequence[ExamAnswer]
) -> Exam:
    asked = {answer.item_id for answer in answers}
    return Exam(
        specialty=context.info.specialty,
        incumbent=request.first.name,
        candidate=request.second.name,
        items=tuple(item for item in items if item.id in asked),
        answers=tuple(answers),
        to_come=to_come(items, answers),
    )


def _result(
    request: ComparisonRequest, items: Sequence[ExamItem], answers: Sequence[ExamAnswer], verdict: Verdict
) -> Comparison:
    counting = {item.id: item for item in items if item.role is ItemRole.GAIN}
    of = {
        sitting: {one.item_id: one for one in answers if one.sitting is sitting and one.item_id in counting}
        for sitting in (Sitting.INCUMBENT, Sitting.CANDIDATE)
    }
    first, second = of[Sitting.INCUMBENT], of[Sitting.CANDIDATE]
    apart = sorted(first.keys() & second.keys(), key=lambda one: -abs(second[one].score - first[one].score))
    return Comparison(
        first=request.first.name,
        second=request.second.name,
        prompts=len(counting),
        asked=len(first),
        first_marks=marks_of(first.values()),
        second_marks=marks_of(second.values()),
        verdict=verdict,
        furthest_apart=tuple(
            AnswerPair(
                prompt=counting[one].messages[-1].content,
                wanted=counting[one].reference,
                first=first[one].text,
                first_score=first[one].score,
                second=second[one].text,
                second_score=second[one].score,
            )
            for one in apart[:SHOWN_PAIRS]
        ),
    )
