"""GGUF files made by hand, every part of which can be wrong.

`REFUSED` and `ACCEPTED` are the classes of files that llama.cpp's `tests/test-gguf.cpp` makes by hand, in its order.
Ours have their tensors' data in every class, since a tensor without its data is refused here in any case.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as Value

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.gguf_file import GgufError, GgufFile

F32 = int(Kind.F32)
ROW = struct.pack("<8f", *range(8))
LARGEST_64 = 2**64 - 1
UNKNOWN_TYPE = 4711


def text(value: str | bytes) -> bytes:
    """A text with its length."""
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A key, the type of its value, the value."""
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes) -> bytes:
    """The value of an array."""
    return struct.pack("<IQ", kind, count) + values


def described(
    name: str = "a", shape: Sequence[int] = (8,), *, kind: int = F32, offset: int = 0, dimensions: int | None = None
) -> bytes:
    """A tensor's description; `shape` is innermost first, as in the file."""
    count = len(shape) if dimensions is None else dimensions
    return text(name) + struct.pack(f"<I{len(shape)}Q", count, *shape) + struct.pack("<IQ", kind, offset)


ARCHITECTURE = pair("general.architecture", Value.STRING, text("llama"))


def alignment_of(value: int, kind: Value = Value.UINT32) -> bytes:
    """The key that says to what tensors are aligned."""
    return pair("general.alignment", kind, struct.pack("<I", value))


def whole(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    pairs: Sequence[bytes] = (ARCHITECTURE,),
    tensors: Sequence[bytes] = (described(),),
    data: bytes = ROW,
    tensor_count: int | None = None,
    pair_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file of these parts; the counts are those of the lists where nothing else is said."""
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if pair_count is None else pair_count,
    )
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


def saved(directory: Path, content: bytes) -> Path:
    """The content as a file."""
    file = directory / "file.gguf"
    file.write_bytes(content)
    return file


def read_or_refuse(path: Path) -> None:
    """Read a file whose only outcomes are a sound one and a sentence; anything else is raised."""
    refusal: str | None = None
    try:
        assert_sound(gguf_file.read(path))
    except GgufError as error:
        refusal = str(error)
    if refusal is None:
        return
    assert str(path) in refusal
    assert refusal.isprintable()
    assert len(refusal) < len(str(path)) + 300


def assert_sound(file: GgufFile) -> None:
    """What a file must be that was not refused: each tensor within it, none on another, as large as its shape says."""
    end = 0
    for tensor in sorted((one for one in file.tensors.values() if one.bytes), key=lambda one: one.start):
        assert end <= tensor.start
        end = tensor.start + tensor.bytes
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.type]
        weights = 1
        for size in tensor.shape:
            weights *= size
        assert tensor.bytes * block == weights * block_bytes
        assert len(file.blocks(tensor.name)) == tensor.bytes
    assert end <= len(file.content)
    for key, field in file.fields.items():
        assert key
        assert field.key == key


# --------------------------------------------------------------------------- llama.cpp's classes

SCALARS = {
    Value.UINT8: struct.pack("<B", 200),
    Value.INT8: struct.pack("<b", -100),
    Value.UINT16: struct.pack("<H", 60_000),
    Value.INT16: struct.pack("<h", -30_000),
    Value.UINT32: struct.pack("<I", 4_000_000_000),
    Value.INT32: struct.pack("<i", -2_000_000_000),
    Value.FLOAT32: struct.pack("<f", 0.5),
    Value.BOOL: b"\x01",
    Value.UINT64: struct.pack("<Q", 2**63),
    Value.INT64: struct.pack("<q", -(2**62)),
    Value.FLOAT64: struct.pack("<d", 0.25),
}
PAIRS = (
    *(pair(f"key.{kind.name}", kind, value) for kind, value in SCALARS.items()),
    *(pair(f"list.{kind.name}", Value.ARRAY, array(kind, 3, 3 * value)) for kind, value in SCALARS.items()),
    pair("key.STRING", Value.STRING, text("Grüße")),
    pair("list.STRING", Value.ARRAY, array(Value.STRING, 3, text("a") + text("") + text("c" * 20))),
    pair("list.of.nothing", Value.ARRAY, array(Value.INT32, 0, b"")),
)
"""One of each type, and a list of each."""
SHAPES: Mapping[str, tuple[Kind, tuple[int, ...]]] = {
    "floats": (Kind.F32, (5,)),
    "halves": (Kind.F16, (7, 3)),
    "bytes": (Kind.I8, (9, 2, 3)),
    "blocks": (Kind.Q8_0, (64, 3)),
    "large_blocks": (Kind.Q4_K, (256, 2)),
    "four_dimensions": (Kind.Q4_0, (32, 1, 2, 2)),
}
"""Kind and shape, innermost first. No size but that of `large_blocks` is a multiple of 32 bytes."""


def _bytes(kind: Kind, shape: Sequence[int]) -> int:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    weights = 1
    for size in shape:
        weights *= size
    return int(weights // block * block_bytes)


def _offsets(alignment: int) -> list[int]:
    """Where each tensor begins, and where the next would."""
    found = [0]
    for kind, shape in SHAPES.values():
        found.append(found[-1] + -(-_bytes(kind, shape) // alignment) * alignment)
    return found


def _descriptions(
    alignment: int = 32,
    *,
    shape: tuple[int, ...] | None = None,
    kind: int | None = None,
    offset: int | None = None,
    dimensions: int | None = None,
    suffix: str = "",
    name: str | None = None,
) -> list[bytes]:
    """All tensors one behind the other, but for what is given."""
    return [
        described(
            name or one + suffix,
            shape or own_shape,
            kind=own_kind if kind is None else kind,
            offset=place if offset is None else offset,
            dimensions=dimensions,
        )
        for (one, (own_kind, own_shape)), place in zip(SHAPES.items(), _offsets(alignment), strict=False)
    ]


def _data(alignment: int = 32) -> bytes:
    return bytes(number % 251 for number in range(_offsets(alignment)[-1]))


def _end_of_last() -> int:
    """Where the data of the last tensor ends, without the padding behind it."""
    return _offsets(32)[-2] + _bytes(*SHAPES["four_dimensions"])


def _tensors(descriptions: Sequence[bytes]) -> bytes:
    return whole(pairs=PAIRS, tensors=descriptions, data=_data())


def _custom_alignment(alignment: int, data: bytes | None = None) -> bytes:
    return whole(
        pairs=[*PAIRS, alignment_of(alignment)],
        tensors=_descriptions(alignment),
        data=_data(alignment) if data is None else data,
        alignment=alignment,
    )


def _without_tensors(*pairs: bytes) -> bytes:
    return whole(pairs=pairs, tensors=(), data=b"")


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A malformed file, and what the sentence about it says, as a regular expression."""

    content: bytes
    sentence: str


REFUSED: Mapping[str, Refused] = {
    "header: bad magic": Refused(content=whole(magic=b"FUGG", pairs=(), tensors=(), data=b""), sentence="is no GGUF"),
    "header: version 0": Refused(content=whole(version=0), sentence="version 0"),
    "header: version 1": Refused(content=whole(version=1), sentence="version 1"),
    "header: version of the future": Refused(content=whole(version=4), sentence="version 4"),
    "header: bad count of keys": Refused(
        content=whole(pair_count=LARGEST_64), sentence=f"claims 1 .*{LARGEST_64} keys"
    ),
    "header: bad count of tensors": Refused(
        content=whole(tensor_count=LARGEST_64), sentence=f"claims {LARGEST_64} tensors"
    ),
    "keys: bad size of a key": Refused(
        content=_without_tensors(struct.pack("<Q", LARGEST_64) + b"key"), sentence="in the middle of its header"
    ),
    "keys: empty key": Refused(content=_without_tensors(pair("", Value.UINT8, b"\x01")), sentence="has no name"),
    "keys: bad type": Refused(
        content=_without_tensors(pair("key", len(Value), bytes(4))), sentence=f"unknown value type {len(Value)}"
    ),
    "keys: duplicate": Refused(content=_without_tensors(PAIRS[0], *PAIRS), sentence=r"key\.UINT8 stands there twice"),
    "keys: bad alignment": Refused(
        content=_without_tensors(*PAIRS, alignment_of(13)), sentence=r"general\.alignment is 13"
    ),
    "keys: alignment of another type": Refused(
        content=_without_tensors(*PAIRS, alignment_of(32, Value.INT32)), sentence="32 of value type 5"
    ),
    "tensors: name too long": Refused(
        content=_tensors(_descriptions(suffix="_" + 60 * "x")), sentence="name of the tensor floats_x+ is longer"
    ),
    "tensors: five dimensions": Refused(content=_tensors(_descriptions(dimensions=5)), sentence="floats has 5 dim"),
    "tensors: bad shape": Refused(
        content=_tensors(_descriptions(shape=(LARGEST_64,))), sentence="floats has impossible dimensions"
    ),
    "tensors: too many elements": Refused(
        content=_tensors(_descriptions(shape=(4 * (2**31 - 1),) * 2, kind=F32)), sentence="floats goes beyond the end"
    ),
    "tensors: too many bytes": Refused(
        content=_tensors(_descriptions(shape=(1_533_916_891,) * 2, kind=Kind.I64)),
        sentence="floats goes beyond the end",
    ),
    "tensors: unknown type": Refused(
        content=_tensors(_descriptions(kind=UNKNOWN_TYPE)), sentence="floats has the unknown type 4711"
    ),
    "tensors: bad offset": Refused(
        content=_tensors(_descriptions(offset=LARGEST_64)), sentence="floats is not aligned to 32"
    ),
    "tensors: duplicate name": Refused(
        content=_tensors(_descriptions(name="a")), sentence="two tensors have the same name, a"
    ),
    "tensors: bad alignment": Refused(content=_custom_alignment(13, b""), sentence=r"general\.alignment is 13"),
    "tensors: another alignment than is declared": Refused(
        content=_tensors(_descriptions(1)), sentence="halves is not aligned to 32"
    ),
    "data: not enough": Refused(
        content=whole(pairs=PAIRS, tensors=_descriptions(), data=_data()[: _end_of_last() - 1]),
        sentence="four_dimensions goes beyond the end",
    ),
    "data: bad alignment": Refused(content=_custom_alignment(13), sentence=r"general\.alignment is 13"),
    "data: another alignment than is declared": Refused(
        content=whole(pairs=PAIRS, tensors=_descriptions(8), data=_data()), sentence="halves is not aligned to 32"
    ),
    "data: sizes beyond 64 bits": Refused(
        content=whole(
            pairs=PAIRS, tensors=[described(one, (0x7FFFFFFFFFFFFFC0,), kind=Kind.I8) for one in "ab"], data=bytes(32)
        ),
        sentence="a has impossible dimensions",
    ),
}

ACCEPTED: Mapping[str, bytes] = {
    "header: empty": whole(pairs=(), tensors=(), data=b""),
    "keys: of every type": whole(pairs=PAIRS, tensors=(), data=b""),
    "tensors: a dimension of nothing": whole(pairs=PAIRS, tensors=_descriptions(shape=(256, 0), offset=0), data=b""),
    "tensors: of many types": whole(pairs=PAIRS, tensors=_descriptions(), data=bytes(len(_data()))),
    "tensors: aligned to 1": _custom_alignment(1, bytes(len(_data(1)))),
    "data: as it was written": whole(pairs=PAIRS, tensors=_descriptions(), data=_data()),
    "data: aligned to 1": _custom_alignment(1),
}
