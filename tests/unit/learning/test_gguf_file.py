"""GGUF files: what is sound is kept byte for byte, what is not is refused with a sentence."""

import errno
import hashlib
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf import GGUFValueType as Value
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.gguf_file import GgufError, NewTensor
from support.malformed_gguf import (
    ACCEPTED,
    ARCHITECTURE,
    REFUSED,
    ROW,
    UNKNOWN_TYPE,
    alignment_of,
    array,
    assert_sound,
    described,
    pair,
    saved,
    text,
    whole,
)

U32, STRING, ARRAY = Value.UINT32, Value.STRING, Value.ARRAY
HUGE = struct.pack("<Q", 2**62)


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


OTHERS = {
    "empty": (b"", "too short"),
    "no header": (b"GGUF", "too short"),
    "other byte order": (whole(magic=b"FUGG"), "is no GGUF"),
    "older name": (whole(magic=b"GGML"), "is no GGUF"),
    "big-endian version": (whole(version=3 << 24), "version 50331648"),
    "more tensors than there are": (whole(tensor_count=90_000, data=b""), "0 dimensions|middle of its header"),
    "more keys than there are": (whole(pair_count=90_000, tensors=(), data=b""), "no name|middle of its header"),
    "text longer than the file": (whole(pairs=[pair("k", STRING, HUGE)]), "middle of its header"),
    "array longer than the file": (
        whole(pairs=[pair("k", ARRAY, struct.pack("<I", U32) + HUGE)]),
        "middle of its header",
    ),
    "array of more texts than are walked over": (
        whole(pairs=[pair("k", ARRAY, struct.pack("<I", STRING) + HUGE)]),
        r"claims \d+ texts in its header",
    ),
    "array of more texts than the file holds": (
        whole(pairs=[pair("k", ARRAY, struct.pack("<IQ", STRING, 1000))]),
        "middle of its header",
    ),
    "array of arrays": (whole(pairs=[pair("k", ARRAY, array(ARRAY, 1, b""))]), "array of value type 9"),
    "key that is no UTF-8": (whole(pairs=[pair(b"\xff\xfe", U32, bytes(4))]), "not UTF-8"),
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
    "removed tensor type": (whole(tensors=[described(kind=4)]), "unknown type 4"),
    "rows that are no whole blocks": (whole(tensors=[described(kind=8)]), "no whole blocks of Q8_0"),
    "no dimension": (whole(tensors=[described(shape=())]), "a has 0 dimensions"),
    "a dimension of 2^40": (whole(tensors=[described(shape=(2**40,))]), "a goes beyond the end"),
    "2^31 dimensions": (whole(tensors=[described(dimensions=2**31)]), "a has 2147483648 dimensions"),
    "a product beyond 64 bits": (whole(tensors=[described(shape=(2**40, 2**40))]), "a goes beyond the end"),
    "alignment 0": (whole(pairs=[alignment_of(0)]), r"general\.alignment is 0"),
    "alignment that is a text": (
        whole(pairs=[pair("general.alignment", STRING, text("32"))]),
        r"general\.alignment is 32 of value type 8",
    ),
    "alignment that is odd": (whole(pairs=[alignment_of(31)]), r"general\.alignment is 31"),
    "alignment that is no power of two": (whole(pairs=[alignment_of(24)]), r"general\.alignment is 24"),
    "alignment of a gigabyte": (whole(pairs=[alignment_of(2**30)]), r"general\.alignment is 1073741824"),
}
MALFORMED = {**{name: (one.content, one.sentence) for name, one in REFUSED.items()}, **OTHERS}


@pytest.mark.parametrize("which", MALFORMED)
def test_a_malformed_file_is_refused_with_its_name(tmp_path: Path, which: str) -> None:
    content, message = MALFORMED[which]
    path = saved(tmp_path, content)
    with pytest.raises(GgufError, match=message) as caught:
        gguf_file.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_are_as_many_classes_as_the_engine_has() -> None:
    assert (len(REFUSED), len(ACCEPTED)) == (26, 7)


@pytest.mark.parametrize("which", ACCEPTED)
def test_a_well_formed_file_is_read_whole(tmp_path: Path, which: str) -> None:
    file = gguf_file.read(saved(tmp_path, ACCEPTED[which]))
    assert_sound(file)
    copy = tmp_path / "copy.gguf"
    gguf_file.write(copy, file.fields.values(), [gguf_file.copied(file, name) for name in file.tensors])
    again = gguf_file.read(copy)
    assert again.fields == file.fields
    assert again.tensors == file.tensors
    assert all(again.blocks(name) == file.blocks(name) for name in file.tensors)


def test_a_tensor_of_nothing_has_no_weights(tmp_path: Path) -> None:
    file = gguf_file.read(saved(tmp_path, ACCEPTED["tensors: a dimension of nothing"]))
    assert {file.dequantized(name).shape for name in file.tensors} == {(0, 256)}


def test_what_a_tensor_holds_is_what_was_written(tmp_path: Path) -> None:
    for which in ("data: as it was written", "data: aligned to 1"):
        file = gguf_file.read(saved(tmp_path, ACCEPTED[which]))
        start = file.tensors["floats"].start
        for name, tensor in file.tensors.items():
            expected = bytes((tensor.start - start + number) % 251 for number in range(tensor.bytes))
            assert bytes(file.blocks(name)) == expected


def test_a_name_that_would_move_the_cursor_is_told_without_its_codes(tmp_path: Path) -> None:
    path = saved(tmp_path, whole(tensors=[described("\x1b[2J\n\u202e", kind=UNKNOWN_TYPE)]))
    with pytest.raises(GgufError, match=r"\\x1b\[2J\\n\\u202e has the unknown type") as caught:
        gguf_file.read(path)
    assert str(caught.value).isprintable()


def test_a_name_without_end_is_cut_in_the_sentence(tmp_path: Path) -> None:
    key = pair("k" * 100_000, U32, bytes(4))
    with pytest.raises(GgufError, match=r"k{80}[.]{3} stands there twice"):
        gguf_file.read(saved(tmp_path, whole(pairs=[key, key])))


def test_codes_without_end_are_cut_too(tmp_path: Path) -> None:
    key = pair("\U0010ffff" * 80, U32, bytes(4))
    with pytest.raises(GgufError, match=r"key (.{80})[.]{3} stands there twice"):
        gguf_file.read(saved(tmp_path, whole(pairs=[key, key])))


def test_a_value_as_large_as_the_disk_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    path.write_bytes(header + pair("k", ARRAY, array(Value.UINT8, 2**40 - 4096, b"")))
    with path.open("r+b") as stream:
        stream.truncate(2**40)
    with measured() as peak, pytest.raises(GgufError, match="header of more than 256 MiB"):
        gguf_file.read(path)
    assert peak() < 1_000_000


@contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """Tells the most bytes that Python's objects took at once."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", range(4, len(whole())))
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(GgufError):
        gguf_file.read(saved(tmp_path, whole()[:cut]))


def test_a_file_survives_reading_and_writing_byte_for_byte(tmp_path: Path, tiny_gguf: Path) -> None:
    file = gguf_file.read(tiny_gguf)
    copy = tmp_path / "copy.gguf"
    digest = gguf_file.write(copy, file.fields.values(), [gguf_file.copied(file, name) for name in file.tensors])
    assert copy.read_bytes() == tiny_gguf.read_bytes()
    assert digest == hashlib.sha256(copy.read_bytes()).hexdigest()
    assert [one.name for one in tmp_path.iterdir()] == ["copy.gguf"]


@pytest.mark.parametrize("alignment", [1, 2, 8, 32, 64, 4096])
def test_a_file_keeps_an_alignment_of_its_own(tmp_path: Path, alignment: int) -> None:
    key = alignment_of(alignment)
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


def test_a_file_that_cannot_be_written_to_its_end_leaves_nothing(tmp_path: Path) -> None:
    """Of a model's size, where the disk is full already."""

    def no_space() -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    kind = GGMLQuantizationType.F32
    written = NewTensor(name="written", shape=(4,), type=kind, data=lambda: bytes(16))
    failing = NewTensor(name="failing", shape=(4,), type=kind, data=no_space)
    with pytest.raises(OSError, match="No space"):
        gguf_file.write(tmp_path / "new.gguf", [], [written, failing])
    assert not list(tmp_path.iterdir())


def test_the_field_standard_reader_understands_what_is_written(tmp_path: Path, tiny_gguf: Path) -> None:
    file = gguf_file.read(tiny_gguf)
    copy = tmp_path / "copy.gguf"
    gguf_file.write(copy, file.fields.values(), [gguf_file.copied(file, name) for name in reversed(list(file.tensors))])
    theirs = {one.name: one for one in gguf.GGUFReader(copy).tensors}
    assert theirs.keys() == file.tensors.keys()
    for name, one in theirs.items():
        assert one.data.tobytes() == bytes(file.blocks(name))
        assert tuple(int(size) for size in reversed(one.shape)) == file.tensors[name].shape
