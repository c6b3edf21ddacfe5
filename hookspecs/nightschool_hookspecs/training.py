"""Hooks of training: what is learned from an event, and how."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Chunk, ScoredEvent, TrainingExample, TrainingJob, TrainingResult
from nightschool_hookspecs.services import Train


@hookspec(firstresult=True)
def nightschool_build_example(event: ScoredEvent, chunks: tuple[Chunk, ...]) -> TrainingExample | None:
    """Turn an event into a conversation and the answer to be learned.

    Called once for each selected event, and for each held-out one to make its exam item, in the
    worker. `chunks` is what `nightschool_retrieve_context` gave. None: nothing to learn from it; the
    first answer counts.
    """


@hookspec(firstresult=True)
def nightschool_train_adapter(job: TrainingJob, train: Train) -> TrainingResult | None:
    """Train an adapter.

    Called once in a run, in a child process of its own. Choose the method and the settings and call
    `train`, or do the whole work by yourself and leave a PEFT adapter directory in `job.output`. None:
    not a job of yours; the first answer counts. Where all say None, the run fails.

    Called too where a training is only planned (`job.is_rehearsal`): `train` then trains nothing, and who
    does the work by themselves returns None.
    """
