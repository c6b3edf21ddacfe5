"""What a worker's plugins may use: a search over chunks, a store.

`Measure`, `Embed` and `Generate` stand in `nightschool_daemon.evaluation`, because the examiner needs them
too.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.jobs import RunDirectory, Step, StoreWrite, read_lines
from nightschool_hookspecs.records import Chunk


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


def store_before_training(run: RunDirectory) -> Mapping[str, str]:
    """The same with what plugins wrote while the dataset was built."""
    values = dict(read_snapshot(run.step(Step.PREPARE) / "store.json"))
    journal = run.step(Step.SELECT) / "store.jsonl"
    for write in read_lines(journal, StoreWrite) if journal.is_file() else ():
        if write.value is None:
            values.pop(write.key, None)
        else:
            values[write.key] = write.value
    return values
