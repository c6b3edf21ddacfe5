"""Preferences: pairs of a better and a worse answer, and single answers that were liked or not."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nightschool_daemon.learning.apart import KeptAside, Made, P, asked_instead, preferences_apart
from nightschool_daemon.learning.building import build_prompt
from nightschool_daemon.learning.items import items_of
from nightschool_daemon.learning.workshop import DatasetError, Workshop, once
from nightschool_daemon.learning.worth import is_dislike
from nightschool_hookspecs.records import (
    Budget,
    ExamItem,
    ItemRole,
    LabelledAnswer,
    Message,
    PreferencePair,
    ScoredEvent,
)


def rated_events(
    selected: tuple[ScoredEvent, ...], believed: tuple[ScoredEvent, ...], budget: Budget
) -> tuple[ScoredEvent, ...]:
    """What preferences are made of: the selected events, and the newest disliked answers, which are no targets.

    In order of arrival, as the latest event speaks for its group.
    """
    disliked = [one for one in believed if is_dislike(one.event)]
    rated = {one.event.key for one in (*selected, *disliked[-budget.events :])}
    return tuple(one for one in believed if one.event.key in rated)


def build_pairs(workshop: Workshop, events: tuple[ScoredEvent, ...], aside: KeptAside) -> tuple[PreferencePair, ...]:
    """The pairs in random order.

    Of two with the same texts the sampled one counts, as one validator has measured both of its sides here; what the
    feedback itself says the other way round is not learned.
    """
    offered, sampled = (
        [
            replace(one, sampled=was_asked)
            for one in _placed(workshop, events, preferences_apart(workshop, events, made, aside))
        ]
        for made, was_asked in ((_offered_pairs(workshop, events), False), (_sampled_pairs(workshop, events), True))
    )
    contradicted = {(one.messages, one.rejected, one.chosen) for one in offered}
    agreeing = [one for one in sampled if _texts(one) not in contradicted]
    return _shuffled(workshop, once([agreeing, offered], _texts))


def _texts(pair: PreferencePair) -> tuple[tuple[Message, ...], str, str]:
    return pair.messages, pair.chosen, pair.rejected


def build_labels(workshop: Workshop, events: tuple[ScoredEvent, ...], aside: KeptAside) -> tuple[LabelledAnswer, ...]:
    """Single answers that were liked or not, in random order."""
    labels = once(workshop.hooks.label_answers(events=events), lambda one: (one.messages, one.answer))
    _require_offered(labels, events)
    return _shuffled(workshop, _placed(workshop, events, preferences_apart(workshop, events, labels, aside)))


def _placed(workshop: Workshop, events: Iterable[ScoredEvent], made: Sequence[P]) -> list[P]:
    """With the prompt and the group of the event that each was made of."""
    prompts = _prompts(workshop, events, made)
    return [_as_asked(one, prompts[one.event_id]) for one in made]


def _shuffled(workshop: Workshop, made: Sequence[P]) -> tuple[P, ...]:
    order = random.Random(f"{workshop.info.seed}/preferences")  # noqa: S311 - no secret
    return tuple(order.sample(made, len(made)))


def _sampled_pairs(workshop: Workshop, events: tuple[ScoredEvent, ...]) -> list[PreferencePair]:
    """Pairs among answers of the incumbent to the prompts that could count in an exam, were they not learned from."""
    if workshop.sampling is None:
        return []
    items = tuple(item for item in items_of(workshop, events) if item.role is ItemRole.GAIN)
    offered = workshop.hooks.build_sampled_pairs(
        items=items,
        sample=workshop.sampling.sample,
        validate=workshop.sampling.validate,
        seed=workshop.info.seed,
    )
    pairs = [pair for of_plugin in offered for pair in of_plugin]
    _require_offered(pairs, events)
    return pairs


def _offered_pairs(workshop: Workshop, events: tuple[ScoredEvent, ...]) -> list[PreferencePair]:
    pairs = once(workshop.hooks.build_preference_pairs(events=events), lambda one: one)
    _require_offered(pairs, events)
    return pairs


def _require_offered(made: Iterable[PreferencePair | LabelledAnswer], events: Iterable[ScoredEvent]) -> None:
    known = frozenset(one.event.key for one in events)
    foreign = [key for one in made for key in origins_of(one) if key not in known]
    if foreign:
        raise DatasetError(f"A plugin made a preference of the event {foreign[0]}, which was not offered to it.")


def origins_of(made: Made) -> tuple[str, ...]:
    """`source/id` of the events that its answers are of; of none, where it is an answer of the base's own."""
    worse = made.worse_event_id if isinstance(made, PreferencePair) else ""
    return tuple(filter(None, (made.event_id, worse)))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What an event's answer stands behind, wherever it is learned from or examined."""

    conversation: tuple[Message, ...]
    """As it was recorded."""
    messages: tuple[Message, ...]
    """As the examples have it, with the retrieved texts."""
    group: str


def _prompts(
    workshop: Workshop, events: Iterable[ScoredEvent], made: Iterable[PreferencePair | LabelledAnswer]
) -> dict[str, Prompt]:
    """Of the events that something was made of, by their keys."""
    asked = {one.event_id for one in made}
    return {one.event.key: _prompt(workshop, one) for one in events if one.event.key in asked}


def _prompt(workshop: Workshop, scored: ScoredEvent) -> Prompt:
    conversation = scored.event.conversation
    built = build_prompt(workshop, scored)
    messages = conversation if built is None else built.messages
    return Prompt(conversation=conversation, messages=messages, group=scored.group)


def _as_asked(one: P, prompt: Prompt) -> P:
    """With the prompt that examples and exam items of its event have; one that a plugin made by itself stays."""
    messages = prompt.messages if one.messages == prompt.conversation else one.messages
    return replace(one, messages=messages, group=prompt.group)


def ranked_pairs(
    workshop: Workshop, held_out: tuple[ScoredEvent, ...], items: tuple[ExamItem, ...]
) -> tuple[PreferencePair, ...]:
    """A pair of a better and a worse answer to each prompt that was answered twice and of which no item counts.

    Both must be answers that were given, and to that prompt: what a plugin makes up to learn from proves nothing.
    """
    if not workshop.ranks:
        return ()
    known = frozenset(item.group for item in items if item.role is ItemRole.GAIN)
    events = tuple(one for one in held_out if one.group not in known and not one.event.metadata.deleted)
    given: dict[str, set[str | None]] = {}
    for one in events:
        given.setdefault(one.group, set()).update((one.event.ai_output, one.event.corrected_output))
    scored = {one.event.key: one for one in events}
    pairs = [
        one
        for one in _offered_pairs(workshop, events)
        if {one.chosen, one.rejected} <= given[scored[one.event_id].group]
        and not asked_instead(workshop, one, scored[one.event_id])
    ]
    return tuple({one.group: one for one in _placed(workshop, events, pairs)}.values())
