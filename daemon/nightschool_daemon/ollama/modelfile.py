"""Reads the Modelfile that `/api/show` prints. Its quoting is not reversible in all cases: where the
manifest's layers can be read from disk, they are the better source (`inheritance`)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")
_INSTRUCTION = re.compile(r"^([A-Z]+) (.*)$", re.DOTALL)
_NAMED = frozenset({"PARAMETER", "MESSAGE"})
"""Instructions whose value begins with a name."""


@dataclass(frozen=True, kw_only=True)
class Modelfile:
    """The instructions of a Modelfile."""

    sources: tuple[str, ...] = ()
    """Values of FROM: the weights first, then a projector."""
    adapters: tuple[str, ...] = ()
    template: str | None = None
    system: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    """(name, value) in order; `stop` may come several times."""
    messages: tuple[tuple[str, str], ...] = field(default=())
    licenses: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Modelfile":
        """Read a Modelfile as Ollama prints it."""
        found: dict[str, list[str]] = {}
        for name, value in _instructions(text):
            found.setdefault(name, []).append(value)
        return cls(
            sources=tuple(found.get("FROM", ())),
            adapters=tuple(found.get("ADAPTER", ())),
            template=_last(found, "TEMPLATE"),
            system=_last(found, "SYSTEM"),
            renderer=_last(found, "RENDERER"),
            parser=_last(found, "PARSER"),
            requires=_last(found, "REQUIRES"),
            parameters=tuple(_pair(one) for one in found.get("PARAMETER", ())),
            messages=tuple(_pair(one) for one in found.get("MESSAGE", ())),
            licenses=tuple(found.get("LICENSE", ())),
        )

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the first FROM, hex; empty where it is no blob."""
        match = _BLOB.search(self.sources[0]) if self.sources else None
        return match.group(1) if match else ""

    @property
    def weights_path(self) -> Path | None:
        """The server's path of the weights."""
        return Path(self.sources[0]) if self.weights_digest else None

    @property
    def further_digests(self) -> tuple[str, ...]:
        """SHA-256 of every further FROM: projectors and further shards."""
        matches = (_BLOB.search(one) for one in self.sources[1:])
        return tuple(match.group(1) for match in matches if match)

    @property
    def adapter_digests(self) -> tuple[str, ...]:
        """SHA-256 of every ADAPTER."""
        matches = (_BLOB.search(one) for one in self.adapters)
        return tuple(match.group(1) for match in matches if match)


def _instructions(text: str) -> list[tuple[str, str]]:
    """Split into (instruction, unquoted value). A quoted value may go over several lines."""
    found: list[tuple[str, str]] = []
    # a text may hold any other line separator of Unicode: only the server's own counts
    lines = iter(text.split("\n"))
    for line in lines:
        match = _INSTRUCTION.match(line)
        if line.startswith("#") or not match:
            continue
        name, value = match.groups()
        head, quote, rest = _opened(name, value)
        while quote and not rest.endswith(quote):
            following = next(lines, None)
            if following is None:
                break
            rest += "\n" + following
        found.append((name, head + rest.removesuffix(quote) if quote else value.strip()))
    return found


def _opened(instruction: str, value: str) -> tuple[str, str, str]:
    """What stands before an opening quote, the quote, what follows it."""
    head = ""
    if instruction in _NAMED:
        name, _, value = value.partition(" ")
        head = f"{name} "
    if not value.startswith('"'):
        return head + value, "", ""
    quote = '"""' if value.startswith('"""') else '"'
    return head, quote, value.removeprefix(quote)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition(" ")
    return name, value


def _last(found: dict[str, list[str]], name: str) -> str | None:
    return found[name][-1] if name in found else None
