"""`Recall`: what a base itself answers. It is asked each prompt once; what it said is kept in the state directory."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from nightschool_daemon.config import Settings
from nightschool_daemon.evaluation.local_model import pinned_options
from nightschool_daemon.jobs import BaseSnapshot, append_line, remembered_lines
from nightschool_daemon.ollama.errors import OllamaError, OllamaInterrupted, OllamaRefused
from nightschool_daemon.ollama.library import ChatAnswer, OllamaLibrary, PinnedOptions
from nightschool_hookspecs.records import Message, Role

logger = logging.getLogger(__name__)

ENDED = "stop"
"""What Ollama says of an answer that the model ended by itself."""


@dataclass(frozen=True, kw_only=True)
class KeptAnswer:
    """A line of the file."""

    question: str
    """Digest of the prompt and of every option that it was asked with."""
    text: str | None
    """None: the answer was cut, or was no plain text."""


class KeptAnswers:
    """`Recall` of the local Ollama. Its file is of one base in one form, template included, and may be deleted."""

    def __init__(
        self,
        settings: Settings,
        base: BaseSnapshot,
        report: Callable[[int, int, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._library = OllamaLibrary(settings.ollama)
        self._pin, self._exam = base.pin, settings.exam
        self._file = settings.state_directory / "cache" / "recalled" / f"{base.tag_digest}.jsonl"
        self._report, self._clock = report, clock

    def __call__(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float, limit_s: float
    ) -> Iterator[str | None]:
        """Yield the answer to each prompt, from the file or from the base."""
        known, deadline = self._known(), self._clock() + limit_s
        for number, prompt in enumerate(prompts):
            options = self._options(prompt, max_tokens, temperature)
            question = _digest(prompt, options)
            if question not in known:
                if self._clock() >= deadline:
                    return
                self._report(number, len(prompts), "the base answers general prompts")
                try:
                    known[question] = self._ask(prompt, options)
                except (OllamaInterrupted, OllamaRefused):
                    yield None
                    continue
                except OllamaError as error:
                    # whoever renders the prompts next tells of it
                    logger.warning("The base was not asked for more of its own answers: %s", error)
                    return
                append_line(self._file, KeptAnswer(question=question, text=known[question]))
            yield known[question]

    def _known(self) -> dict[str, str | None]:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return {one.question: one.text for one in remembered_lines(self._file, KeptAnswer)}

    def _options(self, prompt: str, max_tokens: int, temperature: float) -> PinnedOptions:
        # chance by the prompt alone: the answer to it is drawn once
        seed = int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:4], "big")
        return replace(pinned_options(self._exam, seed), num_predict=max_tokens, temperature=temperature)

    def _ask(self, prompt: str, options: PinnedOptions) -> str | None:
        said = self._library.chat(self._pin, (Message(role=Role.USER, content=prompt),), options)
        return said.text if _is_whole(said) else None


def _is_whole(said: ChatAnswer) -> bool:
    """Whether the text is all that the model said: thoughts and calls are taken out of it by the server."""
    return said.done_reason == ENDED and not said.thinking and not said.tool_calls


def _digest(prompt: str, options: PinnedOptions) -> str:
    return hashlib.sha256(json.dumps([prompt, options.body()], sort_keys=True).encode()).hexdigest()


def nobody_answers(
    prompts: Sequence[str], *, max_tokens: int, temperature: float, limit_s: float
) -> Iterator[str | None]:
    """`Recall` where there is no base to ask."""
    return iter(())
