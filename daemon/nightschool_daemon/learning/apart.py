"""What would give the exam away: nothing is learned that asks what comes close to a prompt of it.

What is learned beside the prompts of events is written down, so that nothing like it is held out later.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar

from nightschool_daemon.jobs import EventRow, LeftOut, Wording
from nightschool_daemon.learning.building import build_prompt
from nightschool_daemon.learning.conversations import earlier_turns
from nightschool_daemon.learning.grouping import AnyPrompt, prompt_of
from nightschool_daemon.learning.split import side_of
from nightschool_daemon.learning.workshop import Workshop
from nightschool_daemon.learning.worth import as_left_out
from nightschool_daemon.reasons import is_by_hand
from nightschool_daemon.wording import fold
from nightschool_hookspecs.records import (
    Event,
    LabelledAnswer,
    PreferencePair,
    ScoredEvent,
    Side,
    TrainingExample,
    TrainingMethod,
)

P = TypeVar("P", PreferencePair, LabelledAnswer)
Made: TypeAlias = TrainingExample | PreferencePair | LabelledAnswer
KeptAside: TypeAlias = tuple[AnyPrompt, ...]
"""Prompts that nothing may be like which is made up to be learned, once each."""


def set_aside(workshop: Workshop, events: Iterable[Event]) -> KeptAside:
    """The prompts of these events, and those of the type that are held out."""
    asked = (fold(event.input_data) for event in events)
    return tuple(dict.fromkeys((*asked, *map(prompt_of, workshop.kept_aside))))


def of_exams(rows: Iterable[EventRow], sides: dict[str, Side]) -> Iterator[Event]:
    """Events that are held out or may yet be; nobody asks what bridges the sides."""
    return (row.event for row in rows if row.group is not None and side_of(row, sides) is not Side.TRAINING)


def close_to(workshop: Workshop, aside: KeptAside, texts: Collection[str]) -> frozenset[str]:
    """Which of some folded texts are near-duplicates of a prompt that is kept aside."""
    offered = sorted(texts)
    pairs = workshop.find_near((*aside, *offered), len(aside)) if aside and offered else ()
    return frozenset(offered[high - len(aside)] for _, high in pairs)


def without_overheard(
    workshop: Workshop, training: tuple[ScoredEvent, ...], aside: KeptAside
) -> tuple[tuple[ScoredEvent, ...], tuple[LeftOut, ...]]:
    """Events in whose conversations no prompt of the exam was put before, and those in which one was."""
    close = close_to(workshop, aside, {text for one in training for text in earlier_turns(one.event)})
    overheard = {one.event.key for one in training if not close.isdisjoint(earlier_turns(one.event))}
    purpose = "apart, to measure on it" if is_by_hand(workshop.info) else "for the exam"
    reason = f"its conversation has a prompt in it that is close to one that is kept {purpose}"
    return (
        tuple(one for one in training if one.event.key not in overheard),
        tuple(as_left_out(one.event, reason) for one in training if one.event.key in overheard),
    )


def variants_apart(
    workshop: Workshop, variants: Sequence[TrainingExample], aside: KeptAside
) -> Iterator[TrainingExample]:
    """The variants that ask no near-duplicate of a prompt of the exam."""
    close = close_to(workshop, aside, {text for one in variants for text in _asked_texts(one)})
    return (one for one in variants if close.isdisjoint(_asked_texts(one)))


def preferences_apart(
    workshop: Workshop, events: Iterable[ScoredEvent], made: Sequence[P], aside: KeptAside
) -> list[P]:
    """The same of preferences, as far as plugins made up what they ask."""
    own = {one.event.key: one for one in events}
    made_up = [asked_instead(workshop, one, own[one.event_id]) for one in made]
    close = close_to(workshop, aside, frozenset(itertools.chain.from_iterable(made_up)))
    return [one for one, texts in zip(made, made_up, strict=True) if close.isdisjoint(texts)]


def _asked_texts(made: Made) -> tuple[str, ...]:
    """What is asked, with and without retrieved texts around it: who changes the one may forget the other."""
    prompts = [made.prompt] if isinstance(made, TrainingExample) else []
    return tuple(fold(text) for text in (*prompts, *(one.content for one in made.messages[-1:])))


def asked_instead(workshop: Workshop, made: Made, scored: ScoredEvent) -> tuple[str, ...]:
    """What is asked in the place of an event's own prompt. One that has the event's words among others is another."""
    own = fold(scored.event.input_data)
    others = tuple(text for text in _asked_texts(made) if text != own)
    if not others:
        return ()
    built = _built_again(workshop, made, scored)
    return others if built is None else tuple(text for text in others if text != fold(built.messages[-1].content))


def _built_again(workshop: Workshop, made: Made, scored: ScoredEvent) -> TrainingExample | None:
    """What the event's own prompt looks like with the texts around it that were retrieved for what was made of it."""
    if isinstance(made, TrainingExample):
        return workshop.hooks.build_example(event=scored, chunks=made.chunks)
    return build_prompt(workshop, scored)


def wordings_of(
    workshop: Workshop,
    events: Iterable[ScoredEvent],
    examples: Iterable[TrainingExample],
    pairs: Iterable[PreferencePair],
    labels: Iterable[LabelledAnswer],
) -> tuple[Wording, ...]:
    """What each method reads as a prompt, and is no event's own: earlier turns, what was made up, what has no event.

    What was made up is in the group of its original. An earlier turn asks something else, so it has a group of its own.
    """
    own = {one.event.key: one for one in events}
    read = ((TrainingMethod.SFT, examples), (TrainingMethod.DPO, pairs), (TrainingMethod.KTO, labels))
    found = (
        Wording(event_id=one.event_id, group=group, text=text, method=method)
        for method, made in read
        for one in made
        for text, group in _read_beside(workshop, one, own.get(one.event_id))
    )
    return tuple(dict.fromkeys(found))


def _read_beside(workshop: Workshop, made: Made, scored: ScoredEvent | None) -> Iterator[tuple[str, str]]:
    """Texts and their groups."""
    made_up = _asked_texts(made) if scored is None else asked_instead(workshop, made, scored)
    yield from ((text, made.group) for text in made_up)
    if scored is not None:
        yield from ((text, "") for text in earlier_turns(scored.event))
