"""Before a training: hyperparameters are searched for, by the plugins that try some out.

What they are handed trains on one part of what is learned from and measures on the other. It reads the examples of the
training alone: no file of what is held out is opened. Where trial candidates are asked those very examples, nothing is
searched for: what a search measured would be chosen by what the exam asks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nightschool_daemon import codec
from nightschool_daemon.evaluation.examiner import score_answer
from nightschool_daemon.evaluation.local_model import LocalModel
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import PrepareResult, SelectResult, Step, read_lines, write_durably
from nightschool_daemon.learning.engine.examples import parted
from nightschool_daemon.learning.engine.trying import Follow, Ids, IsLate, Slices, Trials, Watch, answered
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import block_of_neurons
from nightschool_daemon.learning.loading import Tokens, load_tokens
from nightschool_daemon.learning.packed_route import neurons_of
from nightschool_daemon.learning.rows import FILES, rows_of, within
from nightschool_daemon.learning.services import JournalStore, store_before_training
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_hookspecs.records import (
    ExamItem,
    Hyperparameters,
    HyperparameterSearch,
    ItemRole,
    LabelledText,
    PairText,
    SearchTask,
    TrainedForm,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    TrainingText,
    TrainingTrial,
    TrialEnd,
    TriedOut,
)
from nightschool_hookspecs.services import GenerationError, Judge, Store, TrainingError

OpenTrials = Callable[[TrainingJob, Slices[TrainingText]], Trials[Any]]
Stage = tuple[TrainingMethod, Hyperparameters]
"""One of the trainings that make up the training of a run."""

SEARCH, FOUND = "search", "found.json"
"""In a training's output: the directory of a search, and in it what came of it."""
KEPT = ("form", "lora_layers", "beta", "max_length")
"""What no search may change."""
SHAPE = ("lora_r", "neurons")
"""Nor these where an adapter was brought along: what it knows would be lost in another shape."""
RECORDS: Mapping[TrainingMethod, type[TrainingText | PairText | LabelledText]] = {
    TrainingMethod.SFT: TrainingText,
    TrainingMethod.DPO: PairText,
    TrainingMethod.KTO: LabelledText,
}
TOO_LONG = "A training by these would take longer than training.time_limit_minutes."
RESERVE = 1.5
"""So many times what the training is expected to take is left to it."""
ROOM_TO_END = 2
"""An answer is cut at so many times the length of the wanted one."""
SHORT_ANSWER = 256
"""Tokens. What wants a longer answer is asked only where too little else is there: the time of an answer grows with the
square of its length."""


class SearchError(Exception):
    """A plugin broke a rule of the search; the message says which."""


def searched(
    context: WorkerContext, job: TrainingJob, file: GgufFile, open_trials: OpenTrials
) -> HyperparameterSearch | None:
    """With what to train, by the plugins; None: with what is given. Found once in a run, however often it is killed."""
    stages = stages_of(context, job)
    texts = _slices(job) if _are_searched_for(stages) and not _is_crossfitted(context) else None
    if texts is None:
        return None
    directory, journal = job.output / SEARCH, context.run.step(Step.TRAIN) / "store.jsonl"
    if (directory / FOUND).is_file():
        return codec.from_json((directory / FOUND).read_bytes(), HyperparameterSearch)
    directory.mkdir(parents=True, exist_ok=True)
    # what a killed search wrote there is written anew
    journal.unlink(missing_ok=True)
    task = task_of(context, job, file, directory, texts)
    store = JournalStore(store_before_training(context.run), journal)
    try:
        with closing(TryingOut(context, job, file, texts, open_trials, stages)) as try_out:
            found = _asked(context.hooks, task, try_out, store, job.seed)
    except (TrainingError, GenerationError) as error:
        # where it stands in the way of the training too, that will say so
        context.note(f"Hyperparameters are not searched for. {error}")
        return None
    if found is not None:
        write_durably(directory / FOUND, codec.to_json(found))
        context.note(found.reason)
    return found


def foreseen(context: WorkerContext, job: TrainingJob, file: GgufFile, store: Store) -> HyperparameterSearch | None:
    """The same where a training is only planned: nothing is tried out."""
    texts = _slices(job) if _are_searched_for(stages_of(context, job)) else None
    if texts is None:
        return None
    task = replace(task_of(context, job, file, job.output / SEARCH, texts), is_rehearsal=True)
    return _asked(context.hooks, task, _TriesNothing(), store, job.seed)


def taken(job: TrainingJob, search: HyperparameterSearch) -> TrainingJob:
    """A training by what a search found."""
    return replace(job, hyperparameters=search.hyperparameters, suggested=job.hyperparameters)


def task_of(
    context: WorkerContext, job: TrainingJob, file: GgufFile, directory: Path, texts: Slices[TrainingText]
) -> SearchTask:
    """What a plugin is told of a training."""
    given = job.hyperparameters
    neuron_step = 0
    if given.form is TrainedForm.NEURONS:
        given = replace(given, neurons=neurons_of(file, given.neurons))
        neuron_step = block_of_neurons(file)
    return SearchTask(
        specialty=context.info.specialty,
        base_digest=job.base_digest,
        events=job.material.learnable,
        examples=job.material.examples,
        tried_on=len(texts.learned),
        given=given,
        neuron_step=neuron_step,
        fixed=() if context.settings.training.start_from is None else SHAPE,
        directory=directory,
    )


def stages_of(context: WorkerContext, job: TrainingJob) -> tuple[Stage, ...]:
    """What the training consists of, where a plugin searches; nothing where it cannot be done."""
    if not (context.hooks.implements("nightschool_search_hyperparameters") and job.material.examples):
        return ()
    stages: list[Stage] = []

    def noted(job: TrainingJob, *, method: TrainingMethod, hyperparameters: Hyperparameters) -> TrainingResult:
        stages.append((method, hyperparameters))
        return untrained(job, method)

    try:
        context.hooks.train_adapter(job=replace(job, is_rehearsal=True), train=noted)
    except TrainingError:
        # the training itself will say so
        return ()
    return tuple(stages)


def _are_searched_for(stages: Sequence[Stage]) -> bool:
    """Whether it begins with wanted answers, which are what can be tried out."""
    return [method for method, _ in stages[:1]] == [TrainingMethod.SFT]


def _is_crossfitted(context: WorkerContext) -> bool:
    """Whether trial candidates are asked what is learned from, or this is one of them."""
    selected = context.run.result(Step.SELECT, SelectResult)
    return context.run.is_trial or bool(selected.folded or selected.folded_pairs)


def untrained(job: TrainingJob, method: TrainingMethod) -> TrainingResult:
    """What `train` answers where a training is only planned."""
    return TrainingResult(
        adapter=job.output,
        methods=(method,),
        steps=0,
        tokens=0,
        examples=0,
        left_out=0,
        base_loss=0.0,
        trained_loss=0.0,
        seconds=0.0,
    )


def _slices(job: TrainingJob) -> Slices[TrainingText] | None:
    """What is tried out on and measured; None where there is nothing, or nothing but near-duplicates."""
    file = job.dataset / FILES[TrainingMethod.SFT]
    texts = tuple(read_lines(file, TrainingText)) if file.is_file() else ()
    learned, measured = parted(texts, job.seed)
    return Slices(learned=learned, measured=measured) if measured else None


def _asked(
    hooks: Hooks, task: SearchTask, try_out: TryingOut | _TriesNothing, store: Store, seed: int
) -> HyperparameterSearch | None:
    found = hooks.search_hyperparameters(task=task, try_out=try_out, store=store, seed=seed)
    if found is None:
        return None
    for name in (*KEPT, *task.fixed):
        wanted, given = getattr(found.hyperparameters, name), getattr(task.given, name)
        if wanted != given:
            raise SearchError(f"A plugin that searches for hyperparameters changed {name}, which must stay {given!r}.")
    return found


# --------------------------------------------------------------------------- what is tried out


class _TriesNothing:
    """`TryOut` where a training is only planned."""

    def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
        raise SearchError("A plugin that searches for hyperparameters tried some out where a training is only planned.")

    def seconds_left(self) -> float:
        return 0.0


class TryingOut:
    """`TryOut` of a run. The base is opened with the first training."""

    def __init__(
        self,
        context: WorkerContext,
        job: TrainingJob,
        file: GgufFile,
        texts: Slices[TrainingText],
        open_trials: OpenTrials,
        stages: Sequence[Stage],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stages`: of the training that follows. `clock`: seconds."""
        self._context, self._job, self._file, self._texts = context, _from_the_base(context, job), file, texts
        self._open_trials = open_trials
        later = sum(settings.num_epochs * letters_of(job, method) for method, settings in stages[1:])
        self._later_epochs = later / letters_of(job, TrainingMethod.SFT)
        self._longest = job.hyperparameters
        """Of what may be taken, that by which the training takes longest."""
        self._clock, self._began = clock, clock()

    def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
        def report(done: int, total: int, text: str) -> None:
            self._context.progress(done, total, f"{trial.title}: {text}")

        self._context.progress(0, 1, trial.title)
        longest = max(self._longest, trial.hyperparameters, key=self._training_s)
        seconds = min(trial.seconds, self._left_beside(longest))
        if seconds <= 0:
            return TriedOut(end=TrialEnd.UNFIT, loss=None, tokens=0, measured_tokens=0, seconds=0.0, problem=TOO_LONG)
        score = partial(self._examination.score, answers=trial.answers) if trial.answers else None
        bounded = replace(trial, seconds=seconds)
        found = self._trials.try_out(Watch(trial=bounded, judge=judge, report=report, score=score))
        if found.end is TrialEnd.COMPLETE:
            self._longest = longest
        return found

    def seconds_left(self) -> float:
        return self._left_beside(self._longest)

    def _left_beside(self, settings: Hyperparameters) -> float:
        passed = self._clock() - self._began
        return self._context.time_s - passed - RESERVE * self._training_s(settings)

    def _training_s(self, settings: Hyperparameters) -> float:
        """How long the training may take by these, over all examples, with what is learned on top of them."""
        whole = 1 + len(self._texts.measured) / len(self._texts.learned)
        return self._trials.epoch_seconds(settings) * whole * (settings.num_epochs + self._later_epochs)

    def close(self) -> None:
        """Let the base go. Libraries that are imported in a search keep frames of it alive, and so all that it held."""
        self.__dict__.pop("_trials", None)

    @cached_property
    def _trials(self) -> Trials[Any]:
        return self._open_trials(self._job, self._texts)

    @cached_property
    def _examination(self) -> Examination:
        return Examination.of(self._context, self._job, self._file, self._texts.measured)


def letters_of(job: TrainingJob, method: TrainingMethod) -> int:
    """How much a method learns from, without a tokenizer."""
    texts = read_lines(job.dataset / FILES[method], RECORDS[method])
    return sum(len(one.prompt) + sum(map(len, _answers(one))) for one in texts)


def _answers(text: TrainingText | PairText | LabelledText) -> tuple[str, ...]:
    return (text.chosen, text.rejected) if isinstance(text, PairText) else (text.completion,)


def _from_the_base(context: WorkerContext, job: TrainingJob) -> TrainingJob:
    """The same without what a version learned: it knows by heart what is measured. What was brought along does not."""
    brought = context.settings.training.start_from
    return replace(
        job,
        warm_start=None if brought is None else brought.expanduser(),
        requires_start=job.requires_start and job.warm_start is not None,
    )


# --------------------------------------------------------------------------- what answers are worth


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Has a network that was tried out answer, and validators score what it says."""

    tokens: Tokens
    texts: tuple[TrainingText, ...]
    """In the order in which they are asked."""
    closing: str
    score_of: Callable[[ExamItem, str], float]

    @classmethod
    def of(
        cls, context: WorkerContext, job: TrainingJob, file: GgufFile, measured: Sequence[TrainingText]
    ) -> Examination:
        """Over the measured examples that are not too long."""
        tokens = load_tokens(file, job.base_digest, context.settings.state_directory / "cache")
        exam, pin = context.settings.exam, context.run.result(Step.PREPARE, PrepareResult).base.pin
        judge = LocalModel(OllamaLibrary(context.settings.ollama), exam.judge_model or pin, exam)
        measure = CombinedMeasure(context.hooks, no_embeddings)
        rows = zip(measured, rows_of(measured, tokens), strict=True)
        fitting = [(text, len(row.completion)) for text, row in rows if within([row], job.hyperparameters.max_length)]
        return cls(
            tokens=tokens,
            texts=in_order(fitting, job.seed),
            closing=context.run.result(Step.SELECT, SelectResult).closing,
            score_of=lambda item, text: score_answer(context.hooks, measure, judge, item, text).score,
        )

    def score(self, follow: Follow, is_late: IsLate, *, answers: int) -> float | None:
        """The mean of so many answers, 0..100; None where the time was over before."""
        asked = self.texts[:answers]
        prompts: list[Ids] = [tuple(self.tokens.prompt(one.prompt)) for one in asked]
        closing = tuple(self.tokens.completion(asked[0].prompt, self.closing))
        wanted = [self.tokens.completion(one.prompt, one.completion) for one in asked]
        said = answered(follow, prompts, closing, [ROOM_TO_END * len(one) for one in wanted], is_late)
        if said is None:
            return None
        scores = list[float]()
        for one, ids in zip(asked, said, strict=True):
            if is_late():
                return None
            scores.append(self.score_of(item_of(one, self.closing), self.tokens.text(ids)))
        return sum(scores) / len(scores)


def in_order(texts: Sequence[tuple[TrainingText, int]], seed: int) -> tuple[TrainingText, ...]:
    """Of texts and the tokens of their answers, in which order they are asked: by chance, behind them the long ones."""
    shuffled = random.Random(f"{seed}/answered").sample(texts, len(texts))  # noqa: S311 - no secret
    return tuple(text for text, _ in sorted(shuffled, key=lambda one: max(SHORT_ANSWER, one[1])))


def item_of(text: TrainingText, closing: str) -> ExamItem:
    """An example that was kept apart as a question."""
    return ExamItem(
        id=text.event_id,
        event_id=text.event_id,
        artifact_type=text.artifact_type,
        role=ItemRole.GUARD,
        messages=text.messages,
        reference=text.completion.removesuffix(closing),
        group=text.group,
        tests=text.tests,
        schema=text.schema,
    )
