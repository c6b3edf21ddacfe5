"""How an event becomes an example: with its prompt as plugins build it, and the texts that they retrieve."""

import math
from dataclasses import replace

from nightschool_daemon.learning.workshop import DatasetError, Workshop
from nightschool_daemon.learning.worth import is_dislike
from nightschool_hookspecs.records import Chunk, Event, FeedbackType, ScoredEvent, TrainingExample


def build_one(workshop: Workshop, scored: ScoredEvent) -> TrainingExample | None:
    """The example of an event; None: there is nothing to learn from it."""
    event = scored.event
    example = workshop.hooks.build_example(event=scored, chunks=scored.chunks)
    if example is None:
        return None
    return replace(
        example,
        event_id=event.key,
        group=scored.group,
        difficulty=scored.difficulty,
        parent=None,
        prompt=event.input_data,
        chunks=scored.chunks,
        score=None if event.ai_output is None else event.validation_score,
        artifact_type=artifact_type_of(workshop, event),
        tests=event.metadata.tests,
        schema=event.metadata.schema,
    )


def retrieved_for(workshop: Workshop, event: Event) -> tuple[Chunk, ...]:
    """The texts that belong into its prompt. Fetching may be dear: of what was withdrawn nobody fetches any."""
    if event.metadata.deleted:
        return event.context.chunks
    return workshop.hooks.retrieve_context(event=event, query=event.input_data, retrieve=workshop.retrieve)


def weighted(example: TrainingExample, factor: float) -> TrainingExample:
    """With its weight times a factor."""
    weight = example.weight * factor
    if not (math.isfinite(weight) and weight > 0):
        raise DatasetError(f"A plugin gave the example of {example.event_id} the weight {weight}; it must be above 0.")
    return replace(example, weight=weight)


def build_prompt(workshop: Workshop, scored: ScoredEvent) -> TrainingExample | None:
    """The example of an event for its prompt's sake: of a disliked answer, from which none is made, as if liked."""
    if is_dislike(scored.event):
        scored = replace(scored, event=replace(scored.event, feedback_type=FeedbackType.SUCCESS))
    return build_one(workshop, scored)


def artifact_type_of(workshop: Workshop, event: Event) -> str:
    """Its own, else that of the specialty."""
    return event.artifact_type or workshop.info.specialty.artifact_type
