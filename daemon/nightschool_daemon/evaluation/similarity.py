"""How alike texts are by all similarity plugins together."""

from collections.abc import Sequence

from nightschool_daemon.hooks import Hooks
from nightschool_hookspecs.records import Matrix
from nightschool_hookspecs.services import Embed


class NoSimilarityError(Exception):
    """No similarity plugin answered."""


class CombinedMeasure:
    """`Measure`: the weighted mean over the metrics that answered. Computed in 64, given in 32 bits."""

    def __init__(self, hooks: Hooks, embed: Embed) -> None:
        self._hooks = hooks
        self._embed = embed

    def __call__(self, left: Sequence[str], right: Sequence[str]) -> Matrix:
        import numpy

        metrics = self._hooks.measure_similarity(left=left, right=right, embed=self._embed)
        weight = sum(metric.weight for metric in metrics)
        if not weight > 0:
            raise NoSimilarityError(
                "No similarity plugin is at work, so texts cannot be compared. Take similarity_edit out of "
                "plugins.disabled and give it a weight above 0."
            )
        total = numpy.zeros(len(left) * len(right))
        for metric in metrics:
            total += metric.weight / weight * numpy.frombuffer(metric.matrix.values, dtype=numpy.float32)
        values = numpy.clip(total, 0.0, 1.0).astype(numpy.float32)
        return Matrix(values=values.data, rows=len(left), columns=len(right))


def no_embeddings(texts: Sequence[str]) -> None:
    """`Embed` of a machine without an embedding model: metrics that need one drop out."""
