"""A GGUF with other metadata or tensors than it had: sound as a file, and perhaps a lie as a model."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as Value
from numpy.typing import NDArray

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.gguf_file import Field, NewTensor
from support.malformed_gguf import array, text

Told = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


def rewritten(
    source: Path,
    path: Path,
    *,
    keys: Mapping[str, Told | None] | None = None,
    tensors: Mapping[str, NDArray[np.float32] | None] | None = None,
) -> Path:
    """Write a copy with these keys and tensors, 32-bit floats, in the place of its own; None leaves one out."""
    file = gguf_file.read(source)
    changed = keys or {}
    fields = [one for one in file.fields.values() if one.key not in changed]
    fields += [field_of(key, value) for key, value in changed.items() if value is not None]
    others = tensors or {}
    kept = [gguf_file.copied(file, name) for name in file.tensors if name not in others]
    kept += [floats(name, values) for name, values in others.items() if values is not None]
    gguf_file.write(path, fields, kept)
    return path


def field_of(key: str, value: Told) -> Field:
    """A key with its value, in the type that converters give it."""
    if isinstance(value, str):
        return gguf_file.field(key, Value.STRING, value)
    if isinstance(value, bool):
        return gguf_file.field(key, Value.BOOL, value)
    if isinstance(value, int):
        return gguf_file.field(key, Value.UINT32 if value >= 0 else Value.INT32, value)
    if isinstance(value, float):
        return gguf_file.field(key, Value.FLOAT32, value)
    if all(isinstance(one, str) for one in value):
        raw = array(Value.STRING, len(value), b"".join(text(str(one)) for one in value))
    elif all(isinstance(one, bool) for one in value):
        raw = array(Value.BOOL, len(value), bytes(map(bool, value)))
    elif all(isinstance(one, int) for one in value):
        raw = array(Value.INT32, len(value), struct.pack(f"<{len(value)}i", *value))
    else:
        raw = array(Value.FLOAT32, len(value), struct.pack(f"<{len(value)}f", *value))
    return Field(key=key, raw=struct.pack("<I", Value.ARRAY) + raw, scalar=None)


def floats(name: str, values: NDArray[np.float32]) -> NewTensor:
    """A tensor of 32-bit floats."""
    content = np.ascontiguousarray(values, np.float32).tobytes()
    return NewTensor(name=name, shape=values.shape, type=Kind.F32, data=lambda: content)
