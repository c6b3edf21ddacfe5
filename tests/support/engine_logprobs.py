"""What the real engine makes of a GGUF: logarithms of the next token's probabilities.

Ollama starts llama-server with `--flash-attn auto` and keys and values of 16 bits. To exact arithmetic the tiny
architectures then show differences of up to 0.02 with F32 and F16 weights, with flash attention and without, 0.1
with BF16, and 0.5 (0.1 on average) with quantised ones: activations are rounded to 8 bits before each product, and the
least difference before a rounding comes out as a step behind it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.layout import Branches, lay_out
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.ollama.library import NextToken, OllamaLibrary
from support.night import import_tiny
from support.ollama_server import OllamaServer
from support.tiny_gguf import TOKENS

TEXTS = ["the quick brown fox jumps over the lazy dog, again and again", "greet guest 7 now: hello?"]
EXACT = 0.03
"""Largest difference of a logarithm with F32 weights: the engine keeps keys, values and GELU in 16 bits."""
ROUNDED = 0.6
"""The same with quantised weights, for which the engine rounds activations to 8 bits."""
ROUNDED_ON_AVERAGE = 0.3


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


def differences(
    gguf: Path, texts: Sequence[str], found: Sequence[NextToken], *, context_tokens: int = 512
) -> list[float]:
    """Between the engine's logarithms and those of our forward pass over the same blocks, for each listed token."""
    bench = Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1)
    network = Network(gguf_file.read(gguf), bench, context=context_tokens)
    differing: list[float] = []
    for text, one in zip(texts, found, strict=True):
        ids = token_ids(text)
        layout = lay_out([Branches(stem=tuple(ids), answers=())], bench.device, shares=True)
        own = torch.log_softmax(network.logits(layout, torch.tensor([len(ids) - 1])), dim=-1)[0]
        differing += [abs(token.logprob - float(own[token_id(token.token)])) for token in one.top]
    return differing
