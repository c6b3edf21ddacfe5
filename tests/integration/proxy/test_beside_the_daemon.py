"""The daemon keeps the proxy running where it is enabled; none outlives it."""

import os
import signal
import subprocess
from pathlib import Path

from support.night import Night, wait_until
from support.ollama_server import OllamaServer, free_port
from support.proxying import is_listening, wait_for_port


def proxies_of(daemon: "subprocess.Popen[str]") -> list[int]:
    """Process ids of its children that are proxies."""
    children = [pid for task in Path(f"/proc/{daemon.pid}/task").glob("*/children") for pid in task.read_text().split()]
    return [int(pid) for pid in children if "proxy" in command_of(pid)]


def command_of(pid: str) -> list[str]:
    """The command of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def test_proxy_that_dies_is_started_again_and_one_whose_daemon_is_killed_ends(
    tmp_path: Path, fresh_ollama: OllamaServer
) -> None:
    port = free_port()
    settings = f"[proxy]\nenabled = true\nport = {port}\n"
    night = Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory, settings=settings)
    daemon = night.start("serve")
    try:
        wait_for_port(port)
        (first,) = proxies_of(daemon)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: proxies_of(daemon) not in ([], [first]))
        wait_for_port(port)
        (second,) = proxies_of(daemon)
    finally:
        daemon.kill()
        daemon.communicate(timeout=60)
    # nobody may be there to bury it: what has ended has no program any more
    wait_until(lambda: not Path(f"/proc/{second}/exe").exists())
    assert not is_listening(port)


def test_without_being_enabled_there_is_no_proxy(tmp_path: Path, fresh_ollama: OllamaServer) -> None:
    night = Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)
    daemon = night.start("serve")
    try:
        wait_until((night.directory / "run" / "control.sock").exists)
        assert night.run("status").returncode == 0
        assert proxies_of(daemon) == []
        assert not (night.state / "proxy").exists()
    finally:
        daemon.terminate()
        daemon.communicate(timeout=60)
