"""Step `split`: the groups and sides that the worker found become permanent."""

from nightschool_daemon.jobs import SplitResult, Step
from nightschool_daemon.runs.context import StepContext


def accept(context: StepContext) -> None:
    """Write the new groups and sides into the ledger."""
    result = context.result(Step.SPLIT, SplitResult)
    context.ledger.events.set_sides(context.info.specialty.artifact_type, result.choices, result.groups)
