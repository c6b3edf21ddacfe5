"""Which events weigh more because the model fails near them.

factor   = 1 + 0.5 * sum over the groups of failures of similarity * strength, at most 3
strength = log2(1 + failures of the group)

A failure is an answer that was disliked or corrected, or whose score is 70 or less. One that a version was trained on
since is an earlier model's and counts half. Failures at near-duplicates of one prompt are a group, which the prompt of
its first event by `source/id` stands for. The similarity is that of this prompt to the one of an event's own group: 1
within the group, by all similarity plugins together for the 16 groups whose prompts are nearest by their vectors, and
0 for the others and where it is below 0.5.

Augmentations make variants first of what weighs more by it.

Failures are those of the whole training side, also where nothing can be learned from them, as from an answer that was
disliked by itself; so kin of the exam's own failures are found there alone. The vectors are those of the machine's
embedding model; where there is none, this plugin has no opinion.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightschool_hookspecs import GOOD_SCORE, Embed, Matrix, Measure, ScoredEvent, hookimpl, is_failure

if TYPE_CHECKING:
    from numpy.typing import NDArray

COSINES_AT_ONCE = 2**22
"""To bound the memory."""


@dataclass(frozen=True, kw_only=True)
class NegativesHard:
    """`[plugins.negatives_hard]`"""

    per_failure: float = 0.5
    learned: float = 0.5
    """0..1, what a failure counts that a version was trained on since."""
    lowest_score: float = GOOD_SCORE
    """0..100. An answer whose score is not above it failed."""
    lowest_similarity: float = 0.5
    """0..1. Prompts that are less alike are no kin."""
    candidates: int = 16
    """Groups that are measured against one of failures."""
    largest: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.per_failure < math.inf:
            raise ValueError("per_failure must be 0 or more")
        if not (0 <= self.learned <= 1 and 0 <= self.lowest_similarity <= 1):
            raise ValueError("learned and lowest_similarity must be within 0..1")
        if not 0 <= self.lowest_score <= 100:
            raise ValueError("lowest_score must be within 0..100")
        if not self.candidates >= 0:
            raise ValueError("candidates must be 0 or more")
        if not 1 <= self.largest < math.inf:
            raise ValueError("largest must be 1 or more")

    @hookimpl
    def nightschool_select_negatives(
        self, events: tuple[ScoredEvent, ...], others: tuple[ScoredEvent, ...], measure: Measure, embed: Embed
    ) -> tuple[tuple[str, float], ...] | None:
        if not events:
            return ()
        groups = _grouped((*events, *others))
        strengths = [self._strength(members) for members in groups.values()]
        failing = [place for place, strength in enumerate(strengths) if strength > 0]
        prompts = [members[0].event.input_data for members in groups.values()]
        vectors = embed(prompts)
        if vectors is None:
            return None
        pulls = list(strengths)
        for place, near in zip(failing, _nearest(vectors, failing, self.candidates), strict=True):
            for other, similarity in self._kin(prompts, place, near, measure):
                pulls[other] += similarity * strengths[place]
        factors = {
            group: min(self.largest, 1 + self.per_failure * pull) for group, pull in zip(groups, pulls, strict=True)
        }
        return tuple((one.event.key, factors[one.group]) for one in events if factors[one.group] > 1)

    def _strength(self, members: Sequence[ScoredEvent]) -> float:
        failed = (one for one in members if is_failure(one.event, self.lowest_score))
        failures = sum(self.learned if one.trained_on else 1.0 for one in failed)
        return math.log2(1 + failures)

    def _kin(
        self, prompts: Sequence[str], place: int, near: Sequence[int], measure: Measure
    ) -> Iterator[tuple[int, float]]:
        if near:
            found = measure([prompts[place]], [prompts[other] for other in near]).values.tolist()
            yield from (
                (other, value) for other, value in zip(near, found, strict=True) if value >= self.lowest_similarity
            )


def _grouped(events: Sequence[ScoredEvent]) -> dict[str, list[ScoredEvent]]:
    """Events by their group of near-duplicate prompts, everything in a fixed order."""
    groups: dict[str, list[ScoredEvent]] = {}
    for one in sorted(events, key=lambda one: (one.group, one.event.key)):
        groups.setdefault(one.group, []).append(one)
    return groups


def _nearest(vectors: Matrix, rows: Sequence[int], most: int) -> Iterator[list[int]]:
    """For each of the rows, which others have the highest cosines with it."""
    import numpy

    table: NDArray[numpy.float32] = numpy.frombuffer(vectors.values, dtype=numpy.float32)
    table = table.reshape(vectors.rows, vectors.columns)
    last = len(table) - 1
    rest = len(table) - min(most, last)
    step = max(1, COSINES_AT_ONCE // len(table))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        cosines = table[part] @ table.T
        cosines[numpy.arange(len(part)), part] = -numpy.inf
        yield from numpy.argpartition(cosines, min(rest, last), axis=1)[:, rest:].tolist()


@hookimpl
def nightschool_register_settings() -> type[NegativesHard]:
    return NegativesHard
