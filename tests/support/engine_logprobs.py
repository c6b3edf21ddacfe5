"""What the real engine makes of a GGUF: logarithms of the next token's probabilities.

Ollama starts llama-server with `--flash-attn auto` and keys and values of 16 bits. To exact arithmetic the tiny
architectures then show differences of up to 0.02 with F32 and F16 weights, with flash attention and without, 0.1
with BF16, and 0.5 (0.1 on average) with quantised ones: activations are rounded to 8 bits before each product, and the
least difference before a rounding comes out as a step behind it.
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
