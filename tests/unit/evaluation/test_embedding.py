"""The cache of vectors, and an `Embed` without a model."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from nightschool_daemon.config import EmbeddingSource, Settings, SimilaritySettings, StateSettings
from nightschool_daemon.evaluation import embedding
from nightschool_daemon.evaluation.embedding import CachedEmbed, open_embed


class Letters:
    """Counts a, b and c. Remembers what it was asked."""

    def __init__(self, name: str = "letters") -> None:
        self.name = name
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        self.asked.extend(texts)
        return [[float(text.count(letter)) for letter in "abc"] for text in texts]


def rows(embed: CachedEmbed, *texts: str) -> list[list[float]]:
    found = embed(texts)
    assert found is not None
    values = [float(value) for value in found.values.tolist()]
    return [values[row * found.columns : (row + 1) * found.columns] for row in range(found.rows)]


def test_vectors_have_length_one_and_keep_their_order(tmp_path: Path) -> None:
    embed = CachedEmbed(Letters, tmp_path / "cache.sqlite3")
    assert rows(embed, "aabb", "c", "aabb") == [
        pytest.approx([0.5**0.5, 0.5**0.5, 0]),
        [0, 0, 1],
        pytest.approx([0.5**0.5, 0.5**0.5, 0]),
    ]


def test_a_text_without_words_or_direction_is_a_zero_vector(tmp_path: Path) -> None:
    assert rows(CachedEmbed(Letters, tmp_path / "cache.sqlite3"), "", " \n", "xyz") == [[0, 0, 0]] * 3


def test_each_content_is_computed_once_a_model_also_by_a_later_process(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "cache.sqlite3"
    first, second, other = Letters(), Letters(), Letters("other")
    before = rows(CachedEmbed(lambda: first, file), "a", "b", "a")
    assert first.asked == ["a", "b"]
    assert rows(CachedEmbed(lambda: second, file), "a", "b", "a") == before
    assert rows(CachedEmbed(lambda: second, file), "c") == [[0, 0, 1]]
    assert second.asked == ["c"]
    rows(CachedEmbed(lambda: other, file), "a")
    assert other.asked == ["a"]


def test_the_oldest_vectors_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "CACHED_VECTORS", 2)
    model = Letters()
    for text in ("a", "b", "c", "a"):
        rows(CachedEmbed(lambda: model, tmp_path / "cache.sqlite3"), text)
    assert model.asked == ["a", "b", "c", "a"]


def test_nothing_is_asked_of_a_model_for_no_texts(tmp_path: Path) -> None:
    model = Letters()
    found = CachedEmbed(lambda: model, tmp_path / "cache.sqlite3")(())
    assert found is not None
    assert (found.rows, model.asked) == (0, [])


def test_embeddings_can_be_switched_off(tmp_path: Path) -> None:
    off = Settings(
        state=StateSettings(directory=tmp_path), similarity=SimilaritySettings(embedding=EmbeddingSource.NONE)
    )
    assert open_embed(off)(["a"]) is None
    assert not (tmp_path / "cache").exists()
