"""What is learned again beside a lesson, and how much of it there may be."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence

from nightschool_daemon.jobs import EventRow
from nightschool_daemon.learning.apart import close_to, set_aside
from nightschool_daemon.learning.beside import of_no_event, pull
from nightschool_daemon.learning.building import build_one, weighted
from nightschool_daemon.learning.noise import factor_of
from nightschool_daemon.learning.workshop import LEARNS_ANSWERS, DatasetError, Selection, TrainingSide, Workshop
from nightschool_daemon.learning.worth import is_better_known, objection_to
from nightschool_daemon.reasons import REBUILD
from nightschool_daemon.wording import fold
from nightschool_hookspecs.records import OwnAnswer, ScoredEvent, TrainingExample
from nightschool_hookspecs.replay import LARGEST_SHARE

ROUNDING = 1e-9
"""Relative, of sums of floats."""


def bounded(lesson: Sequence[TrainingExample], replayed: Iterable[TrainingExample]) -> tuple[TrainingExample, ...]:
    """The first ones that fit: with the lesson they make up at most a quarter of the examples, and of the loss."""
    share = LARGEST_SHARE / (1 - LARGEST_SHARE)
    most, left = math.floor(share * len(lesson)), share * math.fsum(map(pull, lesson)) * (1 + ROUNDING)
    kept: list[TrainingExample] = []
    for one in replayed:
        if len(kept) < most and pull(one) <= left:
            kept.append(one)
            left -= pull(one)
    return tuple(kept)


def choose_replayed(
    workshop: Workshop,
    rows: tuple[EventRow, ...],
    side: TrainingSide,
    selection: Selection,
    lesson: tuple[TrainingExample, ...],
) -> tuple[TrainingExample, ...]:
    """What is learned again beside the lesson. Nothing where it is none of wanted answers, nor in a rebuild."""
    if not lesson or workshop.method not in LEARNS_ANSWERS or workshop.info.reason == REBUILD:
        return ()
    earlier = _earlier(rows, side.believed, selection)
    replay = workshop.hooks.replay_examples(
        examples=lesson, earlier=tuple(earlier.values()), recall=workshop.recall, seed=workshop.info.seed
    )
    unknown = [key for key in replay.events if key not in earlier]
    if unknown:
        raise DatasetError(f"A plugin replays the event {unknown[0]}, which was not offered to it.")
    built = filter(None, (build_one(workshop, earlier[key]) for key in dict.fromkeys(replay.events)))
    own = (of_no_event(one.prompt, one.text, lesson) for one in _far_answers(workshop, replay.answers, rows))
    kept = bounded(lesson, (*(weighted(one, factor_of(side.noise, one.event_id)) for one in built), *own))
    order = random.Random(f"{workshop.info.seed}/replay")  # noqa: S311 - no secret
    return tuple(order.sample(kept, len(kept)))


def _earlier(rows: Iterable[EventRow], believed: Iterable[ScoredEvent], selection: Selection) -> dict[str, ScoredEvent]:
    """What could be forgotten, by its key: what the incumbent has learned, and tonight's lesson has nothing of.

    The latest one of a group speaks for it: an earlier one may say what was corrected since.
    """
    inherited = frozenset(row.event.key for row in rows if row.inherited)
    learned = frozenset(one.group for one in selection.events)
    latest = {
        one.group: one
        for one in believed
        if one.group not in learned and is_better_known(one.event) and objection_to(one.event) is None
    }
    return {one.event.key: one for one in latest.values() if one.event.key in inherited}


def _far_answers(workshop: Workshop, answers: Iterable[OwnAnswer], rows: Iterable[EventRow]) -> Iterator[OwnAnswer]:
    """Answers to prompts that are close to none of the specialty's, on whatever side.

    Learned from, they would give the exam away, or teach again what was corrected.
    """
    asked = {fold(one.prompt): one for one in answers if one.text.strip()}
    close = close_to(workshop, set_aside(workshop, (row.event for row in rows)), asked)
    return (one for text, one in asked.items() if text not in close)
