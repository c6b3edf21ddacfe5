"""The track record: levels over nights, change of feedback in use, drift of prompts. Pure; runs in a worker."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightschool_daemon.reporting.records import (
    Drift,
    IncomingPrompts,
    Level,
    NightExam,
    Said,
    TrackedExam,
    TrackMaterial,
    TrackRecord,
    Trend,
)

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from nightschool_hookspecs.services import Embed

    Floats = NDArray[numpy.float64]

NORMAL_95 = 1.96
"""Half the width of a 95 % interval, in standard errors."""
RESAMPLES = 1999
FEWEST_ANSWERS = 20
"""Answers in use; of fewer no trend is told."""
FEWEST_PROMPTS = 20
"""On each side; of fewer no drift is told."""
EXAMPLES = 2


def track_of(material: TrackMaterial, embed: Embed, seed: int) -> TrackRecord:
    """Everything that is told of a specialty's past. Raises what `embed` raises."""
    levels = Levels.of(material.exams)
    return TrackRecord(
        base_level=levels.base,
        exams=tuple(levels.tracked(one) for one in material.exams),
        best=levels.best(material.exams),
        trend=trend_of(material.said, seed),
        drift=drift_of(material.prompts, embed, seed),
    )


# --------------------------------------------------------------------------- levels


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Where models stand: a model that no exam here led to, such as the base, by its mean score over the exams that it
    sat as incumbent; a candidate by its incumbent's level and its gain."""

    known: Mapping[str, Level]
    """By tag."""
    base: float | None

    @classmethod
    def of(cls, exams: Sequence[NightExam]) -> Levels:
        """From a specialty's exams, oldest first."""
        made = {one.version for one in exams}
        means = _means_as_incumbent([one for one in exams if one.incumbent not in made])
        known = {tag: Level(points=mean, low=mean, high=mean) for tag, mean in means.items()}
        for exam in exams:
            # an incumbent whose own exam is not among these stands where it was seen
            origin = known.get(exam.incumbent) or Level(
                points=exam.incumbent_mean, low=exam.incumbent_mean, high=exam.incumbent_mean
            )
            known[exam.version] = _raised(origin, exam)
        return cls(known=known, base=next(iter(means.values()), None))

    def tracked(self, exam: NightExam) -> TrackedExam:
        """An exam with the levels of both who sat it."""
        incumbent = self.known.get(exam.incumbent)
        return TrackedExam(
            exam=exam,
            level=self.known[exam.version],
            incumbent_level=incumbent.points if incumbent is not None else exam.incumbent_mean,
        )

    def best(self, exams: Sequence[NightExam]) -> str | None:
        """The highest version that was promoted and not taken back; None where none is above the base."""
        usable = [one.version for one in exams if one.promoted and not one.taken_back]
        if self.base is None or not usable:
            return None
        highest = max(usable, key=lambda tag: self.known[tag].points)
        return highest if self.known[highest].points > self.base else None


def _means_as_incumbent(exams: Sequence[NightExam]) -> dict[str, float]:
    """Mean score of each incumbent over all questions that it was asked; the first one first."""
    total: dict[str, float] = defaultdict(float)
    questions: dict[str, int] = defaultdict(int)
    for exam in exams:
        total[exam.incumbent] += exam.incumbent_mean * exam.questions
        questions[exam.incumbent] += exam.questions
    return {tag: total[tag] / asked for tag, asked in questions.items() if asked}


def _raised(origin: Level, exam: NightExam) -> Level:
    low, high = exam.interval
    points = origin.points + exam.gain
    return Level(
        points=points,
        low=points - math.hypot(origin.points - origin.low, exam.gain - low),
        high=points + math.hypot(origin.high - origin.points, high - exam.gain),
    )


# --------------------------------------------------------------------------- trend


def trend_of(said: Sequence[Said], seed: int) -> Trend | None:
    """The likeliest change of the share of negative feedback; None of too little, or where all say the same."""
    negative = [one.negative for one in said]
    if len(said) < FEWEST_ANSWERS or len(set(negative)) == 1:
        return None
    at, p_value = change_point([float(one) for one in negative], seed)
    return Trend(
        answers=len(said),
        changed_at=said[at].at,
        before=sum(negative[:at]) / at,
        after=sum(negative[at:]) / (len(said) - at),
        p_value=p_value,
    )


def change_point(values: Sequence[float], seed: int) -> tuple[int, float]:
    """Where the mean of a series most likely changed, and a p-value against no change.

    Largest departure of the cumulated deviations from the mean (CUSUM), against the same in random order: exact for
    exchangeable values, whatever their distribution. Returns the index of the first value after the change.
    """
    import numpy as np
    from scipy.stats import permutation_test

    series = np.asarray(values, dtype=np.float64)
    deviations = series - series.mean()
    found = permutation_test(
        (deviations,),
        _largest_sum,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=RESAMPLES,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    at = int(_departures(deviations)[:-1].argmax()) + 1
    return at, float(found.pvalue)


def _largest_sum(deviations: Floats, axis: int = -1) -> Floats:
    largest: Floats = _departures(deviations, axis).max(axis=axis)
    return largest


def _departures(deviations: Floats, axis: int = -1) -> Floats:
    """How far the sum of all values so far lies from where it would be without a change."""
    import numpy as np

    # rounded, so that the same sums in another order are the same
    found: Floats = np.abs(np.cumsum(deviations, axis=axis)).round(9)
    return found


# --------------------------------------------------------------------------- drift


def drift_of(prompts: IncomingPrompts, embed: Embed, seed: int) -> Drift | None:
    """Whether recent prompts are of another kind; None where there are too few, or no embedding model."""
    import numpy as np

    recent, earlier = prompts.recent, prompts.earlier
    if min(len(recent), len(earlier)) < FEWEST_PROMPTS:
        return None
    matrix = embed((*recent, *earlier))
    if matrix is None:
        return None
    vectors = np.asarray(matrix.values, dtype=np.float64).reshape(matrix.rows, matrix.columns)
    distances = distances_of(vectors)
    distance, p_value = energy_test(distances, len(recent), seed)
    away = distances[: len(recent), len(recent) :].mean(axis=1) - distances[: len(recent), : len(recent)].mean(axis=1)
    return Drift(
        recent=len(recent),
        earlier=len(earlier),
        distance=distance,
        p_value=p_value,
        examples=tuple(recent[index] for index in np.argsort(-away, kind="stable")[:EXAMPLES]),
    )


def distances_of(vectors: Floats) -> Floats:
    """Euclidean distances between all rows. Shape (n, d) in, (n, n) out."""
    import numpy as np
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(vectors, vectors), dtype=np.float64)


def energy_test(distances: Floats, first: int, seed: int) -> tuple[float, float]:
    """Energy distance between the first so many points and the others, and its p-value by permutation.

    2 E|X - Y| - E|X - X'| - E|Y - Y'|, means over all pairs (Székely and Rizzo 2004). `distances` has shape (n, n).
    """
    import numpy as np
    from scipy.stats import permutation_test

    count = len(distances)

    def energy(left: NDArray[numpy.int64], right: NDArray[numpy.int64], axis: int = -1) -> Floats:
        # -w'Dw of weights 1/n on one side and -1/m on the other is the energy distance
        weights = np.empty((*left.shape[:-1], count))
        np.put_along_axis(weights, left, 1.0 / left.shape[-1], axis=-1)
        np.put_along_axis(weights, right, -1.0 / right.shape[-1], axis=-1)
        found: Floats = -((weights @ distances) * weights).sum(axis=-1).round(12)
        return found

    order = np.arange(count)
    found = permutation_test(
        (order[:first], order[first:]),
        energy,
        permutation_type="independent",
        vectorized=True,
        n_resamples=RESAMPLES,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return max(0.0, float(found.statistic)), float(found.pvalue)
