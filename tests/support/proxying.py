"""The proxy as a process of its own, and an upstream that a test holds in its hand."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from nightschool_daemon.proxy.routes import Route, Routes, write_routes
from support.night import environment, wait_until
from support.ollama_server import free_port

LIMIT_S = 30.0


class ProxyProcess:
    """`nightschool proxy` in front of a server."""

    def __init__(self, directory: Path, upstream: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.state = directory / "state"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._configuration = directory / "config.toml"
        self._configuration.write_text(
            f'[ollama]\nhost = "{upstream}"\n[state]\ndirectory = "{self.state}"\n'
            f'[feedback]\ndirectory = "{directory / "feedback"}"\n[proxy]\nport = {self.port}\n'
        )

    @contextlib.contextmanager
    def running(self) -> Iterator["ProxyProcess"]:
        """Start and wait until it listens; stop in the end."""
        with subprocess.Popen(self._command, env=environment()) as self._process:
            try:
                wait_for_port(self.port)
                yield self
            finally:
                self.stop()
                self._process.wait(LIMIT_S)

    def stop(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def run_on(self, port: int) -> "subprocess.CompletedProcess[str]":
        """Start it on another port, and wait until it ends by itself."""
        text = self._configuration.read_text().replace(f"port = {self.port}", f"port = {port}")
        self._configuration.write_text(text)
        return subprocess.run(
            self._command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment()
        )

    @property
    def _command(self) -> list[str]:
        return [sys.executable, "-m", "nightschool_daemon", "--config", str(self._configuration), "proxy"]

    def share(self, *routes: Route) -> None:
        """Tell it which aliases are shared."""
        self.state.mkdir(parents=True, exist_ok=True)
        write_routes(self.state, Routes(routes=routes))


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_port(port: int) -> None:
    """Until somebody listens."""
    wait_until(lambda: is_listening(port), LIMIT_S)


class HeldUpstream:
    """Answers one request with a stream, a line whenever the test says so; notes when the client went away."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.left = threading.Event()
        self._connection: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> "HeldUpstream":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def say(self, text: str) -> None:
        """Send one line of the stream."""
        line = json.dumps({"text": text}) + "\n"
        self._sendall(f"{len(line):x}\r\n{line}\r\n")

    def end(self) -> None:
        """End the stream as it should."""
        self._sendall("0\r\n\r\n")

    def break_off(self) -> None:
        """End the connection in the middle."""
        assert self._connection is not None
        self._connection.shutdown(socket.SHUT_RDWR)

    def _sendall(self, text: str) -> None:
        assert self._connection is not None
        self._connection.sendall(text.encode())

    def _serve(self) -> None:
        self._connection, _ = self._listener.accept()
        request = b""
        while not request.endswith(b"}"):
            # a head, then a body in JSON
            request += self._connection.recv(65536)
        self._sendall("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            self._connection.recv(1)
        self.left.set()
