"""Which conversation a request belongs to, and which version answers it: the same one from its first word to its last.

A conversation is told by its alias, its system text and its first user message, and by whom the request says that it
is from; a conversation that the application names is told by that name alone. Texts are hashed with the installation's
secret and never kept.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nightschool_daemon.ollama import names
from nightschool_daemon.proxy.routes import Route
from nightschool_hookspecs.records import Event, Role

CHAT_PATHS = ("/api/chat", "/v1/chat/completions", "/v1/messages")
PROMPT_PATHS = ("/api/generate", "/v1/completions")
RESPONSE_PATHS = ("/v1/responses",)
ASKING = frozenset((*CHAT_PATHS, *PROMPT_PATHS, *RESPONSE_PATHS))
"""Where a model is asked for an answer. Embeddings are left out: vectors of two versions do not compare."""
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request asks."""

    model: str
    """As the client wrote it."""
    body: Mapping[str, object]
    system: str
    first: str
    """The first user message."""
    user: str | None

    @property
    def alias(self) -> str:
        """The normalised name."""
        return names.normalise(self.model)

    def for_model(self, tag: str) -> bytes:
        """The same request to another model."""
        return json.dumps({**self.body, "model": tag}).encode()


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Digests, hex: of what was said, and of who said it."""

    said: str
    who: str
    """Empty where nobody is named."""


def asked_in(path: str, content: bytes) -> Asked | None:
    """Read a request; None where it asks no model for an answer."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return None
    turns = list(_turns(path, body))
    first = next((text for role, text in turns if role == Role.USER), "")
    if not first:
        # a request without a prompt loads or unloads what the alias itself holds
        return None
    user = body.get("user")
    return Asked(
        model=body["model"],
        body=body,
        system=_system(turns),
        first=first,
        user=user if isinstance(user, str) and user else None,
    )


def conversation_of(secret: bytes, asked: Asked) -> Conversation:
    """The conversation of a request."""
    return _conversation(secret, asked.alias, asked.system, asked.first, asked.user)


def conversation_of_event(secret: bytes, event: Event) -> Conversation:
    """The conversation that a piece of feedback is about, as the proxy saw it."""
    turns = [(one.role.value, one.content) for one in event.conversation]
    first = next(text for role, text in turns if role == Role.USER)
    alias = names.normalise(event.model or "")
    return _conversation(secret, alias, _system(turns), first, event.metadata.user)


def takes_candidate(secret: bytes, route: Route, conversation: Conversation, named: str | None) -> bool:
    """Whether the candidate answers. `named`: what the application calls the conversation.

    Another candidate draws anew; with a larger share those that it had stay with it.
    """
    told = (named,) if named else (conversation.said, conversation.who)
    digest = _digest(secret, "draw", route.alias, route.candidate, *told)
    return int(digest[:16], 16) / 16**16 < route.share


def _conversation(secret: bytes, alias: str, system: str, first: str, user: str | None) -> Conversation:
    return Conversation(
        said=_digest(secret, "said", alias, system, first), who=_digest(secret, "who", user) if user else ""
    )


def _digest(secret: bytes, *texts: str) -> str:
    """A keyed digest of texts, each with its length, so that no two lists of texts look alike."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    whole = b"".join(len(one).to_bytes(8, "big") + one for one in encoded)
    return hmac.new(secret, whole, hashlib.sha256).hexdigest()


def _turns(path: str, body: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    """Role and text of everything that was said."""
    if path in PROMPT_PATHS:
        yield from _given("system", body.get("system"))
        yield from _given("user", body.get("prompt"))
        return
    if path in RESPONSE_PATHS:
        yield from _given("system", body.get("instructions"))
        messages = body.get("input")
    else:
        yield from _given("system", body.get("system"))
        messages = body.get("messages")
    if isinstance(messages, str):
        yield "user", messages
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            yield str(message.get("role", "")), _text(message.get("content"))


def _given(role: str, content: object) -> Iterable[tuple[str, str]]:
    text = _text(content)
    return ((role, text),) if text else ()


def _text(content: object) -> str:
    """A text, or the texts among the parts of one."""
    if isinstance(content, str):
        return content
    parts: Sequence[object] = content if isinstance(content, list) else ()
    texts = (one.get("text") if isinstance(one, dict) else one for one in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _system(turns: Sequence[tuple[str, str]]) -> str:
    return next((text for role, text in turns if role in SYSTEM_ROLES), "")
