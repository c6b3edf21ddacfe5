"""Puts the name that the client asked for into an answer that another version gave.

Ollama names the model once in each line of a stream, and once in a whole answer. Inside texts the quotes around a name
are escaped, so that the pattern matches the field alone.
"""

import json
from collections.abc import AsyncIterator


class Renamer:
    """Renames in a stream of bytes; holds a line back until it is whole."""

    def __init__(self, tag: str, asked: str) -> None:
        self.tag, self._asked = tag, asked
        self._old = f'"model":{json.dumps(tag)}'.encode()
        self._new = f'"model":{json.dumps(asked, ensure_ascii=False)}'.encode()
        self._rest = b""

    async def stream(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A stream, renamed."""
        async for chunk in chunks:
            yield self.feed(chunk)
        yield self.end()

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes that can be passed on."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return b"".join(self._renamed(line) + b"\n" for line in lines)

    def end(self) -> bytes:
        """What is left."""
        rest, self._rest = self._rest, b""
        return self._renamed(rest)

    def whole(self, answer: bytes, *, failed: bool) -> bytes:
        """A whole answer; the sentence of one that failed may name the model too."""
        if failed:
            return answer.replace(self.tag.encode(), self._asked.encode())
        return self.feed(answer) + self.end()

    def _renamed(self, line: bytes) -> bytes:
        return line.replace(self._old, self._new, 1)
