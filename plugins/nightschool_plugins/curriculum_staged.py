"""Easy examples first, harder ones when these are learned.

    difficulty = of the event; where the model's own answer was scored, half of it (100 - score) / 100
    stages     = easy below 0.3, medium below 0.7, hard from there; where one of them would be empty, thirds by rank
    mix        = easy 100 %, then easy 70 % medium 30 %, then easy 50 % medium 30 % hard 20 %, then everything

A stage is learned when two evaluations in a row brought not one per cent less loss. When the last one is learned,
epochs see everything; the last epoch of a training does in any case. A night has few epochs, and small lessons one
evaluation in each, by which no stage could be learned before the night is over. So the first is over at the evaluation
behind a third of the time before that epoch (`longest_stage`), and the second behind two thirds, learned or not: each
stage says which of both brought it. Where there is but one epoch it sees every example once, the easy ones first. A
training that goes on from what an earlier one learned begins in the last stage, for every training ends behind it.

An epoch has as many examples and batches as without a curriculum; how many tokens these are depends on what it sees. Of
a stage those come first that were seen least. One that is too small for its part of the mix is filled from its
neighbours, the nearer first, of two the easier: none of its examples is seen more often than those of a stage that has
a third of all.

What stands beside the lesson is of no stage: it goes along with each, spread over the epoch.

Where examples have no difficulty, as pairs of answers, or all the same, nothing is arranged.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from nightschool_hookspecs import LearnedExample, Stretch, TrainingSoFar, hookimpl

STAGES = ("easy", "medium", "hard")
LAST = len(STAGES) - 1
EVERYTHING, EVERYTHING_NAME = len(STAGES), "all"
"""What follows the last stage."""
LEARNED, LATE = "the stage before was learned", "the time of the stage before was over"
AT_THE_END = "the end of a training sees everything"
"""Why a stage begins."""


@dataclass(frozen=True, kw_only=True)
class CurriculumStaged:
    """`[plugins.curriculum_staged]`"""

    observed_weight: float = 0.5
    """0..1, how much of a difficulty is how badly the model itself did, where that is known."""
    medium_from: float = 0.3
    """0..1, difficulty from which an example is of medium difficulty."""
    hard_from: float = 0.7
    """The same for hard ones."""
    easy_mix: tuple[float, ...] = (1.0, 0.0, 0.0)
    """Shares of easy, medium and hard examples in the first stage; together 1."""
    medium_mix: tuple[float, ...] = (0.7, 0.3, 0.0)
    hard_mix: tuple[float, ...] = (0.5, 0.3, 0.2)
    least_gain: float = 0.01
    """0..1, share by which the loss must get less, or the evaluation counts as one without gain."""
    patience: int = 2
    """Evaluations without gain, in a row, after which a stage is learned."""
    longest_stage: float = 0.33
    """Above 0 .. 1: share of the time before the epochs that see everything, after which a stage is over though it was
    not learned. 1: learning alone ends a stage."""
    evaluations: int = 4
    """In an epoch, at most."""
    fewest_steps: int = 5
    """Of the optimiser, between two evaluations."""
    whole_epochs: int = 1
    """At the end of a training, that see everything."""

    def __post_init__(self) -> None:
        if not 0 <= self.observed_weight <= 1:
            raise ValueError("observed_weight must lie within 0..1")
        if not 0 < self.medium_from < self.hard_from <= 1:
            raise ValueError("medium_from and hard_from must ascend within 0..1, medium_from above 0")
        for name, mix in zip(("easy_mix", "medium_mix", "hard_mix"), self._mixes(), strict=True):
            if len(mix) != len(STAGES) or not all(share >= 0 for share in mix) or not math.isclose(math.fsum(mix), 1):
                raise ValueError(f"{name} must be three shares, for easy, medium and hard, that add up to 1")
        if not 0 <= self.least_gain < 1:
            raise ValueError("least_gain must be 0 or more and below 1")
        if not 0 < self.longest_stage <= 1:
            raise ValueError("longest_stage must lie above 0, and 1 at most")
        if min(self.patience, self.evaluations, self.fewest_steps, self.whole_epochs) < 1:
            raise ValueError("patience, evaluations, fewest_steps and whole_epochs must be 1 or more")

    @hookimpl
    def nightschool_arrange_stretch(
        self, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int
    ) -> Stretch | None:
        count = len(examples)
        lesson, beside = ([at for at in range(count) if examples[at].beside is one] for one in (False, True))
        of_stage = self._of_stage(examples, lesson, seed)
        if of_stage is None:
            return None
        chance = random.Random(f"{seed}/{len(training.losses)}")  # noqa: S311 - an order, not a secret
        stage, reason = self._stage(count, training)
        if stage == EVERYTHING:
            whole = _everything(of_stage, self._is_first(training), chance)
            places = _spread([whole, chance.sample(beside, len(beside))], chance)
            return Stretch(places=places, stage=EVERYTHING_NAME, reason=reason)
        length = self._length(count, training)
        along = _part(len(beside), count, count - training.left, length)
        counts = _counts(self._mixes()[stage], [len(places) for places in of_stage], length - along)
        parts = zip((*of_stage, beside), (*counts, along), strict=True)
        drawn = [_least_seen(places, examples, wanted, chance) for places, wanted in parts]
        return Stretch(places=_spread(drawn, chance), stage=STAGES[stage], reason=reason)

    def _of_stage(
        self, examples: Sequence[LearnedExample], lesson: Sequence[int], seed: int
    ) -> tuple[list[int], ...] | None:
        """The places of the lesson by their stages; None where nothing can be arranged."""
        taught = [examples[place] for place in lesson]
        difficulties = self._difficulties(taught)
        if difficulties is None or len(set(difficulties)) == 1 or len(lesson) < len(STAGES):
            return None
        return tuple([lesson[number] for number in part] for part in self._staged(taught, difficulties, seed))

    def _mixes(self) -> tuple[tuple[float, ...], ...]:
        return self.easy_mix, self.medium_mix, self.hard_mix

    # ------------------------------------------------------------------- how hard, and of which stage

    def _difficulties(self, examples: Sequence[LearnedExample]) -> list[float] | None:
        """With what was observed; None where one is not told."""
        found = [self._difficulty(one.difficulty, one.score) for one in examples if one.difficulty is not None]
        return found if len(found) == len(examples) else None

    def _difficulty(self, difficulty: float, score: float | None) -> float:
        if score is None:
            return difficulty
        return (1 - self.observed_weight) * difficulty + self.observed_weight * (100 - score) / 100

    def _staged(
        self, examples: Sequence[LearnedExample], difficulties: Sequence[float], seed: int
    ) -> tuple[list[int], ...]:
        """The places of each stage."""
        bounds = (self.medium_from, self.hard_from)
        stages = [bisect_right(bounds, one) for one in difficulties]
        if len(set(stages)) < len(STAGES):
            stages = _thirds(examples, difficulties, seed)
        return tuple([place for place, one in enumerate(stages) if one == stage] for stage in range(len(STAGES)))

    # ------------------------------------------------------------------- how far the training is

    def _stage(self, count: int, training: TrainingSoFar) -> tuple[int, str]:
        """The stage of what comes next, and why. Within an epoch that began with a stage it is not everything yet."""
        if training.epoch > training.epochs - self.whole_epochs:
            return EVERYTHING, AT_THE_END
        reasons = self._reasons(count, training)
        stage = min(len(reasons) - 1, EVERYTHING if training.left == count else LAST)
        return stage, reasons[stage]

    def _reasons(self, count: int, training: TrainingSoFar) -> list[str]:
        """Why each stage began, up to the one that the losses, or the time, have brought the training to."""
        stretches = self._stretches(count, training.batch_size) * (training.epochs - self.whole_epochs)
        before, *after = training.losses
        reasons = [""] * (LAST + 1 if training.goes_on else 1)
        least, idle = before, 0
        for number, loss in enumerate(after, start=1):
            idle = 0 if loss <= (1 - self.least_gain) * least else idle + 1
            least = min(least, loss)
            is_learned = idle >= self.patience
            stage = len(reasons) - 1
            is_late = stage < min(LAST, math.floor(number / (self.longest_stage * stretches)))
            if stage < EVERYTHING and (is_learned or is_late):
                reasons.append(LEARNED if is_learned else LATE)
                least, idle = loss, 0
        return reasons

    def _stretches(self, count: int, batch_size: int) -> int:
        """Of an epoch."""
        return max(1, min(self.evaluations, math.ceil(count / batch_size) // self.fewest_steps))

    def _length(self, count: int, training: TrainingSoFar) -> int:
        """Examples up to the next evaluation: stretches of an epoch differ by a batch at most."""
        steps, stretches = math.ceil(count / training.batch_size), self._stretches(count, training.batch_size)
        done = (count - training.left) // training.batch_size
        end = next(end for part in range(1, stretches + 1) if (end := steps * part // stretches) > done)
        return min(training.left, (end - done) * training.batch_size)

    def _is_first(self, training: TrainingSoFar) -> bool:
        """Whether it is about the first epoch of a training that has seen nothing yet."""
        return training.epoch == 1 and not training.goes_on


# --------------------------------------------------------------------------- stages


def _thirds(examples: Sequence[LearnedExample], difficulties: Sequence[float], seed: int) -> list[int]:
    """The stage of each example by its rank. Of equally hard ones near-duplicates stay together."""
    names = sorted({one.group or one.event_id for one in examples})
    random.Random(seed).shuffle(names)  # noqa: S311 - an order, not a secret
    ties = {name: number for number, name in enumerate(names)}
    order = sorted(
        range(len(examples)),
        key=lambda place: (difficulties[place], ties[examples[place].group or examples[place].event_id]),
    )
    stages = [0] * len(examples)
    for rank, place in enumerate(order):
        stages[place] = len(STAGES) * rank // len(examples)
    return stages


def _counts(mix: Sequence[float], sizes: Sequence[int], length: int) -> list[int]:
    """How many examples of each stage are among so many; what a stage lacks its neighbours have."""
    wanted = _apportioned(mix, length)
    # as often as a third of all examples would be gone through
    times = math.ceil(len(STAGES) * length / sum(sizes))
    counts = [min(count, times * size) for count, size in zip(wanted, sizes, strict=True)]
    for stage in range(len(STAGES)):
        lacking = wanted[stage] - min(wanted[stage], times * sizes[stage])
        for other in sorted(range(len(STAGES)), key=lambda other: (abs(other - stage), other)):
            more = min(lacking, times * sizes[other] - counts[other])
            counts[other] += more
            lacking -= more
    return counts


def _part(some: int, count: int, done: int, length: int) -> int:
    """How many of some, that go along with all of an epoch, are among so many behind those that are done."""
    return some * (done + length) // count - some * done // count


def _apportioned(mix: Sequence[float], length: int) -> list[int]:
    """Whole numbers that add up to the length, by largest remainders; of equal ones the harder is rounded up."""
    exact = [share * length / math.fsum(mix) for share in mix]
    counts = [math.floor(one) for one in exact]
    largest = sorted(range(len(mix)), key=lambda stage: (counts[stage] - exact[stage], -stage))
    for stage in largest[: length - sum(counts)]:
        counts[stage] += 1
    return counts


# --------------------------------------------------------------------------- order


def _least_seen(
    places: Sequence[int], examples: Sequence[LearnedExample], count: int, chance: random.Random
) -> list[int]:
    """So many of a stage, those first that were seen least; where there are fewer, again from the beginning."""
    order = sorted(chance.sample(places, len(places)), key=lambda place: examples[place].seen)
    return [order[number % len(order)] for number in range(count)]


def _spread(drawn: Sequence[Sequence[int]], chance: random.Random) -> tuple[int, ...]:
    """All together, each stage spread over the whole, so that every batch has the mix."""
    positions = [
        ((number + chance.random()) / len(places), place) for places in drawn for number, place in enumerate(places)
    ]
    return tuple(place for _, place in sorted(positions))


def _everything(of_stage: Sequence[Sequence[int]], from_easy: bool, chance: random.Random) -> tuple[int, ...]:
    """Each example once."""
    parts = of_stage if from_easy else [[place for places in of_stage for place in places]]
    return tuple(place for places in parts for place in chance.sample(places, len(places)))


@hookimpl
def nightschool_register_settings() -> type[CurriculumStaged]:
    return CurriculumStaged
