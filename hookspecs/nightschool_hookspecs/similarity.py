"""Hooks of similarity: how alike two texts are."""

from collections.abc import Sequence

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import SimilarityMatrix
from nightschool_hookspecs.services import Embed


@hookspec
def nightschool_measure_similarity(left: Sequence[str], right: Sequence[str], embed: Embed) -> SimilarityMatrix | None:
    """Measure every text of `left` against every text of `right` by one metric.

    Called as often as a plugin or a step asks for similarity, in a worker. The matrix has shape
    (len(left), len(right)), values in 0..1; two equal texts, empty ones included, are 1.0. None: this
    metric is not available here. The answers are combined by their weights, renormalised over those
    that answered: a missing metric drops out and is never replaced by another.
    """
