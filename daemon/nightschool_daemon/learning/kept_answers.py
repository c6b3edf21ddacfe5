"""Answers of a model that are kept in the state directory: no night asks what an earlier one has asked of it.

A file a model, under its digest. Each answer is on disk before the next question is asked, under the digest of the
prompt and of every option; chance comes from the prompt, not from the night. So a step that is repeated goes on where
it stopped. Prompts are kept as digests alone, and a file may be deleted.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from nightschool_daemon.config import Settings
from nightschool_daemon.evaluation.answer_files import file_of
from nightschool_daemon.jobs import append_line, remembered_lines
from nightschool_daemon.ollama.errors import OllamaInterrupted, OllamaRefused
from nightschool_daemon.ollama.library import ChatAnswer, PinnedOptions
from nightschool_hookspecs.records import Message

ENDED = "stop"
"""Ollama's `done_reason` of an answer that the model ended by itself."""


class Unanswered(Exception):
    """The model gave no whole answer to one question. The message is why, a clause of a sentence."""


class NotTaken(Unanswered):
    """The server does not take the question, as one that is longer than the context. It says nothing of the model."""


@dataclass(frozen=True, kw_only=True)
class KeptAnswer:
    """A line of the file."""

    question: str
    """Digest of the prompt and of every option that it was asked with."""
    text: str | None
    """None: what was said is no whole answer."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, and the options that one of its answers is drawn with."""

    messages: tuple[Message, ...]
    options: PinnedOptions

    @classmethod
    def drawn(cls, messages: tuple[Message, ...], options: PinnedOptions, number: int = 0) -> "Question":
        """The question for an answer to a prompt, of several another one by each number."""
        seed = hashlib.sha256(f"{number} {_canonical(messages)}".encode()).digest()[:4]
        return cls(messages=messages, options=replace(options, seed=int.from_bytes(seed, "big") % 2**31))

    @property
    def digest(self) -> str:
        """What tells it from every other."""
        return hashlib.sha256(f"{json.dumps(self.options.body())} {_canonical(self.messages)}".encode()).hexdigest()


class Ask(Protocol):
    """Puts a question to the model. Raises `OllamaError`."""

    def __call__(self, messages: tuple[Message, ...], options: PinnedOptions) -> ChatAnswer: ...


def directory_of(settings: Settings) -> Path:
    """Where the files of all models are."""
    return settings.state_directory / "cache" / "answers"


class KeptAnswers:
    """What a model has answered, and what it is asked besides. `ask` None: nothing.

    `digest` is of the model in one form, its template included. Its file is opened when it is first looked into.
    """

    def __init__(self, directory: Path, digest: str, ask: Ask | None) -> None:
        self._directory, self._digest, self._ask = directory, digest, ask

    @property
    def can_ask(self) -> bool:
        """Whether the model may be asked."""
        return self._ask is not None

    def is_known(self, question: Question) -> bool:
        """Whether it was asked this, whatever it said."""
        return question.digest in self._known

    def whole(self, question: Question) -> str | None:
        """Its answer. None: it was not asked this, or gave no whole one."""
        return self._known.get(question.digest)

    def ask(self, question: Question) -> None:
        """Put a question to the model and keep what it says.

        Raises `Unanswered` where it gives no whole answer. Nothing is kept where it may not be asked, or where a server
        that may answer others refuses or breaks off. Raises any other `OllamaError`: the server is away.
        """
        if self._ask is None:
            raise Unanswered("it may not be asked")
        try:
            said = self._ask(question.messages, question.options)
        except (OllamaInterrupted, OllamaRefused) as error:
            is_not_taken = isinstance(error, OllamaRefused) and error.status == HTTPStatus.BAD_REQUEST
            raise (NotTaken if is_not_taken else Unanswered)(str(error).removesuffix(".")) from error
        problem = _why_not_whole(said, question.options)
        kept = KeptAnswer(question=question.digest, text=None if problem else said.text)
        self._known[kept.question] = kept.text
        append_line(self._file, kept)
        if problem:
            raise Unanswered(problem)

    @cached_property
    def _file(self) -> Path:
        return file_of(self._directory, self._digest)

    @cached_property
    def _known(self) -> dict[str, str | None]:
        return {one.question: one.text for one in remembered_lines(self._file, KeptAnswer)}


def _why_not_whole(said: ChatAnswer, options: PinnedOptions) -> str | None:
    """Why the text is not all that the model had to say: thoughts and calls are taken out of it by the server."""
    if said.done_reason != ENDED:
        return f"it does not end within {options.num_predict} tokens"
    if said.thinking or said.tool_calls:
        return "it has thoughts or calls of tools beside its text"
    return None


def _canonical(messages: Iterable[Message]) -> str:
    return json.dumps([[one.role.value, one.content] for one in messages])
