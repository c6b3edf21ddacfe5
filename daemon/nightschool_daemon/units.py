"""Installs and removes the systemd units."""

import importlib.resources
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

UNIT = "nightschool.service"
EXECUTABLE = "@EXECUTABLE@"


class UnitError(Exception):
    """A unit could not be installed or removed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class UnitPlace:
    """Where a unit goes and how systemd is called for it."""

    source: str
    directory: Path
    systemctl: tuple[str, ...]


def place(*, user: bool) -> UnitPlace:
    """The place of the user's or the system's unit."""
    if user:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
        return UnitPlace(
            source="nightschool-user.service", directory=home / "systemd" / "user", systemctl=("systemctl", "--user")
        )
    return UnitPlace(source=UNIT, directory=Path("/etc/systemd/system"), systemctl=("systemctl",))


def install(target: UnitPlace) -> tuple[str, ...]:
    """Write the unit and enable it. Returns a sentence for each deed. Raises `UnitError`."""
    text = unit_text(target.source)
    try:
        target.directory.mkdir(parents=True, exist_ok=True)
        (target.directory / UNIT).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UnitError(
            f"{target.directory / UNIT} cannot be written ({error.strerror}). Use sudo for --system."
        ) from error
    done = [f"Wrote {target.directory / UNIT}."]
    commands = (("daemon-reload",), ("enable", "--now", UNIT))
    return (*done, *_call_all(target, commands))


def uninstall(target: UnitPlace) -> tuple[str, ...]:
    """Stop, disable and remove the unit. Feedback, ledger and models stay."""
    file = target.directory / UNIT
    if not file.is_file():
        raise UnitError(f"{file} is not there, so there is nothing to remove.")
    done = _call_all(target, (("disable", "--now", UNIT),))
    try:
        file.unlink()
    except OSError as error:
        raise UnitError(f"{file} cannot be removed ({error.strerror}). Use sudo for --system.") from error
    return (*done, f"Removed {file}.", *_call_all(target, (("daemon-reload",),)))


def unit_text(source: str) -> str:
    """The unit with the path of this installation's program."""
    data = importlib.resources.files("nightschool_daemon") / "data" / "systemd" / source
    return data.read_text(encoding="utf-8").replace(EXECUTABLE, str(executable()))


def executable() -> Path:
    """The `nightschool` of this environment."""
    return Path(sys.executable).with_name("nightschool")


def _call_all(target: UnitPlace, commands: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Call systemctl where there is one; else say what is left to do."""
    lines = []
    for command in commands:
        whole = [*target.systemctl, *command]
        if shutil.which("systemctl") is None:
            lines.append(f"systemd is not here. Where it is, run: {' '.join(whole)}")
            continue
        result = subprocess.run(whole, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            lines.append(f"Ran {' '.join(whole)}.")
        else:
            reason = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
            lines.append(f"{' '.join(whole)} did not work ({reason[0]}). Run it by hand.")
    return tuple(lines)
