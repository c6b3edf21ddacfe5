"""`Generate`: one model of the local Ollama, asked with every option pinned."""

from collections.abc import Sequence
from dataclasses import replace

from nightschool_daemon.config import ExamSettings
from nightschool_daemon.evaluation.patience import patiently
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.ollama.library import OllamaLibrary, PinnedOptions
from nightschool_hookspecs.records import Message
from nightschool_hookspecs.services import GenerationError


class LocalModel:
    """`Generate`: asks one model of the local Ollama, once more where that failed."""

    def __init__(self, library: OllamaLibrary, name: str, exam: ExamSettings) -> None:
        self._library = library
        self._name = name
        self._exam = exam

    def __call__(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        asked = replace(pinned_options(self._exam, seed), num_predict=max_tokens, temperature=temperature)
        try:
            return patiently(lambda: self._library.chat(self._name, tuple(messages), asked).text, wait_s=0.0)
        except OllamaError as error:
            raise GenerationError(str(error)) from error


def pinned_options(exam: ExamSettings, seed: int) -> PinnedOptions:
    """The options that all sittings share. What a model stops at is its own, and the same for all of them."""
    return PinnedOptions(
        temperature=exam.temperature,
        seed=seed % 2**31,
        top_k=exam.top_k,
        top_p=exam.top_p,
        min_p=exam.min_p,
        repeat_penalty=exam.repeat_penalty,
        repeat_last_n=exam.repeat_last_n,
        num_ctx=exam.context_tokens,
        num_predict=exam.max_answer_tokens,
    )
