"""The daemon as a service manager sees it: ready, alive, light, reloaded, stopped."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import witness
from support.night import Night, greetings, wait_until
from support.ollama_server import OllamaServer


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


@pytest.fixture
def night(tmp_path: Path, ollama: OllamaServer, manager: socket.socket) -> Night:
    return Night(tmp_path / "night", ollama.url, ollama.models_directory)


def stop(daemon: "subprocess.Popen[str]") -> str:
    """Stop a daemon and return what it said."""
    daemon.send_signal(signal.SIGTERM)
    text, _ = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, text
    return text


def line_with(text: str, daemon: "subprocess.Popen[str]") -> str:
    """The next line of a daemon's log that has a text in it."""
    assert daemon.stdout is not None
    for line in daemon.stdout:
        if text in line:
            return line
    raise AssertionError(f"the daemon ended and never said {text!r}")


def test_readiness_watchdog_and_stop_are_told(
    night: Night, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    daemon = night.start("serve")
    assert manager.recv(100) == b"READY=1"
    assert (night.directory / "run" / "control.sock").exists()
    assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    daemon.send_signal(signal.SIGTERM)
    while manager.recv(100) != b"STOPPING=1":
        pass
    daemon.communicate(timeout=60)
    assert daemon.returncode == 0


def test_idle_daemon_has_imported_nothing_heavy(night: Night, manager: socket.socket) -> None:
    night.add_plugin("witness", witness.SOURCE)
    daemon = night.start("serve")
    assert manager.recv(100) == b"READY=1"
    imported = witness.imports_of(night, night.directory / "modules.txt")
    stop(daemon)
    assert {"httpx", "watchdog", "pluggy", "apscheduler", "nightschool_daemon"} <= imported
    assert imported.isdisjoint(witness.HEAVY), imported & set(witness.HEAVY)


def test_changed_configuration_is_read_anew(night: Night, manager: socket.socket) -> None:
    daemon = night.start("serve")
    assert manager.recv(100) == b"READY=1"
    other = night.directory / "other"
    text = night.configuration.read_text()
    night.configuration.write_text(text.replace(str(night.feedback), str(other)))
    daemon.send_signal(signal.SIGHUP)
    while manager.recv(100) != b"READY=1":
        pass
    assert daemon.poll() is None
    (other / "events.jsonl").write_text(night.drop(greetings(3)).read_text())
    night.feedback = other
    wait_until(lambda: night.ledger().events.total() == 3, 30)
    assert stop(daemon).count("Night School serves") == 2


def test_wrong_configuration_is_refused_and_the_old_one_stays(night: Night, manager: socket.socket) -> None:
    daemon = night.start("serve")
    assert manager.recv(100) == b"READY=1"
    text = night.configuration.read_text()
    night.configuration.write_text(text + "\n[exam_]\n")
    daemon.send_signal(signal.SIGHUP)
    assert "did you mean 'exam'" in line_with("The configuration stays as it was", daemon)
    night.drop(greetings(2))
    wait_until(lambda: night.ledger().events.total() == 2, 30)
    assert daemon.poll() is None
    night.configuration.write_text(text)
    stop(daemon)


def test_reloads_in_quick_succession_do_not_end_the_daemon(night: Night, manager: socket.socket) -> None:
    daemon = night.start("serve")
    assert manager.recv(100) == b"READY=1"
    for _ in range(12):
        daemon.send_signal(signal.SIGHUP)
        time.sleep(0.25)
    while manager.recv(100) != b"READY=1":
        pass
    assert daemon.poll() is None
    night.drop(greetings(2))
    wait_until(lambda: night.ledger().events.total() == 2, 30)
    stop(daemon)


@pytest.mark.parametrize("seconds", [0.0, 0.4, 0.8, 1.2, 1.6, 2.4])
def test_stop_that_is_asked_for_during_a_reload_is_heard(night: Night, manager: socket.socket, seconds: float) -> None:
    """Wherever it meets the daemon: as it gives way, between the images, or before the next one listens."""
    daemon = night.start("serve")
    assert manager.recv(100) == b"READY=1"
    daemon.send_signal(signal.SIGHUP)
    while manager.recv(100) != b"RELOADING=1":
        pass
    time.sleep(seconds)
    stop(daemon)


def test_wrong_table_of_a_plugin_is_refused_and_the_old_configuration_stays(
    night: Night, manager: socket.socket
) -> None:
    daemon = night.start("serve")
    assert manager.recv(100) == b"READY=1"
    night.configuration.write_text(night.configuration.read_text() + "\n[plugins.intake_qualty]\nx = 1\n")
    daemon.send_signal(signal.SIGHUP)
    assert "plugins.intake_qualty" in line_with("The configuration stays as it was", daemon)
    stop(daemon)


def test_directory_that_cannot_be_made_is_refused_and_the_old_one_stays(night: Night, manager: socket.socket) -> None:
    daemon = night.start("serve")
    assert manager.recv(100) == b"READY=1"
    text = night.configuration.read_text()
    night.configuration.write_text(text.replace(str(night.feedback), "/proc/nightschool"))
    daemon.send_signal(signal.SIGHUP)
    said = line_with("The configuration stays as it was", daemon)
    assert "feedback.directory: /proc/nightschool cannot be made" in said
    stop(daemon)


def test_directory_that_is_a_file_is_a_wrong_configuration(night: Night) -> None:
    text = night.configuration.read_text()
    for directory in (night.feedback, night.state):
        night.configuration.write_text(text.replace(f'"{directory}"', '"/etc/passwd"'))
        for command in (("serve",), ("status",), ("config", "check")):
            done = night.run(*command)
            assert done.returncode == 78, done.stderr
            assert "/etc/passwd is no directory" in done.stderr


def test_wrong_host_is_a_wrong_configuration(night: Night) -> None:
    """The unit does not start again what code 78 ended."""
    text = night.configuration.read_text()
    for host in ("http://example.com:11434", "127.0.0.1:abc"):
        night.configuration.write_text(text.replace("[ollama]\nhost = ", f'[ollama]\nhost = "{host}" # '))
        for command in (("serve",), ("config", "check")):
            done = night.run(*command)
            assert done.returncode == 78, done.stderr
            assert "Traceback" not in done.stderr
            assert "ollama." in done.stderr
