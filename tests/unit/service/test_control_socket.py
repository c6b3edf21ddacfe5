"""The control socket: what comes back for every kind of request, sound or not."""

import json
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nightschool_daemon.control import (
    MAX_REQUEST_BYTES,
    SOCKET_NAME,
    ControlClient,
    ControlError,
    ControlServer,
    Send,
    text_in,
)
from nightschool_daemon.exits import Exit


def handler(request: Mapping[str, Any], send: Send) -> object:
    """A daemon that counts, refuses and breaks on demand."""
    match request.get("command"):
        case "count":
            for number in range(3):
                send({"progress": {"done": number}})
            return "counted"
        case "refuse":
            raise ControlError("Not tonight.", Exit.NOTHING_CHANGED)
        case "break":
            raise ValueError("a fault of the daemon's own")
        case "undo":
            return text_in(request, "alias")
        case _:
            return None


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    server = ControlServer(tmp_path / "run", handler)
    server.start()
    yield tmp_path / "run"
    server.stop()


def raw(directory: Path, line: bytes) -> dict[str, Any]:
    """Send bytes as they are and return the first line that comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory / SOCKET_NAME))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return answer


def test_progress_comes_before_the_result(directory: Path) -> None:
    lines = list(ControlClient(directory).follow("count"))
    assert lines == [
        {"progress": {"done": 0}},
        {"progress": {"done": 1}},
        {"progress": {"done": 2}},
        {"result": "counted"},
    ]
    assert ControlClient(directory).ask("count") == "counted"


def test_refusal_keeps_its_sentence_and_code(directory: Path) -> None:
    with pytest.raises(ControlError, match=r"^Not tonight\.$") as caught:
        ControlClient(directory).ask("refuse")
    assert caught.value.code == Exit.NOTHING_CHANGED


@pytest.mark.parametrize("line", [b"", b"\n", b"{\n", b"[]\n", b'"run"\n', b"\xff\xfe\n", b"[" * MAX_REQUEST_BYTES])
def test_request_that_is_not_understood_is_told_so(directory: Path, line: bytes) -> None:
    answer = raw(directory, line)
    assert answer["error"].startswith("The request is not understood")
    assert answer["code"] == Exit.USAGE
    assert ControlClient(directory).ask("count") == "counted"


@pytest.mark.parametrize("given", [{}, {"alias": 3}, {"alias": None}])
def test_missing_argument_is_named(directory: Path, given: dict[str, object]) -> None:
    with pytest.raises(ControlError, match="'alias'"):
        ControlClient(directory).ask("undo", **given)


def test_fault_of_the_daemon_is_not_laid_at_the_clients_door(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ControlError, match="ValueError: a fault of the daemon's own") as caught:
        ControlClient(directory).ask("break")
    assert caught.value.code == Exit.FAILED
    assert "Traceback" in caplog.text


def test_socket_is_for_owner_and_group_alone(directory: Path) -> None:
    assert stat.S_IMODE((directory / SOCKET_NAME).stat().st_mode) == 0o660


def test_client_that_goes_away_disturbs_nobody(directory: Path) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(directory / SOCKET_NAME))
            connection.sendall(b'{"command": "count"}\n')
    assert ControlClient(directory).ask("count") == "counted"


def test_slow_client_does_not_hold_up_another(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(directory / SOCKET_NAME))
        assert ControlClient(directory).ask("count") == "counted"


def test_socket_that_a_crash_left_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET_NAME))
    left.close()
    assert not ControlClient(tmp_path).is_there()
    server = ControlServer(tmp_path, handler)
    server.start()
    try:
        assert ControlClient(tmp_path).ask("count") == "counted"
    finally:
        server.stop()
    assert not (tmp_path / SOCKET_NAME).exists()


def test_no_daemon_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="does not answer at"):
        ControlClient(tmp_path).ask("count")


def test_daemon_that_ends_in_the_middle_is_one_sentence(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / SOCKET_NAME))
    listener.listen(1)

    def hang_up() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)

    thread = threading.Thread(target=hang_up)
    thread.start()
    with pytest.raises(ControlError, match="ended in the middle"):
        ControlClient(tmp_path).ask("count")
    thread.join()
    listener.close()
