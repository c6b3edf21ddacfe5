"""Starter examples: which ones stand beside a specialty's own examples, in which form, and what they weigh."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from nightschool_daemon.jobs import EventRow
from nightschool_daemon.learning.apart import close_to, set_aside
from nightschool_daemon.learning.beside import of_no_event
from nightschool_daemon.learning.building import artifact_type_of
from nightschool_daemon.learning.workshop import LEARNS_ANSWERS, DatasetError, Workshop, once
from nightschool_daemon.learning.worth import objection_to
from nightschool_daemon.reasons import REBUILD
from nightschool_daemon.wording import fold
from nightschool_hookspecs.artifacts import blocks
from nightschool_hookspecs.records import ScoredEvent, StarterExample, TrainingExample


def as_example(starter: StarterExample, own: Sequence[TrainingExample]) -> TrainingExample:
    """The example as it stands beside a specialty's own ones."""
    example = of_no_event(starter.prompt, _answer(starter, own), own)
    return replace(example, weight=starter.weight * example.weight)


def _answer(starter: StarterExample, own: Sequence[TrainingExample]) -> str:
    """In a fence where most of the own ones stand in one: applications read the one form or the other."""
    fenced = sum(bool(blocks(one.target)) for one in own)
    if not starter.language or 2 * fenced <= len(own):
        return starter.answer
    return f"```{starter.language}\n{starter.answer}\n```"


def choose_starters(
    workshop: Workshop,
    rows: Sequence[EventRow],
    selected: Iterable[ScoredEvent],
    originals: Iterable[TrainingExample],
) -> tuple[TrainingExample, ...]:
    """What is learned beside a young specialty's own examples. Nothing in a rebuild, nor where these are not learned.

    A trial candidate counts the events that it is asked too, so that it learns as much as the one that it stands for.
    """
    if workshop.method not in LEARNS_ANSWERS or workshop.info.reason == REBUILD:
        return ()
    kinds = {one.event.key: artifact_type_of(workshop, one.event) for one in selected}
    accepted = Counter(artifact_type_of(workshop, row.event) for row in rows if objection_to(row.event) is None)
    own: dict[str, list[TrainingExample]] = {}
    for one in originals:
        own.setdefault(kinds[one.event_id], []).append(one)
    return tuple(
        as_example(starter, examples)
        for kind, examples in own.items()
        for starter in _offered_starters(workshop, rows, kind, accepted[kind])[: len(examples)]
    )


def _offered_starters(
    workshop: Workshop, rows: Iterable[EventRow], artifact_type: str, accepted: int
) -> Sequence[StarterExample]:
    """Those whose prompts are close to none of the specialty's, on whatever side.

    Learned from, they would give the exam away, or say something else than its owner has said.
    """
    offered = workshop.hooks.offer_examples(artifact_type=artifact_type, accepted=accepted)
    for one in offered:
        if not (0 < one.weight <= 1 and one.answer.strip()):
            raise DatasetError(
                f"A plugin offers the starter example '{one.prompt[:60]}' with the weight {one.weight} and "
                f"{len(one.answer)} characters of an answer; it must have one, and a weight above 0 and at most 1."
            )
    starters = once([offered], lambda one: fold(one.prompt))
    close = close_to(workshop, set_aside(workshop, (row.event for row in rows)), {fold(one.prompt) for one in starters})
    return [one for one in starters if fold(one.prompt) not in close]
