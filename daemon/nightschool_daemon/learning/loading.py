"""The base model and its tokenizer, from the very GGUF that Ollama serves, by transformers' `gguf_file`.

Names and layouts differ between the two worlds: a module `model.layers.0.self_attn.q_proj` is the tensor
`blk.0.attn_q.weight`, and files of some architectures keep the rows of q and k in another order.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gguf
import numpy as np

from nightschool_daemon.learning.base_file import ADVICE, open_base, vocabulary_size
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.older_layout import as_ollama_reads
from nightschool_daemon.learning.tokenizer import RECIPE, WHOLE_WORDS, build_tokenizer, is_known
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

PERMUTED = frozenset({"llama", "mistral3"})
"""Architectures whose q and k rows llama.cpp's converter reorders for its rotary embedding."""
BOS_BY_DEFAULT = frozenset({"llama", "gemma"})
"""Tokenizer models that begin a text with BOS where the file does not say; byte-level ones by what they are cut at."""

LITERAL_BOS = "<bos>"


@dataclass(frozen=True, kw_only=True)
class Base:
    """A loaded base model."""

    file: GgufFile
    model: PreTrainedModel
    tokens: Tokens


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokenizer, used so that its ids are those that the engine sees."""

    tokenizer: Tokenizer
    bos: int | None
    """Id that begins every text; None where the engine adds none."""

    def prompt(self, text: str) -> list[int]:
        """Ids of a rendered prompt. Ollama takes a literal `<bos>` off; any other text for BOS gives a second one."""
        ids = self._ids(text.removeprefix(LITERAL_BOS))
        return ids if self.bos is None else [self.bos, *ids]

    def completion(self, prompt: str, text: str) -> list[int]:
        """Ids of an answer behind its prompt."""
        before, whole = self.prompt(prompt), self.prompt(prompt + text)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return self._ids(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def pieces(self) -> dict[str, int]:
        """Text of a token as the engine prints it -> id. Texts that several tokens share are left out."""
        vocabulary = self.tokenizer.get_vocab()
        byte_level = _byte_decoder() if any("Ġ" in piece for piece in vocabulary) else None
        found: dict[str, int] = {}
        shared: set[str] = set()
        for piece, identifier in vocabulary.items():
            text = _piece_text(piece, byte_level)
            if text in found:
                shared.add(text)
            found[text] = identifier
        return {text: identifier for text, identifier in found.items() if text not in shared}

    def control(self) -> frozenset[int]:
        """Ids of the control tokens. Those that end an answer are among them."""
        return frozenset(number for number, one in self.tokenizer.get_added_tokens_decoder().items() if one.special)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def load_base(path: Path, digest: str, cache: Path) -> Base:
    """Load the model in 32-bit floats, on a GPU where there is one with room for it, and its tokenizer.

    Raises `TrainingError` where transformers cannot, and where memory is short.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from nightschool_daemon.learning.loadable import device_for, require_loadable

    file = open_base(path)
    require_loadable(file)
    directory = _linked(path, digest, cache)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, gguf_file="model.gguf", dtype=torch.float32, local_files_only=True
        )
    except Exception as error:  # a library may raise anything over a file that it does not expect
        raise TrainingError(
            f"transformers cannot load a GGUF of the architecture '{file.architecture}' ({_one_line(error)}). "
            "Choose another base, or add its name to specialties.ignore."
        ) from error
    model.config.use_cache = False
    # torch's stubs have the method take a whole model only
    cast("torch.nn.Module", model).to(device_for(file))
    return Base(file=file, model=model, tokens=load_tokens(file, digest, cache))


def load_tokens(file: GgufFile, digest: str, cache: Path) -> Tokens:
    """The tokenizer. Building a large one takes seconds, so it is kept in the form of the library that uses it."""
    from tokenizers import Tokenizer

    file = as_ollama_reads(file)
    kept = cache / "tokenizers" / f"{digest}.{RECIPE}.json"
    if not kept.is_file():
        made = build_tokenizer(file) if is_known(file) else _by_transformers(file, digest, cache)
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{digest}.{os.getpid()}")
        made.save(str(temporary))
        temporary.replace(kept)
        _remove_others(kept, digest)
    return Tokens(tokenizer=Tokenizer.from_file(str(kept)), bos=_bos(file))


def _remove_others(kept: Path, digest: str) -> None:
    """What another release built of the same file. The first had no number in the name."""
    for one in (kept.with_name(f"{digest}.json"), *kept.parent.glob(f"{digest}.*.json")):
        if one != kept:
            one.unlink(missing_ok=True)


def _by_transformers(file: GgufFile, digest: str, cache: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(_linked(file.path, digest, cache), gguf_file="model.gguf")
    except Exception as error:  # the same
        raise TrainingError(
            f"The tokenizer of this base ({file.scalar('tokenizer.ggml.model')}, "
            f"{file.scalar('tokenizer.ggml.pre')}) cannot be read ({_one_line(error)}). Choose another base."
        ) from error
    # transformers' stubs give the attribute the types of the tokenizer's settings
    backend = cast(Any, made).backend_tokenizer
    _match_spaces(backend, file)
    return cast("Tokenizer", backend)


@functools.cache
def _tensor_names(architecture: str, layers: int) -> gguf.TensorNameMap:
    """Names of transformers' modules and of tensors; tens of thousands, so that it is made once."""
    keys = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(keys[architecture], layers)


def tensor_of(file: GgufFile, module: str) -> str:
    """The tensor that holds a module's weight. Raises `TrainingError` where there is none."""
    found = _tensor_names(file.architecture, file.number("block_count") or 0).get_name(module)
    name = f"{found}.weight"
    if found is None or name not in file.tensors:
        raise TrainingError(
            f"The GGUF has no tensor of its own for {module}; models with experts cannot be trained. "
            "Choose another base."
        )
    return name


def to_file_layout(file: GgufFile, name: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put the rows of a weight, or of a LoRA's B, shape (out, any), into the order of the file."""
    heads = _heads(file, name)
    if heads is None:
        return rows
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def from_file_layout(file: GgufFile, name: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of `to_file_layout`."""
    heads = _heads(file, name)
    if heads is None:
        return rows
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def require_same_weights(base: Base, modules: Iterable[str]) -> None:
    """Raise where a module's weight is not the tensor of the file in the layout that we think it has."""
    for module in modules:
        name = tensor_of(base.file, module)
        ours = from_file_layout(base.file, name, base.file.dequantized(name))
        theirs = base.model.get_submodule(module).get_parameter("weight").detach().cpu().numpy()
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=1e-5):
            raise TrainingError(
                f"The layout of {name} in files of the architecture '{base.file.architecture}' is not known, so a "
                "lesson would land in wrong rows. Choose another base."
            )


def set_weight(module: torch.nn.Module, weight: NDArray[np.float32]) -> None:
    """Replace a linear layer's weight, shape (out, in)."""
    import torch

    with torch.no_grad():
        module.get_parameter("weight").copy_(torch.from_numpy(np.ascontiguousarray(weight)))


def _heads(file: GgufFile, name: str) -> int | None:
    if file.architecture not in PERMUTED:
        return None
    if name.endswith("attn_q.weight"):
        return file.number("attention.head_count")
    if name.endswith("attn_k.weight"):
        return file.number("attention.head_count_kv") or file.number("attention.head_count")
    return None


def _match_spaces(backend: Tokenizer, file: GgufFile) -> None:
    """Put a space where llama.cpp puts one: before every stretch of text between control tokens, or nowhere.

    transformers does not read the file's key, and puts one at the very beginning only.
    """
    from tokenizers.normalizers import Prepend

    if backend.normalizer is not None or not hasattr(backend.pre_tokenizer, "prepend_scheme"):
        return
    backend.pre_tokenizer.prepend_scheme = "never"
    if file.scalar("tokenizer.ggml.add_space_prefix") is not False:
        backend.normalizer = Prepend("▁")


def _bos(file: GgufFile) -> int | None:
    adds = file.scalar("tokenizer.ggml.add_bos_token")
    if adds is None:
        adds = _begins_by_default(file)
    identifier = file.scalar("tokenizer.ggml.bos_token_id")
    if not adds or not isinstance(identifier, int):
        return None
    if not 0 <= identifier < vocabulary_size(file):
        raise TrainingError(
            f"The tokenizer in {file.path} begins texts with the token {identifier} and has "
            f"{vocabulary_size(file)}. {ADVICE}"
        )
    return identifier


def _begins_by_default(file: GgufFile) -> bool:
    model = file.scalar("tokenizer.ggml.model")
    return model in BOS_BY_DEFAULT or (model == "gpt2" and file.scalar("tokenizer.ggml.pre") in WHOLE_WORDS)


def _linked(path: Path, digest: str, cache: Path) -> Path:
    """A directory in which the blob has a name with an ending, as transformers wants it."""
    directory = cache / "gguf" / digest
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / "model.gguf"
    if not link.is_symlink() or link.readlink() != path:
        temporary = directory / f".model.{os.getpid()}"
        temporary.symlink_to(path)
        temporary.replace(link)
    return directory


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _piece_text(piece: str, byte_level: dict[str, int] | None) -> str:
    if byte_level is None:
        return piece.replace("▁", " ")
    if all(letter in byte_level for letter in piece):
        return bytes(byte_level[letter] for letter in piece).decode("utf-8", "replace")
    return piece


def _byte_decoder() -> dict[str, int]:
    """GPT-2's letters for bytes (Radford et al. 2019), turned round."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {chr(byte): byte for byte in visible}
    return letters | {chr(256 + number): byte for number, byte in enumerate(hidden)}
