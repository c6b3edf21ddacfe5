"""Protocols of what a plugin may use. The daemon hands them in as hook parameters.

Each has a fake in `nightschool_hookspecs.testing`, so that a plugin's tests need neither the daemon
nor Ollama.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from nightschool_hookspecs.records import (
    AnswerScore,
    Chunk,
    ExamItem,
    Hyperparameters,
    Matrix,
    Message,
    ModelAnswer,
    ModelMemory,
    Tool,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    TrainingTrial,
    TriedOut,
)


class Generate(Protocol):
    """Asks a local model."""

    def __call__(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        """Return the answer's text.

        `max_tokens` counts generated tokens. Raises `GenerationError` where the model gave no whole
        answer.
        """
        ...


class GenerationError(RuntimeError):
    """The local model gave no whole answer."""


class Sample(Protocol):
    """Draws answers from the incumbent: the model in use, which the candidate has to beat.

    What was drawn is kept over the nights while the incumbent is the same, and costs no time again. Memory may hold one
    model at a time: have all prompts answered in one call, and score the answers after it.
    """

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
        """Return the answers to each prompt, in order: at most so many of each, and only whole ones.

        A whole answer is one that the model ended by itself within `max_tokens`, without thoughts and calls of tools.
        After `minutes` no further question is asked, nor after so many prompts in a row without a whole answer, nor
        when the server has gone away: the others have what is kept of them, which may be nothing.
        """
        ...


class Validate(Protocol):
    """Scores an answer as an exam does, by the plugins that validate."""

    def __call__(self, item: ExamItem, answer: str) -> AnswerScore | None:
        """Return the score, or None where no plugin knows the artifact type.

        Raises `GenerationError` where a model is asked to judge and does not answer.
        """
        ...


class Recall(Protocol):
    """What the base itself answers, whatever was learned since.

    It is asked each prompt once. What it said is kept for all its specialties and nights, until the base changes.
    """

    def __call__(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float, minutes: float
    ) -> Iterator[str | None]:
        """Yield the answer to each prompt in turn. Only what is gone through is asked.

        None: the base gave no whole one within `max_tokens`, as `Sample` has it. Ends before the prompts do where
        asking took `minutes`, and where the server has gone away. Where a training is only planned nobody is asked, and
        a text of a likely length stands for each answer.
        """
        ...


class Models(Protocol):
    """The models of an exam, for guards: asked by name, with the exam's context and every option pinned.

    All guards of an exam share its time, `exam.guard_time_s`. Incumbent and candidate may not fit into memory together,
    and each change loads a model: ask one all its questions, then the other. What the server says of its speed leaves
    loading out, so that a guard of speed may take turns.
    """

    def ask(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        seed: int,
        temperature: float = 0.0,
        tools: Sequence[Tool] = (),
        think: bool = False,
        kept: bool = False,
    ) -> ModelAnswer | None:
        """Return what the model says, or None where the server twice gave no whole answer or refused the question.

        `kept`: what this very model said to the same question on an earlier night will do, and costs no time again; the
        seed does not matter then, nor do the seconds that it took say anything of tonight.
        Raises `OutOfTime`, and `GenerationError` where the server stays away.
        """
        ...

    def capabilities(self, model: str) -> tuple[str, ...]:
        """Return what the server lists: `completion`, `tools`, `thinking`, `vision`. Raises `GenerationError`."""
        ...

    def memory(self, model: str) -> ModelMemory | None:
        """Load the model and return what it takes, or None where the server does not tell.

        Raises `OutOfTime` and `GenerationError`.
        """
        ...


class OutOfTime(GenerationError):
    """The time that the guards of an exam share is used up. A guard that is not done judges by what it has."""


class Embed(Protocol):
    """Turns texts into vectors with whatever embedding model this machine has."""

    def __call__(self, texts: Sequence[str]) -> Matrix | None:
        """Return an (n, d) matrix of unit vectors, or None where no embedding model is to be had."""
        ...


class Measure(Protocol):
    """How alike texts are, by all similarity plugins together."""

    def __call__(self, left: Sequence[str], right: Sequence[str]) -> Matrix:
        """Return an (n, m) matrix of similarities in 0..1: the weighted mean over the metrics at hand."""
        ...


class Retrieve(Protocol):
    """Searches the chunks that the specialty's own events brought along."""

    def __call__(self, query: str, *, limit: int) -> tuple[Chunk, ...]:
        """Return at most `limit` chunks, best first."""
        ...


class Store(Protocol):
    """A small durable key-value space of the plugin's own. Values are JSON texts.

    In a worker it is a snapshot; writes take effect when the daemon has accepted the worker's result.
    """

    def get(self, key: str) -> str | None: ...

    def put(self, key: str, value: str) -> None: ...

    def delete(self, key: str) -> None: ...


class Train(Protocol):
    """The training engine of the worker."""

    def __call__(self, job: TrainingJob, *, method: TrainingMethod, hyperparameters: Hyperparameters) -> TrainingResult:
        """Train from `job.warm_start`, or from the base, and return what was left in `job.output`.

        Raises `TrainingError` where the architecture cannot be loaded, or nothing fits that the method learns from.
        """
        ...


class Judge(Protocol):
    """Decides how far a training is taken that is tried out."""

    def __call__(self, epochs: float, loss: float, /) -> bool:
        """Return whether it goes on. `epochs` is the mark that it came to; `loss` as in `TriedOut`."""
        ...


class TryOut(Protocol):
    """Trains on four fifths of what is learned from, and measures on the rest; near-duplicates are on one side.

    Every training begins from the base, as a version in service has learned the rest before. Nothing of the exam is in
    either part.
    """

    def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
        """Train, and forget what was trained.

        The judge is asked at each mark, and ends the training by saying no. Raises `TrainingError` where no training
        would work.
        """
        ...

    def seconds_left(self) -> float:
        """Return what the run's time limit leaves for a search, with the training that follows taken off."""
        ...


class TrainingError(RuntimeError):
    """A training could not be done; the message says what to do next."""
