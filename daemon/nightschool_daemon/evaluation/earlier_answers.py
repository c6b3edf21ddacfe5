"""What guards were answered before, on whatever night, kept in the state directory.

A file a model, under the digest of its manifest. Each answer is on disk before the next question is asked, under the
digest of the question and of every option. A file may be deleted.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.jobs import append_line, remembered_lines
from nightschool_daemon.ollama.library import PinnedOptions
from nightschool_hookspecs.records import Message, ModelAnswer, Tool

MOST_MODELS = 32
"""Models whose answers are kept; those that were not asked for the longest time go first."""


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

    def find(self, model_digest: str, question: Question) -> ModelAnswer | None:
        """What the model said to this. None: it was not asked."""
        return self._of(model_digest).get(question.digest)

    def keep(self, model_digest: str, question: Question, answer: ModelAnswer) -> None:
        """Remember an answer."""
        self._of(model_digest)[question.digest] = answer
        append_line(self._file(model_digest), EarlierAnswer(question=question.digest, answer=answer))

    def _of(self, model_digest: str) -> dict[str, ModelAnswer]:
        if model_digest not in self._known:
            self._make_room(model_digest)
            lines = remembered_lines(self._file(model_digest), EarlierAnswer)
            self._known[model_digest] = {one.question: one.answer for one in lines}
        return self._known[model_digest]

    def _make_room(self, model_digest: str) -> None:
        """Files of models that were long not asked are removed."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file(model_digest).touch()
        newest = sorted(self._directory.glob("*.jsonl"), key=lambda one: one.stat().st_mtime, reverse=True)
        for old in newest[MOST_MODELS:]:
            old.unlink()

    def _file(self, model_digest: str) -> Path:
        return self._directory / f"{model_digest}.jsonl"
