"""How the command line reaches the daemon: JSON lines over a Unix socket, mode 0660.

A request is one line `{"command": ..., ...}`. Answers are lines too: `{"progress": {...}}` while a run goes
on, then one last line `{"result": ...}` or `{"error": "a sentence", "code": n}`.
"""

import contextlib
import grp
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from nightschool_daemon.exits import Exit

logger = logging.getLogger(__name__)

SOCKET_NAME = "control.sock"
GROUP = "nightschool"
MAX_REQUEST_BYTES = 64 * 1024
SEND_LIMIT_S = 10.0
"""A client that takes nothing for so long is dropped."""
CONNECT_LIMIT_S = 5.0

Send = Callable[[Mapping[str, object]], None]
Handler = Callable[[Mapping[str, Any], Send], object]
"""Carries out a request; what it returns is the result. It may send lines before; sending never raises."""


class ControlError(Exception):
    """A request was refused. `code` is the exit code for the command line."""

    def __init__(self, message: str, code: int = 1) -> None:
        self.code = code
        super().__init__(message)


class ControlServer:
    """Answers requests, each in a thread of its own."""

    def __init__(self, directory: Path, handler: Handler) -> None:
        self._path = directory / SOCKET_NAME
        self._handler = handler
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listen. A socket that a crashed daemon left is replaced: the state lock says that it is nobody's."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        self._path.chmod(0o660)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(self._path, -1, grp.getgrnam(GROUP).gr_gid)
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="control", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        def send(line: Mapping[str, object]) -> None:
            # a command line that was ended, or that does not read, is no concern of the daemon's: the run goes on
            try:
                connection.sendall(json.dumps(line).encode() + b"\n")
            except OSError:
                connection.close()

        connection.settimeout(SEND_LIMIT_S)
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            send(self._answer(stream.readline(MAX_REQUEST_BYTES), send))

    def _answer(self, line: bytes, send: Send) -> Mapping[str, object]:
        try:
            return {"result": self._handler(_request_in(line), send)}
        except ControlError as error:
            return {"error": str(error), "code": error.code}
        except Exception as error:
            logger.exception("A request failed")
            return {"error": f"{type(error).__name__}: {error}. The daemon's log has more.", "code": 1}


def text_in(request: Mapping[str, Any], key: str) -> str:
    """A text that a request must have. Raises `ControlError`."""
    value = request.get(key)
    if not isinstance(value, str):
        raise _not_understood(f"it has no text {key!r}")
    return value


def _request_in(line: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _not_understood(str(error)) from error
    if not isinstance(request, dict):
        raise _not_understood("it is no JSON object")
    return cast("Mapping[str, Any]", request)


def _not_understood(reason: str) -> ControlError:
    return ControlError(f"The request is not understood: {reason}. Are client and daemon of one version?", Exit.USAGE)


class ControlClient:
    """Talks to a running daemon."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / SOCKET_NAME

    def is_there(self) -> bool:
        """Whether a daemon answers."""
        try:
            self._connect().close()
        except OSError:
            return False
        return True

    def ask(self, command: str, **arguments: object) -> object:
        """Send a request and return its result. Raises `ControlError`."""
        for line in self.follow(command, **arguments):
            if "result" in line:
                return line["result"]
        raise ControlError("The daemon ended in the middle of the request. `nightschool status` says how it is.")

    def follow(self, command: str, **arguments: object) -> Iterator[Mapping[str, Any]]:
        """Send a request and yield every line up to and with its result. Raises `ControlError`."""
        try:
            connection = self._connect()
        except OSError as error:
            raise ControlError(f"The daemon does not answer at {self._path} ({error}).") from error
        with connection, connection.makefile("rwb") as stream:
            stream.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            stream.flush()
            for text in stream:
                line = json.loads(text)
                if "error" in line:
                    raise ControlError(line["error"], int(line.get("code", 1)))
                yield line

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_LIMIT_S)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        connection.settimeout(None)
        return connection
