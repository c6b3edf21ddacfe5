"""Step `examine`: incumbent, candidate and the incumbent again answer the same held-out prompts.

The items come in rounds. In a round each sits its whole block before the next begins: where memory holds one
model at a time, a change for every item would load it every time; where it holds both, Ollama keeps both. After
a round the judge is asked, and the rest is left out where the exam is decided. Every answer is on disk before the
next question is asked, so that a killed exam goes on where it stopped.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.config import ExamSettings
from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.decision import is_good_enough
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.local_model import LocalModel, pinned_options
from nightschool_daemon.evaluation.predecessor import ask_predecessor
from nightschool_daemon.evaluation.similarity import CombinedMeasure
from nightschool_daemon.evaluation.sitting import Ask, Score, sit
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    ExamineResult,
    PrepareResult,
    RegisterResult,
    SplitResult,
    Step,
    append_line,
    whole_lines,
    write_durably,
)
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_hookspecs.records import AnswerScore, Exam, ExamAnswer, ExamItem, ItemRole, Sitting
from nightschool_hookspecs.services import Generate, Measure


class ExamError(Exception):
    """The exam cannot be held; the message says what to do next."""


Decided = Callable[[tuple[ExamAnswer, ...]], bool]
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Sitters:
    """Who sits an exam. Answers of another candidate are of no use to this one."""

    incumbent: str
    candidate: str
    candidate_digest: str
    once: bool = False
    """The incumbent does not sit again: nothing is measured of which there could be noise."""

    def blocks(self) -> tuple[tuple[Sitting, str], ...]:
        """Sittings in order, each with the name of its model."""
        both = ((Sitting.INCUMBENT, self.incumbent), (Sitting.CANDIDATE, self.candidate))
        return both if self.once else (*both, (Sitting.INCUMBENT_AGAIN, self.incumbent))


def run(context: WorkContext) -> None:
    """Hold the exam of a run and leave `answers.jsonl`."""
    registered = context.run.result(Step.REGISTER, RegisterResult)
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    sitters = Sitters(
        incumbent=prepared.incumbent,
        candidate=registered.tag,
        candidate_digest=registered.tag_digest,
    )
    exam = context.settings.exam
    if prepared.asks_all_learned:
        exam = replace(exam, max_regression_items=sys.maxsize)
    before = context.run.trial_answers()
    # what is to be asked of all, less what was ranked of it
    counted = context.run.result(Step.SPLIT, SplitResult).counted - len(context.run.ranked_pairs())
    exam = _less(exam, exam_of(context, before).items)
    items = choose_items(context.run.own_items(), exam, context.info.seed, frozenset(prepared.evidence.used))
    directory = context.run.step(Step.EXAMINE)
    _forget_other_sitters(directory, sitters)
    measure = CombinedMeasure(context.hooks, open_embed(context.settings))
    judge = LocalModel(OllamaLibrary(context.settings.ollama), exam.judge_model or prepared.base.pin, exam)
    began = time.monotonic()

    def enough(answers: tuple[ExamAnswer, ...]) -> bool:
        so_far = exam_of(context, (*before, *answers))
        later = counted - sum(item.role is ItemRole.GAIN for item in so_far.items)
        return is_decided(context, replace(so_far, to_come=max(later, to_come(items, answers))))

    def score(item: ExamItem, text: str) -> AnswerScore:
        return score_answer(context.hooks, measure, judge, item, text)

    file = directory / "answers.jsonl"
    answers = hold(context, items, sitters, score=score, decided=enough, file=file)
    if _is_wanted(context, exam_of(context, (*before, *answers))) and (
        more := _more_of_what_was_learned(context, exam, items)
    ):
        items = (*items, *more)
        answers = hold(context, items, sitters, score=score, decided=enough, file=file)
    library, options = OllamaLibrary(context.settings.ollama), pinned_options(exam, context.info.seed)
    ask_predecessor(
        context,
        exam_of(context, (*before, *answers)),
        ask=lambda name, messages: library.chat(name, messages, options),
        score=score,
    )
    context.run.finish(
        Step.EXAMINE,
        ExamineResult(
            answers=len(answers),
            failed=sum(answer.failed for answer in answers),
            seconds=time.monotonic() - began,
            decided=enough(answers),
        ),
    )


def hold(
    context: WorkContext,
    items: tuple[ExamItem, ...],
    sitters: Sitters,
    *,
    score: Score,
    decided: Decided,
    file: Path,
) -> tuple[ExamAnswer, ...]:
    """Ask the models of Ollama, every option pinned. Raises `ExamError` where the incumbent never answers."""
    exam = context.settings.exam
    library = OllamaLibrary(context.settings.ollama)
    options = pinned_options(exam, context.info.seed)
    answers = examine(
        rounds(items, exam.round_items),
        sitters,
        ask=lambda name, messages: library.chat(name, messages, options),
        score=score,
        decided=decided,
        file=file,
        report=context.progress,
    )
    _require_an_incumbent(answers)
    return answers


def examine(
    in_rounds: tuple[tuple[ExamItem, ...], ...],
    sitters: Sitters,
    *,
    ask: Ask,
    score: Score,
    file: Path,
    report: Report,
    decided: Decided = lambda _: False,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[ExamAnswer, ...]:
    """Ask what is not answered in `file` yet, until it is decided, and return all answers in the order of asking."""
    answers = list(whole_lines(file, ExamAnswer))
    answered = {(answer.sitting, answer.item_id) for answer in answers}
    total = sum(sits(item, one) for of_round in in_rounds for item in of_round for one, _ in sitters.blocks())
    done = 0
    for of_round in in_rounds:
        for sitting, model in sitters.blocks():
            for item in of_round:
                if not sits(item, sitting):
                    continue
                if (sitting, item.id) not in answered:
                    report(done, total, f"{model}: question {done + 1} of at most {total}")
                    answer = sit(item, sitting, model, ask=ask, score=score, pause=pause)
                    append_line(file, answer)
                    answers.append(answer)
                done += 1
        if decided(tuple(answers)):
            break
    report(total, total, "exam finished")
    return tuple(answers)


def sits(item: ExamItem, sitting: Sitting) -> bool:
    """Whether an item is asked in a sitting: the noise is measured on what is held out alone."""
    return item.role.is_held_out or sitting is not Sitting.INCUMBENT_AGAIN


def rounds(items: tuple[ExamItem, ...], size: int) -> tuple[tuple[ExamItem, ...], ...]:
    """So many items that count a round, in their order; the guards' all sit in the first."""
    gains = tuple(item for item in items if item.role is ItemRole.GAIN)
    guards = tuple(item for item in items if item.role is not ItemRole.GAIN)
    later = range(size, len(gains), size)
    return ((*guards, *gains[:size]), *(gains[start : start + size] for start in later))


def exam_of(context: WorkContext, answers: tuple[ExamAnswer, ...]) -> Exam:
    """Put items and answers together; items that were not asked are not part of it."""
    asked = {answer.item_id for answer in answers}
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    items = tuple(item for item in context.run.exam_items() if item.id in asked)
    learned = {(item.event_id, item.reference) for item in items if item.role is ItemRole.LEARNED}
    return Exam(
        specialty=context.info.specialty,
        incumbent=prepared.incumbent,
        candidate=context.run.result(Step.REGISTER, RegisterResult).tag,
        items=items,
        answers=answers,
        ranked=context.run.ranked_pairs(),
        evidence=prepared.evidence,
        judged_together=prepared.judged_together,
        base=prepared.base.pin,
        first_scores=tuple(one for one in prepared.first_scores if (one.event_id, one.reference) in learned),
    )


def _is_wanted(context: WorkContext, exam: Exam) -> bool:
    """Whether the candidate comes into use unless a guard stops it."""
    verdict = context.hooks.judge_exam(exam=exam, guards=(), seed=context.info.seed)
    mode = context.settings.promotion.promote
    return verdict is not None and is_good_enough(verdict.outcome, mode, context.info.reason)


def _more_of_what_was_learned(
    context: WorkContext, exam: ExamSettings, items: tuple[ExamItem, ...]
) -> tuple[ExamItem, ...]:
    """What a sample of a night would not show: of a few, slips and what is forgotten for good look alike."""
    most = max(exam.max_regression_items, exam.regression_items_to_promote)
    chosen = choose_items(context.run.own_items(), replace(exam, max_regression_items=most), context.info.seed)
    return tuple(one for one in chosen if one.role is ItemRole.LEARNED and one not in items)


def to_come(items: Iterable[ExamItem], answers: Iterable[ExamAnswer]) -> int:
    """How many items that count were not asked yet."""
    asked = {answer.item_id for answer in answers}
    return sum(item.role is ItemRole.GAIN and item.id not in asked for item in items)


def is_decided(context: WorkContext, exam: Exam) -> bool:
    """Whether the judge has seen enough."""
    verdict = context.hooks.judge_exam(exam=exam, guards=(), seed=context.info.seed)
    return verdict is not None and verdict.decided


def choose_items(
    items: tuple[ExamItem, ...], exam: ExamSettings, seed: int, used: frozenset[str] = frozenset()
) -> tuple[ExamItem, ...]:
    """Draw at random, up to the caps of a night, in the order of drawing.

    Items whose key is in `used` are no new evidence: they come last and only fill what the others leave of the cap.
    """
    caps = {
        ItemRole.GAIN: exam.max_items,
        ItemRole.GUARD: exam.max_guard_items,
        ItemRole.LEARNED: exam.max_regression_items,
        ItemRole.LESSON: exam.max_lesson_items,
    }
    chosen: list[ExamItem] = []
    for role, cap in caps.items():
        of_role = [item for item in items if item.role is role]
        shuffled = random.Random(f"{seed}/{role}").sample(of_role, len(of_role))  # noqa: S311 - no secret
        shuffled.sort(key=lambda item: item.key in used)
        chosen += shuffled[:cap]
    return tuple(chosen)


def score_answer(hooks: Hooks, measure: Measure, judge: Generate, item: ExamItem, text: str) -> AnswerScore:
    """Have an answer scored. Raises `ExamError` where no validator knows the artifact type."""
    score = hooks.validate_answer(item=item, answer=text, measure=measure, generate=judge)
    if score is None:
        raise ExamError(
            f"No plugin scores answers of the type '{item.artifact_type}'. Take evaluation_text out of "
            "plugins.disabled, or add a plugin for this type."
        )
    return score


def _require_an_incumbent(answers: tuple[ExamAnswer, ...]) -> None:
    """An exam in which the incumbent never answers says something of the server, nothing of the candidate."""
    first = [answer for answer in answers if answer.sitting is Sitting.INCUMBENT]
    if first and all(answer.failed for answer in first):
        raise ExamError(
            f"{first[0].model} answered none of {len(first)} questions ({first[0].detail}). "
            "See whether `ollama run` gets an answer from it."
        )


def _less(exam: ExamSettings, asked: Iterable[ExamItem]) -> ExamSettings:
    """The caps of a night, less what trial candidates were asked; one item at least may count."""
    counts = Counter(item.role for item in asked)
    return replace(
        exam,
        max_items=max(1, exam.max_items - counts[ItemRole.GAIN]),
        max_guard_items=max(0, exam.max_guard_items - counts[ItemRole.GUARD]),
    )


def _forget_other_sitters(directory: Path, sitters: Sitters) -> None:
    file = directory / "sitters.json"
    if not file.is_file() or codec.from_json(file.read_bytes(), Sitters) != sitters:
        (directory / "answers.jsonl").unlink(missing_ok=True)
        write_durably(file, codec.to_json(sitters))
    (directory / "answers.jsonl").touch()
