"""Reads the Modelfile that `/api/show` prints. Its quoting is not reversible in all cases: where the
manifest's layers can be read from disk, they are the better source (`inheritance`)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")
_INSTRUCTION = re.compile(r"^([A-Z]+) (.*)$", re.DOTALL)


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
    """Split into (instruction, unquoted value), triple-quoted values across lines included."""
    found: list[tuple[str, str]] = []
    lines = iter(text.splitlines())
    for line in lines:
        match = _INSTRUCTION.match(line)
        if line.startswith("#") or not match:
            continue
        name, value = match.groups()
        head, quote, rest = value.partition('"""')
        if quote:
            while '"""' not in rest:
                following = next(lines, None)
                if following is None:
                    break
                rest += "\n" + following
            value = head + rest.rpartition('"""')[0] if '"""' in rest else head + rest
        found.append((name, value.strip() if not quote else value))
    return found


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition(" ")
    return name, _unquoted(value.strip())


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


def _last(found: dict[str, list[str]], name: str) -> str | None:
    return _unquoted(found[name][-1]) if name in found else None
