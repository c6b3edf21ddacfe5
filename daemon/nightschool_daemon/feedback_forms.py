"""Feedback in the forms that other tools train from: `nightschool feedback export`.

It is what Night School would learn from, by the same plugins: wanted answers, better answers over worse ones, answers
that were liked or disliked by themselves. Prompts have the texts in them that the application retrieved. What was
withdrawn and weak signals are left out; prompts that are held out for exams are not. Where all feedback is asked for,
answers of different models to one prompt make pairs too.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import POOLED_TYPE, Ledger
from nightschool_hookspecs.records import (
    Event,
    FeedbackType,
    LabelledAnswer,
    Message,
    PreferencePair,
    Role,
    ScoredEvent,
    Specialty,
)

P = TypeVar("P", PreferencePair, LabelledAnswer)
Row = Mapping[str, object]
"""An object of a JSONL file."""
SPEAKERS: Mapping[Role, str] = {
    Role.SYSTEM: "system",
    Role.USER: "human",
    Role.ASSISTANT: "gpt",
    Role.TOOL: "observation",
}
"""As ShareGPT names them."""


class Form(StrEnum):
    """A form that other tools read."""

    TRL = "trl"
    """Pairs, as TRL's preference rows, with the margin of each."""
    OPENAI = "openai"
    """Pairs, as OpenAI's preference rows."""
    KTO = "kto"
    """Likes and dislikes, as TRL's unpaired preference rows."""
    ALPACA = "alpaca"
    """Wanted answers."""
    SHAREGPT = "sharegpt"
    """Wanted answers."""


NEEDED: Mapping[Form, str] = {
    Form.TRL: "pairs of a better and a worse answer, as corrections with the answer that they correct",
    Form.OPENAI: "pairs of a better and a worse answer, as corrections with the answer that they correct",
    Form.KTO: "answers that were liked or disliked by themselves",
    Form.ALPACA: "wanted answers: corrections, demonstrations, liked answers",
    Form.SHAREGPT: "wanted answers: corrections, demonstrations, liked answers",
}
"""What feedback a form can say."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A conversation and the answer that was wanted."""

    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What feedback is in a form."""

    lines: tuple[str, ...]
    """Rows as JSON, each once."""
    left_out: int
    """Rows whose earlier turns the form has no place for."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What there is to export."""

    events: tuple[Event, ...]
    hooks: Hooks

    def wanted(self) -> Iterator[Wanted]:
        """The wanted answer of each event that has one."""
        for event in self.events:
            if event.target is not None and event.target.strip():
                yield Wanted(messages=_prompt(event, self.hooks), answer=event.target)

    def pairs(self) -> Iterator[PreferencePair]:
        """Better answers over worse ones."""
        made = self.hooks.build_preference_pairs(events=tuple(map(_unscored, self.events)))
        return self._placed(one for of_plugin in made for one in of_plugin)

    def labels(self) -> Iterator[LabelledAnswer]:
        """Answers that were liked or disliked by themselves."""
        made = self.hooks.label_answers(events=tuple(map(_unscored, self.events)))
        return self._placed(one for of_plugin in made for one in of_plugin)

    def _placed(self, made: Iterable[P]) -> Iterator[P]:
        """With the prompt that a training has in place of the conversation as it was recorded."""
        events = {event.key: event for event in self.events}
        for one in made:
            event = events.get(one.event_id)
            if event is not None and one.messages == event.conversation:
                yield replace(one, messages=_prompt(event, self.hooks))
            else:
                yield one


def export(form: Form, events: Iterable[Event], hooks: Hooks) -> Exported:
    """Say feedback in a form."""
    strong = tuple(one for one in events if not (one.metadata.deleted or one.metadata.weak))
    rows = list(ROWS[form](Feedback(events=strong, hooks=hooks)))
    lines = (json.dumps(row, ensure_ascii=False) for row in rows if row is not None)
    return Exported(lines=tuple(dict.fromkeys(lines)), left_out=rows.count(None))


def events_of(ledger: Ledger, specialty: Specialty | None) -> tuple[Event, ...]:
    """The events of a specialty, or all that there are, in order of arrival."""
    if specialty is not None:
        return tuple(row.event for row in ledger.events.of_specialty(specialty, with_unassigned=True))
    bases = {one.base or "" for one in ledger.events.count_by_specialty()}
    rows = {
        row.event.key: row
        for base in bases
        for row in ledger.events.of_specialty(Specialty(base=base, artifact_type=POOLED_TYPE), with_unassigned=True)
    }
    return tuple(row.event for row in sorted(rows.values(), key=lambda row: row.arrival))


def _unscored(event: Event) -> ScoredEvent:
    """What is worked out in a run alone, as what a validator makes of a correction, no form tells."""
    return ScoredEvent(
        event=event,
        priority=0.0,
        reward=0.0,
        difficulty=0.5,
        group="",
        trained_on=False,
        chunks=event.context.chunks,
    )


def _prompt(event: Event, hooks: Hooks) -> tuple[Message, ...]:
    """What a training has before the answer: the conversation, with the retrieved texts in it."""
    # a disliked answer is no target, so that no example is made of it: its prompt is built as if it were liked
    liked = event if event.target is not None else replace(event, feedback_type=FeedbackType.SUCCESS)
    example = hooks.build_example(event=_unscored(liked), chunks=event.context.chunks)
    return event.conversation if example is None else example.messages


# --------------------------------------------------------------------------- the forms


def _as_trl(feedback: Feedback) -> Iterator[Row]:
    for one in feedback.pairs():
        yield {
            "prompt": _turns(one.messages),
            "chosen": _answer(one.chosen),
            "rejected": _answer(one.rejected),
            "margin": one.margin,
        }


def _as_openai(feedback: Feedback) -> Iterator[Row]:
    for one in feedback.pairs():
        yield {
            "input": {"messages": _turns(one.messages)},
            "preferred_output": _answer(one.chosen),
            "non_preferred_output": _answer(one.rejected),
        }


def _as_kto(feedback: Feedback) -> Iterator[Row]:
    for one in feedback.labels():
        yield {"prompt": _turns(one.messages), "completion": _answer(one.answer), "label": one.liked}


def _as_alpaca(feedback: Feedback) -> Iterator[Row | None]:
    for one in feedback.wanted():
        system, (*earlier, prompt) = _without_system(one.messages)
        history = _history(earlier)
        if history is None or prompt.role is not Role.USER:
            yield None
            continue
        yield {
            "instruction": prompt.content,
            "input": "",
            "output": one.answer,
            "system": system,
            "history": history,
        }


def _as_sharegpt(feedback: Feedback) -> Iterator[Row]:
    for one in feedback.wanted():
        turns = (*one.messages, Message(role=Role.ASSISTANT, content=one.answer))
        yield {"conversations": [{"from": SPEAKERS[turn.role], "value": turn.content} for turn in turns]}


ROWS: Mapping[Form, Callable[[Feedback], Iterator[Row | None]]] = {
    Form.TRL: _as_trl,
    Form.OPENAI: _as_openai,
    Form.KTO: _as_kto,
    Form.ALPACA: _as_alpaca,
    Form.SHAREGPT: _as_sharegpt,
}
"""How each is said; None for what it cannot say."""


def _turns(messages: Iterable[Message]) -> list[Row]:
    return [{"role": one.role.value, "content": one.content} for one in messages]


def _answer(text: str) -> list[Row]:
    return _turns([Message(role=Role.ASSISTANT, content=text)])


def _without_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The system text, and what follows it."""
    if messages[0].role is Role.SYSTEM:
        return messages[0].content, messages[1:]
    return "", messages


def _history(earlier: Sequence[Message]) -> list[list[str]] | None:
    """Earlier turns as questions with their answers; None where they are anything else."""
    questions, answers = earlier[::2], earlier[1::2]
    in_turns = all(one.role is Role.USER for one in questions) and all(one.role is Role.ASSISTANT for one in answers)
    if not in_turns or len(questions) != len(answers):
        return None
    return [[one.content, other.content] for one, other in zip(questions, answers, strict=True)]
