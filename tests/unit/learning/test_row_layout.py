"""Rows of q and k in transformers' order and in the file's."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.architecture import FAMILIES, Pairing
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import PERMUTED, from_file_layout, to_file_layout

Value = gguf_file.Type
NAMES = ["blk.0.attn_q.weight", "blk.11.attn_k.weight", "blk.0.attn_v.weight", "output.weight"]


def file_of(directory: Path, architecture: str, heads: int, key_heads: int | None) -> GgufFile:
    """A file of nothing but keys."""
    keys = [
        gguf_file.field("general.architecture", Value.STRING, architecture),
        gguf_file.field(f"{architecture}.attention.head_count", Value.UINT32, heads),
    ]
    if key_heads is not None:
        keys.append(gguf_file.field(f"{architecture}.attention.head_count_kv", Value.UINT32, key_heads))
    path = directory / "keys.gguf"
    gguf_file.write(path, keys, [])
    return gguf_file.read(path)


def permute(weights: NDArray[np.float32], n_head: int, n_head_kv: int | None) -> NDArray[np.float32]:
    """llama.cpp's `LlamaModel.permute` of convert_hf_to_gguf.py."""
    if n_head_kv is not None and n_head != n_head_kv:
        n_head = n_head_kv
    return (
        weights.reshape(n_head, 2, weights.shape[0] // n_head // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def rows_of(heads: int, half: int, columns: int) -> NDArray[np.float32]:
    return np.arange(heads * half * 2 * columns, dtype=np.float32).reshape(-1, columns)


sizes = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))


@given(sizes)
def test_the_files_order_is_the_converters(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int, int, int]
) -> None:
    key_heads, group, half, columns = size
    heads = key_heads * group
    file = file_of(tmp_path_factory.mktemp("keys"), "llama", heads, key_heads)
    query, key = rows_of(heads, half, columns), rows_of(key_heads, half, columns)
    np.testing.assert_array_equal(to_file_layout(file, NAMES[0], query), permute(query, heads, heads))
    np.testing.assert_array_equal(to_file_layout(file, NAMES[1], key), permute(key, heads, key_heads))


@given(sizes)
def test_the_two_directions_are_inverses(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int, int, int]
) -> None:
    key_heads, group, half, columns = size
    file = file_of(tmp_path_factory.mktemp("keys"), "llama", key_heads * group, key_heads)
    for name in NAMES:
        rows = rows_of(key_heads if "_k" in name else key_heads * group, half, columns)
        np.testing.assert_array_equal(from_file_layout(file, name, to_file_layout(file, name, rows)), rows)
        np.testing.assert_array_equal(to_file_layout(file, name, from_file_layout(file, name, rows)), rows)


def test_the_files_order_differs_from_transformers(tmp_path: Path) -> None:
    rows = rows_of(2, 2, 1)
    assert to_file_layout(file_of(tmp_path, "llama", 2, 2), NAMES[0], rows)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_file_without_key_heads_has_as_many_as_heads(tmp_path: Path) -> None:
    rows = rows_of(3, 2, 2)
    file = file_of(tmp_path, "llama", 3, None)
    np.testing.assert_array_equal(to_file_layout(file, NAMES[1], rows), permute(rows, 3, 3))


def test_other_tensors_and_other_architectures_keep_their_rows(tmp_path: Path) -> None:
    rows = rows_of(2, 2, 3)
    llama = file_of(tmp_path, "llama", 2, 2)
    for name in NAMES[2:]:
        np.testing.assert_array_equal(to_file_layout(llama, name, rows), rows)
    for architecture in ("qwen2", "gemma3", "phi3"):
        other = file_of(tmp_path, architecture, 2, 2)
        for name in NAMES:
            np.testing.assert_array_equal(to_file_layout(other, name, rows), rows)


def test_a_delta_in_two_factors_lands_in_the_same_rows_as_the_whole(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    up, down = (generator.standard_normal(shape).astype(np.float32) for shape in ((16, 3), (3, 5)))
    file = file_of(tmp_path, "llama", 2, 2)
    np.testing.assert_allclose(
        to_file_layout(file, NAMES[0], up) @ down, to_file_layout(file, NAMES[0], up @ down), rtol=1e-6
    )


def test_rows_are_in_another_order_where_neighbours_are_turned_in_pairs() -> None:
    """transformers turns halves in every architecture, so that a converter to neighbours has to reorder."""
    assert {name for name, family in FAMILIES.items() if family.pairing is Pairing.NEIGHBOURS} == PERMUTED
