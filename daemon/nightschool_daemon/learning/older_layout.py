"""Files of Ollama's own converter, as Ollama reads them.

Much of Ollama's library was converted before its files had llama.cpp's keys, so Ollama translates them in memory
whenever it loads one (`llama/compat/llama-ollama-compat.cpp`, 0.34.3; the functions named below are its). Here stands
what of that changes the text models that the engine trains. It serves computing alone and is never written: what is
delivered keeps its base's keys, and Ollama translates it again.

What makes no difference is left as it is: the chat template, as Ollama renders by its own; the tensors of pictures;
and the end of text of Llama 3, in whose place `handle_llama3_metadata` puts the end of a turn: `endings` reads the
file's own, and Ollama ends an answer at either.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice

import numpy as np

from nightschool_daemon.learning.gguf_file import (
    EMBEDDING,
    LIST_HEAD,
    TOKENS,
    Field,
    GgufFile,
    Type,
    field,
    shortened,
    texts,
)

Fields = dict[str, Field]

PRE = "tokenizer.ggml.pre"
OF_OTHER_SENSES = ("a.", "v.", "mm.")
"""How names of tensors begin that a text model has no place for: of sound, of pictures, of what joins them to it."""
EMBEDDER = "dense.0.weight"
"""Of embeddinggemma alone, which calls itself gemma3 (`detect_ollama_embeddinggemma`)."""


def as_ollama_reads(file: GgufFile) -> GgufFile:
    """The file with the keys that Ollama computes with; the same one where it changes none."""
    changed = _translated(file)
    return replace(file, fields={**file.fields, **changed}) if changed else file


def is_other_network(file: GgufFile) -> bool:
    """Whether who takes the file's keys as they stand computes another network than Ollama."""
    return any(key.startswith(f"{file.architecture}.") for key in _translated(file))


def is_embedder(file: GgufFile) -> bool:
    """Whether Ollama takes the file for a model of embeddings."""
    return file.architecture == "gemma3" and EMBEDDER in file.tensors


def needs_one_file(file: GgufFile) -> bool:
    """Whether Ollama can load the base as one file only.

    It looks into the first file of several alone for tensors that it has to pass over, and for the embedding, to whose
    rows it shortens a tokenizer.
    """
    return _has_other_senses(file) or TOKENS in _translated(file)


def _translated(file: GgufFile) -> Fields:
    translate = TRANSLATIONS.get(file.architecture)
    return translate(file) if translate is not None else {}


# --------------------------------------------------------------------------- the architectures

GEMMA3_MARKS = (
    "gemma3.mm.tokens_per_image",
    "gemma3.rope.global.freq_base",
    "gemma3.rope.local.freq_base",
    "tokenizer.ggml.add_padding_token",
    "tokenizer.ggml.add_unknown_token",
)
GEMMA3_COPIES = {
    "gemma3.rope.global.freq_base": "gemma3.rope.freq_base",
    "gemma3.rope.local.freq_base": "gemma3.rope.freq_base_swa",
}
GEMMA3_EPSILON = "gemma3.attention.layer_norm_rms_epsilon"
GEMMA3_NUMBERS = {GEMMA3_EPSILON: 1e-6, "gemma3.rope.freq_base": 1_000_000.0, "gemma3.rope.freq_base_swa": 10_000.0}
GEMMA3_STRETCHED = 131_072
"""Tokens of context from which on a Gemma 3 was stretched: all but the smallest."""
PER_TOKEN = (TOKENS, "tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def _gemma3(file: GgufFile) -> Fields:
    """By `handle_gemma3`: rotations, epsilon, and no more tokens than the embedding has rows."""
    is_older = GEMMA3_EPSILON not in file.fields or any(one in file.fields for one in GEMMA3_MARKS)
    if not is_older and not _has_other_senses(file):
        return {}
    made = _copied(file, GEMMA3_COPIES)
    defaults = [_number(key, value) for key, value in GEMMA3_NUMBERS.items()]
    if (file.number("context_length") or 0) >= GEMMA3_STRETCHED:
        defaults.append(field("gemma3.rope.scaling.type", Type.STRING, "linear"))
        defaults.append(_number("gemma3.rope.scaling.factor", 8.0))
    made |= {one.key: one for one in defaults if one.key not in file.fields and one.key not in made}
    return made | _without_surplus(file)


def _without_surplus(file: GgufFile) -> Fields:
    """The tokenizer's lists, where they go on behind the last row of the embedding."""
    if EMBEDDING not in file.tensors:
        return {}
    rows = file.tensors[EMBEDDING].shape[0]
    lists = [file.fields[key] for key in PER_TOKEN if key in file.fields and file.fields[key].scalar is None]
    return {one.key: shortened(one, rows) for one in lists if LIST_HEAD.unpack_from(one.raw)[2] > rows}


MISTRAL3_MARKS = (
    "mistral3.rope.scaling.beta_fast",
    "mistral3.rope.scaling.mscale_all_dim",
    "mistral3.rope.scaling_beta",
)
MISTRAL3_COPIES = {
    "mistral3.rope.scaling.beta_fast": "mistral3.rope.scaling.yarn_beta_fast",
    "mistral3.rope.scaling.beta_slow": "mistral3.rope.scaling.yarn_beta_slow",
    "mistral3.rope.scaling.mscale_all_dim": "mistral3.rope.scaling.yarn_log_multiplier",
    "mistral3.rope.scaling_beta": "mistral3.attention.temperature_scale",
}


def _mistral3(file: GgufFile) -> Fields:
    """By `handle_mistral3`: YaRN, the temperature, and at what a text is cut."""
    if not _has_other_senses(file) and not any(one in file.fields for one in MISTRAL3_MARKS):
        return {}
    return _copied(file, MISTRAL3_COPIES) | _cut_by(file, "tekken")


LLAMA3_TURN, LLAMA3_HEADER = 128_009, 128_006
"""Places of <|eot_id|> and <|start_header_id|> in Llama 3's vocabulary."""


def _llama(file: GgufFile) -> Fields:
    """By `handle_llama3_metadata`: at what the first files of Llama 3 cut a text."""
    made = _cut_by(file, "llama-bpe")
    return made if made and _is_llama3(file) else {}


def _is_llama3(file: GgufFile) -> bool:
    tokens = _first_tokens(file, LLAMA3_TURN + 1)
    if len(tokens) <= LLAMA3_TURN or tokens[LLAMA3_TURN] != "<|eot_id|>":
        return False
    template = str(file.scalar("tokenizer.chat_template"))
    return (
        tokens[LLAMA3_HEADER] == "<|start_header_id|>" or "<|start_header_id|>" in template or "<|eot_id|>" in template
    )


TRANSLATIONS: Mapping[str, Callable[[GgufFile], Fields]] = {"gemma3": _gemma3, "mistral3": _mistral3, "llama": _llama}
"""By `general.architecture`. Of the others that the engine trains Ollama translates none."""


# --------------------------------------------------------------------------- what they share


def _has_other_senses(file: GgufFile) -> bool:
    return any(name.startswith(OF_OTHER_SENSES) for name in file.tensors)


def _copied(file: GgufFile, names: Mapping[str, str]) -> Fields:
    """Keys under their newer names, where those are not there."""
    found = {newer: file.fields[older] for older, newer in names.items() if older in file.fields}
    return {key: replace(one, key=key) for key, one in found.items() if key not in file.fields}


def _number(key: str, value: float) -> Field:
    """In 32 bits, as a file would have it."""
    return field(key, Type.FLOAT32, float(np.float32(value)))


def _cut_by(file: GgufFile, name: str) -> Fields:
    """The kind of pre-tokenizer, where the file has none."""
    there = file.fields.get(PRE)
    return {PRE: field(PRE, Type.STRING, name)} if there is None or there.scalar in ("", "default") else {}


def _first_tokens(file: GgufFile, count: int) -> list[str]:
    there = file.fields.get(TOKENS)
    if there is None or there.scalar is not None or LIST_HEAD.unpack_from(there.raw)[1] != Type.STRING:
        return []
    return list(islice(texts(there), count))
