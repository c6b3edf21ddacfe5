"""A loopback proxy in front of a server that breaks chosen requests in chosen ways, and notes them all."""

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as it came, its body whole."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply, of the server or made up. `broken` cuts the connection behind the body, which was announced longer."""

    status: int
    body: bytes
    broken: bool = False


Forward = Callable[[], Reply]
"""Ask the real server."""
Behaviour = Callable[[Request, Forward], Reply]


@dataclass(kw_only=True)
class Fault:
    """What happens to the next `times` requests of a method whose path begins so."""

    method: str
    path: str
    behaviour: Behaviour
    times: int = 1


class FaultProxy:
    """Stands between a client and `upstream`. Requests pass through unless a fault waits for them."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        proxy = self

        class Handler(_Handler):
            def answer(self, request: Request) -> Reply:
                return proxy._answer(request)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, method: str, path: str, behaviour: Behaviour, *, times: int = 1) -> None:
        """Let a fault wait for its requests."""
        with self._lock:
            self._faults.append(Fault(method=method, path=path, behaviour=behaviour, times=times))

    def count(self, method: str, path: str) -> int:
        """How many such requests came."""
        return sum(one.method == method and one.path.startswith(path) for one in self.requests)

    def _answer(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            fault = next(
                (
                    one
                    for one in self._faults
                    if one.times and one.method == request.method and request.path.startswith(one.path)
                ),
                None,
            )
            if fault is not None:
                fault.times -= 1
        if fault is None:
            return self._forward(request)
        return fault.behaviour(request, lambda: self._forward(request))

    def _forward(self, request: Request) -> Reply:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.request(request.method, request.path, request.body or None)
            response = connection.getresponse()
            return Reply(status=response.status, body=response.read())
        finally:
            connection.close()


# --------------------------------------------------------------------------- ways to break


def answers(status: int, *lines: object) -> Behaviour:
    """The server is not asked; JSON lines come back."""
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return lambda _request, _forward: Reply(status=status, body=body)


def resets_in_body(kept: int) -> Behaviour:
    """The server does what it is asked; the connection is reset after so many bytes of its answer."""

    def behaviour(_request: Request, forward: Forward) -> Reply:
        whole = forward()
        return Reply(status=whole.status, body=whole.body[:kept], broken=True)

    return behaviour


def ends_without_last_line(_request: Request, forward: Forward) -> Reply:
    """The server does what it is asked; the last line of its answer is missing, and nothing else."""
    whole = forward()
    lines = whole.body.splitlines(keepends=True)
    return Reply(status=whole.status, body=b"".join(lines[:-1]))


def first(act: Callable[[], None]) -> Behaviour:
    """Something happens before the server is asked."""

    def behaviour(_request: Request, forward: Forward) -> Reply:
        act()
        return forward()

    return behaviour


def then(act: Callable[[], None]) -> Behaviour:
    """Something happens between what the server does and its answer."""

    def behaviour(_request: Request, forward: Forward) -> Reply:
        reply = forward()
        act()
        return reply

    return behaviour


# --------------------------------------------------------------------------- mechanics


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    def handle_any(self) -> None:
        reply = self.answer(Request(method=self.command, path=self.path, body=self._body()))
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(reply.body) + reply.broken))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
        self.wfile.flush()
        if reply.broken:
            # no lingering: the peer gets a reset, not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

    do_GET = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - the base class looks for these names

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Silence: `FaultProxy.requests` is the log."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
