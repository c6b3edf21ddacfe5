"""Questions to a server that may be away for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

from nightschool_daemon.ollama.errors import OllamaInterrupted, OllamaRefused, OllamaUnreachable

T = TypeVar("T")

SERVER_WAIT_S = 120.0
"""How long one question waits for an Ollama that went away; then the step is given back to the daemon."""
SERVER_POLL_S = 1.0


def patiently(
    call: Callable[[], T], pause: Callable[[float], None] = time.sleep, *, wait_s: float = SERVER_WAIT_S
) -> T:
    """Call until the server is there. A failure gets a second chance: a restart makes just one.

    Raises `OllamaInterrupted` and `OllamaRefused` after the second, `OllamaUnreachable` after the wait.
    """
    waited_s = 0.0
    failed_before = False
    while True:
        try:
            return call()
        except (OllamaInterrupted, OllamaRefused):
            if failed_before:
                raise
            failed_before = True
        except OllamaUnreachable:
            if waited_s >= wait_s:
                raise
            pause(SERVER_POLL_S)
            waited_s += SERVER_POLL_S
