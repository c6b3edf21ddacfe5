"""Hooks of batching: how much fresh feedback starts a run."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import BatchStatistics, Specialty


@hookspec(firstresult=True)
def nightschool_choose_batch_size(specialty: Specialty, statistics: BatchStatistics) -> int | None:
    """Choose how many fresh events the next run of a specialty takes as its batch.

    Called for every specialty at each scheduled time and by `status`, in the daemon: answer within
    milliseconds. 0: not due yet. None: no opinion; the first answer counts. Where all say None, the
    specialty is not due.
    """
