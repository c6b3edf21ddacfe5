"""The plugins' store crosses to the worker as a snapshot, and comes back as a journal of writes."""

import json

from nightschool_daemon.jobs import Step, StoreWrite, read_lines, write_durably
from nightschool_daemon.runs.context import StepContext


def freeze(context: StepContext) -> None:
    """Write the snapshot that the workers of this run read. Each specialty has a space of its own."""
    values = context.ledger.plugins.store(str(context.info.specialty))
    write_durably(context.directory.step(Step.PREPARE) / "store.json", json.dumps(values))


def accept(context: StepContext, step: Step) -> None:
    """Apply what the plugins wrote in a step."""
    journal = context.directory.step(step) / "store.jsonl"
    if not journal.is_file():
        return
    space = str(context.info.specialty)
    for write in read_lines(journal, StoreWrite):
        if write.value is None:
            context.ledger.plugins.store_delete(space, write.key)
        else:
            context.ledger.plugins.store_put(space, write.key, write.value)
