"""What the real engine makes of a GGUF: logarithms of the next token's probabilities.

Ollama starts llama-server with 16-bit keys and values and flash attention where it can, which on a processor rounds
to 16 bits too: expect differences of about 0.01 to 32-bit arithmetic, and more where weights are quantised.
"""

from collections.abc import Sequence
from pathlib import Path

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.library import NextToken, OllamaLibrary
from support.night import import_tiny
from support.ollama_server import OllamaServer
from support.tiny_gguf import TOKENS


def engine_logprobs(
    server: OllamaServer, gguf: Path, texts: Sequence[str], *, context_tokens: int = 512
) -> tuple[NextToken, ...]:
    """The twenty likeliest next tokens behind each text, as the server itself splits it.

    The model gets the name of its file. Raises `OllamaError` where the server does not load it.
    """
    name = f"{gguf.stem.lower()}:1m"
    import_tiny(server, gguf, name)
    library = OllamaLibrary(OllamaSettings(host=server.url))
    return tuple(library.next_token(name, text, context_tokens=context_tokens) for text in texts)


def token_id(text: str) -> int:
    """Index in the vocabulary of a token as the server writes it. Raises `ValueError` for what is none."""
    return TOKENS.index("▁" if text == " " else text)


def token_ids(text: str) -> list[int]:
    """A text as the tiny tokenizer splits it, with the token that begins every text."""
    return [TOKENS.index("<s>"), *(token_id(character) for character in text)]
