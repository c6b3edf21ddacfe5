"""BLEU similarity against sacrebleu's own sentence score."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from nightschool_plugins.similarity_bleu import SimilarityBleu

ORACLE = BLEU(effective_order=True)
words = st.lists(st.sampled_from(["find", "all", "files", "in", "/tmp", "-name", "'*.c'", "."]), max_size=9).map(
    " ".join
)


def no_embed(texts: object) -> None:
    return None


def table(left: list[str], right: list[str]) -> list[list[float]]:
    matrix = SimilarityBleu().nightschool_measure_similarity(left, right, no_embed).matrix
    assert (matrix.rows, matrix.columns) == (len(left), len(right))
    assert matrix.values.format == "f"
    values = [float(value) for value in matrix.values.tolist()]
    return [values[row * matrix.columns : (row + 1) * matrix.columns] for row in range(matrix.rows)]


def test_two_empty_texts_are_equal_and_an_empty_one_is_like_no_other() -> None:
    assert table(["", " "], ["", "ls"]) == [[1.0, 0.0], [1.0, 0.0]]


def test_turned_words_are_not_the_same() -> None:
    assert table(["Hello World"], ["World Hello"])[0][0] == pytest.approx(0.5**0.5)


def test_a_text_of_fewer_than_four_words_is_like_itself_and_its_kin() -> None:
    # without effective_order each of these would be 0
    found = table(["list files"], ["list files", "list all files", "list"])[0]
    assert found[0] == 1.0
    assert all(value > 0.2 for value in found)


@settings(deadline=None)
@given(st.lists(words, max_size=4), st.lists(words, max_size=4))
def test_the_batch_says_what_sacrebleu_says_of_each_pair(left: list[str], right: list[str]) -> None:
    for text, row in zip(left, table(left, right), strict=True):
        for other, value in zip(right, row, strict=True):
            expected = 1.0 if text == other else ORACLE.sentence_score(text, [other]).score / 100
            assert value == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_any_text_has_a_value_in_range_and_is_equal_to_itself(left: list[str], right: list[str]) -> None:
    assert all(0 <= value <= 1 for row in table(left, right) for value in row)
    assert all(row[number] == 1.0 for number, row in enumerate(table(left, left)))
