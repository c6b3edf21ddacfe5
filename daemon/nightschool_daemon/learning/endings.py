"""With which token an answer ends: the one that its template closes a turn with, or the one that ends any text.

A base that was never tuned to conversations was never shown its template's token. Behind a wanted answer Gemma 3 270M
gives `<end_of_turn>` e^-31, and `<eos>` e^-7; to learn the former from a handful of corrections bends the whole network
(docs/learning.md). Every server ends an answer at either.
"""

from __future__ import annotations

from collections.abc import Sequence

from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import Tokens

LOOKED_AT = 8
"""Answers behind which both are weighed, the shortest."""
FAR_LIKELIER = 3.0
"""Nats. The template's token stands unless the base finds the other twenty times as likely."""


def end_of_text(file: GgufFile, tokens: Tokens) -> str | None:
    """The text of the token with which the base's texts end; None where the file names none."""
    found = file.scalar("tokenizer.ggml.eos_token_id")
    return tokens.text([found]) or None if isinstance(found, int) else None


def taught_closing(file: GgufFile, tokens: Tokens, closing: str, answered: Sequence[str], context: int) -> str:
    """`closing`, or the end of text where the base finds that far likelier behind prompts with their wanted answers.

    `context`: tokens; longer texts tell nothing here. The packed engine must know the base.
    """
    other = end_of_text(file, tokens)
    if other is None or closing.strip() == other:
        return closing
    texts = [(text, tokens.prompt(text)) for text in answered]
    short = sorted((one for one in texts if len(one[1]) < context), key=lambda one: len(one[1]))[:LOOKED_AT]
    if not short:
        return closing
    # only here, as it takes seconds
    import torch

    from nightschool_daemon.learning.engine import machine
    from nightschool_daemon.learning.engine.examples import Answer, Example
    from nightschool_daemon.learning.engine.network import Network
    from nightschool_daemon.learning.engine.scoring import answer_sums

    network = Network(file, machine.bench(torch.float32), context=context)
    examples = [
        Example(
            prompt=tuple(ids),
            answers=tuple(Answer(tokens=tuple(tokens.completion(text, end))) for end in (closing, other)),
        )
        for text, ids in short
    ]
    by_template, by_text = (sum(nats) for nats in zip(*answer_sums(network, examples), strict=True))
    return other if by_text - by_template > FAR_LIKELIER * len(examples) else closing
