"""What is learned again beside a lesson: how much of it there may be."""

import math
from collections.abc import Iterable, Sequence

from nightschool_daemon.learning.beside import pull
from nightschool_hookspecs.records import TrainingExample
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
