"""Embedding similarity: the cosine, clipped; it drops out where no model is."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool_hookspecs import Matrix
from nightschool_hookspecs.testing import FakeEmbed, matrix
from nightschool_plugins.similarity_embedding import SimilarityEmbedding

VECTORS = {"east": (1.0, 0.0), "north": (0.0, 1.0), "west": (-1.0, 0.0), "north-east": (0.6, 0.8), "": (0.0, 0.0)}


def embed(texts: Sequence[str]) -> Matrix:
    return matrix([VECTORS[text] for text in texts], columns=2)


def row(text: str, others: Sequence[str]) -> list[float]:
    found = SimilarityEmbedding().nightschool_measure_similarity([text], others, embed)
    assert found is not None
    assert found.matrix.values.format == "f"
    return [float(value) for value in found.matrix.values.tolist()]


def test_it_is_the_cosine_and_opposites_are_not_below_zero() -> None:
    assert row("east", ["east", "north-east", "north", "west"]) == pytest.approx([1.0, 0.6, 0.0, 0.0])


def test_two_empty_texts_are_equal_and_an_empty_one_is_like_no_other() -> None:
    assert row("", ["", "east"]) == [1.0, 0.0]


def test_without_a_model_it_drops_out() -> None:
    assert SimilarityEmbedding().nightschool_measure_similarity(["a"], ["b"], FakeEmbed(available=False)) is None


@settings(deadline=None)
@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_any_text_has_a_value_in_range_and_is_equal_to_itself(left: list[str], right: list[str]) -> None:
    found = SimilarityEmbedding().nightschool_measure_similarity(left, [*left, *right], FakeEmbed())
    assert found is not None
    values = found.matrix.values.tolist()
    assert (found.matrix.rows, found.matrix.columns) == (len(left), len(left) + len(right))
    assert all(0 <= value <= 1 for value in values)
    assert all(values[number * found.matrix.columns + number] == 1.0 for number in range(len(left)))
