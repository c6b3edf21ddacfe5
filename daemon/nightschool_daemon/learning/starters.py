"""Starter examples: in which form they stand beside a specialty's own examples, and what they weigh."""

from collections.abc import Sequence
from dataclasses import replace

from nightschool_daemon.learning.beside import of_no_event
from nightschool_hookspecs.artifacts import blocks
from nightschool_hookspecs.records import StarterExample, TrainingExample


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
