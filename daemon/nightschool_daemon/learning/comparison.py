"""Job `compare`: two models sit the same exam, and the judge says whether the second is better. Nothing is changed.

Where nothing says which answers are better, both answer side by side. Then there is a verdict only where a validator
tells which of two answers is the better one, as a model that judges does: the answers of each are held against those of
the other, and what both come to takes the place of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nightschool_daemon import codec
from nightschool_daemon.comparisons import AnswerPair, Asked, Comparison, ComparisonRequest, Contestant
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.examiner import Sitters, choose_items, hold, is_decided, score_answer, to_come
from nightschool_daemon.evaluation.local_model import LocalModel
from nightschool_daemon.evaluation.marks import marks_of
from nightschool_daemon.evaluation.questions import bare_question
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.jobs import EventRow, Job, Step, read_lines
from nightschool_daemon.learning.dataset import questions_of
from nightschool_daemon.learning.grouping import FindNear, NearPrompts
from nightschool_daemon.learning.judging import judged
from nightschool_daemon.learning.ranking import Sitter, chosen, rank
from nightschool_daemon.learning.services import ChunkSearch, JournalStore
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.learning.workshop import Workshop
from nightschool_daemon.ollama.errors import BlobUnreadable, ModelMissing
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_daemon.ollama.storage import locate_blob
from nightschool_daemon.wording import fold
from nightschool_hookspecs.records import (
    AnswerScore,
    Exam,
    ExamAnswer,
    ExamItem,
    ItemRole,
    PreferencePair,
    RankedPair,
    Side,
    Sitting,
    Verdict,
)
from nightschool_hookspecs.services import TrainingError

SHOWN_PAIRS = 3
EQUAL = 50.0
"""What an answer comes to that is as good as the other."""


class ComparisonError(Exception):
    """The models cannot be compared; the message says what to do next."""


def run(context: WorkerContext) -> None:
    """Hold the exam, and leave `Comparison`."""
    request = codec.from_json((context.run.step(Job.COMPARE) / "request.json").read_bytes(), ComparisonRequest)
    bench = Bench(context=context, request=request)
    items, pairs = bench.questions()
    if not (items or pairs):
        raise ComparisonError("There is nothing to ask: none of the feedback has a prompt that an answer would fit.")
    ranked, not_ranked = bench.ranked(pairs)
    counts = bool(ranked) or any(item.role is ItemRole.GAIN for item in items)
    found = bench.examined(items, ranked) if counts else bench.side_by_side(items)
    context.run.finish(Job.COMPARE, replace(found, not_ranked=not_ranked))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Two models, and what they are compared with."""

    context: WorkerContext
    request: ComparisonRequest

    @cached_property
    def measure(self) -> CombinedMeasure:
        """Similarity."""
        return CombinedMeasure(self.context.hooks, open_embed(self.context.settings))

    @cached_property
    def judge(self) -> LocalModel:
        """The model that validators may ask."""
        exam = self.context.settings.exam
        name = exam.judge_model or self.request.first.name
        return LocalModel(OllamaLibrary(self.context.settings.ollama), name, exam)

    # ----------------------------------------------------------------------- what is asked

    def questions(self) -> tuple[tuple[ExamItem, ...], tuple[PreferencePair, ...]]:
        """What is asked within the caps of a night, and the pairs that are to be ranked."""
        rows = tuple(read_lines(self.context.run.step(Step.PREPARE) / "events.jsonl", EventRow))
        asked = [row for row in rows if row.side is Side.HELD_OUT]
        exam = self.context.settings.exam
        if self.request.what is Asked.PROMPTS:
            return tuple(bare_question(row.event, "other", row.group or "") for row in asked[: exam.max_items]), ()
        known = [row for row in rows if row.side is not Side.HELD_OUT]
        workshop = self._workshop(known)
        if self.request.what is Asked.UNLEARNED:
            learned = [fold(row.event.input_data) for row in known if row.trained_on]
            asked = unlike(asked, learned, workshop.find_near)
        items, pairs = questions_of(workshop, asked)
        return choose_items(items, exam, self.context.info.seed), pairs

    def _workshop(self, known: Sequence[EventRow]) -> Workshop:
        return Workshop(
            hooks=self.context.hooks,
            info=self.context.info,
            measure=self.measure,
            generate=self.judge,
            judge=self.judge,
            retrieve=ChunkSearch([chunk for row in known for chunk in row.event.context.chunks]),
            store=JournalStore({}, self.context.run.step(Job.COMPARE) / "store.jsonl"),
            find_near=NearPrompts.of(self.measure, no_embeddings, self.context.settings).across,
        )

    def ranked(self, pairs: Sequence[PreferencePair]) -> tuple[tuple[RankedPair, ...], str]:
        """Which of two answers each finds likelier; none where the networks cannot be computed here, and why."""
        taken = chosen(pairs, self.context.settings.exam.max_pairs, self.context.info.seed, frozenset())
        if not taken:
            return (), ""
        self.context.run.begin(Step.RANK)
        try:
            return tuple(rank(self.context, taken, self._sitters)), ""
        except (TrainingError, BlobUnreadable, ModelMissing) as error:
            return (), f"{len(taken)} pairs of a better and a worse answer were not ranked. {error}"

    def _sitters(self, http: OllamaHttp) -> tuple[Sitter, Sitter]:
        return self._sitter(http, self.request.first), self._sitter(http, self.request.second)

    def _sitter(self, http: OllamaHttp, one: Contestant) -> Sitter:
        base = locate_blob(self.context.settings.ollama, http.show(one.base))
        return Sitter.of(self.context, http, one.name, base)

    # ----------------------------------------------------------------------- who is better

    def examined(self, items: tuple[ExamItem, ...], ranked: tuple[RankedPair, ...]) -> Comparison:
        """An exam like a run's."""
        answers = self._hold(
            items,
            score=lambda item, text: score_answer(self.context.hooks, self.measure, self.judge, item, text),
            decided=lambda given: is_decided(self.context, self._exam(items, given, ranked)),
        )
        verdict = judged(self.context, self._exam(items, answers, ranked), measure=self.measure).verdict
        counting = [item for item in items if item.role is ItemRole.GAIN] or items
        return replace(self._comparison(counting, answers, verdict), pairs=len(ranked))

    def side_by_side(self, items: tuple[ExamItem, ...]) -> Comparison:
        """Both answer; a verdict there is where a validator compares answers."""
        answers = self._hold(items, score=lambda *_: AnswerScore(score=0.0, validator=""), once=True)
        compared = self._compared(items, answers)
        if not compared:
            return self._comparison(items, answers, None)
        counting = tuple(replace(item, role=ItemRole.GAIN) for item in items)
        verdict = judged(self.context, self._exam(counting, compared, ()), measure=self.measure).verdict
        return replace(self._comparison(counting, compared, verdict), is_relative=True)

    def _compared(self, items: Sequence[ExamItem], answers: Sequence[ExamAnswer]) -> tuple[ExamAnswer, ...]:
        """The answers, each scored by how it stands to the other's; none where no validator tells that.

        An item of which it tells nothing, as of both answers nothing is left that could be compared, is left out.
        """
        first, second = (_of_sitting(answers, one) for one in (Sitting.INCUMBENT, Sitting.CANDIDATE))
        found: list[ExamAnswer] = []
        for number, item in enumerate(items):
            self.context.progress(number, len(items), f"answers {number + 1} of {len(items)} are compared")
            mine, other = first[item.id], second[item.id]
            scores = both_stand(self._stands(item, mine, other), self._stands(item, other, mine))
            if scores is None:
                continue
            scored = replace(mine, score=scores[0])
            # what is compared has no noise of its own that a second sitting could show
            again = replace(scored, sitting=Sitting.INCUMBENT_AGAIN)
            found += (scored, replace(other, score=scores[1]), again)
        return tuple(found) if _is_told(first, second, found) else ()

    def _stands(self, item: ExamItem, answer: ExamAnswer, other: ExamAnswer) -> float | None:
        """0..100, how an answer stands to another one; None: no validator tells."""
        if answer.failed or other.failed:
            return 0.0 if answer.failed else 100.0
        if answer.text.strip() == other.text.strip():
            return EQUAL
        found = self.context.hooks.validate_answer(
            item=replace(item, reference=other.text, disliked=None),
            answer=answer.text,
            measure=self.measure,
            generate=self.judge,
        )
        return found.score if found is not None and found.is_relative else None

    # ----------------------------------------------------------------------- what came of it

    def _hold(
        self,
        items: tuple[ExamItem, ...],
        *,
        score: Callable[[ExamItem, str], AnswerScore],
        decided: Callable[[tuple[ExamAnswer, ...]], bool] = lambda _: False,
        once: bool = False,
    ) -> tuple[ExamAnswer, ...]:
        first, second = self.request.first, self.request.second
        return hold(
            self.context,
            items,
            Sitters(incumbent=first.name, candidate=second.name, candidate_digest=second.digest, once=once),
            score=score,
            decided=decided,
            file=self.context.run.step(Job.COMPARE) / "answers.jsonl",
        )

    def _exam(self, items: Sequence[ExamItem], answers: Sequence[ExamAnswer], ranked: tuple[RankedPair, ...]) -> Exam:
        asked = {answer.item_id for answer in answers}
        return Exam(
            specialty=self.context.info.specialty,
            incumbent=self.request.first.name,
            candidate=self.request.second.name,
            items=tuple(item for item in items if item.id in asked),
            answers=tuple(answers),
            ranked=ranked,
            to_come=to_come(items, answers),
        )

    def _comparison(
        self, items: Sequence[ExamItem], answers: Sequence[ExamAnswer], verdict: Verdict | None
    ) -> Comparison:
        is_scored = verdict is not None
        shown = {item.id: item for item in items}
        first, second = (
            {key: one for key, one in _of_sitting(answers, sitting).items() if key in shown}
            for sitting in (Sitting.INCUMBENT, Sitting.CANDIDATE)
        )
        both = [item for item in items if item.id in first and item.id in second]
        if is_scored:
            both.sort(key=lambda item: -abs(second[item.id].score - first[item.id].score))
        return Comparison(
            first=self.request.first.name,
            second=self.request.second.name,
            what=self.request.what,
            prompts=len(shown),
            asked=len(first),
            pairs=0,
            first_marks=marks_of(first.values()),
            second_marks=marks_of(second.values()),
            verdict=verdict,
            is_relative=False,
            not_ranked="",
            answers=tuple(
                AnswerPair(
                    prompt=item.messages[-1].content,
                    wanted=item.reference,
                    first=first[item.id].text,
                    first_score=first[item.id].score if is_scored else None,
                    second=second[item.id].text,
                    second_score=second[item.id].score if is_scored else None,
                )
                for item in (both[:SHOWN_PAIRS] if is_scored else both)
            ),
        )


def both_stand(mine: float | None, other: float | None) -> tuple[float, float] | None:
    """How two answers stand to each other, 0..100; what is told of one alone says both."""
    if mine is None:
        return None if other is None else (100 - other, other)
    return mine, 100 - mine if other is None else other


def _is_told(first: dict[str, ExamAnswer], second: dict[str, ExamAnswer], found: Sequence[ExamAnswer]) -> bool:
    """Whether a validator told anything, where one was needed: answers that are the same need none."""
    differing = {key for key in first if first[key].text.strip() != second[key].text.strip()}
    return not differing or any(one.item_id in differing for one in found)


def _of_sitting(answers: Sequence[ExamAnswer], sitting: Sitting) -> dict[str, ExamAnswer]:
    return {one.item_id: one for one in answers if one.sitting is sitting}


def unlike(asked: Sequence[EventRow], learned: Sequence[str], find_near: FindNear) -> list[EventRow]:
    """Those whose prompts are near none that one of the models has learned, folded texts.

    What came since the last run is in no group yet, so nobody has looked at it.
    """
    prompts = [*learned, *(fold(row.event.input_data) for row in asked)]
    near = {high - len(learned) for _, high in find_near(prompts, len(learned))} if learned else set()
    return [row for number, row in enumerate(asked) if number not in near]
