"""Whole runs in whose midst the daemon dies, also between the transactions of the last step, and goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nightschool_daemon.ledger.events import Events
from nightschool_daemon.runs.errors import RunInterrupted
from support.bare_runs import BareRuns

WRITERS = ("mark_batched", "mark_trained", "mark_known", "remember")
"""Of what a version has learned, in the step `conclude`: a transaction each."""


def _nothing() -> None:
    """Nothing happens."""


@dataclass(kw_only=True)
class InterruptedRuns(BareRuns):
    """An installation whose runs are interrupted where their plot or `dies_before` says so."""

    dies_before: str | None = None
    """Which of the writers, once."""
    meanwhile: Callable[[], None] = _nothing
    """What happens before the daemon is there again."""

    def restart(self) -> None:
        """Whatever happened, a new process goes on. It dies once a run."""
        self.dies_before = None
        self.meanwhile()
        super().restart()

    def _take_the_places(self) -> None:
        super()._take_the_places()
        for name in WRITERS:
            self.patch.setattr(Events, name, self._mortal(name, getattr(Events, name)))

    def _mortal(self, name: str, write: Callable[..., None]) -> Callable[..., None]:
        def die_or_write(events: Events, *values: Any) -> None:
            if self.dies_before == name:
                self.dies_before = None
                raise RunInterrupted
            write(events, *values)

        return die_or_write
