"""Learns the wanted answer of each event by supervised fine-tuning.

The target is the correction, else an answer that was liked. An example's weight is the event's priority, in which the
weight is counted that its source gave it; at least `lowest_weight`, less where its source gave it less than 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nightschool_hookspecs import (
    Chunk,
    Message,
    MethodChoice,
    ScoredEvent,
    Train,
    TrainingExample,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    hookimpl,
)


@dataclass(frozen=True, kw_only=True)
class TrainingSft:
    """`[plugins.training_sft]`"""

    lowest_weight: float = 0.2
    """An accepted event never weighs less, or it would be forgotten by arithmetic."""
    chunk_template: str = "[{number}] {text}"
    """How one retrieved text stands in the prompt; {number}, {text} and {source} are filled in."""
    context_template: str = "{chunks}\n\n{prompt}"
    """How the retrieved texts and the prompt stand together."""
    max_context_characters: int = 4000
    """Of the retrieved texts together; the best ones that fit are taken whole. Those that do not still count in the
    difficulty and in the tokens of a night: both choose what is learned from, of which alone prompts are built. An
    example that is longer than a training takes is left out, question, answer and all."""

    def __post_init__(self) -> None:
        if not self.lowest_weight > 0:
            raise ValueError("lowest_weight must be above 0")
        if self.max_context_characters < 0:
            raise ValueError("max_context_characters must be 0 or more")
        if "{text}" not in self.chunk_template:
            raise ValueError("chunk_template must contain {text}")
        if "{chunks}" not in self.context_template or "{prompt}" not in self.context_template:
            raise ValueError("context_template must contain {chunks} and {prompt}")

    @hookimpl
    def nightschool_build_example(self, event: ScoredEvent, chunks: tuple[Chunk, ...]) -> TrainingExample | None:
        target = event.event.target
        if target is None:
            return None
        return TrainingExample(
            event_id=event.event.key,
            messages=self._messages(event, chunks),
            target=target,
            weight=max(self.lowest_weight * _share(event.event.metadata.weight), event.priority),
            difficulty=event.difficulty,
            group=event.group,
        )

    @hookimpl
    def nightschool_train_adapter(self, job: TrainingJob, train: Train) -> TrainingResult | None:
        if job.method not in (MethodChoice.AUTO, MethodChoice.SFT) or not job.material.examples:
            return None
        return train(job, method=TrainingMethod.SFT, hyperparameters=job.hyperparameters)

    def _messages(self, event: ScoredEvent, chunks: tuple[Chunk, ...]) -> tuple[Message, ...]:
        *before, prompt = event.event.conversation
        return (*before, replace(prompt, content=self._prompt(event, chunks)))

    def _prompt(self, event: ScoredEvent, chunks: tuple[Chunk, ...]) -> str:
        """The prompt with the retrieved texts, unless the application put them into the conversation itself."""
        prompt = event.event.input_data
        new = self._fitting([chunk for chunk in chunks if not event.event.shows(chunk)])
        if not new:
            return prompt
        shown = "\n".join(
            self.chunk_template.format(number=number, text=chunk.text, source=chunk.source or "")
            for number, chunk in enumerate(new, start=1)
        )
        return self.context_template.format(chunks=shown, prompt=prompt)

    def _fitting(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The best by score that fit, in the order in which they were retrieved; of equal ones the first."""
        left = self.max_context_characters
        taken: set[int] = set()
        for place in sorted(range(len(chunks)), key=lambda place: -_score(chunks[place])):
            if len(chunks[place].text) <= left:
                taken.add(place)
                left -= len(chunks[place].text)
        return [chunk for place, chunk in enumerate(chunks) if place in taken]


def _score(chunk: Chunk) -> float:
    """One without a score comes behind those that have one."""
    return -math.inf if chunk.score is None else chunk.score


def _share(weight: float) -> float:
    """What a source takes away by a low weight, but never all."""
    return min(1.0, max(0.01, weight))


@hookimpl
def nightschool_register_settings() -> type[TrainingSft]:
    return TrainingSft
