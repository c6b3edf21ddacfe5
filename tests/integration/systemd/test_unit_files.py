"""The units, as systemd itself judges them."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool_daemon import units

UNITS = ("nightschool.service", "nightschool-user.service")


def written(source: str, directory: Path) -> Path:
    """The unit as `nightschool service install` would write it."""
    file = directory / source
    file.write_text(units.unit_text(source).replace(str(units.executable()), "/bin/true"))
    return file


def analyze(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Ask systemd-analyze, which needs no running systemd."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(directory)}
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("source", "scope"), [(UNITS[0], "--system"), (UNITS[1], "--user")])
def test_unit_is_sound(tmp_path: Path, source: str, scope: str) -> None:
    result = analyze(tmp_path, "verify", scope, str(written(source, tmp_path)))
    assert result.returncode == 0, result.stderr
    assert source not in result.stderr, result.stderr


def test_system_unit_is_hardened(tmp_path: Path) -> None:
    file = written(UNITS[0], tmp_path)
    result = analyze(tmp_path, "security", "--offline=true", "--threshold=20", str(file))
    assert result.returncode == 0, result.stdout[-500:]


@pytest.mark.parametrize("source", UNITS)
def test_every_group_of_lines_has_a_reason(source: str) -> None:
    service = units.unit_text(source).partition("[Service]")[2].partition("[Install]")[0]
    groups = [group.strip().splitlines() for group in service.split("\n\n") if group.strip()]
    assert all(any(line.startswith("#") for line in group) or group == ["Type=notify"] for group in groups[1:]), groups


@pytest.mark.parametrize("source", UNITS)
def test_unit_starts_this_program_and_names_only_groups_that_are_there(source: str) -> None:
    text = units.unit_text(source)
    assert f"ExecStart={units.executable()} serve" in text
    assert units.EXECUTABLE not in text


def test_user_service_is_installed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = units.place(user=True)
    assert units.install(place).sentences[0] == f"Wrote {tmp_path}/systemd/user/nightschool.service."
    assert (tmp_path / "systemd" / "user" / "nightschool.service").is_file()
    units.uninstall(place)
    assert not (tmp_path / "systemd" / "user" / "nightschool.service").exists()
    with pytest.raises(units.UnitError, match="nothing to remove"):
        units.uninstall(place)


def test_service_reads_the_configuration_that_it_was_installed_with(tmp_path: Path) -> None:
    file = tmp_path / "my 100% own.toml"
    assert f'ExecStart={units.executable()} --config "{tmp_path}/my 100%% own.toml" serve' in units.unit_text(
        "nightschool-user.service", file
    )


def test_service_that_systemd_does_not_start_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    broken = tmp_path / "systemctl"
    broken.write_text("#!/bin/sh\necho no bus >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    deeds = units.install(units.place(user=True))
    assert not deeds.works
    assert "did not work (no bus)" in deeds.sentences[-1]


def test_system_service_is_not_installed_from_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ProtectHome=yes` would hide the program from its own unit."""
    monkeypatch.setattr(units, "HOMES", (units.executable().parent.parent.resolve(),))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    target = replace(units.place(user=False), directory=tmp_path)
    with pytest.raises(units.UnitError, match="lies in a home directory"):
        units.install(target)
    assert not list(tmp_path.iterdir())
