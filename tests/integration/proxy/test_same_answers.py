"""A list of calls through the real `ollama` and `openai` clients: through the proxy the same as without it.

Each call is made straight to the server and through the proxy, once where the alias is not shared and once where the
candidate, which holds the same weights, answers for it. Timings and ids aside, the answers are equal.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import ollama
import openai
import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.proxy.routes import Route
from support.minilm_gguf import write_minilm_gguf
from support.night import TINY_ALIAS, import_tiny
from support.ollama_server import OllamaServer
from support.proxying import ProxyProcess

CANDIDATE = f"{TINY_ALIAS}.v2"
EMBEDDER = "minilm:f16"
PLAIN = "{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant:"
WITH_TOOLS = "{{ range .Tools }}{{ . }}{{ end }}" + PLAIN
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 12, "num_ctx": 256, "num_thread": 1}
RUNNER = {"num_ctx": 256, "num_thread": 1}
"""The same for every way of asking, so that no call loads the model anew."""
TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "greet the guest"},
    {"role": "assistant", "content": "whom?"},
    {"role": "user", "content": "the first one"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "greet",
        "description": "greets",
        "parameters": {"type": "object", "properties": {"who": {"type": "string"}}, "required": ["who"]},
    },
}
PER_CALL = frozenset(
    ("created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "id", "created",
     "expires_at", "modified_at", "completed_at", "item_id")
)  # fmt: skip
"""Timings and ids."""
Call = Callable[[str], Any]
"""Makes a call to the server of a URL."""


def local(url: str) -> ollama.Client:
    return ollama.Client(host=url, timeout=60)


def compatible(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60)


def failure(call: Callable[[], object]) -> object:
    """What a client raises, as it tells it."""
    try:
        call()
    except ollama.ResponseError as error:
        return type(error).__name__, error.status_code, error.error
    except openai.APIStatusError as error:
        return type(error).__name__, error.status_code, error.body
    raise AssertionError("the call succeeded")


def first_words(stream: Iterator[Any], close: Callable[[], object]) -> list[Any]:
    """The beginning of a stream that is then cancelled."""
    begun = list(itertools.islice(stream, 3))
    close()
    return begun


def cancelled(url: str) -> Any:
    """A stream that is cancelled in the middle."""
    stream = cast(Any, local(url).chat(TINY_ALIAS, TURNS, options={**GREEDY, "num_predict": 200}, stream=True))
    return first_words(stream, stream.close)


def cancelled_compatible(url: str) -> Any:
    client = compatible(url)
    stream = client.chat.completions.create(
        model=TINY_ALIAS, messages=cast(Any, TURNS), temperature=0, seed=1, max_tokens=200, stream=True
    )
    return first_words(iter(stream), stream.close), client.models.list().data[0].object


def completion(url: str, **more: Any) -> Any:
    given = {"model": TINY_ALIAS, "messages": TURNS, "temperature": 0, "seed": 1, "max_tokens": 12, **more}
    answer = compatible(url).chat.completions.create(**cast(Any, given))
    return list(answer) if more.get("stream") else answer


OLLAMA_CALLS: dict[str, Call] = {
    "chat": lambda url: local(url).chat(TINY_ALIAS, TURNS, options=GREEDY),
    "chat stream": lambda url: list(local(url).chat(TINY_ALIAS, TURNS, options=GREEDY, stream=True)),
    "chat with logprobs": lambda url: local(url).chat(TINY_ALIAS, TURNS, options=GREEDY, logprobs=True),
    "chat in a format": lambda url: local(url).chat(TINY_ALIAS, TURNS, options=GREEDY, format="json"),
    "chat with tools": lambda url: local(url).chat(TINY_ALIAS, TURNS, options=GREEDY, tools=[TOOL]),
    "chat stream with tools": lambda url: list(
        local(url).chat(TINY_ALIAS, TURNS, options=GREEDY, tools=[TOOL], stream=True)
    ),
    "chat of an unknown model": lambda url: failure(lambda: local(url).chat("nobody:1b", TURNS)),
    "chat with thinking that it cannot": lambda url: failure(lambda: local(url).chat(TINY_ALIAS, TURNS, think=True)),
    "chat stream of an unknown model": lambda url: failure(
        lambda: list(local(url).chat("nobody:1b", TURNS, stream=True))
    ),
    "generate": lambda url: local(url).generate(TINY_ALIAS, "greet", options=GREEDY),
    "generate raw": lambda url: local(url).generate(TINY_ALIAS, "greet", options=GREEDY, raw=True),
    "generate stream": lambda url: list(local(url).generate(TINY_ALIAS, "greet", options=GREEDY, stream=True)),
    "generate with an image that is none": lambda url: failure(
        lambda: local(url).generate(TINY_ALIAS, "greet", images=["AAAA"], options=GREEDY)
    ),
    "load": lambda url: local(url).generate(TINY_ALIAS, ""),
    "embed": lambda url: local(url).embed(EMBEDDER, ["greet", "the guest"]),
    "embeddings": lambda url: local(url).embeddings(EMBEDDER, "greet"),
    "embed by a model that only answers": lambda url: failure(lambda: local(url).embed(TINY_ALIAS, "greet")),
    "embed of an unknown model": lambda url: failure(lambda: local(url).embed("nobody:1b", "greet")),
    "list": lambda url: sorted(local(url).list().models, key=lambda one: one.model or ""),
    "show": lambda url: local(url).show(TINY_ALIAS),
    "show of an unknown model": lambda url: failure(lambda: local(url).show("nobody:1b")),
    "create": lambda url: [local(url).create("made:1b", from_="tiny:1m", system="x"), local(url).delete("made:1b")],
    "create stream": lambda url: list(local(url).create("made:1b", from_="tiny:1m", system="x", stream=True)),
    "copy": lambda url: local(url).copy("tiny:1m", "made:1b"),
    "delete of an unknown model": lambda url: failure(lambda: local(url).delete("nobody:1b")),
}
OPENAI_CALLS: dict[str, Call] = {
    "completion": completion,
    "completion stream": lambda url: completion(url, stream=True, stream_options={"include_usage": True}),
    "completion with tools": lambda url: completion(url, tools=[TOOL]),
    "completion in a format": lambda url: completion(url, response_format={"type": "json_object"}),
    "completion of an unknown model": lambda url: failure(lambda: completion(url, model="nobody:1b")),
    "completion of nothing": lambda url: failure(lambda: completion(url, messages=[])),
    "legacy completion": lambda url: compatible(url).completions.create(
        model=TINY_ALIAS, prompt="greet", temperature=0, seed=1, max_tokens=12
    ),
    "legacy completion stream": lambda url: list(
        compatible(url).completions.create(
            model=TINY_ALIAS, prompt="greet", temperature=0, seed=1, max_tokens=12, stream=True
        )
    ),
    "response": lambda url: compatible(url).responses.create(
        model=TINY_ALIAS, input="greet", temperature=0, max_output_tokens=12
    ),
    "response stream": lambda url: list(
        compatible(url).responses.create(
            model=TINY_ALIAS, input="greet", temperature=0, max_output_tokens=12, stream=True
        )
    ),
    "embedding": lambda url: compatible(url).embeddings.create(model=EMBEDDER, input=["greet", "the guest"]),
    "embedding of an unknown model": lambda url: failure(
        lambda: compatible(url).embeddings.create(model="nobody:1b", input="greet")
    ),
    "models": lambda url: sorted(compatible(url).models.list(), key=lambda one: one.id),
    "model": lambda url: compatible(url).models.retrieve(TINY_ALIAS),
    "unknown model": lambda url: failure(lambda: compatible(url).models.retrieve("nobody:1b")),
}
ROUTE = Route(alias=TINY_ALIAS, incumbent=f"{TINY_ALIAS}.v1", candidate=CANDIDATE, share=1.0)
CALLS = {f"ollama: {name}": call for name, call in OLLAMA_CALLS.items()} | {
    f"openai: {name}": call for name, call in OPENAI_CALLS.items()
}


@contextlib.contextmanager
def serving(directory: Path, tiny_gguf: Path) -> Iterator[tuple[OllamaServer, ProxyProcess]]:
    """A server with an alias and a candidate of the same content, and a proxy in front of it."""
    with OllamaServer("0.34.3", directory=directory / "ollama") as running:
        weights = import_tiny(running, tiny_gguf)
        import_tiny(running, write_minilm_gguf(directory / "minilm.gguf"), EMBEDDER)
        http = OllamaHttp(OllamaSettings(host=running.url))
        for tag in (TINY_ALIAS, CANDIDATE):
            http.create(CreateRequest(model=tag, files={"tiny.gguf": weights}, template=WITH_TOOLS, parameters=RUNNER))
        http.close()
        with ProxyProcess(directory / "proxy", running.url).running() as proxy:
            yield running, proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[tuple[OllamaServer, ProxyProcess]]:
    with serving(tmp_path_factory.mktemp("same-answers"), tiny_gguf) as both:
        yield both


def told(answer: Any) -> object:
    """An answer as plain values, without timings and ids."""
    if hasattr(answer, "model_dump"):
        answer = json.loads(answer.model_dump_json())
    if isinstance(answer, dict):
        return {key: told(value) for key, value in answer.items() if key not in PER_CALL}
    if isinstance(answer, list | tuple):
        return [told(one) for one in answer]
    return answer


@pytest.mark.parametrize("is_shared", [False, True], ids=["alias", "candidate"])
@pytest.mark.parametrize("name", CALLS)
def test_call_gives_the_same_through_the_proxy(
    server: tuple[OllamaServer, ProxyProcess], name: str, *, is_shared: bool
) -> None:
    running, proxy = server
    call = CALLS[name]
    proxy.share(*([ROUTE] if is_shared else []))
    # asked once before, so that both find the same state: the model loaded, the prompt in its cache
    call(running.url)
    direct, through = told(call(running.url)), told(call(proxy.url))
    assert direct == through


@pytest.mark.parametrize("is_shared", [False, True], ids=["alias", "candidate"])
@pytest.mark.parametrize("call", [cancelled, cancelled_compatible], ids=["ollama", "openai"])
def test_a_stream_that_is_cancelled_begins_the_same(
    call: Call, tiny_gguf: Path, tmp_path: Path, *, is_shared: bool
) -> None:
    """Each from a server of its own: llama-server may hang for good after a client went (llama.cpp, issue 27604)."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    with serving(tmp_path / "1", tiny_gguf) as (running, _):
        direct = told(call(running.url))
    with serving(tmp_path / "2", tiny_gguf) as (_, proxy):
        proxy.share(*([ROUTE] if is_shared else []))
        assert told(call(proxy.url)) == direct
