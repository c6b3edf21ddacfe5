"""`Sample` and `Validate`: answers that the incumbent is asked for, to be ranked and learned from, and their scores."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from nightschool_daemon.config import ExamSettings
from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.local_model import LocalModel, pinned_options
from nightschool_daemon.jobs import PrepareResult, Step
from nightschool_daemon.learning.kept_answers import KeptAnswers, NotTaken, Question, Unanswered, directory_of
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.ollama.library import ChatAnswer, OllamaLibrary, PinnedOptions
from nightschool_daemon.reasons import REBUILD
from nightschool_hookspecs.records import AnswerScore, ExamItem, Message, MethodChoice, Recipe
from nightschool_hookspecs.services import Measure, Sample, Validate

LEARNS_PAIRS = (MethodChoice.AUTO, MethodChoice.DPO)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the incumbent is asked for answers, and how these are scored."""

    sample: Sample
    validate: Validate


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

    # a trial candidate proves the recipe of the candidate, which was asked for; a rebuild learns nothing new
    may_ask = not context.run.is_trial and context.info.reason != REBUILD
    kept = KeptAnswers(directory_of(context.settings), prepared.incumbent_digest, ask if may_ask else None)
    sample = KeptSample(kept, name=prepared.incumbent, exam=exam, listener=context)
    return Sampling(sample=sample, validate=validate)


class Listener(Protocol):
    """Who is told how far it is, and what there is to say."""

    def progress(self, done: int, total: int, text: str, /) -> None: ...

    def note(self, text: str, /) -> None: ...


class KeptSample:
    """`Sample` of one model: what is kept of it, and what it is asked besides."""

    def __init__(
        self,
        kept: KeptAnswers,
        *,
        name: str,
        exam: ExamSettings,
        listener: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept = kept
        self._name = name
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
        options = replace(pinned_options(self._exam, 0), temperature=temperature, num_predict=max_tokens)
        questions = {
            messages: tuple(Question.drawn(messages, options, number) for number in range(answers))
            for messages in prompts
        }
        if self._kept.can_ask:
            try:
                self._draw(tuple(questions.values()), self._clock() + 60 * minutes, failures_in_a_row)
            except OllamaError as error:
                self._listener.note(
                    f"{self._name} is asked for no more answers to rank. {error} Those that it gave count."
                )
        return tuple(self._whole(questions[messages]) for messages in prompts)

    def _draw(self, questions: Sequence[Sequence[Question]], deadline: float, failures_in_a_row: int) -> None:
        """Ask what is not kept, prompt by prompt, until the time is over or the model is given up."""
        total = sum(len(self._open(of_prompt)) for of_prompt in questions)
        asked, failures = 0, 0
        for of_prompt in questions:
            if not (waiting := self._open(of_prompt)):
                continue
            problem: str | None = ""
            for question in waiting:
                if self._clock() >= deadline:
                    return
                self._listener.progress(asked, total, f"{self._name}: answer {asked + 1} of at most {total} to rank")
                problem = self._put(question)
                asked += 1
                if not self._whole(of_prompt):
                    break
            if problem is None:
                continue
            failures = 0 if self._whole(of_prompt) else failures + 1
            if failures >= failures_in_a_row:
                self._listener.note(
                    f"{self._name} gave no whole answer to {failures} prompts in a row ({problem}), so it is asked for "
                    "no more answers to rank. Those that it gave count."
                )
                return

    def _put(self, question: Question) -> str | None:
        """Have a question answered. Returns why it is not, empty where it is; None where that is not the model's."""
        try:
            self._kept.ask(question)
        except NotTaken:
            return None
        except Unanswered as problem:
            return str(problem)
        return ""

    def _whole(self, of_prompt: Iterable[Question]) -> tuple[str, ...]:
        """The whole answers to a prompt."""
        return tuple(text for one in of_prompt if (text := self._kept.whole(one)) is not None)

    def _open(self, of_prompt: Sequence[Question]) -> list[Question]:
        """What is not asked yet. A prompt whose first answer is not whole is left: the next would hardly be."""
        waiting = [one for one in of_prompt if not self._kept.is_known(one)]
        return waiting if len(waiting) == len(of_prompt) or self._whole(of_prompt) else []
