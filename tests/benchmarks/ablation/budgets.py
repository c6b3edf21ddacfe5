"""Equal tokens for every cell: what a night selected is cut, or in part repeated, until its epochs are so many tokens.

Tokens are those that the training loop counts: of the prompts too, of variants and of what is replayed. A night trains
for as many epochs as come nearest, but no more than the raw pool's: from more on a loop keeps some examples aside and
takes the best epoch, which is another training. What is then too much is dropped by chance, variants before what they
are variants of, and what is too little comes twice. Where a curriculum decides what is seen, its plan is asked how many
tokens that will be; losses decide of it, so that it can still differ by some hundredths.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import accumulate

from nightschool_daemon.jobs import RunDirectory, SelectResult, Step, read_lines, write_lines
from nightschool_daemon.learning.rows import FILES
from nightschool_hookspecs.records import Hyperparameters, PairText, TrainingMethod, TrainingText

LARGEST_PAIRS = 0.25
"""Share of the tokens that pairs of answers may take, where these are learned from on top."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Which examples a training sees, by their places, and in how many epochs."""

    epochs: int
    places: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a training may learn from."""

    tokens: int
    passes: int
    """Epochs; 0: as many as come nearest to the tokens, `most_passes` at most."""
    most_passes: int
    watches: bool
    """Whether the loop is to see epochs, of which it takes the best; else it sees one that is so many long."""
    seed: int
    fewest_pairs: int | None = None
    """From so many on pairs of answers are learned from on top; None: never."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many tokens the loop counts."""

    example: Callable[[TrainingText], int]
    """Of an example, each time that it is seen."""
    pair: Callable[[PairText], int]
    seen: Callable[[Hyperparameters], int]
    """Of all examples that the run has been left with, in all epochs, as far as it is known beforehand what is seen."""


def apply(run: RunDirectory, budget: Budget, count: Count) -> int:
    """Rewrite what step `select` left, so that the training takes so many tokens.

    Returns how many pairs are left whose answers were sampled: they are what is new, and come first.
    """
    directory = run.step(Step.SELECT)
    found = run.result(Step.SELECT, SelectResult)
    texts = list(read_lines(directory / FILES[TrainingMethod.SFT], TrainingText))
    pairs = sorted(read_lines(directory / FILES[TrainingMethod.DPO], PairText), key=lambda one: not one.sampled)
    spare = frozenset(place for place, one in enumerate(texts) if one.variant)
    lengths, pair_lengths = list(map(count.example, texts)), list(map(count.pair, pairs))
    kept = _affordable(pair_lengths, budget)
    budget = replace(budget, tokens=budget.tokens - sum(pair_lengths[:kept]))
    write_lines(directory / FILES[TrainingMethod.DPO], pairs[:kept])

    def leave(fit: Fit) -> Hyperparameters:
        settings = replace(found.hyperparameters, num_epochs=fit.epochs)
        material = replace(found.material, examples=len(fit.places), pairs=kept)
        write_lines(directory / FILES[TrainingMethod.SFT], [texts[place] for place in fit.places])
        run.finish(Step.SELECT, replace(found, material=material, hyperparameters=settings))
        return settings

    fit = fitted(lengths, budget, spare)
    seen = count.seen(leave(fit))
    if not budget.passes:
        # a curriculum shows shorter examples more often than longer ones
        leave(refitted(lengths, fit, budget, seen, spare))
    return sum(one.sampled for one in pairs[:kept])


def _affordable(lengths: Sequence[int], budget: Budget) -> int:
    """How many of the first pairs are learned from."""
    if budget.fewest_pairs is None:
        return 0
    kept = bisect_right(list(accumulate(lengths)), LARGEST_PAIRS * budget.tokens)
    return kept if kept >= budget.fewest_pairs else 0


def fitted(lengths: Sequence[int], budget: Budget, spare: Set[int] = frozenset()) -> Fit:
    """Epochs and examples that come as near to the tokens as whole examples allow. `spare`: what is dropped first."""
    nearest = max(1, math.floor(budget.tokens / sum(lengths) + 0.5))
    epochs = budget.passes or min(budget.most_passes, nearest)
    chance = random.Random(f"{budget.seed}/budget")
    places = filled(lengths, budget.tokens / epochs, chance, spare)
    if budget.watches or not budget.passes:
        return Fit(epochs=epochs, places=places)
    later = (chance.sample(places, len(places)) for _ in range(epochs - 1))
    return Fit(epochs=1, places=(*places, *(place for order in later for place in order)))


def refitted(lengths: Sequence[int], fit: Fit, budget: Budget, seen: int, spare: Set[int]) -> Fit:
    """The same in as many epochs where of these examples so many tokens are seen."""
    expected = fit.epochs * sum(lengths[place] for place in fit.places)
    tokens = budget.tokens * expected / seen
    chance = random.Random(f"{budget.seed}/budget")
    return replace(fit, places=filled(lengths, tokens / fit.epochs, chance, spare))


def filled(lengths: Sequence[int], tokens: float, chance: random.Random, spare: Set[int]) -> tuple[int, ...]:
    """Places of about so many tokens: all in their order, some of them dropped, or some twice behind the others.

    As near as the last one brings it; at least one.
    """
    kept = list(range(len(lengths)))
    held = sum(lengths)
    *dropped, _ = sorted(chance.sample(kept, len(kept)), key=lambda place: place not in spare)
    for place in dropped:
        if held - lengths[place] / 2 > tokens:
            kept.remove(place)
            held -= lengths[place]
    while held < tokens:
        for place in chance.sample(kept, len(kept)):
            if held + lengths[place] / 2 > tokens:
                return tuple(kept)
            kept.append(place)
            held += lengths[place]
    return tuple(kept)
