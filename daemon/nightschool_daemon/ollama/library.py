"""Ollama through its official client, for command-line commands and workers.

The client has no time-outs by default, and no `truncate` and `shift` for a chat: requests that need
those go over httpx.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.address import base_url
from nightschool_daemon.ollama.errors import ModelMissing, OllamaError, OllamaRefused, OllamaUnreachable
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_hookspecs.records import Message, Tool, ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PinnedOptions:
    """Every option of an exam's request: nothing is left to a model's or a version's default."""

    temperature: float
    seed: int
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    repeat_last_n: int
    num_ctx: int
    num_predict: int
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def body(self) -> dict[str, object]:
        """As Ollama's `options`."""
        return {
            "temperature": self.temperature,
            "seed": self.seed,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty,
            "repeat_last_n": self.repeat_last_n,
            "num_ctx": self.num_ctx,
            "num_predict": self.num_predict,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }


@dataclass(frozen=True, kw_only=True)
class ChatAnswer:
    """A whole answer and what it cost."""

    text: str
    tokens: int
    """Tokens generated."""
    latency_s: float
    """From the request to the last token."""
    done_reason: str | None
    generation_s: float = 0.0
    """Seconds that the tokens took by the server's own clock; 0: not told."""
    reading_s: float = 0.0
    """Seconds that reading the prompt took by the same clock, without what was kept of the one before; 0: not told."""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token that may come next, and the natural logarithm of its probability."""

    token: str
    content: bytes
    logprob: float


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """The likeliest next tokens behind a prompt."""

    prompt_tokens: int
    """Tokens of the prompt as the engine counted them, the one that begins every text included."""
    top: tuple[TokenLogprob, ...]


class OllamaLibrary:
    """A server, through the official client."""

    def __init__(self, settings: OllamaSettings) -> None:
        import httpx
        import ollama

        self._http = OllamaHttp(settings)
        timeout = httpx.Timeout(settings.first_byte_timeout_s, connect=settings.connect_timeout_s)
        self._client = ollama.Client(host=base_url(settings), timeout=timeout, trust_env=False)

    def installed(self) -> tuple[str, ...]:
        """Names of every tag, newest first."""
        listed = self._translated(self._client.list)
        return tuple(str(one.model) for one in listed.models if one.model)

    def capabilities(self, name: str) -> tuple[str, ...]:
        """What a model can do: completion, tools, thinking, vision, embedding."""
        shown = self._translated(lambda: self._client.show(name))
        return tuple(shown.capabilities or ())

    def chat(
        self,
        name: str,
        messages: Sequence[Message],
        options: PinnedOptions,
        *,
        tools: Sequence[Tool] = (),
        think: bool = False,
    ) -> ChatAnswer:
        """Ask with every option pinned, without truncation or context shift.

        Raises `OllamaInterrupted` where the answer is not whole.
        """
        body: dict[str, object] = {
            "model": name,
            "messages": [{"role": one.role.value, "content": one.content} for one in messages],
            "options": options.body(),
            "think": think,
            "truncate": False,
            "shift": False,
        }
        if tools:
            body["tools"] = [_tool(one) for one in tools]
        began = time.monotonic()
        answer = self._http.chat(body)
        told = answer.get("message")
        message: Mapping[str, object] = told if isinstance(told, dict) else {}
        tokens, reason = answer.get("eval_count"), answer.get("done_reason")
        return ChatAnswer(
            text=str(message.get("content") or ""),
            tokens=tokens if isinstance(tokens, int) else 0,
            latency_s=time.monotonic() - began,
            done_reason=str(reason) if reason is not None else None,
            generation_s=_seconds(answer.get("eval_duration")),
            reading_s=_seconds(answer.get("prompt_eval_duration")),
            thinking=str(message.get("thinking") or ""),
            tool_calls=_tool_calls(message.get("tool_calls")),
        )

    def embed(self, name: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector a text, in order. What is longer than the model's context is cut."""
        return self._translated(lambda: self._client.embed(model=name, input=list(texts), truncate=True)).embeddings

    def next_token(self, name: str, prompt: str, *, context_tokens: int, top: int = 20) -> NextToken:
        """The `top` likeliest next tokens behind a raw prompt.

        None where the next token ends the answer, and from servers before 0.12.11.
        """
        answer = self._translated(
            lambda: self._client.generate(
                model=name,
                prompt=prompt,
                raw=True,
                logprobs=True,
                top_logprobs=top,
                options={"num_predict": 1, "temperature": 0, "num_ctx": context_tokens, "repeat_penalty": 1.0},
            )
        )
        return NextToken(
            prompt_tokens=answer.prompt_eval_count or 0,
            top=tuple(
                TokenLogprob(token=one.token, content=one.token.encode(), logprob=one.logprob)
                for entry in (answer.logprobs or ())[:1]
                for one in entry.top_logprobs or ()
            ),
        )

    def _translated(self, call: "Callable[[], T]") -> T:
        import httpx
        import ollama

        try:
            return call()
        except ollama.ResponseError as error:
            raise _refusal(error.status_code, error.error) from error
        except (ConnectionError, httpx.TransportError) as error:
            raise OllamaUnreachable(
                f"Ollama at {self._http.url} cannot be reached ({type(error).__name__}). Start it with `ollama serve` "
                "or `systemctl start ollama`, or set ollama.host."
            ) from error


def _seconds(nanoseconds: object) -> float:
    return nanoseconds / 1e9 if isinstance(nanoseconds, int) else 0.0


def _tool(tool: Tool) -> dict[str, object]:
    """A tool as Ollama takes it: a function with a JSON Schema of its parameters."""
    properties = {name: {"type": kind, "description": name} for name, kind in tool.parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": schema},
    }


def _tool_calls(told: object) -> tuple[ToolCall, ...]:
    """The calls of a message; what is no call is left out."""
    functions = [one.get("function") for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    return tuple(
        ToolCall(name=str(one.get("name") or ""), arguments=one["arguments"])
        for one in functions
        if isinstance(one, dict) and isinstance(one.get("arguments"), dict)
    )


def _refusal(status: int, message: str) -> OllamaError:
    if status == 404:
        return ModelMissing(f"Ollama does not have the model ({message}). `ollama list` shows what it has.")
    return OllamaRefused(f"Ollama says: {message}", status=status)
