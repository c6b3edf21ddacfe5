"""`Recall`: what a base itself answers. It is asked each prompt once."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from nightschool_daemon.config import Settings
from nightschool_daemon.evaluation.local_model import pinned_options
from nightschool_daemon.jobs import BaseSnapshot
from nightschool_daemon.learning.kept_answers import KeptAnswers, Question, Unanswered, directory_of
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.ollama.library import ChatAnswer, OllamaLibrary, PinnedOptions
from nightschool_hookspecs.records import Message, Role

logger = logging.getLogger(__name__)


class KeptRecall:
    """`Recall` of the local Ollama: what is kept of one base, and what it is asked besides."""

    def __init__(
        self,
        settings: Settings,
        base: BaseSnapshot,
        report: Callable[[int, int, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        library = OllamaLibrary(settings.ollama)

        def ask(messages: tuple[Message, ...], options: PinnedOptions) -> ChatAnswer:
            return library.chat(base.pin, messages, options)

        self._kept = KeptAnswers(directory_of(settings), base.tag_digest, ask)
        self._exam, self._report, self._clock = settings.exam, report, clock

    def __call__(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float, minutes: float
    ) -> Iterator[str | None]:
        """Yield the answer to each prompt, from the file or from the base."""
        options = replace(pinned_options(self._exam, 0), num_predict=max_tokens, temperature=temperature)
        deadline = self._clock() + 60 * minutes
        for number, prompt in enumerate(prompts):
            question = Question.drawn((Message(role=Role.USER, content=prompt),), options)
            if not self._kept.is_known(question):
                if self._clock() >= deadline:
                    return
                self._report(number, len(prompts), "the base answers general prompts")
                try:
                    self._kept.ask(question)
                except Unanswered as problem:
                    logger.debug("The base gave no whole answer: %s", problem)
                except OllamaError as error:
                    # whoever renders the prompts next tells of it
                    logger.warning("The base was not asked for more of its own answers: %s", error)
                    return
            yield self._kept.whole(question)


def nobody_answers(
    prompts: Sequence[str], *, max_tokens: int, temperature: float, minutes: float
) -> Iterator[str | None]:
    """`Recall` where there is no base to ask."""
    return iter(())
