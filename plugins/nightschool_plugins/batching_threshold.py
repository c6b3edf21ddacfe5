"""How much fresh feedback starts a run: a fixed number.

floor = 12 if more than half of the fresh events are corrections, else 16
size  = 0 if available < floor, else min(available, 100)
"""

from dataclasses import dataclass

from nightschool_hookspecs import BatchStatistics, Specialty, hookimpl


@dataclass(frozen=True, kw_only=True)
class BatchingThreshold:
    """`[plugins.batching_threshold]`"""

    floor_with_corrections: int = 12
    """Corrections say more than other feedback, so fewer of them are enough."""
    floor: int = 16
    largest: int = 100

    def __post_init__(self) -> None:
        if min(self.floor_with_corrections, self.floor) < 1:
            raise ValueError("floor and floor_with_corrections must be 1 or more")
        if self.largest < max(self.floor_with_corrections, self.floor):
            raise ValueError("largest must not be below floor or floor_with_corrections")

    @hookimpl
    def nightschool_choose_batch_size(self, specialty: Specialty, statistics: BatchStatistics) -> int:
        mostly_corrections = 2 * statistics.corrections > statistics.available
        floor = self.floor_with_corrections if mostly_corrections else self.floor
        return 0 if statistics.available < floor else min(statistics.available, self.largest)


@hookimpl
def nightschool_register_settings() -> type[BatchingThreshold]:
    return BatchingThreshold
