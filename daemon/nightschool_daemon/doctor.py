"""`nightschool doctor`: looks at everything that a night needs, and says what to do about what is missing."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nightschool_daemon.config import ConfigurationError, Settings
from nightschool_daemon.control import ControlClient
from nightschool_daemon.hooks import PluginState
from nightschool_daemon.installation import load_hooks
from nightschool_daemon.ollama import names, storage
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.scheduling import trigger_of

TRAINING_PACKAGES = ("torch", "transformers", "peft", "safetensors")
RECOMMENDED: tuple[int, ...] = (0, 34, 1)
LOWEST: tuple[int, ...] = (0, 17, 1)
LOW_DISK_BYTES = 5 * 10**9


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    good: bool
    text: str
    """What was found; where it is not good, what to do."""


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Look at everything. A fault of one thing does not keep the others from being looked at."""
    return tuple(finding for look in LOOKS for finding in look(settings))


def _python(_settings: Settings) -> Iterator[Finding]:
    yield Finding(subject="Python", good=sys.version_info >= (3, 11), text=platform.python_version())


def _packages(_settings: Settings) -> Iterator[Finding]:
    missing = [name for name in TRAINING_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{', '.join(missing)} missing: pip install 'nightschool[train]'"
    else:
        text = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in TRAINING_PACKAGES)
    yield Finding(subject="training packages", good=not missing, text=text)


def _ollama(settings: Settings) -> Iterator[Finding]:
    try:
        ollama = OllamaHttp(settings.ollama)
        version = ollama.version()
        tags = ollama.tags()
    except OllamaError as error:
        yield Finding(subject="Ollama", good=False, text=str(error))
        return
    yield _version_finding(version)
    bases = [entry.name for entry in tags if names.parse(entry.name) is None and not entry.is_remote]
    if not bases:
        yield Finding(subject="models", good=False, text="Ollama has none. `ollama pull llama3.2:3b` brings one.")
        return
    yield Finding(subject="models", good=True, text=f"{len(bases)}: {', '.join(bases[:5])}")
    yield _readable(settings, ollama, bases[0])


def _version_finding(version: str) -> Finding:
    try:
        numbers = tuple(int(one) for one in version.split("-", maxsplit=1)[0].split("."))
    except ValueError:
        numbers = RECOMMENDED
    if (0, 0, 0) < numbers < LOWEST:
        return Finding(subject="Ollama", good=False, text=f"{version} is too old: update to 0.34.1 or newer")
    note = "" if numbers >= RECOMMENDED or numbers == (0, 0, 0) else "; 0.34.1 or newer is recommended"
    return Finding(subject="Ollama", good=True, text=f"{version}{note}")


def _readable(settings: Settings, ollama: OllamaHttp, name: str) -> Finding:
    try:
        path = storage.locate_blob(settings.ollama, ollama.show(name))
    except OllamaError as error:
        return Finding(subject="model files", good=False, text=str(error))
    return Finding(subject="model files", good=True, text=f"readable in {path.parent}")


def _directories(settings: Settings) -> Iterator[Finding]:
    places = (("feedback directory", settings.feedback_directory), ("state directory", settings.state_directory))
    for subject, path in places:
        parent = _existing(path)
        good = os.access(parent, os.W_OK)
        yield Finding(
            subject=subject,
            good=good,
            text=str(path) if good else f"{parent} is not writable: choose another, or chown it",
        )
    free = shutil.disk_usage(_existing(settings.state_directory)).free
    hint = "" if free > LOW_DISK_BYTES else ": a night needs about twice the size of its model"
    yield Finding(subject="disk", good=free > LOW_DISK_BYTES, text=f"{free / 1e9:.0f} GB free{hint}")


def _plugins(settings: Settings) -> Iterator[Finding]:
    try:
        hooks = load_hooks(settings, None, safe_mode=False)
    except ConfigurationError as error:
        yield Finding(subject="plugins", good=False, text=str(error))
        return
    broken = [one for one in hooks.status() if one.state is PluginState.BROKEN]
    for one in broken:
        yield Finding(subject=f"plugin {one.name}", good=False, text=one.reason)
    yield Finding(subject="plugins", good=True, text=f"{len(hooks.status()) - len(broken)} loaded")


def _schedule(settings: Settings) -> Iterator[Finding]:
    if not settings.schedule.enabled:
        yield Finding(subject="schedule", good=True, text="off: `nightschool run --now` starts a run")
        return
    try:
        trigger_of(settings.schedule)
    except ConfigurationError as error:
        yield Finding(subject="schedule", good=False, text=str(error))
    else:
        yield Finding(subject="schedule", good=True, text=settings.schedule.cron)


def _service(settings: Settings) -> Iterator[Finding]:
    running = ControlClient(settings.runtime_directory).is_there()
    text = "running" if running else "not running: `nightschool service install --user` makes it run every night"
    yield Finding(subject="service", good=True, text=text)


LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _ollama,
    _directories,
    _plugins,
    _schedule,
    _service,
)


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next(one for one in (path, *path.parents) if one.exists())
