"""What every step of a run is handed."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import RunDirectory, Step
from nightschool_daemon.ledger import Ledger
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs.errors import RunCancelled, RunInterrupted
from nightschool_daemon.runs.listener import RunListener
from nightschool_daemon.runs.moves import AliasMover
from nightschool_hookspecs.records import RunInfo

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StopSignals:
    """How a run is asked to end: for good, or until the next start."""

    cancelled: threading.Event
    interrupted: threading.Event

    def check(self) -> None:
        """Raise where somebody asked."""
        if self.cancelled.is_set():
            raise RunCancelled
        if self.interrupted.is_set():
            raise RunInterrupted

    def wait(self, seconds: float) -> None:
        """Wait, but raise as soon as somebody asks."""
        self.cancelled.wait(seconds)
        self.check()


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """A run in progress."""

    info: RunInfo
    directory: RunDirectory
    settings: Settings
    ledger: Ledger
    ollama: OllamaHttp
    hooks: Hooks
    listener: RunListener
    signals: StopSignals
    clock: Callable[[], datetime]

    def result(self, step: Step, kind: type[T]) -> T:
        """The result of an earlier step."""
        return self.directory.result(step, kind)

    def result_if_done(self, step: Step, kind: type[T]) -> T | None:
        """The result of an earlier step, or None where the run did not get that far."""
        return self.directory.result(step, kind) if self.directory.is_done(step) else None

    @property
    def mover(self) -> AliasMover:
        """Moves the aliases, and knows what Ollama has."""
        return AliasMover(ledger=self.ledger, ollama=self.ollama, hooks=self.hooks, clock=self.clock)

    def note(self, text: str) -> None:
        """Tell the listener one sentence."""
        self.listener.note(self.info.id, text)
