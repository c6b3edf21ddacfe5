"""Who watches a run while it goes on: the command line, the control socket, the log."""

from typing import Protocol

from nightschool_daemon.jobs import Step


class RunListener(Protocol):
    """Hears of a run's progress, in the thread that executes it."""

    def step_began(self, run_id: str, step: Step) -> None: ...

    def progress(self, run_id: str, step: Step, done: int, total: int, text: str) -> None: ...

    def step_ended(self, run_id: str, step: Step) -> None: ...

    def note(self, run_id: str, text: str) -> None:
        """Hear one sentence worth telling, such as a server that went away."""
        ...


class SilentListener:
    """Hears nothing."""

    def step_began(self, run_id: str, step: Step) -> None:
        pass

    def progress(self, run_id: str, step: Step, done: int, total: int, text: str) -> None:
        pass

    def step_ended(self, run_id: str, step: Step) -> None:
        pass

    def note(self, run_id: str, text: str) -> None:
        pass
