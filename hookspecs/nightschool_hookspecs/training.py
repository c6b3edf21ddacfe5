"""Hooks of training: what is learned from an event, and how."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import (
    Chunk,
    ScoredEvent,
    StarterExample,
    TrainingExample,
    TrainingJob,
    TrainingResult,
)
from nightschool_hookspecs.services import Train


@hookspec(firstresult=True)
def nightschool_build_example(event: ScoredEvent, chunks: tuple[Chunk, ...]) -> TrainingExample | None:
    """Turn an event into a conversation and the answer to be learned.

    Called once for each selected event, and for each held-out one to make its exam item, in the
    worker. `chunks` is what `nightschool_retrieve_context` gave. None: nothing to learn from it; the
    first answer counts.
    """


@hookspec
def nightschool_offer_examples(artifact_type: str, accepted: int) -> tuple[StarterExample, ...] | None:
    """Offer starter examples, from which a specialty learns while it has too little feedback of its own.

    Called once in a run for each artifact type that it learns from, and for each of its trial candidates and in a plan
    too, in the worker, with how many events of this type have an answer worth learning, those of the exam among them;
    not in a rebuild, which learns nothing. Return the
    examples in the order in which they are wanted. The offers of all plugins are joined; of equal prompts the first
    counts. The host leaves out what is close to any prompt of the specialty, on whatever side, takes of the rest at
    most as many as the run learns from of the specialty's own, and lets each count at most `StarterExample.weight` of
    the mean one of these. An answer is put into a fence where most of the own ones stand in one. Starter examples
    stand beside the lesson: they are never asked in an exam, start no run, and are in no measurement of what was
    learned. None: no examples of this type.
    """


@hookspec(firstresult=True)
def nightschool_train_adapter(job: TrainingJob, train: Train) -> TrainingResult | None:
    """Train an adapter.

    Called once in a run, in a child process of its own. Choose the method and the settings and call
    `train`, or do the whole work by yourself and leave a PEFT adapter directory in `job.output`. None:
    not a job of yours; the first answer counts. Where all say None, the run fails.

    Called too where a training is only planned (`job.is_rehearsal`): `train` then trains nothing, and who
    does the work by themselves returns None.

    Whoever trains, the base is one that the engine or transformers computes: by them what was learned is
    measured, and what is served is compared with it. Every other base, so each with experts (MoE), is refused
    before a plugin is asked.
    """
