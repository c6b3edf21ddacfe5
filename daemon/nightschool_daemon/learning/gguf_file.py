"""Reads, checks and writes GGUF files (version 3) without loading them: metadata stays the bytes it was.

Layout: magic, version, tensor count, key count; key-value pairs; tensor descriptions; padding; tensor
data, each tensor aligned. Dimensions are stored innermost first; shapes here are rows first.
"""

import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
from numpy.typing import NDArray

from nightschool_daemon.disk import sync
from nightschool_daemon.learning import ggml

MAGIC = b"GGUF"
VERSION = 3
READABLE_VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
"""The largest page of any machine; padding is made of it in memory."""
MAX_COUNT = 100_000
"""Of keys and of tensors. The largest models have some thousand tensors."""
MAX_HEADER_BYTES = 1 << 28
"""The header is kept in memory; a vocabulary of a million tokens takes a tenth of this."""
MAX_TEXTS = 1 << 21
"""Of all arrays in a header, which are walked over one by one; the largest vocabularies have, with their merges, a
million. Twice as many take three seconds."""
MAX_DIMENSIONS = 4
MAX_DIMENSION = 1 << 40
MAX_NAME_BYTES = 63
"""Of a tensor; `GGML_MAX_NAME` counts a zero behind it."""
SHOWN_CHARACTERS = 80
ALIGNMENT_KEY = "general.alignment"
EMBEDDING = "token_embd.weight"
"""The tensor with a vector for each token."""
TOKENS = "tokenizer.ggml.tokens"
"""Their texts."""
LENGTH_BYTES = 8
"""Before a text stands its length."""
LIST_HEAD = struct.Struct("<IIQ")
"""Before a list's values: its own type, that of its values, and how many there are."""

Type = gguf.GGUFValueType
SCALARS: Mapping[int, str] = {
    Type.UINT8: "<B",
    Type.INT8: "<b",
    Type.UINT16: "<H",
    Type.INT16: "<h",
    Type.UINT32: "<I",
    Type.INT32: "<i",
    Type.FLOAT32: "<f",
    Type.BOOL: "<?",
    Type.UINT64: "<Q",
    Type.INT64: "<q",
    Type.FLOAT64: "<d",
}


class GgufError(Exception):
    """A file is no sound GGUF; the message says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A key-value pair. `raw` is type and value as they stand in the file."""

    key: str
    raw: bytes
    scalar: str | int | float | bool | None
    """The value, unless it is an array."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor's description. `start` counts from the beginning of the file."""

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    start: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A checked file, memory-mapped."""

    path: Path
    fields: Mapping[str, Field]
    tensors: Mapping[str, Tensor]
    content: mmap.mmap

    @property
    def architecture(self) -> str:
        """`general.architecture`."""
        return str(self.scalar("general.architecture"))

    @property
    def header_bytes(self) -> int:
        """What is in the file beside its tensors: keys, the tokenizer among them, descriptions and padding."""
        return len(self.content) - sum(one.bytes for one in self.tensors.values())

    def scalar(self, key: str) -> str | int | float | bool | None:
        """The value of a key, None where it is missing or an array."""
        field = self.fields.get(key)
        return field.scalar if field is not None else None

    def number(self, key: str) -> int | None:
        """A whole number of the file's architecture, such as `attention.head_count`."""
        value = self.scalar(f"{self.architecture}.{key}")
        return int(value) if isinstance(value, int) else None

    def blocks(self, name: str) -> memoryview:
        """The bytes of a tensor, as they are."""
        tensor = self.tensors[name]
        return memoryview(self.content)[tensor.start : tensor.start + tensor.bytes]

    def rows_of_blocks(self, name: str) -> NDArray[np.uint8]:
        """The same by rows: shape (rows, bytes a row)."""
        return np.frombuffer(self.blocks(name), np.uint8).reshape(*self.tensors[name].shape[:-1], -1)

    def dequantized(self, name: str, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The weights of a tensor, shape rows first; of a matrix some rows alone, where they are given."""
        tensor = self.tensors[name]
        if not tensor.bytes:
            return np.zeros(tensor.shape, np.float32)
        data = self.rows_of_blocks(name)
        if rows is not None:
            data = data[rows]
        return ggml.dequantized(data, tensor.type).reshape(-1, *tensor.shape[1:])


@dataclass(frozen=True, kw_only=True)
class NewTensor:
    """A tensor to be written. `data` gives its bytes when it is its turn, so that one is in memory at a time."""

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    data: Callable[[], memoryview | bytes]


def read(path: Path) -> GgufFile:
    """Open and check a file. Raises `GgufError`."""
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size < 24:
            raise GgufError(f"{path} is too short for a GGUF")
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    reader = _Reader(path, content)
    fields, descriptions = reader.header()
    alignment = _alignment(path, fields.values())
    start = _aligned(reader.position, alignment)
    tensors: dict[str, Tensor] = {}
    for one in descriptions:
        if one.name in tensors:
            raise GgufError(f"{path}: two tensors have the same name, {shown(one.name)}")
        tensors[one.name] = _checked(path, one, start, alignment, len(content))
    _refuse_overlaps(path, tensors.values())
    return GgufFile(path=path, fields=fields, tensors=tensors, content=content)


def write(path: Path, fields: Iterable[Field], tensors: Sequence[NewTensor]) -> str:
    """Write a file tensor by tensor and return its SHA-256, hex: whole and on the disk, or not there."""
    temporary = path.with_name(f".{path.name}.tmp")
    digest = hashlib.sha256()
    fields = list(fields)
    alignment = _alignment(path, fields)
    try:
        with temporary.open("wb") as stream:
            for part in _header(fields, tensors, alignment):
                _put(stream, digest.update, part)
            for tensor in tensors:
                data = tensor.data()
                expected = _bytes_of(tensor.shape, tensor.type)
                if len(data) != expected:
                    raise GgufError(f"{tensor.name} has {len(data)} bytes, not {expected}")
                _put(stream, digest.update, data)
                _put(stream, digest.update, bytes(_aligned(expected, alignment) - expected))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        # half a file would take the room that the next attempt needs
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return digest.hexdigest()


def written_bytes(fields: Sequence[Field], tensors: Sequence[NewTensor]) -> int:
    """How large a file is that is written of these, none of which is an alignment of its own."""
    data = sum(_aligned(_bytes_of(one.shape, one.type), DEFAULT_ALIGNMENT) for one in tensors)
    return sum(map(len, _header(fields, tensors, DEFAULT_ALIGNMENT))) + data


def field(key: str, kind: gguf.GGUFValueType, value: str | int | float) -> Field:
    """Make a key-value pair."""
    if isinstance(value, str):
        raw = struct.pack("<I", kind) + _string(value)
    else:
        raw = struct.pack("<I", kind) + struct.pack(SCALARS[kind], value)
    return Field(key=key, raw=raw, scalar=value)


def texts(field: Field) -> Iterator[str]:
    """The values of a list of texts."""
    for start, end in _places(field.raw):
        yield field.raw[start:end].decode("utf-8", "replace")


def numbers(field: Field) -> Sequence[float]:
    """The values of a list of numbers. Raises `ValueError` for a list of others."""
    _, kind, count = LIST_HEAD.unpack_from(field.raw)
    if kind not in SCALARS:
        raise ValueError(f"{field.key} is no list of numbers")
    return struct.unpack_from(f"<{count}{SCALARS[kind][1:]}", field.raw, LIST_HEAD.size)


def shortened(field: Field, count: int) -> Field:
    """A list without what stands behind so many values."""
    own, kind, there = LIST_HEAD.unpack_from(field.raw)
    if there <= count:
        return field
    if kind == Type.STRING:
        end = next(islice(_places(field.raw), count, None))[0] - LENGTH_BYTES
    else:
        end = LIST_HEAD.size + count * struct.calcsize(SCALARS[kind])
    return Field(key=field.key, raw=LIST_HEAD.pack(own, kind, count) + field.raw[LIST_HEAD.size : end], scalar=None)


def _places(raw: bytes) -> Iterator[tuple[int, int]]:
    """Where each text of a list begins and ends."""
    position = LIST_HEAD.size
    for _ in range(LIST_HEAD.unpack_from(raw)[2]):
        (length,) = struct.unpack_from("<Q", raw, position)
        start = position + LENGTH_BYTES
        position = start + length
        yield start, position


def copied(file: GgufFile, name: str) -> NewTensor:
    """A tensor of another file, byte for byte."""
    tensor = file.tensors[name]
    return NewTensor(name=name, shape=tensor.shape, type=tensor.type, data=lambda: file.blocks(name))


def shown(name: str) -> str:
    """A text from a file as it may stand in a sentence: nothing that moves a cursor, and not without end."""
    begin = name[: SHOWN_CHARACTERS + 1]
    text = begin if begin.isprintable() else ascii(begin)[1:-1]
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _alignment(path: Path, fields: Iterable[Field]) -> int:
    """What the file's own key says, where it has one."""
    key = next((one for one in fields if one.key == ALIGNMENT_KEY), None)
    if key is None:
        return DEFAULT_ALIGNMENT
    value = key.scalar
    (kind,) = struct.unpack_from("<I", key.raw)
    if kind != Type.UINT32 or not isinstance(value, int) or value.bit_count() != 1 or value > MAX_ALIGNMENT:
        raise GgufError(
            f"{path}: {ALIGNMENT_KEY} is {shown(str(value))} of value type {kind} and no power of two in 32 bits"
        )
    return value


def _header(fields: Sequence[Field], tensors: Sequence[NewTensor], alignment: int) -> list[bytes]:
    parts = [MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(fields))]
    parts += [_string(one.key) + one.raw for one in fields]
    offset = 0
    for tensor in tensors:
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        parts.append(_string(tensor.name) + dimensions + struct.pack("<IQ", tensor.type, offset))
        offset += _aligned(_bytes_of(tensor.shape, tensor.type), alignment)
    length = sum(map(len, parts))
    parts.append(bytes(_aligned(length, alignment) - length))
    return parts


def _put(stream: BinaryIO, update: Callable[[memoryview | bytes], None], data: memoryview | bytes) -> None:
    stream.write(data)
    update(data)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _bytes_of(shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> int:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    elements = 1
    for one in shape:
        elements *= one
    return int(elements // block * block_bytes)


@dataclass(frozen=True, kw_only=True)
class _Description:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _checked(path: Path, one: _Description, start: int, alignment: int, size: int) -> Tensor:
    name = shown(one.name)
    try:
        kind = gguf.GGMLQuantizationType(one.type)
        block, _ = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise GgufError(f"{path}: {name} has the unknown type {one.type}") from None
    if one.shape[-1] % block:
        raise GgufError(f"{path}: the rows of {name} are no whole blocks of {kind.name}")
    if one.offset % alignment:
        raise GgufError(f"{path}: {name} is not aligned to {alignment} bytes")
    length = _bytes_of(one.shape, kind)
    if start + one.offset + length > size:
        raise GgufError(f"{path}: {name} goes beyond the end of the file")
    return Tensor(name=one.name, shape=one.shape, type=kind, start=start + one.offset, bytes=length)


def _refuse_overlaps(path: Path, tensors: Iterable[Tensor]) -> None:
    end = 0
    for tensor in sorted((one for one in tensors if one.bytes), key=lambda one: one.start):
        if tensor.start < end:
            raise GgufError(f"{path}: {shown(tensor.name)} overlaps another tensor")
        end = tensor.start + tensor.bytes


class _Reader:
    """Walks over the header; every step is checked against the file's end."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self.position = 0
        self._texts = 0
        """In arrays."""

    def header(self) -> tuple[dict[str, Field], list[_Description]]:
        if self._take(4) != MAGIC:
            raise GgufError(f"{self._path} is no GGUF")
        version = self._unpack("<I")
        if version not in READABLE_VERSIONS:
            raise GgufError(f"{self._path} has GGUF version {version}; 2 and 3 are known")
        tensor_count, field_count = self._unpack("<Q"), self._unpack("<Q")
        if tensor_count > MAX_COUNT or field_count > MAX_COUNT:
            raise GgufError(f"{self._path} claims {tensor_count} tensors and {field_count} keys")
        fields: dict[str, Field] = {}
        for _ in range(field_count):
            one = self._field()
            if one.key in fields:
                raise GgufError(f"{self._path}: the key {shown(one.key)} stands there twice")
            fields[one.key] = one
        return fields, [self._description() for _ in range(tensor_count)]

    def _field(self) -> Field:
        key = self._text()
        if not key:
            raise GgufError(f"{self._path}: a key has no name")
        start = self.position
        scalar = self._value(self._unpack("<I"))
        return Field(key=key, raw=self._content[start : self.position], scalar=scalar)

    def _description(self) -> _Description:
        name = self._text()
        if len(name.encode()) > MAX_NAME_BYTES:
            raise GgufError(f"{self._path}: the name of the tensor {shown(name)} is longer than {MAX_NAME_BYTES} bytes")
        count = self._unpack("<I")
        if not 1 <= count <= MAX_DIMENSIONS:
            raise GgufError(f"{self._path}: {shown(name)} has {count} dimensions")
        dimensions = [self._unpack("<Q") for _ in range(count)]
        if max(dimensions) > MAX_DIMENSION:
            raise GgufError(f"{self._path}: {shown(name)} has impossible dimensions")
        kind, offset = self._unpack("<I"), self._unpack("<Q")
        return _Description(name=name, shape=tuple(reversed(dimensions)), type=kind, offset=offset)

    def _value(self, kind: int) -> str | int | float | bool | None:
        if kind == Type.STRING:
            return self._text()
        if kind == Type.ARRAY:
            self._array()
            return None
        if kind not in SCALARS:
            raise GgufError(f"{self._path}: unknown value type {kind}")
        (value,) = struct.unpack(SCALARS[kind], self._take(struct.calcsize(SCALARS[kind])))
        return value  # type: ignore[no-any-return]  # the formats above are all of these types

    def _array(self) -> None:
        kind, count = self._unpack("<I"), self._unpack("<Q")
        if kind in SCALARS:
            self._pass(struct.calcsize(SCALARS[kind]) * count)
        elif kind == Type.STRING:
            self._texts += count
            if self._texts > MAX_TEXTS:
                raise GgufError(f"{self._path} claims {self._texts} texts in its header")
            for _ in range(count):
                self._pass(self._unpack("<Q"))
        else:
            raise GgufError(f"{self._path}: an array of value type {kind}")

    def _text(self) -> str:
        try:
            return self._take(self._unpack("<Q")).decode()
        except UnicodeDecodeError:
            raise GgufError(f"{self._path}: a text is not UTF-8") from None

    def _unpack(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _take(self, count: int) -> bytes:
        start = self.position
        self._pass(count)
        return self._content[start : self.position]

    def _pass(self, count: int) -> None:
        """Go on by so many bytes without a copy of them."""
        end = self.position + count
        if end > len(self._content):
            raise GgufError(f"{self._path} ends in the middle of its header")
        if end > MAX_HEADER_BYTES:
            raise GgufError(f"{self._path} has a header of more than {MAX_HEADER_BYTES >> 20} MiB")
        self.position = end
