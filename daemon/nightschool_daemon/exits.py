"""Exit codes of the command line and the service. docs/operation.md documents them."""

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    OLLAMA = 3
    """Ollama cannot be reached."""
    NOTHING_CHANGED = 4
    """Nothing was there to learn, or the exam did not prove a gain: the alias stays."""
    LOCKED = 5
    """Another process works on the state directory."""
    CONFIGURATION = 78
    """EX_CONFIG: a service manager need not try again."""
