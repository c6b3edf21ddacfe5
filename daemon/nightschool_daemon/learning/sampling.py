"""`Sample` and `Validate`: answers that the incumbent is asked for, to be ranked and learned from, and their scores.

Each answer is on disk before the next question is asked, under the digests of the model and of the prompt with every
option; the seed comes from the prompt, not from the night. So a step that is repeated goes on where it stopped, and a
night asks what no earlier one has asked of the same model. Prompts are kept as digests alone.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from nightschool_daemon.config import ExamSettings
from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.local_model import LocalModel, pinned_options
from nightschool_daemon.jobs import PrepareResult, Step, append_line, remembered_lines
from nightschool_daemon.ollama.errors import OllamaError, OllamaRefused
from nightschool_daemon.ollama.library import ChatAnswer, OllamaLibrary, PinnedOptions
from nightschool_daemon.reasons import REBUILD
from nightschool_hookspecs.records import AnswerScore, ExamItem, Message, MethodChoice, Recipe
from nightschool_hookspecs.services import Measure, Sample, Validate

LEARNS_PAIRS = (MethodChoice.AUTO, MethodChoice.DPO)
CUT_OFF = "length"
"""Ollama's `done_reason` of an answer that reached the limit of tokens."""
MOST_MODELS = 32
"""Models whose answers are kept; those that were not asked for the longest time go first."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the incumbent is asked for answers, and how these are scored."""

    sample: Sample
    validate: Validate


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A line of the file of a model: what it answered."""

    signature: str
    """Of the prompt and all options."""
    text: str
    whole: bool
    """It came to its end, and was not cut off."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, and the options that one of its answers is drawn with."""

    messages: tuple[Message, ...]
    options: PinnedOptions

    @property
    def signature(self) -> str:
        """What tells it from every other."""
        return hashlib.sha256(f"{json.dumps(self.options.body())} {_canonical(self.messages)}".encode()).hexdigest()


class Ask(Protocol):
    """Puts a question to the incumbent. Raises `OllamaError`."""

    def __call__(self, messages: tuple[Message, ...], options: PinnedOptions) -> ChatAnswer: ...


def open_sampling(context: WorkContext, measure: Measure) -> Sampling | None:
    """None where no plugin ranks answers of the incumbent, or no pair of them would be learned from."""
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    trains = context.info.recipe is Recipe.TRAINING
    if not (trains and context.hooks.samples_answers() and prepared.incumbent_digest):
        return None
    method = context.settings.training.method
    if method not in LEARNS_PAIRS:
        if not context.run.is_trial:
            context.note(
                f'{prepared.incumbent} is asked for no answers: training.method is "{method.value}", and only "auto" '
                'and "dpo" learn from pairs.'
            )
        return None
    exam = context.settings.exam
    library = OllamaLibrary(context.settings.ollama)
    judge = LocalModel(library, exam.judge_model or prepared.base.pin, exam)

    def ask(messages: tuple[Message, ...], options: PinnedOptions) -> ChatAnswer:
        return library.chat(prepared.incumbent, messages, options)

    def validate(item: ExamItem, answer: str) -> AnswerScore | None:
        return context.hooks.validate_answer(item=item, answer=answer, measure=measure, generate=judge)

    directory = context.settings.state_directory / "cache" / "sampled"
    sample = KeptSample(
        # a trial candidate proves the recipe of the candidate, which was asked for; a rebuild learns nothing new
        None if context.run.is_trial or context.info.reason == REBUILD else ask,
        name=prepared.incumbent,
        file=file_of(directory, prepared.incumbent_digest),
        exam=exam,
        listener=context,
    )
    return Sampling(sample=sample, validate=validate)


def file_of(directory: Path, digest: str) -> Path:
    """Where the answers of a model are kept. Those of models that were long not asked are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{digest}.jsonl"
    file.touch()
    newest = sorted(directory.glob("*.jsonl"), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in newest[MOST_MODELS:]:
        old.unlink()
    return file


class Listener(Protocol):
    """Who is told how far it is, and what there is to say."""

    def progress(self, done: int, total: int, text: str, /) -> None: ...

    def note(self, text: str, /) -> None: ...


class KeptSample:
    """`Sample` of one model: what is kept in its file, and what it is asked besides. `ask` None: nothing."""

    def __init__(
        self,
        ask: Ask | None,
        *,
        name: str,
        file: Path,
        exam: ExamSettings,
        listener: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._name = name
        self._file = file
        self._exam = exam
        self._listener = listener
        self._clock = clock

    def __call__(
        self,
        prompts: Sequence[tuple[Message, ...]],
        *,
        answers: int,
        temperature: float,
        max_tokens: int,
        minutes: float,
        failures_in_a_row: int,
    ) -> tuple[tuple[str, ...], ...]:
        """The whole answers to each prompt, those of earlier nights among them."""
        kept = {one.signature: one for one in remembered_lines(self._file, Drawn)}
        options = replace(pinned_options(self._exam, 0), temperature=temperature, num_predict=max_tokens)
        questions = {messages: _questions(messages, answers, options) for messages in prompts}
        if self._ask is not None:
            deadline = self._clock() + 60 * minutes
            self._draw(self._ask, tuple(questions.values()), kept, deadline, failures_in_a_row)
        return tuple(_whole(questions[messages], kept) for messages in prompts)

    def _draw(
        self,
        ask: Ask,
        questions: Sequence[Sequence[Question]],
        kept: dict[str, Drawn],
        deadline: float,
        failures_in_a_row: int,
    ) -> None:
        """Ask what is not kept, prompt by prompt, until the time is over or the model is given up."""
        total = sum(len(_open(of_prompt, kept)) for of_prompt in questions)
        asked, failures = 0, 0
        for of_prompt in questions:
            if not (waiting := _open(of_prompt, kept)):
                continue
            problem: str | None = ""
            for question in waiting:
                if self._clock() >= deadline:
                    return
                self._listener.progress(asked, total, f"{self._name}: answer {asked + 1} of at most {total} to rank")
                problem = self._put(ask, question, kept)
                asked += 1
                if not _whole(of_prompt, kept):
                    break
            if problem is None:
                continue
            failures = 0 if _whole(of_prompt, kept) else failures + 1
            if failures >= failures_in_a_row:
                self._listener.note(
                    f"{self._name} gave no whole answer to {failures} prompts in a row ({problem}), so it is asked for "
                    "no more answers to rank. Those that it gave count."
                )
                return

    def _put(self, ask: Ask, question: Question, kept: dict[str, Drawn]) -> str | None:
        """Have a question answered, and keep the answer.

        Returns why it is not whole, empty where it is; None where the server does not take the question, as one that
        is longer than the context: that says nothing of the model.
        """
        try:
            said = ask(question.messages, question.options)
        except OllamaError as error:
            if isinstance(error, OllamaRefused) and error.status == HTTPStatus.BAD_REQUEST:
                return None
            return str(error).removesuffix(".")
        drawn = Drawn(signature=question.signature, text=said.text, whole=said.done_reason != CUT_OFF)
        kept[drawn.signature] = drawn
        append_line(self._file, drawn)
        return "" if drawn.whole else f"it does not end within {question.options.num_predict} tokens"


def _questions(messages: tuple[Message, ...], answers: int, options: PinnedOptions) -> tuple[Question, ...]:
    seeds = (hashlib.sha256(f"{number} {_canonical(messages)}".encode()).digest() for number in range(answers))
    return tuple(
        Question(messages=messages, options=replace(options, seed=int.from_bytes(seed[:4], "big") % 2**31))
        for seed in seeds
    )


def _canonical(messages: Iterable[Message]) -> str:
    return json.dumps([[one.role.value, one.content] for one in messages])


def _whole(of_prompt: Iterable[Question], kept: Mapping[str, Drawn]) -> tuple[str, ...]:
    """The answers to a prompt that came to their end."""
    there = (kept.get(one.signature) for one in of_prompt)
    return tuple(one.text for one in there if one is not None and one.whole)


def _open(of_prompt: Sequence[Question], kept: Mapping[str, Drawn]) -> list[Question]:
    """What is not asked yet. A prompt whose first answer was cut off is left: the next would hardly be shorter."""
    waiting = [one for one in of_prompt if one.signature not in kept]
    return waiting if len(waiting) == len(of_prompt) or _whole(of_prompt, kept) else []
