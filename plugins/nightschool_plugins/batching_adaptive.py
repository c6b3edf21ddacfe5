"""How much fresh feedback starts a run: by how much there is, how good it is, and how young the specialty is.

    floor = 8 if more than half of the fresh events are corrections, else 12
    base  = 0 if available < floor, available if < 20, 20 if < 50, 50 if < 100, else 75
    size  = max(floor, int(base * quality * youth)), at most 100, at most available; 0 where base is 0
    quality = 0.7 if the average quality is 0.6 (of 0..1) or more, else 1
    youth   = 0.6 if fewer than 100 events were seen in all, else 1

Good feedback and a young specialty make a batch smaller, down to the floor. How good feedback is goes by what is
learned of it: an answer by its score, a correction counts as 1.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from nightschool_hookspecs import BatchStatistics, Specialty, hookimpl


@dataclass(frozen=True, kw_only=True)
class BatchingAdaptive:
    """`[plugins.batching_adaptive]`"""

    floor_with_corrections: int = 8
    """Corrections say more than other feedback, so fewer of them are enough."""
    floor: int = 12
    steps: tuple[int, ...] = (20, 50, 100)
    """Fresh events from which a batch is that of `sizes`; with fewer it is all of them."""
    sizes: tuple[int, ...] = (20, 50, 75)
    good_quality: float = 0.6
    """0..1, average quality from which a batch is made smaller."""
    good_factor: float = 0.7
    young_events: int = 100
    """A specialty that saw fewer in all is young."""
    young_factor: float = 0.6
    largest: int = 100

    def __post_init__(self) -> None:
        floors = (self.floor_with_corrections, self.floor)
        if min(floors) < 1:
            raise ValueError("floor and floor_with_corrections must be 1 or more")
        if self.largest < max(floors):
            raise ValueError("largest must not be below floor or floor_with_corrections")
        if not all(low < high for low, high in pairwise((0, *self.steps))):
            raise ValueError("steps must be above 0 and ascend")
        if len(self.sizes) != len(self.steps) or not all(size >= 1 for size in self.sizes):
            raise ValueError("sizes must have a number of 1 or more for each of steps")
        if not 0 <= self.good_quality <= 1:
            raise ValueError("good_quality must lie within 0..1")
        if not (0 < self.good_factor <= 1 and 0 < self.young_factor <= 1):
            raise ValueError("good_factor and young_factor must be above 0 and at most 1")

    @hookimpl
    def nightschool_choose_batch_size(self, specialty: Specialty, statistics: BatchStatistics) -> int:
        floor = self._floor(statistics)
        if statistics.available < floor:
            return 0
        wanted = int(self._base(statistics.available) * self._quality(statistics) * self._youth(statistics))
        return min(max(floor, wanted), self.largest, statistics.available)

    def _floor(self, statistics: BatchStatistics) -> int:
        is_mostly_corrections = 2 * statistics.corrections > statistics.available
        return self.floor_with_corrections if is_mostly_corrections else self.floor

    def _base(self, available: int) -> int:
        return (available, *self.sizes)[bisect_right(self.steps, available)]

    def _quality(self, statistics: BatchStatistics) -> float:
        return self.good_factor if statistics.average_quality >= self.good_quality else 1.0

    def _youth(self, statistics: BatchStatistics) -> float:
        return self.young_factor if statistics.total_seen < self.young_events else 1.0


@hookimpl
def nightschool_register_settings() -> type[BatchingAdaptive]:
    return BatchingAdaptive
