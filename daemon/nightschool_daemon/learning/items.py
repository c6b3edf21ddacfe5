"""What an exam asks."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nightschool_daemon.evaluation.questions import bare_question
from nightschool_daemon.jobs import EventRow
from nightschool_daemon.learning.building import build_one, build_prompt
from nightschool_daemon.learning.workshop import Workshop
from nightschool_daemon.learning.worth import is_better_known, is_dislike, objection_to
from nightschool_daemon.reasons import REBUILD
from nightschool_hookspecs.corrections import is_good
from nightschool_hookspecs.records import Event, ExamItem, FeedbackType, ItemRole, ScoredEvent, TrainingExample
from nightschool_hookspecs.services import GenerationError

NO_ANSWERS = ("I am sorry, but I cannot help with that.", "Sure! Happy to help.")
"""What says nothing, whatever was asked."""


def passes(workshop: Workshop, item: ExamItem, answer: str) -> bool:
    """Whether a validator finds an answer good, or none looks at its kind, or had the time to."""
    try:
        found = workshop.hooks.validate_answer(
            item=item, answer=answer, measure=workshop.measure, generate=workshop.judge
        )
    except GenerationError:
        # a model was to judge it and did not, as none does for a plan
        return True
    return found is None or found.is_out_of_time or is_good(found)


def items_of(workshop: Workshop, held_out: tuple[ScoredEvent, ...]) -> tuple[ExamItem, ...]:
    """One item a group: equal prompts would count one ability several times over."""
    of_group: dict[str, ExamItem] = {}
    for item in filter(None, (_item(workshop, scored) for scored in held_out)):
        present = of_group.get(item.group)
        # the latest event speaks for its group, but never in the place of one that knows more
        if present is None or _knows(item) >= _knows(present):
            of_group[item.group] = item
    return tuple(of_group.values())


def regression_items(
    workshop: Workshop, rows: Sequence[EventRow], believed: Iterable[ScoredEvent], folded: frozenset[str]
) -> tuple[ExamItem, ...]:
    """The latest correction of each group that the incumbent inherited: others it could not forget.

    Of groups that it did not, the candidate itself is asked what it learns tonight. So the guards see it where trial
    candidates prove the recipe, and where a version that knew them was taken back. Nobody is asked what is taken
    for noise or not learned from for its conversation.
    """
    inherited = frozenset(row.event.key for row in rows if row.inherited)
    # what was promoted and taken back is learned anew; a rebuild learns nothing, it has the lesson that there is
    returning = frozenset(row.group for row in rows if row.in_use and not row.inherited and row.group is not None)
    lesson = frozenset[str]() if workshop.info.reason == REBUILD else folded | returning
    asked = [one for one in believed if one.event.is_correction and (one.event.key in inherited or one.group in lesson)]
    items = filter(None, (_item(workshop, one) for one in asked))
    return tuple({item.group: _as_learned(item, inherited) for item in items}.values())


def _as_learned(item: ExamItem, inherited: frozenset[str]) -> ExamItem:
    if item.event_id in inherited:
        return replace(item, role=ItemRole.LEARNED)
    # a trial candidate is asked the same under the event's own name
    return replace(item, id=f"lesson/{item.id}", role=ItemRole.LESSON)


def gains(items: Iterable[ExamItem]) -> int:
    """How many items count for or against a candidate."""
    return sum(item.role is ItemRole.GAIN for item in items)


def _knows(item: ExamItem) -> tuple[bool, bool]:
    """How much an item can show, to be compared."""
    return item.role is ItemRole.GAIN, item.reference is not None


def _item(workshop: Workshop, scored: ScoredEvent) -> ExamItem | None:
    event = scored.event
    if is_dislike(event) and event.ai_output:
        return _item_without_reference(workshop, scored, event.ai_output)
    if objection_to(event) is not None:
        return None
    example = build_one(workshop, scored)
    if example is None:
        return None
    return replace(bare_item(workshop, scored, example), role=_role(event), reference=example.target)


def _item_without_reference(workshop: Workshop, scored: ScoredEvent, bad: str) -> ExamItem | None:
    """What failed a check that a validator here makes too counts: passing it is a gain. Other dislikes only guard.

    So does a check that whoever answers nothing passes: it would prove a model that makes nothing any more.
    """
    example = build_prompt(workshop, scored)
    if example is None:
        return None
    item = bare_item(workshop, scored, example)
    is_check = scored.event.feedback_type is FeedbackType.VALIDATION_FAILURE
    if is_check and not any(passes(workshop, item, one) for one in (bad, *NO_ANSWERS)):
        return replace(item, role=ItemRole.GAIN)
    return replace(item, disliked=bad)


def bare_item(workshop: Workshop, scored: ScoredEvent, example: TrainingExample) -> ExamItem:
    """The prompt alone."""
    asked = bare_question(scored.event, workshop.info.specialty.artifact_type, scored.group)
    return replace(asked, messages=example.messages)


def _role(event: Event) -> ItemRole:
    """A liked answer says that it was good, not that another is worse: it can only guard."""
    return ItemRole.GAIN if is_better_known(event) else ItemRole.GUARD
