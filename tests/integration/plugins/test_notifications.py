"""Notifications reach real peers: a web server, a session bus with a notification service, a mail server."""

import asyncio
import email
import http.server
import json
import logging
import queue
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from email.message import Message as Mail
from pathlib import Path
from typing import cast

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from dbus_fast.aio.message_bus import MessageBus
from dbus_fast.service import ServiceInterface, dbus_method

from nightschool_daemon.config import ConfigurationError
from nightschool_daemon.hooks import Hooks
from nightschool_hookspecs import AliasMove, MoveKind, RunEnd, RunReport
from nightschool_hookspecs.notices import NotLocal, require_local
from nightschool_hookspecs.testing import sample_run
from support.ollama_server import free_port

ALIAS = "llama3.2-nightschool:3b.shell"
MOVE = AliasMove(
    kind=MoveKind.ROLL_BACK,
    alias=ALIAS,
    from_digest="2" * 64,
    to_digest="1" * 64,
    reason="feedback got worse: 9 of 10 <negative>",
    from_tag=f"{ALIAS}.v2",
    to_tag=f"{ALIAS}.v1",
)
BUILT_IN = ("notify_webhook", "notify_desktop", "notify_email")
WAIT_S = 30.0


def hooks(**tables: Mapping[str, object]) -> Hooks:
    return Hooks.load(plugin_directory=None, tables=tables, built_in=BUILT_IN)


def wait_for_threads() -> None:
    """Until everything that is being sent was sent."""
    for thread in threading.enumerate():
        if thread.name in BUILT_IN:
            thread.join(WAIT_S)


# --------------------------------------------------------------------------- web hook


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what was posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: queue.Queue[tuple[str, dict[str, str], dict[str, object]]] = queue.Queue()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        cast(Receiver, self.server).received.put((self.path, dict(self.headers), json.loads(body)))
        self.send_response(302 if self.path == "/moved" else 204)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_web_hook_is_told_what_moved_and_why(receiver: Receiver, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    hooks(notify_webhook={"url": f"{receiver.url}/hook?a=b", "token_file": str(token)}).after_move(move=MOVE)
    path, headers, said = receiver.received.get(timeout=WAIT_S)
    assert (path, headers["Authorization"]) == ("/hook?a=b", "Bearer secret")
    assert (said["event"], said["kind"], said["from"], said["to"]) == ("move", "roll_back", MOVE.from_tag, MOVE.to_tag)
    assert f"{ALIAS} was moved back by itself" in str(said["title"])
    assert MOVE.reason in str(said["text"])


def test_web_hook_hears_of_runs_only_where_it_is_asked_for(receiver: Receiver, tmp_path: Path) -> None:
    report = RunReport(run=sample_run(tmp_path), end=RunEnd.WAITING, reason="It is better.")
    hooks(notify_webhook={"url": receiver.url}).after_run(report=report)
    hooks(notify_webhook={"url": receiver.url, "runs": True, "moves": False}).after_move(move=MOVE)
    hooks(notify_webhook={"url": receiver.url, "runs": True}).after_run(report=report)
    path, _, said = receiver.received.get(timeout=WAIT_S)
    wait_for_threads()
    assert receiver.received.empty()
    assert (path, said["event"], said["end"]) == ("/", "run", "waiting_for_approval")
    assert "waits for your approval" in str(said["title"])


@pytest.mark.parametrize("path", ["/moved", None], ids=["redirect", "nobody listens"])
def test_web_hook_that_fails_is_logged_and_hurts_nothing(
    receiver: Receiver, path: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{receiver.url}{path}" if path else f"http://127.0.0.1:{free_port()}/"
    loaded = hooks(notify_webhook={"url": url})
    with caplog.at_level(logging.WARNING):
        loaded.after_move(move=MOVE)
        wait_for_threads()
    assert "notify_webhook could not tell anybody" in caplog.text
    assert receiver.received.qsize() == (path is not None)
    assert all(one.state == "active" for one in loaded.status())


def test_web_hook_that_hangs_holds_nothing_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        hooks(notify_webhook={"url": url, "timeout_s": 1.0}).after_move(move=MOVE)
        assert any(thread.name == "notify_webhook" for thread in threading.enumerate())
        wait_for_threads()


class Peer(socket.socket):
    """A socket that says whom it is connected to."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.host = host

    def getpeername(self) -> tuple[str, int]:
        return (self.host, 443)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "fd00::1", "fe80::1%eth0"])
def test_this_machine_and_its_network_may_be_told(host: str) -> None:
    with Peer(host) as peer:
        require_local(peer, "allow_remote")


@pytest.mark.parametrize("host", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8"])
def test_public_addresses_are_refused(host: str) -> None:
    with Peer(host) as peer, pytest.raises(NotLocal, match="unless allow_remote = true"):
        require_local(peer, "allow_remote")


@pytest.mark.parametrize(
    ("plugin", "table"),
    [
        ("notify_webhook", {"url": "localhost:80"}),
        ("notify_webhook", {"timeout_s": 0.0}),
        ("notify_email", {"user": "me"}),
        ("notify_email", {"port": 0}),
    ],
)
def test_wrong_settings_are_an_error_with_their_path(plugin: str, table: Mapping[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=f"plugins.{plugin}"):
        hooks(**{plugin: table})


def test_nobody_is_told_by_default() -> None:
    hooks().after_move(move=MOVE)
    assert not any(thread.name in BUILT_IN for thread in threading.enumerate())


# --------------------------------------------------------------------------- desktop


class Desktop(ServiceInterface):
    """What a desktop offers as org.freedesktop.Notifications."""

    def __init__(self) -> None:
        super().__init__("org.freedesktop.Notifications")
        self.shown: queue.Queue[tuple[str, str, str]] = queue.Queue()

    @dbus_method()
    def Notify(  # noqa: N802 - its name on the bus
        self,
        app: "s",  # type: ignore[name-defined] # noqa: F821 - D-Bus signatures
        replaces: "u",  # type: ignore[name-defined] # noqa: F821
        icon: "s",  # type: ignore[name-defined] # noqa: F821
        title: "s",  # type: ignore[name-defined] # noqa: F821
        text: "s",  # type: ignore[name-defined] # noqa: F821
        actions: "as",  # type: ignore[valid-type] # noqa: F722
        hints: "a{sv}",  # type: ignore[valid-type] # noqa: F722
        expires: "i",  # type: ignore[name-defined] # noqa: F821
    ) -> "u":  # type: ignore[name-defined] # noqa: F821
        self.shown.put((app, title, text))
        return 7


@pytest.fixture
def session_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A session bus of its own."""
    command = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bus:
        assert bus.stdout is not None
        address = bus.stdout.readline().strip()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        yield address
        bus.terminate()


@pytest.fixture
def desktop(session_bus: str) -> Iterator[Desktop]:
    """A desktop on the bus."""
    service, ready, done = Desktop(), threading.Event(), threading.Event()

    async def serve() -> None:
        bus = await MessageBus(bus_address=session_bus).connect()
        bus.export("/org/freedesktop/Notifications", service)
        await bus.request_name("org.freedesktop.Notifications")
        ready.set()
        await asyncio.to_thread(done.wait)
        bus.disconnect()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(WAIT_S)
    yield service
    done.set()
    thread.join(WAIT_S)


def test_desktop_shows_what_moved_and_why(desktop: Desktop) -> None:
    hooks(notify_desktop={"enabled": True}).after_move(move=MOVE)
    app, title, text = desktop.shown.get(timeout=WAIT_S)
    assert (app, title) == ("Night School", f"{ALIAS} was moved back by itself")
    assert "9 of 10 &lt;negative&gt;" in text


def test_session_without_a_desktop_is_logged_and_hurts_nothing(
    session_bus: str, caplog: pytest.LogCaptureFixture
) -> None:
    hooks(notify_desktop={"enabled": True}).after_move(move=MOVE)
    wait_for_threads()
    assert "notify_desktop could not tell anybody" in caplog.text


# --------------------------------------------------------------------------- mail


class Postbox:
    """Keeps the mails that a server takes."""

    def __init__(self) -> None:
        self.mails: queue.Queue[tuple[list[str], Mail]] = queue.Queue()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        self.mails.put((list(envelope.rcpt_tos), email.message_from_bytes(content)))
        return "250 OK"


@pytest.fixture
def mail_server() -> Iterator[Controller]:
    server = Controller(Postbox(), hostname="127.0.0.1", port=free_port())
    server.start()
    yield server
    server.stop()


def test_mail_says_what_moved_and_why(mail_server: Controller) -> None:
    table = {"recipients": ["me@example.org", "you@example.org"], "host": "127.0.0.1", "port": mail_server.port}
    hooks(notify_email=table).after_move(move=MOVE)
    recipients, mail = cast(Postbox, mail_server.handler).mails.get(timeout=WAIT_S)
    assert recipients == ["me@example.org", "you@example.org"]
    assert mail["Subject"].replace("\n", "") == f"Night School: {ALIAS} was moved back by itself"
    assert MOVE.reason in str(mail.get_payload())


def test_mail_server_that_is_not_there_is_logged_and_hurts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    table = {"recipients": ["me@example.org"], "host": "127.0.0.1", "port": free_port()}
    hooks(notify_email=table).after_move(move=MOVE)
    wait_for_threads()
    assert "notify_email could not tell anybody" in caplog.text
