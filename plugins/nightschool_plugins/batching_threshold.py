"""How much fresh feedback starts a run: a fixed number.

floor = 16 unless more than half of the fresh events are corrections; else
        8 for a specialty that had a run before and saw fewer than 40 events in all
        12 for any other
size  = 0 if available < floor, else min(available, 100)

A first run needs as many prompts as can prove something. What it has shown counts on, so that fewer new ones may do for
the next.
"""

from dataclasses import dataclass

from nightschool_hookspecs import BatchStatistics, Specialty, hookimpl


@dataclass(frozen=True, kw_only=True)
class BatchingThreshold:
    """`[plugins.batching_threshold]`"""

    floor_with_corrections: int = 12
    """Corrections say more than other feedback, so fewer of them are enough."""
    floor_when_young: int = 8
    """The same of a specialty that had a run and saw fewer than `young_events` in all."""
    young_events: int = 40
    floor: int = 16
    largest: int = 100

    def __post_init__(self) -> None:
        floors = (self.floor_with_corrections, self.floor_when_young, self.floor)
        if min(floors) < 1:
            raise ValueError("floor, floor_with_corrections and floor_when_young must be 1 or more")
        if self.largest < max(floors):
            raise ValueError("largest must not be below floor, floor_with_corrections or floor_when_young")

    @hookimpl
    def nightschool_choose_batch_size(self, specialty: Specialty, statistics: BatchStatistics) -> int:
        return 0 if statistics.available < self._floor(statistics) else min(statistics.available, self.largest)

    def _floor(self, statistics: BatchStatistics) -> int:
        if 2 * statistics.corrections <= statistics.available:
            return self.floor
        was_examined = statistics.batches_made > 0 and statistics.total_seen < self.young_events
        return self.floor_when_young if was_examined else self.floor_with_corrections


@hookimpl
def nightschool_register_settings() -> type[BatchingThreshold]:
    return BatchingThreshold
