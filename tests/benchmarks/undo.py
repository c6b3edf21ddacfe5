"""`make bench-undo`: what an undo takes, at first, after 20 promotions and while a request streams.

Peer of an undo: the calls to a real Ollama that it consists of, in the same undo. Peer of the command: `ollama cp`,
which makes the same move by hand. Of several undos the slowest counts, of the command the fastest, ours and the peer's.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from nightschool_daemon.config import OllamaSettings, load  # noqa: E402
from nightschool_daemon.hooks import Hooks  # noqa: E402
from nightschool_daemon.ledger import FILE_NAME, Ledger  # noqa: E402
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp, TagEntry  # noqa: E402
from nightschool_daemon.runs import Runs  # noqa: E402
from nightschool_daemon.runs.moves import Destination  # noqa: E402
from nightschool_hookspecs.records import MoveKind  # noqa: E402
from support.night import Night, import_tiny  # noqa: E402 - found through the path above
from support.ollama_server import OllamaServer  # noqa: E402
from support.tiny_gguf import write_tiny_gguf  # noqa: E402

PROMOTIONS = 20
COMMANDS = 5
GOAL_MS = 1000.0
BASE, ALIAS = "tiny:1m", "tiny-nightschool:1m.greeting"
LONG_ANSWER = {"num_predict": 1500, "num_ctx": 2048, "stop": [], "seed": 1}


class ClockedOllama(OllamaHttp):
    """Ollama, and how long its calls of an undo took."""

    def __init__(self, settings: OllamaSettings) -> None:
        super().__init__(settings)
        self.ms = 0.0

    def tags(self) -> tuple[TagEntry, ...]:
        """Every tag."""
        with self._clocked():
            return super().tags()

    def copy(self, source: str, destination: str) -> None:
        """Make `destination` hold what `source` holds."""
        with self._clocked():
            super().copy(source, destination)

    @contextmanager
    def _clocked(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.ms += (time.perf_counter() - began) * 1000


@dataclass(frozen=True, kw_only=True)
class Undone:
    """Milliseconds of an undo."""

    ours: float
    """Without Ollama's calls."""
    ollama: float


@dataclass(frozen=True, kw_only=True)
class House:
    """An installation with versions of one base, which differ in their system texts."""

    server: OllamaServer
    ollama: ClockedOllama
    runs: Runs
    versions: tuple[str, ...]

    def promote(self, versions: int) -> None:
        """So many promotions, from the base on."""
        for source, target in itertools.pairwise((BASE, *self.versions[:versions])):
            self.runs.mover.move(
                kind=MoveKind.PROMOTE,
                alias=ALIAS,
                origin=self._destination(source),
                destination=self._destination(target),
                reason="bench",
            )

    def _destination(self, tag: str) -> Destination:
        return Destination(tag=tag, digest=self.runs.mover.digest_of(tag) or "")

    def undo(self) -> Undone:
        """Back by one promotion."""
        self.ollama.ms = 0.0
        began = time.perf_counter()
        self.runs.undo(ALIAS, datetime.now(UTC))
        took = (time.perf_counter() - began) * 1000
        return Undone(ours=took - self.ollama.ms, ollama=self.ollama.ms)

    def undo_while_streaming(self) -> Undone:
        """The same while the alias answers."""
        body = {"model": ALIAS, "prompt": "greet the guest", "options": LONG_ANSWER}
        with httpx.stream("POST", f"{self.server.url}/api/generate", json=body, timeout=120) as response:
            lines = response.iter_lines()
            next(lines)
            return self.undo()


def measured(house: House) -> dict[str, Undone]:
    """By what goes on."""
    house.promote(1)
    first = house.undo()
    house.promote(PROMOTIONS)
    all_of_them = [house.undo() for _ in range(PROMOTIONS)]
    house.promote(PROMOTIONS)
    streaming = [house.undo_while_streaming() for _ in range(3)]
    return {
        "the first": first,
        f"the slowest of {PROMOTIONS} after as many promotions": max(all_of_them, key=lambda one: one.ours),
        "the slowest of 3 while a request streams": max(streaming, key=lambda one: one.ours),
    }


def command_ms(night: Night) -> float:
    """Milliseconds of `nightschool undo`."""
    began = time.perf_counter()
    done = night.run("undo", ALIAS)
    took = (time.perf_counter() - began) * 1000
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return took


def copy_ms(server: OllamaServer, source: str) -> float:
    """Milliseconds of `ollama cp`."""
    began = time.perf_counter()
    subprocess.run(
        [server.binary, "cp", source, f"{BASE}-copy"],
        env={**os.environ, "OLLAMA_HOST": server.url},
        check=True,
        capture_output=True,
    )
    return (time.perf_counter() - began) * 1000


def main() -> int:
    """Measure and print. Returns 1 where a goal is missed."""
    with tempfile.TemporaryDirectory() as text, OllamaServer("0.34.3", directory=Path(text) / "ollama") as server:
        directory = Path(text)
        weights = import_tiny(server, write_tiny_gguf(directory / "tiny.gguf"), BASE)
        night = Night(directory / "night", server.url, server.models_directory, settings="")
        settings = load(night.configuration)
        ollama, versions = ClockedOllama(settings.ollama), [f"{ALIAS}.v{one}" for one in range(1, PROMOTIONS + 1)]
        for tag in versions:
            ollama.create(CreateRequest(model=tag, files={"tiny.gguf": weights}, system=tag))
        night.state.mkdir(parents=True, exist_ok=True)
        ledger, hooks = Ledger.open(night.state / FILE_NAME), Hooks.load(plugin_directory=None, tables={})
        runs = Runs(settings=settings, ledger=ledger, hooks=hooks, ollama=ollama, clock=lambda: datetime.now(UTC))
        house = House(server=server, ollama=ollama, runs=runs, versions=tuple(versions))
        found = measured(house)
        ledger.close()
        command = min(command_ms(night) for _ in range(COMMANDS))
        by_hand = min(copy_ms(server, versions[0]) for _ in range(COMMANDS))
        ollama.close()
    rows = [
        results.row(f"{name}, ms of our own", one.ours, one.ollama, GOAL_MS, holds=one.ours < GOAL_MS)
        for name, one in found.items()
    ]
    goal = by_hand + GOAL_MS
    rows.append(results.row("the command, ms (goal: peer + 1000)", command, by_hand, goal, holds=command < goal))
    return results.presented("undo", "Undo, beside Ollama's own calls", rows)


if __name__ == "__main__":
    sys.exit(main())
