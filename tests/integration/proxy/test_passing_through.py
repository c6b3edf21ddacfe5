"""What is not shared passes through as it is: bytes, streams, uploads, errors, and clients that go away."""

import gzip
import hashlib
import http.client
import json
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from nightschool_daemon.proxy.routes import Route
from support.fault_proxy import FaultProxy, Reply
from support.night import import_tiny, wait_until
from support.ollama_server import OllamaServer, free_port
from support.proxying import HeldUpstream, ProxyProcess, is_listening

UPLOAD_BYTES = 48 * 1024 * 1024
QUESTION = {"model": "tiny-nightschool:1m.greeting", "prompt": "hello"}
ROUTE = Route(alias=QUESTION["model"], incumbent="tiny:1m", candidate="tiny:1m", share=0.5)
PER_ANSWER = ("date",)
"""Headers that differ from one answer to the next."""


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A server of its own with one model: Ollama lists several of one moment in any order."""
    with OllamaServer("0.34.3", directory=tmp_path_factory.mktemp("ollama")) as server:
        yield server


@pytest.fixture
def proxy(tmp_path: Path, ollama: OllamaServer, tiny_gguf: Path) -> Iterator[ProxyProcess]:
    import_tiny(ollama, tiny_gguf)
    with ProxyProcess(tmp_path / "proxy", ollama.url).running() as running:
        yield running


@pytest.fixture
def upstream() -> Iterator[HeldUpstream]:
    with HeldUpstream() as held:
        yield held


def raw(
    url: str, method: str, path: str, body: bytes | None, **headers_of_body: str
) -> tuple[int, str, list[tuple[str, str]], bytes]:
    """Status, reason, headers in order, and body as they came."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    # the same Host for both: the server sees no difference
    connection.request(method, path, body, {"Host": "localhost", "Accept": "*/*", **headers_of_body})
    answer = connection.getresponse()
    headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in PER_ANSWER]
    content = answer.read()
    connection.close()
    return answer.status, answer.reason, sorted(headers), content


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/", None),
        ("HEAD", "/", None),
        ("GET", "/api/version", None),
        ("HEAD", "/api/version", None),
        ("GET", "/api/tags", None),
        ("GET", "/api/ps?x=%2F%20y", None),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/tiny:1m", None),
        ("POST", "/api/show", b'{"model": "tiny:1m"}'),
        ("POST", "/api/show", b'{"model": "nobody"}'),
        ("POST", "/api/chat", b"no JSON"),
        ("POST", "/api/chat", b""),
        ("DELETE", "/api/delete", b'{"model": "nobody"}'),
        ("HEAD", f"/api/blobs/sha256:{'0' * 64}", None),
        ("POST", f"/api/blobs/sha256:{'0' * 64}", b"other bytes"),
        ("PUT", "/api/chat", b"{}"),
        ("OPTIONS", "/api/chat", None),
        ("GET", "/nowhere", None),
        ("GET", "//api/tags", None),
    ],
)
def test_answer_is_the_same_to_the_byte(
    proxy: ProxyProcess, ollama: OllamaServer, method: str, path: str, body: bytes | None
) -> None:
    assert raw(proxy.url, method, path, body) == raw(ollama.url, method, path, body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_a_client_compressed_goes_on_as_it_is(proxy: ProxyProcess, ollama: OllamaServer, encoding: str) -> None:
    """The server is to say whether it takes such bytes, not what stands before it."""
    plain = b'{"model": "tiny:1m"}' + b" " * 1000
    body = gzip.compress(plain, mtime=0) if encoding == "gzip" else zlib.compress(plain)
    said = raw(ollama.url, "POST", "/api/show", body, **{"Content-Encoding": encoding})
    assert raw(proxy.url, "POST", "/api/show", body, **{"Content-Encoding": encoding}) == said


def test_large_upload_streams_and_the_blob_is_whole(proxy: ProxyProcess, ollama: OllamaServer) -> None:
    content = hashlib.sha256(b"seed").digest() * (UPLOAD_BYTES // 32)
    path = f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
    chunks = (content[start : start + 65536] for start in range(0, len(content), 65536))
    assert httpx.head(f"{proxy.url}{path}").status_code == 404
    assert httpx.post(f"{proxy.url}{path}", content=chunks, timeout=120).status_code == 201
    assert httpx.head(f"{proxy.url}{path}").status_code == 200
    # the server answers before it has read: that answer comes through too
    assert httpx.post(f"{proxy.url}{path}", content=content, timeout=120).status_code == 200


def test_one_connection_serves_many_requests(proxy: ProxyProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
    connection.connect()
    first = connection.sock
    for _ in range(5):
        connection.request("POST", "/api/show", b'{"model": "tiny:1m"}')
        assert connection.getresponse().read()
    assert connection.sock is first


def test_stream_comes_line_by_line(tmp_path: Path, upstream: HeldUpstream) -> None:
    with (
        ProxyProcess(tmp_path, upstream.url).running() as proxy,
        httpx.stream("POST", f"{proxy.url}/api/generate", json=QUESTION, timeout=30) as answer,
    ):
        lines = answer.iter_lines()
        for number in range(3):
            # the next line is said only after this one was read
            upstream.say(f"line {number}")
            assert json.loads(next(lines)) == {"text": f"line {number}"}
        upstream.end()
        assert list(lines) == []


def test_shared_question_and_its_answer_differ_in_the_name_alone(tmp_path: Path) -> None:
    asked = {
        **QUESTION,
        "options": {"seed": 2**53 + 1, "temperature": 0.1},
        "images": [],
        "keep_alive": -1,
        "x": "ü\ud800",
    }
    answer = '{"model":"tiny:1m","n": 1.50,"response":"\\"model\\":\\"tiny:1m\\" ü\\u00fc","context":[1, 2]}\n'
    with FaultProxy("http://127.0.0.1:1") as fixed, ProxyProcess(tmp_path, fixed.url).running() as proxy:
        fixed.add("POST", "/api/generate", lambda *_: Reply(status=200, body=answer.encode()))
        proxy.share(ROUTE)
        got = httpx.post(f"{proxy.url}/api/generate", content=json.dumps(asked).encode(), timeout=30)
    assert got.content.decode() == answer.replace("tiny:1m", ROUTE.alias, 1)
    assert json.loads(fixed.requests[0].body) == {**asked, "model": "tiny:1m"}


@pytest.mark.parametrize("is_shared", [False, True])
def test_client_that_goes_away_ends_the_request_upstream(
    tmp_path: Path, upstream: HeldUpstream, *, is_shared: bool
) -> None:
    with ProxyProcess(tmp_path, upstream.url).running() as proxy:
        proxy.share(*([ROUTE] if is_shared else []))
        with httpx.stream("POST", f"{proxy.url}/api/generate", json=QUESTION, timeout=30) as answer:
            lines = answer.iter_lines()
            upstream.say("line")
            assert next(lines)
            assert not upstream.left.is_set()
        assert upstream.left.wait(30)


@pytest.mark.parametrize("is_shared", [False, True])
def test_stream_that_breaks_off_breaks_off_for_the_client(
    tmp_path: Path, upstream: HeldUpstream, *, is_shared: bool
) -> None:
    with ProxyProcess(tmp_path, upstream.url).running() as proxy:
        proxy.share(*([ROUTE] if is_shared else []))
        with httpx.stream("POST", f"{proxy.url}/api/generate", json=QUESTION, timeout=30) as answer:
            upstream.say("line")
            lines = answer.iter_lines()
            next(lines)
            upstream.break_off()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)


@pytest.mark.parametrize("is_shared", [False, True])
def test_whole_answer_that_breaks_off_breaks_off_for_the_client(tmp_path: Path, *, is_shared: bool) -> None:
    with FaultProxy("http://127.0.0.1:1") as broken, ProxyProcess(tmp_path, broken.url).running() as proxy:
        broken.add("POST", "/api/generate", lambda *_: Reply(status=200, body=b'{"model":', broken=True))
        proxy.share(*([ROUTE] if is_shared else []))
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{proxy.url}/api/generate", json={**QUESTION, "stream": False}, timeout=30)


def test_proxy_that_is_stopped_lets_an_answer_end(tmp_path: Path, upstream: HeldUpstream) -> None:
    with (
        ProxyProcess(tmp_path, upstream.url).running() as proxy,
        httpx.stream("POST", f"{proxy.url}/api/generate", json=QUESTION, timeout=30) as answer,
    ):
        lines = answer.iter_lines()
        upstream.say("line")
        assert next(lines)
        proxy.stop()
        wait_until(lambda: not is_listening(proxy.port))
        upstream.say("the last")
        upstream.end()
        assert [json.loads(line) for line in lines] == [{"text": "the last"}]


def test_server_that_is_away_is_said_in_a_sentence(tmp_path: Path) -> None:
    with ProxyProcess(tmp_path, f"http://127.0.0.1:{free_port()}").running() as proxy:
        answer = httpx.get(f"{proxy.url}/api/tags")
        assert answer.status_code == 502
        assert "cannot be reached" in answer.json()["error"]


def test_server_that_comes_back_is_asked_again(tmp_path: Path, fresh_ollama: OllamaServer) -> None:
    with ProxyProcess(tmp_path / "proxy", fresh_ollama.url).running() as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port)

        def status() -> int:
            connection.request("POST", "/api/show", b'{"model": "nobody"}')
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert status() == 404
        fresh_ollama.kill()
        assert status() == 502
        fresh_ollama.start()
        assert status() == 404


@pytest.mark.parametrize("target", ["http://example.invalid/api/tags", "http://127.0.0.1:1/"])
def test_nothing_but_ollama_is_asked(proxy: ProxyProcess, target: str) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as connection:
        connection.sendall(f"OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"400"


def test_port_in_use_is_said_in_a_sentence(proxy: ProxyProcess, tmp_path: Path) -> None:
    other = ProxyProcess(tmp_path / "other", "http://127.0.0.1:1")
    done = other.run_on(proxy.port)
    assert done.returncode == 1
    assert "Set proxy.port to another" in done.stderr


def test_proxy_does_not_ask_itself(tmp_path: Path) -> None:
    port = free_port()
    done = ProxyProcess(tmp_path, f"http://localhost:{port}").run_on(port)
    assert done.returncode == 78
    assert "is the proxy itself" in done.stderr


def test_proxy_listens_on_loopback_alone(proxy: ProxyProcess) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    addresses = [line.split()[1] for line in listening.splitlines() if f":{proxy.port:04X} " in line and " 0A " in line]
    assert addresses == [f"0100007F:{proxy.port:04X}"]
