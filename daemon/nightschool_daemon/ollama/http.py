"""Ollama over httpx: everything the daemon does, and what the official client lacks.

Connecting, waiting for the first byte and waiting between chunks have time-outs of their own. An
error line after a status of 200 and a stream without its last line are errors.
"""

import json
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# httpx imports its own command line (click, rich: 10 MB, 200 ms) where these are installed. The daemon
# has no use for it; httpx goes on without when the import fails.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None is how an import is blocked

import httpx  # noqa: E402 - the line above must come first

from nightschool_daemon.config import OllamaSettings  # noqa: E402
from nightschool_daemon.ollama.address import base_url  # noqa: E402
from nightschool_daemon.ollama.errors import (  # noqa: E402
    ModelMissing,
    OllamaInterrupted,
    OllamaRefused,
    OllamaUnreachable,
)
from nightschool_daemon.ollama.modelfile import Modelfile  # noqa: E402
from nightschool_hookspecs.records import Message  # noqa: E402

UPLOAD_CHUNK_BYTES = 1024 * 1024
UNLOAD_WAIT_S = 60.0
COMPLETION, EMBEDDING = "completion", "embedding"
"""What Ollama says that a model can, of those that answer and those that put texts into numbers."""


@dataclass(frozen=True, kw_only=True)
class TagEntry:
    """A line of `/api/tags`."""

    name: str
    digest: str
    size: int
    is_remote: bool
    capabilities: tuple[str, ...] | None
    """None where the server is too old to tell."""


@dataclass(frozen=True, kw_only=True)
class ShownModel:
    """What `/api/show` says of a model."""

    name: str
    modelfile: Modelfile
    weights_digest: str
    """SHA-256 of the first GGUF, hex; empty where the model has none."""
    weights_path: Path | None
    """The server's own path of that blob: another machine's or container's, perhaps."""
    architecture: str
    capabilities: tuple[str, ...]
    template: str
    embedding_length: int
    """Width of the residual stream."""
    attention_width: int
    """Width of all attention heads together, which is what the attention's output matrix takes in."""

    def problem(self) -> str | None:
        """Why it is no model that could learn to answer, or None where it is, or the server is too old to tell."""
        if not self.capabilities or COMPLETION in self.capabilities:
            return None
        kind = "a model of embeddings" if EMBEDDING in self.capabilities else "no model that answers"
        return f"{self.name} is {kind}, so it cannot learn from feedback. Choose a base that answers."


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A line of `/api/ps`."""

    name: str
    digest: str
    size: int
    size_vram: int
    expires_at: str
    context_tokens: int | None
    """None where the server is too old to tell."""


@dataclass(frozen=True, kw_only=True)
class CreateRequest:
    """The body of `/api/create`. Digests are hex."""

    model: str
    from_model: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    messages: Sequence[Message] = ()
    license: Sequence[str] = ()
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None

    def body(self) -> dict[str, object]:
        """As JSON; what is not set is left out."""
        body: dict[str, object] = {
            "model": self.model,
            "from": self.from_model,
            "files": {name: f"sha256:{digest}" for name, digest in self.files.items()},
            "adapters": {name: f"sha256:{digest}" for name, digest in self.adapters.items()},
            "template": self.template,
            "system": self.system,
            "parameters": dict(self.parameters),
            "messages": _messages(self.messages),
            "license": list(self.license),
            "renderer": self.renderer,
            "parser": self.parser,
            "requires": self.requires,
        }
        return {key: value for key, value in body.items() if value} | {"stream": True}


def _trusted(url: str) -> ssl.SSLContext | bool:
    """The authorities whose certificates count: none where no connection is encrypted, as reading them takes 2 MB."""
    return url.startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class OllamaHttp:
    """A server. Threads may share it."""

    def __init__(self, settings: OllamaSettings) -> None:
        self.settings = settings
        self.url = base_url(settings)
        timeout = httpx.Timeout(settings.first_byte_timeout_s, connect=settings.connect_timeout_s)
        self._client = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False, verify=_trusted(self.url))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ----------------------------------------------------------------------- reading

    def version(self) -> str:
        """The server's version, `0.34.3`."""
        return str(self._json("GET", "/api/version")["version"])

    def tags(self) -> tuple[TagEntry, ...]:
        """Every tag, as the server reads its manifests now. Damaged manifests are left out by the server."""
        models = self._json("GET", "/api/tags").get("models") or []
        return tuple(
            TagEntry(
                name=str(one["name"]).lower(),
                digest=one["digest"],
                size=one.get("size", 0),
                is_remote=bool(one.get("remote_host")),
                capabilities=tuple(one["capabilities"]) if "capabilities" in one else None,
            )
            for one in models
        )

    def show(self, name: str) -> ShownModel:
        """What the server knows of a model. Raises `ModelMissing`."""
        body = self._json("POST", "/api/show", {"model": name})
        modelfile = Modelfile.parse(body.get("modelfile", ""))
        info = body.get("model_info") or {}
        architecture = str(info.get("general.architecture", ""))
        width = int(info.get(f"{architecture}.embedding_length") or 0)
        heads = _largest(info.get(f"{architecture}.attention.head_count"))
        head_width = int(info.get(f"{architecture}.attention.key_length") or (width // heads if heads else 0))
        return ShownModel(
            name=name,
            modelfile=modelfile,
            weights_digest=modelfile.weights_digest,
            weights_path=modelfile.weights_path,
            architecture=architecture,
            capabilities=tuple(body.get("capabilities") or ()),
            template=body.get("template", ""),
            embedding_length=width,
            attention_width=heads * head_width,
        )

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Models in memory now."""
        models = self._json("GET", "/api/ps").get("models") or []
        return tuple(
            LoadedModel(
                name=str(one["name"]).lower(),
                digest=one.get("digest", ""),
                size=one.get("size", 0),
                size_vram=one.get("size_vram", 0),
                expires_at=one.get("expires_at", ""),
                context_tokens=one.get("context_length"),
            )
            for one in models
        )

    def has_blob(self, digest: str) -> bool:
        """Whether a blob of that name exists. Its content is not hashed."""
        return self._request("HEAD", f"/api/blobs/sha256:{digest}", allowed=(404,)).status_code == 200

    # ----------------------------------------------------------------------- changing

    def upload_blob(self, path: Path, digest: str, on_progress: Callable[[int], None] | None = None) -> None:
        """Upload a file unless the server has it. `on_progress` hears the bytes sent so far.

        The question comes first: for a blob that exists the server answers before it has read the body,
        which breaks the upload.
        """
        if self.has_blob(digest):
            return
        # httpx has no limit on the whole upload; each write has the time between chunks
        self._request("POST", f"/api/blobs/sha256:{digest}", content=_chunks(path, on_progress))

    def create(self, request: CreateRequest) -> None:
        """Create a tag. The stream is read to its end; only a last line `success` is success."""
        last = ""
        for line in self._stream("/api/create", request.body()):
            last = str(line.get("status", ""))
        if last != "success":
            raise OllamaInterrupted(f"Ollama ended the creation of {request.model} without saying that it succeeded.")

    def copy(self, source: str, destination: str) -> None:
        """Make `destination` hold what `source` holds."""
        self._request("POST", "/api/copy", body={"source": source, "destination": destination})

    def delete(self, name: str) -> None:
        """Remove a tag, and at once the blobs that no other tag needs. A missing tag is no error."""
        self._request("DELETE", "/api/delete", body={"model": name}, allowed=(404,))

    def unload(self, name: str) -> None:
        """Take a model out of memory and wait until it is gone: running requests finish first."""
        self._json("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
        deadline = time.monotonic() + UNLOAD_WAIT_S
        while any(one.name == name.lower() for one in self.loaded()):
            if time.monotonic() > deadline:
                raise OllamaRefused(f"{name} stays in Ollama's memory: a request is using it.", status=200)
            time.sleep(0.1)

    # ----------------------------------------------------------------------- asking a model

    def render(self, name: str, messages: Sequence[Message]) -> str:
        """The exact prompt that Ollama builds for a chat, without an answer. Loads the model."""
        body = {
            "model": name,
            "messages": _messages(messages),
            "stream": False,
            "think": False,
            "_debug_render_only": True,
        }
        answer = self._json("POST", "/api/chat", body, without_if_refused="think")
        info = answer.get("_debug_info")
        if not isinstance(info, dict) or "rendered_template" not in info:
            raise OllamaRefused(
                "This Ollama cannot show the prompt it builds (it needs 0.11.5 or newer). Please update it.", status=200
            )
        return str(info["rendered_template"])

    def generate(self, name: str, prompt: str, options: Mapping[str, object], **more: object) -> dict[str, object]:
        """One whole answer to a raw prompt, as the server's JSON.

        Raises `OllamaInterrupted` where the server says that it is not whole.
        """
        body = {"model": name, "prompt": prompt, "raw": True, "stream": False, "options": dict(options), **more}
        answer = self._json("POST", "/api/generate", body)
        if not answer.get("done"):
            raise OllamaInterrupted(f"{name} broke off in the middle of its answer.")
        return answer

    def chat(self, body: Mapping[str, object]) -> dict[str, object]:
        """One whole chat answer, as the server's JSON. Raises `OllamaInterrupted`."""
        answer = self._json("POST", "/api/chat", {**body, "stream": False}, without_if_refused="think")
        if not answer.get("done"):
            raise OllamaInterrupted(f"{body.get('model')} broke off in the middle of its answer.")
        return answer

    # ----------------------------------------------------------------------- mechanics

    def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        without_if_refused: str | None = None,
    ) -> dict[str, Any]:
        try:
            response = self._request(method, path, body=body)
        except OllamaRefused:
            # `think` is refused by models that cannot think, even when it is false
            if without_if_refused is None or body is None or without_if_refused not in body:
                raise
            return self._json(method, path, {k: v for k, v in body.items() if k != without_if_refused})
        answer = response.json()
        if not isinstance(answer, dict):
            raise OllamaRefused(f"Ollama answered {path} with something else than an object.", status=200)
        if "error" in answer:
            raise OllamaRefused(f"Ollama says: {_one_line(answer['error'])}", status=200)
        return answer

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        content: Iterator[bytes] | None = None,
        allowed: tuple[int, ...] = (),
    ) -> httpx.Response:
        with self._translated():
            response = self._client.request(method, path, json=body, content=content)
        if response.status_code >= 400 and response.status_code not in allowed:
            raise _refusal(response.status_code, response.text, body)
        return response

    def _stream(self, path: str, body: Mapping[str, object]) -> Iterator[dict[str, object]]:
        between = httpx.Timeout(self.settings.between_chunks_timeout_s, connect=self.settings.connect_timeout_s)
        with self._translated(), self._client.stream("POST", path, json=body, timeout=between) as response:
            if response.status_code >= 400:
                raise _refusal(response.status_code, response.read().decode(errors="replace"), body)
            first_error = None
            for text in response.iter_lines():
                line = json.loads(text) if text.strip() else {}
                # the server may go on after an error: read to the end, the first error is final
                first_error = first_error or line.get("error")
                yield line
        if first_error:
            raise OllamaRefused(f"Ollama says: {_one_line(first_error)}", status=200)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise OllamaUnreachable(
                f"Ollama at {self.url} did not answer in time. Is it busy loading a model? "
                "The time-outs are in [ollama] of the configuration."
            ) from error
        except (httpx.TransportError, json.JSONDecodeError) as error:
            raise OllamaUnreachable(
                f"Ollama at {self.url} cannot be reached ({type(error).__name__}). Start it with `ollama serve` "
                "or `systemctl start ollama`, or set ollama.host."
            ) from error


def _refusal(status: int, text: str, body: Mapping[str, object] | None) -> Exception:
    try:
        message = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        message = text.strip()[:300] or f"HTTP status {status}"
    if status == 404:
        model = (body or {}).get("model") or (body or {}).get("source") or "it"
        return ModelMissing(f"Ollama does not have {model} ({message}). `ollama list` shows what it has.")
    if status >= 500 and "no space left" in str(message).lower():
        return OllamaRefused(
            "Ollama's disk is full. Free some space in its models directory, then try again.", status=status
        )
    return OllamaRefused(f"Ollama says: {_one_line(message)}", status=status)


def _one_line(message: object) -> str:
    """In one line. A runner that ends says its last line again."""
    said: list[str] = []
    for line in (" ".join(one.split()) for one in str(message).splitlines()):
        if not any(line in earlier for earlier in said):
            said.append(line)
    return " ".join(said)


def _largest(value: object) -> int:
    """A count that some architectures give layer by layer."""
    if isinstance(value, list):
        return max((one for one in value if isinstance(one, int)), default=0)
    return value if isinstance(value, int) else 0


def _messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": one.role.value, "content": one.content} for one in messages]


def _chunks(path: Path, on_progress: Callable[[int], None] | None) -> Iterator[bytes]:
    sent = 0
    with path.open("rb") as stream:
        while chunk := stream.read(UPLOAD_CHUNK_BYTES):
            yield chunk
            sent += len(chunk)
            if on_progress is not None:
                on_progress(sent)
