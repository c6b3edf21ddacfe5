"""Whatever is done to a GGUF, the reader finds it sound or refuses it with `GgufError`, in bounded memory."""

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.malformed_gguf import ACCEPTED, read_or_refuse, saved

SEEDS = tuple(ACCEPTED.values())
MANY = settings(max_examples=400, deadline=None)

TELLING = (0, 1, 2, 3, 4, 8, 9, 13, 31, 32, 33, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
"""Counts, lengths, types and offsets at which arithmetic goes wrong."""
numbers = st.one_of(st.sampled_from(TELLING), st.integers(0, 300), st.integers(0, 2**64 - 1))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound file with some of its numbers, bytes and stretches changed, most of them in the header."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(("number", "number", "byte", "cut out", "double", "end")))
        if how == "number":
            size = draw(st.sampled_from((4, 8)))
            number = draw(numbers) % 2 ** (8 * size)
            content[place : place + size] = number.to_bytes(size, "little")
        elif how == "byte":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "cut out":
            del content[place : place + draw(st.integers(1, 40))]
        elif how == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 80))]
        else:
            del content[place:]
    return bytes(content)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@MANY
@given(damaged())
def test_a_damaged_file_is_sound_or_refused(directory: Path, content: bytes) -> None:
    read_or_refuse(saved(directory, content))


@MANY
@given(st.binary(max_size=400))
def test_anything_behind_a_header_is_sound_or_refused(directory: Path, content: bytes) -> None:
    read_or_refuse(saved(directory, b"GGUF" + struct.pack("<I", 3) + content))


@settings(max_examples=100, deadline=None)
@given(damaged())
def test_what_is_read_takes_memory_by_the_size_of_the_file(directory: Path, content: bytes) -> None:
    path = saved(directory, content)
    tracemalloc.start()
    try:
        read_or_refuse(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000 + 100 * len(content)
