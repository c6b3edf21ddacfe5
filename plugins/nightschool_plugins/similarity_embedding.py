"""How alike two texts are in meaning: cosine of their embeddings.

similarity = cosine clipped to 0..1          two equal texts: 1

The vectors come from the machine's embedding model; where there is none, this metric drops out. A text without any
word has no direction: it is alike to none but its equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nightschool_hookspecs import Embed, Matrix, SimilarityMatrix, hookimpl


@dataclass(frozen=True, kw_only=True)
class SimilarityEmbedding:
    """`[plugins.similarity_embedding]`"""

    weight: float = 0.3
    """Share in the combined similarity."""

    @hookimpl
    def nightschool_measure_similarity(
        self, left: Sequence[str], right: Sequence[str], embed: Embed
    ) -> SimilarityMatrix | None:
        place = {text: number for number, text in enumerate(dict.fromkeys([*left, *right]))}
        vectors = embed(tuple(place))
        if vectors is None:
            return None
        return SimilarityMatrix(metric="embedding", weight=self.weight, matrix=_compare(left, right, place, vectors))


def _compare(left: Sequence[str], right: Sequence[str], place: dict[str, int], vectors: Matrix) -> Matrix:
    import numpy

    table = numpy.frombuffer(vectors.values, dtype=numpy.float32).reshape(vectors.rows, vectors.columns)
    rows = numpy.array([place[text] for text in left], dtype=numpy.intp)
    columns = numpy.array([place[text] for text in right], dtype=numpy.intp)
    cosines = numpy.clip(table[rows] @ table[columns].T, 0.0, 1.0)
    # a cosine of a vector with itself may miss 1 by the last bit
    cosines[rows[:, None] == columns] = 1.0
    return Matrix(values=cosines.astype(numpy.float32).ravel().data, rows=len(left), columns=len(right))


@hookimpl
def nightschool_register_settings() -> type[SimilarityEmbedding]:
    return SimilarityEmbedding
