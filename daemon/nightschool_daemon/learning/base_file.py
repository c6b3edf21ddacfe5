"""The base's file, opened so that whatever comes after may rely on it: a sound GGUF that is a language model.

What a network's own arithmetic needs beyond that, its reader checks (`engine/architecture.py`, `engine/network.py`).
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.gguf_file import EMBEDDING, LIST_HEAD, TOKENS, GgufError, GgufFile, Type, shown
from nightschool_daemon.learning.older_layout import as_ollama_reads, is_embedder
from nightschool_hookspecs.services import TrainingError

KIND = "general.type"
MODEL = "model"
FLOATS = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16})
"""What norms and biases are in. Other tensors of one dimension are no weights."""
ADVICE = "Pull the base anew, or choose another."


def open_base(path: Path) -> GgufFile:
    """Open, check and return a base. Raises `TrainingError` with what is wrong with the file and what to do."""
    try:
        file = gguf_file.read(path)
    except GgufError as error:
        raise TrainingError(f"{error}. {ADVICE}") from error
    require_language_model(file)
    return file


def require_language_model(file: GgufFile) -> None:
    """Raise `TrainingError` for a GGUF that is something else, or that claims what its tensors do not bear out."""
    if not isinstance(file.scalar("general.architecture"), str):
        raise TrainingError(f"{file.path} names no general.architecture, so it is no language model. {ADVICE}")
    kind = file.scalar(KIND)
    if kind not in (None, MODEL):
        raise TrainingError(f"{file.path} is of the kind '{shown(str(kind))}' and no language model. {ADVICE}")
    require_one_file(file)
    if EMBEDDING not in file.tensors:
        raise TrainingError(f"{file.path} has no {EMBEDDING}, so it is no language model. {ADVICE}")
    if is_embedder(file):
        raise TrainingError(f"{file.path} is a model of embeddings and no language model. {ADVICE}")
    _require_layers(file)
    _require_vocabulary(as_ollama_reads(file))
    _require_numbers(file)


def require_one_file(file: GgufFile) -> None:
    """Raise `TrainingError` for the first of several files."""
    if is_split(file):
        raise TrainingError("The base consists of several files. Use the same model as one file.")


def is_split(file: GgufFile) -> bool:
    """Whether the model goes on in other files."""
    count = file.scalar("split.count")
    return isinstance(count, int) and count > 1


def vocabulary_size(file: GgufFile) -> int:
    """How many tokens the tokenizer has; 0 where it is no list of texts."""
    field = file.fields.get(TOKENS)
    if field is None or field.scalar is not None:
        return 0
    _, kind, count = LIST_HEAD.unpack_from(field.raw)
    return int(count) if kind == Type.STRING else 0


def _require_layers(file: GgufFile) -> None:
    """No more layers than there are tensors of: what loops over them would not end."""
    claimed = file.number("block_count")
    there = {name.split(".", 2)[1] for name in file.tensors if name.startswith("blk.")}
    if claimed is not None and claimed > len(there):
        raise TrainingError(
            f"{file.path} claims {claimed} layers and has tensors of {len(there)}, so it is damaged. {ADVICE}"
        )


def _require_numbers(file: GgufFile) -> None:
    """Norms and biases are numbers; of what is read block by block, whoever reads it sees to that."""
    for name, tensor in file.tensors.items():
        if len(tensor.shape) == 1 and tensor.type in FLOATS and not np.isfinite(file.dequantized(name)).all():
            raise TrainingError(f"{shown(name)} in {file.path} holds what is no number, so it is damaged. {ADVICE}")


def _require_vocabulary(file: GgufFile) -> None:
    tokens, rows = vocabulary_size(file), file.tensors[EMBEDDING].shape[0]
    if not tokens:
        raise TrainingError(f"{file.path} has no tokens in {TOKENS}, so it is no language model. {ADVICE}")
    if tokens > rows:
        raise TrainingError(
            f"{file.path} has {tokens} tokens and vectors of {rows} of them, so it is damaged. {ADVICE}"
        )
