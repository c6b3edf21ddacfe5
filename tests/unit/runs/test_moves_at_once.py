"""Two threads that move one alias: the second sees what the first has done."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import FILE_NAME, Ledger
from nightschool_daemon.runs.errors import MoveFailed
from nightschool_daemon.runs.moves import AliasMover, Destination
from nightschool_hookspecs.records import AliasMove, MoveKind
from support.memory_ollama import MemoryOllama

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALIAS, BASE, FIRST, SECOND = "tiny-nightschool:1b.shell", "tiny:1b", "v1:latest", "v2:latest"
WAIT_S = 0.2
"""So long the second thread gets to do what it must not."""


class SlowOllama(MemoryOllama):
    """Copies when it is told to."""

    def __init__(self, models: Path, gguf: Path, *names: str) -> None:
        super().__init__(models, gguf, *names)
        self.copying, self.go_on = threading.Event(), threading.Event()

    def copy(self, source: str, destination: str) -> None:
        self.copying.set()
        assert self.go_on.wait(60)
        super().copy(source, destination)

    def digest_of(self, name: str) -> str:
        """What a tag holds."""
        return next(one.digest for one in self.tags() if one.name == name)


def test_second_of_two_moves_at_once_finds_the_alias_moved(tmp_path: Path, tiny_gguf: Path) -> None:
    ollama = SlowOllama(tmp_path / "models", tiny_gguf, BASE, ALIAS, FIRST, SECOND)
    ledger = Ledger.open(tmp_path / FILE_NAME)
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
    held = Destination(tag=BASE, digest=ollama.digest_of(ALIAS))

    def promote(tag: str) -> AliasMove:
        # each caller has a mover of its own
        mover = AliasMover(ledger=ledger, ollama=ollama, hooks=hooks, clock=lambda: NOW)
        destination = Destination(tag=tag, digest=ollama.digest_of(tag))
        return mover.move(kind=MoveKind.PROMOTE, alias=ALIAS, origin=held, destination=destination, reason="test")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(promote, FIRST)
        assert ollama.copying.wait(60)
        second = threads.submit(promote, SECOND)
        threading.Event().wait(WAIT_S)
        ollama.go_on.set()
        assert first.result().to_tag == FIRST
        refusal = second.exception()
    assert isinstance(refusal, MoveFailed)
    assert str(refusal) == f"{ALIAS} was moved to {FIRST} meanwhile, so it stays as it is."
    assert ollama.digest_of(ALIAS) == ollama.digest_of(FIRST)
    assert [one.to_tag for one in ledger.moves.history(ALIAS, 9)] == [FIRST]
    ledger.close()
