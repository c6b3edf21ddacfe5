"""Step `rank`: a worker of its own, for which networks are loaded, where there is something to rank."""

from nightschool_daemon.jobs import RANKED, RankResult, SelectResult, Step, write_lines
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.worker_process import run_worker


def perform(context: StepContext) -> None:
    """Have held-out pairs ranked."""
    if context.result(Step.SELECT, SelectResult).pairs:
        run_worker(context, Step.RANK)
        return
    write_lines(context.directory.step(Step.RANK) / RANKED, ())
    context.directory.finish(Step.RANK, RankResult(ranked=0, left_out=0))
