"""What is learned beside a lesson: what it weighs, and where it stands."""

import statistics
from collections.abc import Sequence
from typing import TypeVar

from nightschool_hookspecs.records import Message, Role, TrainingExample

T = TypeVar("T")


def pull(example: TrainingExample) -> float:
    """What an example counts in the loss, up to a factor that all have: the length of its answer, weighed.

    Characters stand for tokens, as the tokenizer is not at hand where examples are chosen.
    """
    return example.weight * len(example.target)


def of_no_event(prompt: str, answer: str, own: Sequence[TrainingExample]) -> TrainingExample:
    """An example that comes from no event, and counts no more in the loss than the mean one of `own`.

    Nor does it by the token: among long answers a short one would be pressed hard. A curriculum takes it for as hard as
    these are.
    """
    mean_pull, mean_weight = statistics.fmean(map(pull, own)), statistics.fmean(one.weight for one in own)
    return TrainingExample(
        event_id="",
        messages=(Message(role=Role.USER, content=prompt),),
        target=answer,
        weight=min(mean_weight, mean_pull / len(answer)),
        difficulty=statistics.fmean(one.difficulty for one in own),
        prompt=prompt,
    )


def interleaved(*parts: Sequence[T]) -> tuple[T, ...]:
    """All parts in their order, each spread evenly over the whole."""
    placed = [((number + 0.5) / len(part), one) for part in parts for number, one in enumerate(part)]
    return tuple(one for _, one in sorted(placed, key=lambda one: one[0]))
