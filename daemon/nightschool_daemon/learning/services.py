"""What a worker's plugins may use: a local model, a search over chunks, a store.

`Measure` and `Embed` stand in `nightschool_daemon.evaluation.similarity`, because the examiner needs
them too.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.config import ExamSettings
from nightschool_daemon.evaluation.examiner import pinned_options
from nightschool_daemon.jobs import StoreWrite
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_hookspecs.records import Chunk, Message
from nightschool_hookspecs.services import GenerationError


class LocalModel:
    """`Generate`: asks one model of the local Ollama."""

    def __init__(self, library: OllamaLibrary, name: str, exam: ExamSettings) -> None:
        self._library = library
        self._name = name
        self._exam = exam

    def __call__(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        asked = replace(pinned_options(self._exam, seed), num_predict=max_tokens, temperature=temperature)
        try:
            return self._library.chat(self._name, tuple(messages), asked).text
        except OllamaError as error:
            raise GenerationError(str(error)) from error


class ChunkSearch:
    """`Retrieve`: ranks chunks by the share of words they have in common with the query (rapidfuzz)."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = tuple({chunk.text: chunk for chunk in chunks}.values())

    def __call__(self, query: str, *, limit: int) -> tuple[Chunk, ...]:
        from rapidfuzz import fuzz, process, utils

        texts = [chunk.text for chunk in self._chunks]
        found = process.extract(query, texts, scorer=fuzz.token_set_ratio, processor=utils.default_process, limit=limit)
        return tuple(replace(self._chunks[index], score=score / 100) for _, score, index in found if score > 0)


class JournalStore:
    """`Store` of a worker: a snapshot that is read, and a journal that the daemon applies at the end."""

    def __init__(self, snapshot: Mapping[str, str], journal: Path) -> None:
        self._values = dict(snapshot)
        self._journal = journal

    def get(self, key: str) -> str | None:
        return self._values.get(key)

    def put(self, key: str, value: str) -> None:
        self._values[key] = value
        self._write(StoreWrite(key=key, value=value))

    def delete(self, key: str) -> None:
        if self._values.pop(key, None) is not None:
            self._write(StoreWrite(key=key, value=None))

    def _write(self, write: StoreWrite) -> None:
        with self._journal.open("a", encoding="utf-8") as stream:
            stream.write(codec.to_json(write) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def read_snapshot(file: Path) -> Mapping[str, str]:
    """The store's values as the daemon froze them; empty where it froze none."""
    return codec.from_json(file.read_bytes(), dict[str, str]) if file.is_file() else {}
