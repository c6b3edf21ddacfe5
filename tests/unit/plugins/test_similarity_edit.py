"""Edit similarity against its definition."""

from hypothesis import given
from hypothesis import strategies as st

from nightschool_plugins.similarity_edit import SimilarityEdit


def no_embed(texts: object) -> None:
    return None


def table(left: list[str], right: list[str]) -> list[list[float]]:
    matrix = SimilarityEdit().nightschool_measure_similarity(left, right, no_embed).matrix
    assert (matrix.rows, matrix.columns) == (len(left), len(right))
    assert matrix.values.format == "f"
    values = [float(value) for value in matrix.values.tolist()]
    return [values[row * matrix.columns : (row + 1) * matrix.columns] for row in range(matrix.rows)]


def test_two_empty_texts_are_equal() -> None:
    assert table([""], [""]) == [[1.0]]


def test_turned_words_are_not_the_same() -> None:
    assert table(["Hello World"], ["World Hello"])[0][0] < 1.0


def test_one_of_four_letters() -> None:
    assert table(["abcd"], ["abcx", "", "abcd"]) == [[0.75, 0.0, 1.0]]


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_values_lie_in_range_and_do_not_depend_on_the_side(left: list[str], right: list[str]) -> None:
    there, back = table(left, right), table(right, left)
    assert all(0 <= value <= 1 for row in there for value in row)
    assert all(there[i][j] == back[j][i] for i in range(len(left)) for j in range(len(right)))


@given(st.text())
def test_a_text_is_equal_to_itself(text: str) -> None:
    assert table([text], [text]) == [[1.0]]
