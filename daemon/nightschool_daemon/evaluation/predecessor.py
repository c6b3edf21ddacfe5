"""A version in use that was put there unproven: its next exam asks what stood there before it too.

Where the version in use answered a prompt that counts, and the exam by which it was promoted did not ask that, its
predecessor is asked the same. Then the judge sees both exams as one, in which the version in use is the candidate: by
all that is known now it is proven, still looks better, or would not have been promoted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.sitting import Ask, Score, sit
from nightschool_daemon.jobs import (
    PREDECESSOR_ANSWERS,
    PROMOTED_ANSWERS,
    PROMOTED_ITEMS,
    PROMOTED_PAIRS,
    PrepareResult,
    Step,
    append_line,
    read_lines,
    whole_lines,
)
from nightschool_hookspecs.records import Exam, ExamAnswer, ExamItem, ItemRole, RankedPair, Sitting, Verdict


def ask_predecessor(context: WorkContext, exam: Exam, *, ask: Ask, score: Score) -> None:
    """Have the predecessor sit what is new in an exam, if there is one. What is on disk is not asked again."""
    unproven = context.run.result(Step.PREPARE, PrepareResult).unproven
    if unproven is None or context.run.is_trial:
        return
    predecessor, file = unproven.predecessor, _answers_file(context)
    answered = {one.item_id for one in _answers(context, predecessor)}
    fresh = _fresh(exam, _promoted(context))
    for number, item in enumerate(fresh):
        if item.id not in answered:
            context.progress(number, len(fresh), f"{predecessor}: question {number + 1} of {len(fresh)}")
            append_line(file, sit(item, Sitting.INCUMBENT, predecessor, ask=ask, score=score))


def judge_unproven(context: WorkContext, exam: Exam) -> Verdict | None:
    """What both exams say of a version in use that was put there unproven. None: nothing new, or it was proven."""
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    if prepared.unproven is None:
        return None
    answers, promoted = _answers(context, prepared.unproven.predecessor), _promoted(context)
    asked = {one.item_id for one in answers}
    again = tuple(item for item in _fresh(exam, promoted) if item.id in asked)
    if not again:
        return None
    directory = context.run.step(Step.PREPARE)
    both = Exam(
        specialty=exam.specialty,
        incumbent=prepared.unproven.predecessor,
        candidate=exam.incumbent,
        items=(*promoted, *again),
        answers=(*read_lines(directory / PROMOTED_ANSWERS, ExamAnswer), *_beside_predecessor(exam, again, answers)),
        ranked=tuple(read_lines(directory / PROMOTED_PAIRS, RankedPair)),
        evidence=prepared.unproven.evidence,
        judged_together=prepared.unproven.judged_together,
    )
    return context.hooks.judge_exam(exam=both, guards=(), seed=context.info.seed)


def _promoted(context: WorkContext) -> tuple[ExamItem, ...]:
    """What the exam asked by which the version in use was promoted."""
    return tuple(read_lines(context.run.step(Step.PREPARE) / PROMOTED_ITEMS, ExamItem))


def _fresh(exam: Exam, promoted: Iterable[ExamItem]) -> tuple[ExamItem, ...]:
    """What counts, was answered by the version in use, and was no part of the exam by which it was promoted."""
    known = {one.key for one in promoted}
    answered = {one.item_id for one in exam.answers if one.sitting is Sitting.INCUMBENT and not one.failed}
    return tuple(
        item for item in exam.items if item.role is ItemRole.GAIN and item.id in answered and item.key not in known
    )


def _beside_predecessor(exam: Exam, items: Iterable[ExamItem], answers: Sequence[ExamAnswer]) -> tuple[ExamAnswer, ...]:
    """The version in use as the candidate. Its predecessor sits once: its second sitting is its first."""
    ids = {item.id for item in items}
    before = [one for one in answers if one.item_id in ids]
    return (
        *before,
        *(replace(one, sitting=Sitting.INCUMBENT_AGAIN) for one in before),
        *(
            replace(one, sitting=Sitting.CANDIDATE)
            for one in exam.answers
            if one.sitting is Sitting.INCUMBENT and one.item_id in ids
        ),
    )


def _answers(context: WorkContext, predecessor: str) -> tuple[ExamAnswer, ...]:
    """What this predecessor answered: where the run was prepared again meanwhile, there may be another's."""
    return tuple(one for one in whole_lines(_answers_file(context), ExamAnswer) if one.model == predecessor)


def _answers_file(context: WorkContext) -> Path:
    return context.run.step(Step.EXAMINE) / PREDECESSOR_ANSWERS
