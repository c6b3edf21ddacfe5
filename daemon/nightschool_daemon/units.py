"""Installs and removes the systemd units."""

import grp
import importlib.resources
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

UNIT = "nightschool.service"
EXECUTABLE = "@EXECUTABLE@"
USER = "nightschool"
GROUPS_LINE = "SupplementaryGroups="
SPOOL = Path("/var/spool/nightschool")
SYSTEM_CONFIGURATION = Path("/etc/nightschool/config.toml")
SYSTEM_SETTINGS = f"""\
[feedback]
directory = "{SPOOL}"

# Where the unit has them. They stand here for the command line, which has no unit around it.
[state]
directory = "/var/lib/nightschool"
runtime_directory = "/run/nightschool"
"""
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
"""What `ProtectHome=yes` hides from the system's unit."""


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


@dataclass(frozen=True, kw_only=True)
class Deeds:
    """What was done, a sentence each."""

    sentences: tuple[str, ...]
    works: bool
    """False: systemd did not do what it was asked for."""


def install(target: UnitPlace, configuration: Path | None = None) -> Deeds:
    """Write the unit and enable it; it reads `configuration` where one is given. Raises `UnitError`."""
    if target.source == UNIT and configuration is not None:
        _refuse_in_a_home(configuration)
    text = unit_text(target.source, configuration)
    done = _prepare_system() if target.source == UNIT else ()
    try:
        target.directory.mkdir(parents=True, exist_ok=True)
        (target.directory / UNIT).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UnitError(
            f"{target.directory / UNIT} cannot be written ({error.strerror}). Use sudo for --system."
        ) from error
    commands = (("daemon-reload",), ("enable", "--now", UNIT))
    called, works = _call_all(target, commands)
    return Deeds(sentences=(*done, f"Wrote {target.directory / UNIT}.", *called), works=works)


def uninstall(target: UnitPlace) -> Deeds:
    """Stop, disable and remove the unit. Feedback, ledger and models stay."""
    file = target.directory / UNIT
    if not file.is_file():
        raise UnitError(f"{file} is not there, so there is nothing to remove.")
    done, stopped = _call_all(target, (("disable", "--now", UNIT),))
    try:
        file.unlink()
    except OSError as error:
        raise UnitError(f"{file} cannot be removed ({error.strerror}). Use sudo for --system.") from error
    reloaded, works = _call_all(target, (("daemon-reload",),))
    return Deeds(sentences=(*done, f"Removed {file}.", *reloaded), works=stopped and works)


def unit_text(source: str, configuration: Path | None = None) -> str:
    """The unit with the path of this installation's program, and the configuration that it is to read."""
    data = importlib.resources.files("nightschool_daemon") / "data" / "systemd" / source
    text = data.read_text(encoding="utf-8").replace(EXECUTABLE, _command(configuration))
    return "".join(_with_known_groups(line) for line in text.splitlines(keepends=True))


def _command(configuration: Path | None) -> str:
    words = [str(executable())]
    if configuration is not None:
        words += ["--config", str(configuration.expanduser().resolve())]
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """A word as systemd reads it: `%` begins a specifier, blanks need quotes."""
    word = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{word}"' if any(letter in word for letter in " '\"") else word


def _with_known_groups(line: str) -> str:
    """Leave out groups that this machine does not have: systemd would not start the service with them."""
    if not line.startswith(GROUPS_LINE):
        return line
    known = [name for name in line.removeprefix(GROUPS_LINE).split() if _is_group(name)]
    return f"{GROUPS_LINE}{' '.join(known)}\n" if known else ""


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _prepare_system() -> tuple[str, ...]:
    """The service's own user, a feedback directory that its group may write to, and a configuration that names it."""
    if os.geteuid() != 0:
        raise UnitError("A system service is installed by root: use sudo, or --user.")
    _refuse_program_in_a_home()
    done = []
    if not _is_group(USER):
        home = "/var/lib/nightschool"
        command = ["useradd", "--system", "--user-group", "--home-dir", home, "--shell", "/usr/sbin/nologin", USER]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise UnitError(f"The user {USER} could not be made ({result.stderr.strip()}). Make it, then try again.")
        done.append(f"Made the user {USER}; its group may write feedback.")
    if not SPOOL.is_dir():
        SPOOL.mkdir(parents=True)
        shutil.chown(SPOOL, USER, USER)
        SPOOL.chmod(0o2770)
        done.append(f"Made {SPOOL} for feedback.")
    if not SYSTEM_CONFIGURATION.exists():
        SYSTEM_CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
        SYSTEM_CONFIGURATION.write_text(SYSTEM_SETTINGS, encoding="utf-8")
        SYSTEM_CONFIGURATION.chmod(0o644)
        done.append(f"Wrote {SYSTEM_CONFIGURATION}.")
    return tuple(done)


def _refuse_program_in_a_home() -> None:
    """The system's unit cannot start what lies in somebody's home."""
    for path in (executable(), Path(sys.base_prefix)):
        if _is_in_a_home(path):
            raise UnitError(
                f"{path} lies in a home directory, which a system service may not read. Install Night School with "
                "the system's Python elsewhere (python3 -m venv /opt/nightschool), or use --user."
            )


def _refuse_in_a_home(configuration: Path) -> None:
    if _is_in_a_home(configuration):
        raise UnitError(
            f"{configuration} lies in a home directory, which a system service may not read. "
            f"Put it at {SYSTEM_CONFIGURATION}, or use --user."
        )


def _is_in_a_home(path: Path) -> bool:
    return any(path.resolve().is_relative_to(home) for home in HOMES)


def executable() -> Path:
    """The `nightschool` of this environment."""
    return Path(sys.executable).with_name("nightschool")


def _call_all(target: UnitPlace, commands: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], bool]:
    """Call systemctl where there is one; else say what is left to do. Returns sentences, and whether all worked."""
    lines = []
    works = True
    for command in commands:
        whole = [*target.systemctl, *command]
        if shutil.which("systemctl") is None:
            lines.append(f"systemd is not here. Where it is, run: {' '.join(whole)}")
            continue
        result = subprocess.run(whole, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            lines.append(f"Ran {' '.join(whole)}.")
        else:
            works = False
            reason = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
            lines.append(f"`{' '.join(whole)}` did not work ({reason[0]}). Mend that and call it by hand.")
    return tuple(lines), works
