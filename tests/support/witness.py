"""A plugin that writes down what the daemon has imported, and how to ask it."""

import time
from pathlib import Path

from support.night import Night

HEAVY = (
    "numpy",
    "torch",
    "scipy",
    "gguf",
    "transformers",
    "ollama",
    "typer",
    "rich",
    "click",
    "rapidfuzz",
    "jinja2",
    "aiohttp",
)
"""Top-level modules that have no place in the idle daemon."""

SOURCE = '''
"""Writes down what the daemon has imported."""

import sys
from pathlib import Path

from nightschool_hookspecs import Event, hookimpl


@hookimpl
def nightschool_after_event_accepted(event: Event) -> None:
    names = sorted({name.partition(".")[0] for name in sys.modules})
    part = Path(event.input_data + ".part")
    part.write_text("\\n".join(names))
    part.rename(event.input_data)
'''


def imports_of(night: Night, file: Path, limit_s: float = 60.0) -> set[str]:
    """Top-level modules of the daemon of `night`, which has the plugin; `file` is where it writes them."""
    event = {"input_data": str(file), "ai_output": "x", "feedback_type": "success", "artifact_type": "other"}
    night.drop([event])
    deadline = time.monotonic() + limit_s
    while not file.exists():
        if time.monotonic() > deadline:
            raise AssertionError("the daemon did not take the event in")
        time.sleep(0.1)
    return set(file.read_text().split())
