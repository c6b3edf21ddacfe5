"""`Models`: what guards ask the models of an exam, within the time that they share."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from nightschool_daemon.config import Settings
from nightschool_daemon.evaluation.earlier_answers import EarlierAnswers, Question
from nightschool_daemon.evaluation.local_model import pinned_options
from nightschool_daemon.evaluation.patience import patiently
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import OllamaError, OllamaInterrupted, OllamaRefused
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.library import ChatAnswer, OllamaLibrary
from nightschool_hookspecs.records import Message, ModelAnswer, ModelMemory, Role, Tool
from nightschool_hookspecs.services import GenerationError, OutOfTime

T = TypeVar("T")

GREETING = (Message(role=Role.USER, content="Hello"),)
"""Asked to have a model loaded."""


def answers_directory(settings: Settings) -> Path:
    """Where answers to guards are kept over the nights."""
    return settings.state_directory / "cache" / "guards"


class ExamModels:
    """`Models` of the local Ollama. Its time begins when it is made. `earlier` None: no answer is kept."""

    def __init__(
        self,
        settings: Settings,
        earlier: EarlierAnswers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._library = OllamaLibrary(settings.ollama)
        self._http = OllamaHttp(settings.ollama)
        self._exam = settings.exam
        self._earlier = earlier
        self._clock = clock
        self._deadline = clock() + settings.exam.guard_time_s

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
        """What the model says; None for no whole answer. Raises `OutOfTime` and `GenerationError`."""
        options = replace(
            pinned_options(self._exam, 0 if kept else seed), num_predict=max_tokens, temperature=temperature
        )
        chat = partial(self._library.chat, model, messages, options, tools=tools, think=think)
        digest = self._digests.get(names.normalise(model)) if kept and self._earlier is not None else None
        if self._earlier is None or digest is None:
            return self._answered(chat)
        question = Question(
            messages=tuple(messages), options=options, tools=tuple(tools), think=think, server=self._server
        )
        answer = self._earlier.find(digest, question)
        if answer is None and (answer := self._answered(chat)) is not None:
            self._earlier.keep(digest, question, answer)
        return answer

    def _answered(self, chat: Callable[[], ChatAnswer]) -> ModelAnswer | None:
        self._require_time()
        try:
            said = patiently(chat)
        except (OllamaInterrupted, OllamaRefused):
            return None
        except OllamaError as error:
            raise GenerationError(str(error)) from error
        return ModelAnswer(
            text=said.text,
            thinking=said.thinking,
            tool_calls=said.tool_calls,
            tokens=said.tokens,
            generation_s=said.generation_s,
            reading_s=said.reading_s,
        )

    def capabilities(self, model: str) -> tuple[str, ...]:
        """What the server lists. Raises `GenerationError`."""
        return _told(lambda: self._http.show(model)).capabilities

    def memory(self, model: str) -> ModelMemory | None:
        """Load it and read what it takes. A model that shares its weights with a loaded one has no line of its own."""
        if self.ask(model, GREETING, max_tokens=1, seed=0) is None:
            return None
        own = next((one for one in _told(self._http.loaded) if one.name == names.normalise(model)), None)
        if own is None or own.size <= 0:
            return None
        return ModelMemory(total_bytes=own.size, gpu_bytes=own.size_vram, context_tokens=own.context_tokens)

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Of every tag, by its name."""
        return {entry.name: entry.digest for entry in _told(self._http.tags)}

    @cached_property
    def _server(self) -> str:
        return _told(self._http.version)

    def _require_time(self) -> None:
        if self._clock() >= self._deadline:
            raise OutOfTime(f"The guards' time of {self._exam.guard_time_s:g} s is used up (exam.guard_time_s).")


def _told(call: Callable[[], T]) -> T:
    """What the server tells of a model. Raises `GenerationError` where it does not."""
    try:
        return patiently(call)
    except OllamaError as error:
        raise GenerationError(str(error)) from error
