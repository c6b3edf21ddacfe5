"""A server that fails in the ways that servers fail: every one becomes an error with its own name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.errors import (
    ModelMissing,
    OllamaInterrupted,
    OllamaRefused,
    OllamaUnreachable,
)
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from support.fault_proxy import FaultProxy, Reply, answers, ends_without_last_line, resets_in_body
from support.night import import_tiny
from support.ollama_server import OllamaServer, free_port

TAG = "faults:base"


@pytest.fixture(scope="module")
def weights(ollama: OllamaServer, tiny_gguf: Path) -> str:
    return import_tiny(ollama, tiny_gguf, TAG)


@pytest.fixture
def proxy(ollama: OllamaServer, weights: str) -> Iterator[FaultProxy]:
    with FaultProxy(ollama.url) as one:
        yield one


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[OllamaHttp]:
    one = OllamaHttp(OllamaSettings(host=proxy.url, first_byte_timeout_s=30))
    yield one
    one.close()


def test_without_a_fault_everything_passes_through(client: OllamaHttp, weights: str) -> None:
    assert client.show(TAG).weights_digest == weights
    assert TAG in {one.name for one in client.tags()}
    assert client.has_blob(weights)
    assert not client.has_blob("0" * 64)


def test_a_refused_connection_is_a_server_that_is_not_there() -> None:
    port = free_port()
    client = OllamaHttp(OllamaSettings(host=f"127.0.0.1:{port}"))
    with pytest.raises(OllamaUnreachable, match=rf"127\.0\.0\.1:{port} cannot be reached.*ollama serve"):
        client.version()
    client.close()


def test_a_500_is_a_refusal_with_the_servers_words(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("POST", "/api/show", answers(500, {"error": "llama runner process has terminated"}))
    with pytest.raises(OllamaRefused, match="runner process has terminated") as caught:
        client.show(TAG)
    assert caught.value.status == 500
    assert client.show(TAG).name == TAG


def test_a_500_that_is_no_json_is_told_too(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("GET", "/api/tags", answers(502, "bad gateway"))
    with pytest.raises(OllamaRefused, match="bad gateway") as caught:
        client.tags()
    assert caught.value.status == 502


def test_a_full_disk_says_what_to_do(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("POST", "/api/create", answers(500, {"error": "write /m/blobs/x: no space left on device"}))
    with pytest.raises(OllamaRefused, match="Free some space"):
        client.create(CreateRequest(model="faults:full", from_model=TAG))


def test_a_missing_model_is_named(client: OllamaHttp) -> None:
    with pytest.raises(ModelMissing, match=r"faults:nowhere.*ollama list"):
        client.show("faults:nowhere")


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_a_reset_in_the_middle_of_a_body_is_a_server_that_went_away(
    proxy: FaultProxy, client: OllamaHttp, kept: int
) -> None:
    proxy.add("POST", "/api/show", resets_in_body(kept))
    with pytest.raises(OllamaUnreachable, match="cannot be reached"):
        client.show(TAG)


def test_a_reset_in_the_middle_of_a_creation_is_no_success(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("POST", "/api/create", resets_in_body(30))
    with pytest.raises(OllamaUnreachable):
        client.create(CreateRequest(model="faults:reset", from_model=TAG))


@pytest.mark.parametrize(
    "lines",
    [
        [{"status": "reading"}, {"error": "invalid model"}],
        [{"error": "invalid model"}, {"status": "success"}],
        [{"error": "invalid model"}, {"error": "and then another"}],
    ],
)
def test_an_error_line_after_a_200_is_final(proxy: FaultProxy, client: OllamaHttp, lines: list[dict[str, str]]) -> None:
    proxy.add("POST", "/api/create", answers(200, *lines))
    with pytest.raises(OllamaRefused, match="Ollama says: invalid model") as caught:
        client.create(CreateRequest(model="faults:error", from_model=TAG))
    assert caught.value.status == 200


def test_what_a_runner_says_again_as_it_ends_is_said_once(proxy: FaultProxy, client: OllamaHttp) -> None:
    reason = "error loading model: unknown model architecture: 'foobar'"
    proxy.add("POST", "/api/chat", answers(500, {"error": f"the process ended: {reason}\n{reason}\nof  two\tlines"}))
    with pytest.raises(OllamaRefused) as caught:
        client.chat({"model": TAG, "messages": []})
    assert str(caught.value) == f"Ollama says: the process ended: {reason} of two lines"


def test_an_error_in_a_whole_answer_with_200_is_a_refusal(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("POST", "/api/generate", answers(200, {"error": "an error was encountered"}))
    with pytest.raises(OllamaRefused, match="an error was encountered"):
        client.generate(TAG, "a", {"num_predict": 1})


def test_a_creation_that_ends_without_success_is_interrupted(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("POST", "/api/create", ends_without_last_line)
    with pytest.raises(OllamaInterrupted, match="faults:silent without saying that it succeeded"):
        client.create(CreateRequest(model="faults:silent", from_model=TAG))


def test_an_empty_stream_is_interrupted(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("POST", "/api/create", answers(200))
    with pytest.raises(OllamaInterrupted):
        client.create(CreateRequest(model="faults:empty", from_model=TAG))


def test_a_line_that_was_cut_is_a_server_that_went_away(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("POST", "/api/create", lambda _request, _forward: _cut())
    with pytest.raises(OllamaUnreachable):
        client.create(CreateRequest(model="faults:cut", from_model=TAG))


def test_an_answer_that_is_not_done_is_interrupted(proxy: FaultProxy, client: OllamaHttp) -> None:
    proxy.add("POST", "/api/generate", answers(200, {"response": "hal", "done": False}))
    with pytest.raises(OllamaInterrupted, match="middle of its answer"):
        client.generate(TAG, "a", {"num_predict": 1})


def test_an_upload_that_is_damaged_on_its_way_is_refused_by_the_server(
    client: OllamaHttp, tmp_path: Path, ollama: OllamaServer
) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"something")
    with pytest.raises(OllamaRefused):
        client.upload_blob(file, "1" * 64)
    assert "sha256-" + "1" * 64 not in ollama.blobs()


def test_an_upload_tells_its_progress_and_is_not_repeated(
    proxy: FaultProxy, client: OllamaHttp, tmp_path: Path
) -> None:
    file = tmp_path / "blob"
    file.write_bytes(bytes(2_500_000))
    sent: list[int] = []
    client.upload_blob(file, sha256_of(file), sent.append)
    assert sent == [1_048_576, 2_097_152, 2_500_000]
    client.upload_blob(file, sha256_of(file), sent.append)
    assert len(sent) == 3
    assert proxy.count("POST", "/api/blobs") == 1


def _cut() -> Reply:
    return Reply(status=200, body=b'{"status":"succ')
