"""What a sitting of an exam says of a model: scores, latency, speed."""

import math
import statistics
from collections.abc import Iterable

from nightschool_daemon.comparisons import Marks
from nightschool_hookspecs.corrections import GOOD_SCORE
from nightschool_hookspecs.records import ExamAnswer


def marks_of(answers: Iterable[ExamAnswer]) -> Marks:
    """The figures of the answers of one sitting."""
    given = tuple(answers)
    came = [one for one in given if not one.failed]
    latencies = [one.latency_s for one in came]
    seconds = sum(latencies)
    return Marks(
        score=statistics.fmean(one.score for one in given) if given else 0.0,
        success_rate=sum(one.score > GOOD_SCORE for one in given) / len(given) if given else 0.0,
        answers=len(given),
        failed=len(given) - len(came),
        latency_mean_s=statistics.fmean(latencies) if latencies else 0.0,
        latency_median_s=statistics.median(latencies) if latencies else 0.0,
        latency_p95_s=percentile(latencies, 0.95),
        tokens_per_s=sum(one.tokens for one in came) / seconds if seconds else 0.0,
    )


def percentile(values: list[float], share: float) -> float:
    """The smallest value that is not exceeded by so large a share of them (nearest rank); 0 for none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
