"""A random-weight llama of a few megabytes, with a tokenizer and a chat template of its own.

Ollama imports it in milliseconds and answers in a fraction of a second, so fast tests run on the real
server too. Its tokenizer knows single characters, so that any text has one tokenisation.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

WIDTH, FEED_FORWARD, LAYERS, HEADS, KEY_HEADS, CONTEXT = 256, 512, 2, 4, 2, 512
CONTROL = ["<unk>", "<s>", "</s>"]
CHARACTERS = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPVBGKJQXZ0123456789.,;:!?'\"()-_/+*=<>|&$#@%[]{}~^\\`"
TURN = ["<|im_start|>", "<|im_end|>"]
TOKENS = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *CHARACTERS, *TURN]
TOKEN_TYPES = [2, 3, 3, *[6] * 256, *[1] * (1 + len(CHARACTERS)), 3, 3]
SILENT = len(CONTROL) + 256
"""So many tokens from the first are control and byte tokens."""
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_gguf(path: Path, *, seed: int = 0, kind: str = "Q8_0", layers: int = LAYERS) -> Path:
    """Write the model; the same seed gives the same bytes. `kind` is the ggml type of its matrices."""
    return _write(path, len(TOKENS), add_tokenizer, silent=SILENT, seed=seed, kind=kind, layers=layers)


def write_scripted_gguf(path: Path, script: Mapping[str, str]) -> Path:
    """Write a model that knows by heart what to say after the last character of its prompt: one token, then the end."""
    answers = [text.replace(" ", "▁") for text in script.values()]
    vocabulary = len(TOKENS) + len(answers)
    first, end = vocabulary - len(TURN) - len(answers), vocabulary - 1
    successors = {TOKENS.index(last): first + number for number, last in enumerate(script)}
    successors |= {first + number: end for number in range(len(answers))}
    return _write(
        path,
        vocabulary,
        lambda writer: add_tokenizer(writer, answers),
        silent=0,
        seed=0,
        kind="Q8_0",
        successors=successors,
    )


def write_ending_gguf(path: Path, *, end: str, end_of_text: str) -> Path:
    """Write a model that finds one token, `end`, likely behind an "o", and any behind all else.

    `end_of_text`: the token with which its texts end, as the file says.
    """
    return _write(
        path,
        len(TOKENS),
        partial(add_tokenizer, end_of_text=end_of_text),
        silent=0,
        seed=0,
        kind="Q8_0",
        successors={TOKENS.index("o"): TOKENS.index(end)},
    )


def write_byte_level_gguf(path: Path, *, pre: str, tokens: Sequence[str], merges: Sequence[str]) -> Path:
    """The same network with a byte-level tokenizer: GPT-2's, cut as `pre` says."""
    whole = [*tokens, *TURN]

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(whole)
        writer.add_token_types([1] * len(tokens) + [3] * len(TURN))
        writer.add_token_merges(merges)
        writer.add_bos_token_id(len(whole) - 2)
        writer.add_eos_token_id(len(whole) - 1)
        writer.add_add_bos_token(False)
        writer.add_chat_template(CHAT_TEMPLATE)

    # half a character as an answer breaks the stream, so that no byte ever wins
    return _write(path, len(whole), add, silent=len(tokens), seed=0, kind="Q8_0")


def _write(
    path: Path,
    vocabulary: int,
    tokenizer: Callable[[gguf.GGUFWriter], None],
    *,
    silent: int,
    seed: int,
    kind: str,
    successors: Mapping[int, int] | None = None,
    layers: int = LAYERS,
) -> Path:
    """`successors`: the token that follows each, whatever came before; None: what the random weights make of it."""
    generator = np.random.default_rng(seed)
    quantization = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(path), "llama")
    _write_header(writer, vocabulary, layers)
    tokenizer(writer)

    def matrix(name: str, *shape: int, without: int = 0) -> NDArray[np.float32]:
        values = (generator.standard_normal(shape) * 0.05).astype(np.float32)
        values[:without] = 0
        add(name, values if successors is None or name == "token_embd.weight" else np.zeros(shape, np.float32))
        return values

    def add(name: str, values: NDArray[np.float32]) -> None:
        writer.add_tensor(name, gguf.quantize(values, quantization), raw_dtype=quantization)

    def ones(name: str) -> None:
        values: NDArray[np.float32] = np.ones(WIDTH, np.float32)
        writer.add_tensor(name, values)

    embedded = matrix("token_embd.weight", vocabulary, WIDTH)
    if successors is None:
        # no byte or control token ever wins at first: random bytes break llama-server's stream
        matrix("output.weight", vocabulary, WIDTH, without=silent)
    else:
        add("output.weight", _followed_by(successors, embedded))
    ones("output_norm.weight")
    key_width = WIDTH // HEADS * KEY_HEADS
    for layer in range(layers):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        ones(f"{block}.ffn_norm.weight")
        matrix(f"{block}.attn_q.weight", WIDTH, WIDTH)
        matrix(f"{block}.attn_k.weight", key_width, WIDTH)
        matrix(f"{block}.attn_v.weight", key_width, WIDTH)
        matrix(f"{block}.attn_output.weight", WIDTH, WIDTH)
        matrix(f"{block}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        matrix(f"{block}.ffn_up.weight", FEED_FORWARD, WIDTH)
        matrix(f"{block}.ffn_down.weight", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _followed_by(successors: Mapping[int, int], embedded: NDArray[np.float32]) -> NDArray[np.float32]:
    """The output matrix, shape (vocabulary, width), in which each token's own direction calls its successor."""
    output: NDArray[np.float32] = np.zeros_like(embedded)
    for token, following in successors.items():
        output[following] += 4 * embedded[token]
    return output


def _write_header(writer: gguf.GGUFWriter, vocabulary: int, layers: int) -> None:
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(7)


def add_tokenizer(writer: gguf.GGUFWriter, more: Sequence[str] = (), end_of_text: str = TURN[-1]) -> None:
    """Write the tokenizer and the chat template, which every tiny model shares; `more` tokens stand before its last."""
    tokens, at = [*TOKENS[: -len(TURN)], *more, *TURN], -len(TURN)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types([*TOKEN_TYPES[:at], *[1] * len(more), *TOKEN_TYPES[at:]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(tokens.index(end_of_text))
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
