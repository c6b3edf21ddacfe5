"""A share of an alias's conversations goes to another version; clients see the alias, and stay with what they had."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.proxy.answers import open_answers
from nightschool_daemon.proxy.conversation import conversation_of_event
from nightschool_daemon.proxy.routes import Route, secret_of
from nightschool_daemon.proxy.server import CONVERSATION_HEADER, VERSION_HEADER
from nightschool_hookspecs.testing import sample_event
from support.night import TINY_ALIAS, import_tiny, wait_until
from support.ollama_server import OllamaServer
from support.proxying import ProxyProcess

FIRST, SECOND = f"{TINY_ALIAS}.v1", f"{TINY_ALIAS}.v2"
LENGTHS = {FIRST: 3, SECOND: 7}
"""Tokens, here characters, that each version answers."""
SHOUTED = TINY_ALIAS.upper()


def route(share: float) -> Route:
    return Route(alias=TINY_ALIAS, incumbent=FIRST, candidate=SECOND, share=share)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    with OllamaServer("0.34.3", directory=tmp_path_factory.mktemp("sharing")) as running:
        yield running


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, server: OllamaServer) -> Iterator[ProxyProcess]:
    with ProxyProcess(tmp_path_factory.mktemp("proxy"), server.url).running() as running:
        yield running


@pytest.fixture
def proxy(process: ProxyProcess, server: OllamaServer, tiny_gguf: Path) -> ProxyProcess:
    """Nothing is shared yet; the alias holds the first of two versions."""
    process.share()
    weights = import_tiny(server, tiny_gguf)
    ollama = OllamaHttp(OllamaSettings(host=server.url))
    for tag, length in LENGTHS.items():
        parameters: dict[str, object] = {"num_predict": length, "temperature": 0, "num_thread": 1}
        ollama.create(CreateRequest(model=tag, files={"tiny.gguf": weights}, parameters=parameters))
    ollama.copy(FIRST, TINY_ALIAS)
    ollama.close()
    return process


def chat(proxy: ProxyProcess, text: str, *more: str, named: str | None = None, stream: bool = False) -> httpx.Response:
    """Ask the alias; `more` are later turns of the conversation, of both sides."""
    turns = [
        {"role": role, "content": one} for one, role in zip((text, *more), ("user", "assistant") * 5, strict=False)
    ]
    headers = {CONVERSATION_HEADER: named} if named else {}
    body = {"model": TINY_ALIAS, "messages": turns, "stream": stream}
    return httpx.post(f"{proxy.url}/api/chat", json=body, headers=headers, timeout=60)


def test_without_a_share_nothing_is_added(proxy: ProxyProcess) -> None:
    answer = chat(proxy, "hello")
    assert VERSION_HEADER not in answer.headers
    assert answer.json()["eval_count"] == LENGTHS[FIRST]


def test_share_counts_and_a_conversation_keeps_its_version(proxy: ProxyProcess) -> None:
    proxy.share(route(0.5))
    versions = {}
    for number in range(12):
        answer = chat(proxy, f"guest {number}")
        versions[number] = answer.headers[VERSION_HEADER]
        assert answer.json()["eval_count"] == LENGTHS[versions[number]]
        assert answer.json()["model"] == TINY_ALIAS
    assert set(versions.values()) == {FIRST, SECOND}
    for number, version in versions.items():
        later = chat(proxy, f"guest {number}", "and you?", f"well, {number}")
        assert later.headers[VERSION_HEADER] == version


def test_it_is_all_one_which_of_the_two_the_alias_itself_holds(proxy: ProxyProcess, server: OllamaServer) -> None:
    httpx.post(f"{server.url}/api/copy", json={"source": SECOND, "destination": TINY_ALIAS}).raise_for_status()
    for share, version in ((0.0, FIRST), (1.0, SECOND)):
        proxy.share(route(share))
        answer = chat(proxy, "hello")
        assert answer.headers[VERSION_HEADER] == version
        assert answer.json()["eval_count"] == LENGTHS[version]
        assert answer.json()["model"] == TINY_ALIAS


def test_conversation_with_a_name_stays_together_whatever_is_said(proxy: ProxyProcess) -> None:
    proxy.share(route(0.5))
    versions = {chat(proxy, f"at {number}", named="c-1").headers[VERSION_HEADER] for number in range(8)}
    assert len(versions) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/api/generate", {"prompt": "hello"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 7}),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_client_sees_the_name_that_it_asked_for_and_never_another(
    proxy: ProxyProcess, path: str, body: dict[str, object], *, stream: bool
) -> None:
    proxy.share(route(1.0))
    answer = httpx.post(f"{proxy.url}{path}", json={"model": SHOUTED, "stream": stream, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers[VERSION_HEADER] == SECOND
    assert f'"model":"{SHOUTED}"' in answer.text
    assert SECOND not in answer.text


def test_error_of_the_candidate_names_what_was_asked_for(proxy: ProxyProcess) -> None:
    proxy.share(route(1.0))
    body = {"model": TINY_ALIAS, "messages": [{"role": "user", "content": "hello"}], "think": True}
    answer = httpx.post(f"{proxy.url}/api/chat", json=body, timeout=60)
    assert answer.status_code == 400
    assert SECOND not in answer.text
    assert TINY_ALIAS in answer.text


def test_candidate_that_is_gone_leaves_the_question_to_the_alias(proxy: ProxyProcess, server: OllamaServer) -> None:
    proxy.share(route(1.0))
    httpx.request("DELETE", f"{server.url}/api/delete", json={"model": SECOND}).raise_for_status()
    answer = chat(proxy, "hello")
    assert (answer.status_code, answer.json()["eval_count"]) == (200, LENGTHS[FIRST])
    assert VERSION_HEADER not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/show", {"model": TINY_ALIAS}),
        ("POST", "/api/copy", {"source": TINY_ALIAS, "destination": "kept:latest"}),
        ("POST", "/api/generate", {"model": TINY_ALIAS, "keep_alive": 0}),
        ("DELETE", "/api/delete", {"model": TINY_ALIAS}),
    ],
)
def test_what_asks_for_no_answer_means_the_alias_itself(
    proxy: ProxyProcess, server: OllamaServer, method: str, path: str, body: dict[str, object]
) -> None:
    proxy.share(route(1.0))
    first = server.tags()[FIRST]
    answer = httpx.request(method, f"{proxy.url}{path}", json=body, timeout=60)
    assert answer.status_code == 200
    assert VERSION_HEADER not in answer.headers
    tags = server.tags()
    assert SECOND in tags
    assert tags.get("kept:latest", first) == first


def test_feedback_that_names_the_alias_alone_finds_who_answered(proxy: ProxyProcess) -> None:
    proxy.share(route(1.0))
    now = datetime.now(UTC)
    chat(proxy, "greet the guest", stream=True)
    event = replace(sample_event(input_data="greet the guest"), model=TINY_ALIAS)
    conversation = conversation_of_event(secret_of(proxy.state), event)
    span = {"since": now - timedelta(hours=1), "until": now + timedelta(hours=1)}
    with open_answers(proxy.state) as answers:
        wait_until(lambda: answers.version_of(TINY_ALIAS, conversation, **span) == SECOND)
    # digests are kept, no text
    files = b"".join(one.read_bytes() for one in (proxy.state / "proxy").iterdir())
    assert b"the guest" not in files


def test_stream_is_renamed_line_by_line(proxy: ProxyProcess) -> None:
    proxy.share(route(1.0))
    lines = [json.loads(line) for line in chat(proxy, "hello", stream=True).text.splitlines()]
    assert {one["model"] for one in lines} == {TINY_ALIAS}
    assert lines[-1]["done"]
