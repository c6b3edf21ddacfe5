"""Examples as the model will see them: prompts rendered by Ollama, answers with their closing token."""

import re
from collections.abc import Callable, Sequence

from nightschool_hookspecs.records import (
    LabelledAnswer,
    LabelledText,
    Message,
    PairText,
    PreferencePair,
    Role,
    TrainingExample,
    TrainingText,
)

Render = Callable[[Sequence[Message]], str]
"""The exact prompt that Ollama builds for a conversation."""

QUESTION, ANSWER, FOLLOW_UP = "nightingale", "woodpecker", "kingfisher"
"""Words that no template contains."""

SPECIAL = re.compile(r"<\|[^<>|\s]+\|>|<\uff5c[^<>\s]+\uff5c>|</?[A-Za-z_][^<>\s]*>|\[/?[A-Z_]+\]")
"""How special tokens look: `<|im_end|>`, `<end_of_turn>`, `</s>`, `[/INST]`."""


class RenderingError(Exception):
    """The end of an answer cannot be told from the template; the message says what to do next."""


class CachedRenderer:
    """Asks Ollama once for each conversation."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._prompts: dict[tuple[Message, ...], str] = {}

    def __call__(self, messages: Sequence[Message]) -> str:
        key = tuple(messages)
        if key not in self._prompts:
            self._prompts[key] = self._render(key)
        return self._prompts[key]


def find_closing(render: Render, stops: Sequence[str]) -> str:
    """Find the text that ends an answer: what stands behind it in a conversation that goes on.

    `stops` are the base's own stop texts; the first of them behind the answer counts, else the first
    thing that looks like a special token. Raises `RenderingError`.
    """
    rendered = render(
        (
            Message(role=Role.USER, content=QUESTION),
            Message(role=Role.ASSISTANT, content=ANSWER),
            Message(role=Role.USER, content=FOLLOW_UP),
        )
    )
    _, answered, behind = rendered.partition(ANSWER)
    between, followed, _ = behind.partition(FOLLOW_UP)
    if not (answered and followed):
        raise RenderingError(
            "The template of this base leaves earlier turns out of its prompts, so the end of an answer cannot be "
            "learned. Give the model another template, or choose another base."
        )
    closing = _earliest(between, stops)
    if closing is None:
        raise RenderingError(
            "The template of this base closes an answer with no special token, so a model trained on it would not "
            "stop. Give the model a template that does (TEMPLATE in a Modelfile), or choose another base."
        )
    return closing


def _earliest(between: str, stops: Sequence[str]) -> str | None:
    """The text from the answer up to and with the token that ends it."""
    ends = [between.index(stop) + len(stop) for stop in stops if stop.strip() and stop in between]
    special = SPECIAL.search(between)
    if special is not None:
        ends.append(special.end())
    return between[: min(ends)] if ends else None


def render_example(example: TrainingExample, render: Render, closing: str) -> TrainingText:
    """Put an example into the form that training reads."""
    return TrainingText(
        event_id=example.event_id,
        prompt=render(example.messages),
        messages=example.messages,
        completion=example.target + closing,
        weight=example.weight,
        group=example.group,
        difficulty=example.difficulty,
        score=example.score,
        variant=example.parent is not None,
        artifact_type=example.artifact_type,
        tests=example.tests,
        schema=example.schema,
    )


def render_pair(pair: PreferencePair, render: Render, closing: str) -> PairText:
    """The same for a pair."""
    return PairText(
        event_id=pair.event_id,
        prompt=render(pair.messages),
        chosen=pair.chosen + closing,
        rejected=pair.rejected + closing,
        margin=pair.margin,
        worse_event_id=pair.worse_event_id,
        group=pair.group,
        sampled=pair.sampled,
    )


def render_label(label: LabelledAnswer, render: Render, closing: str) -> LabelledText:
    """The same for an answer that was liked or disliked by itself."""
    return LabelledText(
        event_id=label.event_id,
        prompt=render(label.messages),
        completion=label.answer + closing,
        liked=label.liked,
        group=label.group,
    )
