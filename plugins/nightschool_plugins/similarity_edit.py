"""How alike two texts are by normalised Levenshtein distance.

similarity = 1 - distance / length of the longer text        two empty texts: 1

The distance counts inserted, deleted and replaced characters (rapidfuzz).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nightschool_hookspecs import Embed, Matrix, SimilarityMatrix, hookimpl


@dataclass(frozen=True, kw_only=True)
class SimilarityEdit:
    """`[plugins.similarity_edit]`"""

    weight: float = 0.4
    """Share in the combined similarity."""

    @hookimpl
    def nightschool_measure_similarity(
        self, left: Sequence[str], right: Sequence[str], embed: Embed
    ) -> SimilarityMatrix:
        return SimilarityMatrix(metric="edit", weight=self.weight, matrix=_compare(left, right))


def _compare(left: Sequence[str], right: Sequence[str]) -> Matrix:
    import numpy
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    table = cdist(left, right, scorer=Levenshtein.normalized_similarity, dtype=numpy.float32)
    return Matrix(values=table.ravel().data, rows=len(left), columns=len(right))


@hookimpl
def nightschool_register_settings() -> type[SimilarityEdit]:
    return SimilarityEdit
