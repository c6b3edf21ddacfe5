"""Which events a run learns from: those that say most, and each something else.

score       = 0.4 uncertainty + 0.3 diversity + 0.3 quality

uncertainty = 0.4 (1 - validation score / 100) + 0.3 [a correction came with it] + 0.3 by type + 0.1 per retry
              + 0.2 share of failures near it, at most 1
by type     : validation_failure 1, explicit_negative 0.9, user_correction 0.8, success 0.1, explicit_positive 0.1
diversity   = 1 - the highest similarity to what is already selected
similarity  = 0.3 [same artifact type] + 0.4 cosine of the inputs + 0.3 cosine of the outputs
quality     = share of the other events whose priority is lower; of equal ones half

Without a score, 1 - cosine of the answer and its correction stands for 1 - validation score / 100, and 0.5 where
there is no correction either. A failure is an answer that was disliked or corrected, or whose score is 70 or less; the
share is that among the 8 nearest prompts of the training side, also of those that cannot be chosen: an answer that was
disliked by itself teaches nothing, and still says where the model fails. How likely the model itself found its answers
is recorded nowhere, so it does not count.

Greedy: the best event that still fits into the budget, then the best of those left beside it, and so on. Equal scores
go by `source/id`. An event's tokens are counted as `selection_priority` does.

The vectors of inputs are those of the machine's embedding model, which the search for near-duplicates left in its
cache; where there is no model, of their wording. Those of outputs, which may be code and long, are of their wording:
counts of the groups of 4 characters, by hashing into 256 signed sums (Weinberger et al. 2009). All are kept as whole
numbers, whose products add up exactly in whatever order.

Not all pairs are compared. The score of an event only falls while the selection grows, so what it was when it was last
compared is a bound, and the first of a heap of bounds is the best as soon as it is up to date (Minoux 1978). The
nearest prompts are looked for among those that share the nearest of some hundred sample prompts.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from nightschool_hookspecs import GOOD_SCORE, Budget, Embed, Event, FeedbackType, ScoredEvent, hookimpl, is_failure

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Numbers = NDArray[numpy.float64]
    """One an event."""
    Directions = NDArray[numpy.int16]
    """Shape (texts, dimensions + 1), rows about `SCALE` long."""

SCALE = 4000
"""Length of a vector in whole numbers: its square, and so every sum on the way to a product, is exact in 32 bits."""
TEXTS_AT_ONCE = 4096
"""Texts that are made vectors of at once, to bound the memory."""
CELL = 256
"""Prompts among which the nearest are looked for, about; of more than its square, their square root."""
LARGEST_CELL = 4096
"""A cell is cut into pieces of so many, to bound the memory."""
GROUP = 4
"""Characters of a group of a wording."""
SUMS = 256
ROWS_AT_ONCE = 8192
"""Prompts that are put into cells at once."""
BLOCK = 16
"""Candidates that are compared with the selection at once."""


@dataclass(frozen=True, kw_only=True)
class SelectionActive:
    """`[plugins.selection_active]`"""

    uncertainty_weight: float = 0.4
    diversity_weight: float = 0.3
    quality_weight: float = 0.3
    score_weight: float = 0.4
    """Within uncertainty, as the next four."""
    correction_weight: float = 0.3
    type_weight: float = 0.3
    retry_weight: float = 0.1
    near_weight: float = 0.2
    unknown_gap: float = 0.5
    """0..1, what 1 - validation score / 100 counts as where neither score nor correction is known."""
    validation_failure: float = 1.0
    explicit_negative: float = 0.9
    user_correction: float = 0.8
    success: float = 0.1
    explicit_positive: float = 0.1
    neighbours: int = 8
    lowest_score: float = GOOD_SCORE
    """0..100. An answer whose score is not above it failed."""
    artifact_weight: float = 0.3
    """Within similarity, as the next two; together at most 1."""
    input_weight: float = 0.4
    output_weight: float = 0.3
    characters_per_token: float = 3.0
    """An estimate on the safe side: the tokenizer is not at hand here."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{field.name} must be 0 or more")
        for name in ("unknown_gap", *FeedbackType):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be within 0..1")
        # the sum of decimal fractions may miss 1 by the last bit
        if self.artifact_weight + self.input_weight + self.output_weight > 1 + 1e-9:
            raise ValueError("artifact_weight, input_weight and output_weight must be at most 1 together")
        if not self.neighbours >= 1:
            raise ValueError("neighbours must be 1 or more")
        if not self.lowest_score <= 100:
            raise ValueError("lowest_score must be within 0..100")
        if not self.characters_per_token > 0:
            raise ValueError("characters_per_token must be above 0")

    @hookimpl
    def nightschool_select_events(
        self, events: tuple[ScoredEvent, ...], others: tuple[ScoredEvent, ...], budget: Budget, embed: Embed
    ) -> tuple[tuple[str, float], ...]:
        if not events:
            return ()
        # in a fixed order, so that of equal ones the first is the same whatever the order of arrival
        ordered, beside = (sorted(some, key=lambda one: one.event.key) for some in (events, others))
        candidates = self._candidates(ordered, beside, embed)
        tokens = [math.ceil(one.characters / self.characters_per_token) for one in ordered]
        return tuple((ordered[place].event.key, score) for place, score in _chosen(candidates, tokens, budget))

    def _candidates(self, scored: Sequence[ScoredEvent], others: Sequence[ScoredEvent], embed: Embed) -> "_Candidates":
        events = [one.event for one in scored]
        space = self._space(events, embed)
        near = self._failures_nearby(events, [one.event for one in others], space, embed)
        base = self.uncertainty_weight * self._uncertainty(events, space, near)
        base += self.quality_weight * _ranks([one.priority for one in scored])
        return _Candidates(base, self.diversity_weight, space, [not one.is_fresh for one in scored])

    def _space(self, events: Sequence[Event], embed: Embed) -> "_Space":
        import numpy

        kinds = {kind: number for number, kind in enumerate(sorted({event.artifact_type or "" for event in events}))}
        return _Space(
            kinds=numpy.array([kinds[event.artifact_type or ""] for event in events], dtype=numpy.int64),
            inputs=_meanings([event.input_data for event in events], embed),
            outputs=_wordings([event.target or "" for event in events]),
            weights=(self.artifact_weight, self.input_weight, self.output_weight),
        )

    def _failures_nearby(
        self, events: Sequence[Event], others: Sequence[Event], space: "_Space", embed: Embed
    ) -> "Numbers":
        """The share of failures near each event, those that cannot be chosen among them."""
        import numpy

        inputs = space.inputs
        if others:
            inputs = numpy.concatenate([inputs, _meanings([event.input_data for event in others], embed)])
        failed = [is_failure(event, self.lowest_score) for event in (*events, *others)]
        shares = _shares_nearby(inputs, numpy.array(failed, dtype=numpy.float64), self.neighbours)
        return shares[: len(events)]

    def _uncertainty(self, events: Sequence[Event], space: "_Space", near: "Numbers") -> "Numbers":
        import numpy

        unscored = [place for place, event in enumerate(events) if _score(event) is None and _is_corrected(event)]
        answers = _wordings([events[place].ai_output or "" for place in unscored])
        gaps = dict(zip(unscored, _gaps(answers, space.outputs[unscored]), strict=True))
        own = numpy.array([self._own_uncertainty(event, gaps.get(place)) for place, event in enumerate(events)])
        uncertain: Numbers = numpy.minimum(1.0, own + self.near_weight * near)
        return uncertain

    def _own_uncertainty(self, event: Event, gap: float | None) -> float:
        """What the event says by itself. `gap`: how far its answer is from its correction, where it has no score."""
        score = _score(event)
        if score is not None:
            gap = 1 - score / 100
        return (
            self.score_weight * (self.unknown_gap if gap is None else gap)
            + self.correction_weight * event.is_correction
            + self.type_weight * float(getattr(self, event.feedback_type))
            + self.retry_weight * max(0, event.retries)
        )


def _score(event: Event) -> float | None:
    score = event.validation_score
    return None if score is None or math.isnan(score) else min(100.0, max(0.0, score))


def _is_corrected(event: Event) -> bool:
    """Whether an answer of a model was corrected: a demonstration has none."""
    return event.is_correction and event.ai_output is not None


def _ranks(priorities: Sequence[float]) -> "Numbers":
    """0 for the lowest, 1 for the highest, whatever lies between them; equal ones share a rank."""
    import numpy

    ordered = numpy.sort(priorities)
    lower, not_higher = (numpy.searchsorted(ordered, priorities, side) for side in ("left", "right"))
    ranks: Numbers = (lower + not_higher - 1) / (2 * max(1, len(priorities) - 1))
    return ranks


# --------------------------------------------------------------------------- vectors


def _meanings(texts: Sequence[str], embed: Embed) -> "Directions":
    """Where texts point to by the embedding model; by their wording where there is none."""
    import numpy

    parts: list[Directions] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        found = embed(texts[start : start + TEXTS_AT_ONCE])
        if found is None:
            return _wordings(texts)
        vectors = numpy.frombuffer(found.values, dtype=numpy.float32).reshape(found.rows, found.columns)
        parts.append(_whole(vectors))
    return numpy.concatenate(parts)


def _wordings(texts: Sequence[str]) -> "Directions":
    """Where texts point to by the groups of characters that they have."""
    import numpy

    parts = [numpy.empty((0, SUMS + 1), dtype=numpy.int16)]
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        sums = _signed_sums(texts[start : start + TEXTS_AT_ONCE])
        lengths = numpy.linalg.norm(sums, axis=1, keepdims=True)
        parts.append(_whole(sums / numpy.maximum(lengths, 1)))
    return numpy.concatenate(parts)


def _signed_sums(texts: Sequence[str]) -> "NDArray[numpy.float64]":
    """Shape (texts, SUMS). Each group counts up or down in one of the sums, so that chance meetings cancel out."""
    import numpy

    padded = [f" {text}".ljust(GROUP) for text in texts]
    characters = numpy.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=numpy.uint32)
    owners = numpy.repeat(numpy.arange(len(padded)), list(map(len, padded)))
    hashes = numpy.zeros(len(characters) - GROUP + 1, dtype=numpy.uint64)
    for place in range(GROUP):
        hashes *= numpy.uint64(0x100000001B3)
        hashes += characters[place : place + len(hashes)]
    # its highest bits are well mixed: the sum that a group belongs to, and its sign
    hashes = (hashes * numpy.uint64(0x9E3779B97F4A7C15)) >> numpy.uint64(40)
    within = owners[: len(hashes)] == owners[GROUP - 1 :]
    places = owners[: len(hashes)] * SUMS + (hashes % numpy.uint64(SUMS)).astype(numpy.int64)
    signs = numpy.where(hashes & numpy.uint64(SUMS), 1.0, -1.0)
    sums: NDArray[numpy.float64] = numpy.zeros(len(padded) * SUMS)
    sums += numpy.bincount(places[within], signs[within], len(sums))
    return sums.reshape(len(padded), SUMS)


def _whole(vectors: "NDArray[numpy.floating]") -> "Directions":
    """Unit vectors as whole numbers. The last one is of texts that point nowhere, so that these are alike."""
    import numpy

    points_nowhere = ~vectors.any(axis=1, keepdims=True)
    whole: Directions = numpy.rint(SCALE * numpy.hstack([vectors, points_nowhere])).astype(numpy.int16)
    return whole


def _cosines(left: "Directions", right: "Directions") -> "NDArray[numpy.float32]":
    """Shape (left, right), opposites as 0."""
    import numpy

    products = left.astype(numpy.float32) @ right.astype(numpy.float32).T
    cosines: NDArray[numpy.float32] = numpy.clip(products / numpy.float32(SCALE * SCALE), 0.0, 1.0)
    return cosines


def _gaps(left: "Directions", right: "Directions") -> list[float]:
    """1 - cosine of each row with the other's row."""
    import numpy

    products = numpy.einsum("ij,ij->i", left, right, dtype=numpy.float32)
    gaps: list[float] = (1 - numpy.clip(products / (SCALE * SCALE), 0.0, 1.0)).tolist()
    return gaps


@dataclass(frozen=True, kw_only=True)
class _Space:
    """Where events lie to each other."""

    kinds: "NDArray[numpy.int64]"
    """Artifact types by number."""
    inputs: "Directions"
    outputs: "Directions"
    weights: tuple[float, float, float]
    """Of artifact type, input and output."""

    def similarities(self, rows: Sequence[int], columns: Sequence[int]) -> "Numbers":
        """Shape (rows, columns), of the events at these places."""
        artifact, given, output = self.weights
        found: Numbers = artifact * (self.kinds[rows][:, None] == self.kinds[columns])
        for weight, vectors in ((given, self.inputs), (output, self.outputs)):
            if weight:
                found += weight * _cosines(vectors[rows], vectors[columns])
        return found


def _shares_nearby(inputs: "Directions", failed: "Numbers", neighbours: int) -> "Numbers":
    """The share of failures among the nearest neighbours of each prompt; where it has none, among all."""
    import numpy

    shares = numpy.full(len(inputs), failed.mean())
    for cell in _cells(inputs):
        if len(cell) > 1:
            cosines = _cosines(inputs[cell], inputs[cell])
            numpy.fill_diagonal(cosines, -1.0)
            most = min(neighbours, len(cell) - 1)
            nearest = numpy.argpartition(cosines, -most, axis=1)[:, -most:]
            shares[cell] = failed[cell][nearest].mean(axis=1)
    return shares


def _cells(inputs: "Directions") -> "list[NDArray[numpy.int64]]":
    """The places of prompts that are nearest to the same sample prompt, together."""
    import numpy

    samples = inputs[:: max(CELL, math.isqrt(len(inputs)))]
    starts = range(0, len(inputs), ROWS_AT_ONCE)
    of_prompt = [_cosines(inputs[start : start + ROWS_AT_ONCE], samples).argmax(axis=1) for start in starts]
    nearest = numpy.concatenate(of_prompt)
    order = numpy.argsort(nearest, kind="stable")
    cells = numpy.split(order, numpy.flatnonzero(numpy.diff(nearest[order])) + 1)
    return [cell[start : start + LARGEST_CELL] for cell in cells for start in range(0, len(cell), LARGEST_CELL)]


# --------------------------------------------------------------------------- greedy


class _Candidates:
    """What may be selected next, by score. `base` is the part of the score that stays; `later`: what waits for others.

    No score of those counts before all others are selected, or do not fit.
    """

    def __init__(self, base: "Numbers", weight: float, space: _Space, later: Sequence[bool]) -> None:
        import numpy

        self.base = base
        self.weight = weight
        self.space = space
        self._nearest = numpy.zeros(len(base))
        self._compared = numpy.zeros(len(base), dtype=numpy.int64)
        """How many of the selected each was compared with."""
        self._later = later
        self._heap = [(later[place], -bound, place) for place, bound in enumerate((base + weight).tolist())]
        heapq.heapify(self._heap)

    def pop(self, chosen: Sequence[int], tokens: Sequence[int], tokens_left: int) -> tuple[int, float] | None:
        """Take out the best of those that fit, and its score; None where none is left. What does not fit never will."""
        while self._heap:
            place = self._heap[0][2]
            if tokens[place] > tokens_left:
                heapq.heappop(self._heap)
            elif self._compared[place] == len(chosen):
                _, less, place = heapq.heappop(self._heap)
                return place, -less
            else:
                first = [heapq.heappop(self._heap)[2] for _ in range(min(BLOCK, len(self._heap)))]
                self._compare([one for one in first if tokens[one] <= tokens_left], chosen)
        return None

    def _compare(self, places: list[int], chosen: Sequence[int]) -> None:
        """Put them back with the scores that they have beside all that is selected."""
        import numpy

        # together those that were left out about as often, so that hardly any pair is compared twice
        missed = (len(chosen) - self._compared[places]).tolist()
        for length in {count.bit_length() for count in missed if count}:
            part = [place for place, count in zip(places, missed, strict=True) if count.bit_length() == length]
            new = chosen[self._compared[part].min() :]
            self._nearest[part] = numpy.maximum(self._nearest[part], self.space.similarities(part, new).max(axis=1))
        self._compared[places] = len(chosen)
        scores = self.base[places] + self.weight * (1 - self._nearest[places])
        for place, score in zip(places, scores.tolist(), strict=True):
            heapq.heappush(self._heap, (self._later[place], -score, place))


def _chosen(candidates: _Candidates, tokens: Sequence[int], budget: Budget) -> list[tuple[int, float]]:
    """Places of events and their scores beside what was chosen before them, best first."""
    places: list[int] = []
    scores: list[float] = []
    tokens_left = budget.tokens
    while len(places) < budget.events and (best := candidates.pop(places, tokens, tokens_left)) is not None:
        place, score = best
        places.append(place)
        scores.append(score)
        tokens_left -= tokens[place]
    return list(zip(places, scores, strict=True))


@hookimpl
def nightschool_register_settings() -> type[SelectionActive]:
    return SelectionActive
