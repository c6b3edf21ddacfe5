"""What guards were answered before, on whatever night, kept in the state directory.

A file a model, under the digest of its manifest. Each answer is on disk before the next question is asked, under the
digest of the question and of every option. A file may be deleted.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.evaluation.answer_files import file_of
from nightschool_daemon.jobs import append_line, remembered_lines
from nightschool_daemon.ollama.library import PinnedOptions
from nightschool_hookspecs.records import Message, ModelAnswer, Tool


@dataclass(frozen=True, kw_only=True)
class Question:
    """Everything that an answer depends on beside the model."""

    messages: tuple[Message, ...]
    options: PinnedOptions
    tools: tuple[Tool, ...]
    think: bool
    server: str
    """The version of Ollama: another one may read the same answer otherwise, or compute it otherwise."""

    @property
    def digest(self) -> str:
        """What tells it from every other."""
        return hashlib.sha256(codec.to_json(self).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class EarlierAnswer:
    """A line of the file."""

    question: str
    answer: ModelAnswer


class EarlierAnswers:
    """The files of all models in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, dict[str, ModelAnswer]] = {}
        self._files: dict[str, Path] = {}

    def find(self, model_digest: str, question: Question) -> ModelAnswer | None:
        """What the model said to this. None: it was not asked."""
        return self._of(model_digest).get(question.digest)

    def keep(self, model_digest: str, question: Question, answer: ModelAnswer) -> None:
        """Remember an answer."""
        self._of(model_digest)[question.digest] = answer
        append_line(self._files[model_digest], EarlierAnswer(question=question.digest, answer=answer))

    def _of(self, model_digest: str) -> dict[str, ModelAnswer]:
        if model_digest not in self._known:
            file = self._files[model_digest] = file_of(self._directory, model_digest)
            lines = remembered_lines(file, EarlierAnswer)
            self._known[model_digest] = {one.question: one.answer for one in lines}
        return self._known[model_digest]
