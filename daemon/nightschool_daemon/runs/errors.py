"""What can stop a run, each with a sentence for the person."""

from nightschool_daemon.jobs import PluginAtFault


class RunRefused(Exception):
    """A run is not started; the message says why and what to do."""


class TrainingInterrupted(RunRefused):
    """Ctrl-C ended a training by hand; the message says what is left of it."""


class UndoRefused(Exception):
    """There is nothing to undo, or undoing would overwrite what the user did."""


class MoveFailed(Exception):
    """An alias could not be moved; the message says where it points now and what to do."""


class StepFailed(Exception):
    """A step ended the run. `plugin` names the plugin at fault, if one is."""

    def __init__(self, reason: str, *, plugin: PluginAtFault | None = None) -> None:
        self.plugin = plugin
        super().__init__(reason)


class WorkerKilled(StepFailed):
    """A step's worker was killed by somebody else, as by the system when memory runs out."""


class TimeUp(StepFailed):
    """The trainings of the night have no more time."""


class RunCancelled(Exception):
    """Somebody asked for the run to end."""


class RunInterrupted(Exception):
    """The service stops. The run stays unfinished and goes on at the next start."""
