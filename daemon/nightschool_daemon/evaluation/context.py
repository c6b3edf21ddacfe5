"""What a heavy step needs of the worker it runs in, told without importing the worker's room."""

from typing import Protocol

from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import RunDirectory
from nightschool_hookspecs.records import RunInfo


class WorkContext(Protocol):
    """A run, its frozen settings, the plugins, and a way to say how far the step is."""

    @property
    def run(self) -> RunDirectory: ...

    @property
    def info(self) -> RunInfo: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def hooks(self) -> Hooks: ...

    def progress(self, done: int, total: int, text: str, /) -> None: ...

    def note(self, text: str, /) -> None: ...
