"""GGUF files: what is sound is kept byte for byte, what is not is refused with a sentence."""

import hashlib
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.gguf_file import GgufError, NewTensor

U32, STRING, ARRAY = 4, 8, 9
F32 = int(GGMLQuantizationType.F32)
ROW = struct.pack("<8f", *range(8))


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def described(
    name: str = "a", shape: Sequence[int] = (8,), *, kind: int = F32, offset: int = 0, dimensions: int | None = None
) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return text(name) + struct.pack(f"<I{len(shape)}Q", count, *shape) + struct.pack("<IQ", kind, offset)


ARCHITECTURE = pair("general.architecture", STRING, text("llama"))


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
    """A file by hand; every part can be wrong."""
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if pair_count is None else pair_count,
    )
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


def saved(directory: Path, content: bytes) -> Path:
    file = directory / "file.gguf"
    file.write_bytes(content)
    return file


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    more = pair("llama.block_count", U32, struct.pack("<I", 7))
    file = gguf_file.read(saved(tmp_path, whole(pairs=[ARCHITECTURE, more])))
    assert file.architecture == "llama"
    assert file.number("block_count") == 7
    assert file.scalar("nowhere") is None
    assert file.dequantized("a").tolist() == list(range(8))
    assert bytes(file.blocks("a")) == ROW


def test_the_older_version_is_read(tmp_path: Path) -> None:
    assert list(gguf_file.read(saved(tmp_path, whole(version=2))).tensors) == ["a"]


HUGE = struct.pack("<Q", 2**62)
MALFORMED = {
    "empty": (b"", "too short"),
    "no header": (b"GGUF", "too short"),
    "magic": (whole(magic=b"GGML"), "is no GGUF"),
    "other byte order": (whole(magic=b"FUGG"), "is no GGUF"),
    "version 1": (whole(version=1), "version 1"),
    "version of the future": (whole(version=4), "version 4"),
    "big-endian version": (whole(version=3 << 24), "version 50331648"),
    "too many tensors": (whole(tensor_count=2**40), "claims"),
    "too many keys": (whole(pair_count=2**63), "claims"),
    "more tensors than there are": (whole(tensor_count=900_000, data=b""), "0 dimensions|middle of its header"),
    "more keys than there are": (whole(pair_count=900_000, tensors=(), data=b""), "twice|middle of its header"),
    "key longer than the file": (whole(pairs=[HUGE + b"general"]), "middle of its header"),
    "text longer than the file": (whole(pairs=[pair("k", STRING, HUGE)]), "middle of its header"),
    "array longer than the file": (
        whole(pairs=[pair("k", ARRAY, struct.pack("<I", U32) + HUGE)]),
        "middle of its header",
    ),
    "array of more texts than the file holds": (
        whole(pairs=[pair("k", ARRAY, struct.pack("<I", STRING) + HUGE)]),
        "middle of its header",
    ),
    "array of arrays": (whole(pairs=[pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "array of value type 9"),
    "unknown value type": (whole(pairs=[pair("k", 13, b"")]), "unknown value type 13"),
    "key that is no UTF-8": (whole(pairs=[pair(b"\xff\xfe", U32, bytes(4))]), "not UTF-8"),
    "key twice": (whole(pairs=[ARCHITECTURE, ARCHITECTURE]), "general.architecture stands there twice"),
    "tensor twice": (whole(tensors=[described(), described(offset=32)], data=ROW * 2), "same name"),
    "tensors overlap": (
        whole(tensors=[described("a", (16,)), described("b", offset=32)], data=ROW * 2),
        "b overlaps another tensor",
    ),
    "one place for two tensors": (whole(tensors=[described("a"), described("b")]), "overlaps another tensor"),
    "misaligned": (whole(tensors=[described(offset=4)], data=ROW * 2), "a is not aligned to 32 bytes"),
    "beyond the end": (whole(tensors=[described(offset=32)]), "a goes beyond the end"),
    "far beyond the end": (whole(tensors=[described(offset=2**63)]), "a goes beyond the end"),
    "last bytes missing": (whole(data=ROW[:-1]), "a goes beyond the end"),
    "no data": (whole(data=b""), "a goes beyond the end"),
    "unknown tensor type": (whole(tensors=[described(kind=4711)]), "unknown type 4711"),
    "removed tensor type": (whole(tensors=[described(kind=4)]), "unknown type 4"),
    "rows that are no whole blocks": (whole(tensors=[described(kind=8)]), "no whole blocks of Q8_0"),
    "no dimension": (whole(tensors=[described(shape=())]), "a has 0 dimensions"),
    "five dimensions": (whole(tensors=[described(shape=(8, 1, 1, 1, 1))]), "a has 5 dimensions"),
    "a dimension of nothing": (whole(tensors=[described(shape=(8, 0))]), "impossible dimensions"),
    "a dimension below nothing": (whole(tensors=[described(shape=(2**64 - 8,))]), "impossible dimensions"),
    "a product beyond 64 bits": (whole(tensors=[described(shape=(2**40, 2**40))]), "a goes beyond the end"),
    "alignment 0": (
        whole(pairs=[pair("general.alignment", U32, bytes(4))]),
        r"general\.alignment is 0",
    ),
    "alignment that is a text": (
        whole(pairs=[pair("general.alignment", STRING, text("32"))]),
        r"general\.alignment is 32",
    ),
    "alignment that is odd": (
        whole(pairs=[pair("general.alignment", U32, struct.pack("<I", 31))]),
        r"general\.alignment is 31",
    ),
}


@pytest.mark.parametrize("which", MALFORMED)
def test_a_malformed_file_is_refused(tmp_path: Path, which: str) -> None:
    content, message = MALFORMED[which]
    with pytest.raises(GgufError, match=message):
        gguf_file.read(saved(tmp_path, content))


@pytest.mark.parametrize("cut", range(4, len(whole())))
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(GgufError):
        gguf_file.read(saved(tmp_path, whole()[:cut]))


@given(st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(whole(pairs=[ARCHITECTURE, pair("general.alignment", U32, struct.pack("<I", 32))]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = saved(tmp_path_factory.mktemp("damage"), bytes(content))
    try:
        file = gguf_file.read(path)
    except GgufError:
        return
    for name in file.tensors:
        assert len(file.blocks(name)) == file.tensors[name].bytes


def test_a_file_survives_reading_and_writing_byte_for_byte(tmp_path: Path, tiny_gguf: Path) -> None:
    file = gguf_file.read(tiny_gguf)
    copy = tmp_path / "copy.gguf"
    digest = gguf_file.write(copy, file.fields.values(), [gguf_file.copied(file, name) for name in file.tensors])
    assert copy.read_bytes() == tiny_gguf.read_bytes()
    assert digest == hashlib.sha256(copy.read_bytes()).hexdigest()
    assert [one.name for one in tmp_path.iterdir()] == ["copy.gguf"]


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_a_file_keeps_an_alignment_of_its_own(tmp_path: Path, alignment: int) -> None:
    key = pair("general.alignment", U32, struct.pack("<I", alignment))
    gap = bytes(-len(ROW) % alignment)
    descriptions = [described("a"), described("b", offset=len(ROW + gap))]
    source = saved(
        tmp_path,
        whole(pairs=[ARCHITECTURE, key], tensors=descriptions, data=ROW + gap + ROW + gap, alignment=alignment),
    )
    file = gguf_file.read(source)
    copy = tmp_path / "copy.gguf"
    gguf_file.write(copy, file.fields.values(), [gguf_file.copied(file, name) for name in file.tensors])
    assert copy.read_bytes() == source.read_bytes()


fields = st.dictionaries(
    st.text(min_size=1, max_size=12),
    st.one_of(
        st.integers(0, 2**32 - 1).map(lambda one: (gguf.GGUFValueType.UINT32, one)),
        st.integers(-(2**63), 2**63 - 1).map(lambda one: (gguf.GGUFValueType.INT64, one)),
        st.booleans().map(lambda one: (gguf.GGUFValueType.BOOL, one)),
        st.floats(allow_nan=False).map(lambda one: (gguf.GGUFValueType.FLOAT64, one)),
        st.text(max_size=20).map(lambda one: (gguf.GGUFValueType.STRING, one)),
    ),
    max_size=6,
).filter(lambda found: gguf_file.ALIGNMENT_KEY not in found)
tensors = st.dictionaries(
    st.text(min_size=1, max_size=12), st.lists(st.integers(1, 5), min_size=1, max_size=4), max_size=5
)


def tensor_of(name: str, shape: Sequence[int], content: bytes) -> NewTensor:
    return NewTensor(name=name, shape=tuple(shape), type=GGMLQuantizationType.F32, data=lambda: content)


@given(fields, tensors, st.randoms())
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: dict[str, tuple[gguf.GGUFValueType, str | int | float]],
    shapes: dict[str, list[int]],
    source: random.Random,
) -> None:
    path = tmp_path_factory.mktemp("written") / "file.gguf"
    contents = {name: source.randbytes(4 * int(np.prod(shape))) for name, shape in shapes.items()}
    gguf_file.write(
        path,
        [gguf_file.field(key, kind, value) for key, (kind, value) in pairs.items()],
        [tensor_of(name, shape, contents[name]) for name, shape in shapes.items()],
    )
    file = gguf_file.read(path)
    assert {key: one.scalar for key, one in file.fields.items()} == {key: value for key, (_, value) in pairs.items()}
    assert {name: list(one.shape) for name, one in file.tensors.items()} == shapes
    assert {name: bytes(file.blocks(name)) for name in file.tensors} == contents


def test_a_tensor_of_another_size_than_described_leaves_no_file(tmp_path: Path) -> None:
    wrong = NewTensor(name="a", shape=(8,), type=GGMLQuantizationType.F32, data=lambda: ROW[:-4])
    with pytest.raises(GgufError, match="a has 28 bytes, not 32"):
        gguf_file.write(tmp_path / "file.gguf", [], [wrong])
    assert not (tmp_path / "file.gguf").exists()


def test_the_field_standard_reader_understands_what_is_written(tmp_path: Path, tiny_gguf: Path) -> None:
    file = gguf_file.read(tiny_gguf)
    copy = tmp_path / "copy.gguf"
    gguf_file.write(copy, file.fields.values(), [gguf_file.copied(file, name) for name in reversed(list(file.tensors))])
    theirs = {one.name: one for one in gguf.GGUFReader(copy).tensors}
    assert theirs.keys() == file.tensors.keys()
    for name, one in theirs.items():
        assert one.data.tobytes() == bytes(file.blocks(name))
        assert tuple(int(size) for size in reversed(one.shape)) == file.tensors[name].shape
