"""The results that there are, and what `effects` is to know of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from benchmarks.ablation.cells import BaseResult, Block, Made, Result, kept
from benchmarks.ablation.components import BASE
from benchmarks.ablation.effects import Figure, Parts, Statistic, figure
from benchmarks.ablation.measures import Taken
from benchmarks.ablation.pools import IS_COMMON, Size, material_of


class Kind(StrEnum):
    """What a share is of."""

    LEARNED = "learned"
    """Sum of (base's nats - its nats) / sum of the base's nats, over held-out answers; 0: it learned nothing."""
    SCORE = "score"
    """Mean of the validators' scores / 100."""
    SLIPPED = "score, prompts with a slip"
    RARE = "score, edge cases"
    FORGOTTEN = "forgotten"
    """Nats a token that general texts and the base's own answers to general prompts have become dearer."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Finished cells."""

    sizes: Mapping[str, Size]
    bases: Mapping[Block, BaseResult]
    results: Mapping[tuple[str, Block], Result]

    def of(self, model: str) -> "Records":
        """Those of one model alone."""
        return self.where(lambda block: block.model == model)

    def where(self, is_meant: Callable[[Block], bool]) -> "Records":
        """Those of some blocks alone."""
        return Records(
            sizes=self.sizes,
            bases={block: one for block, one in self.bases.items() if is_meant(block)},
            results={(arm, block): one for (arm, block), one in self.results.items() if is_meant(block)},
        )

    def made(self) -> list[Made]:
        """What each cell was made with."""
        return [*(one.made for one in self.bases.values()), *(one.made for one in self.results.values())]

    def taken(self, arm: str, block: Block) -> Taken | None:
        """What was measured; None where it was not."""
        if arm == BASE.name:
            return self.bases[block].taken if block in self.bases else None
        found = self.results.get((arm, block))
        return found.taken if found is not None else None

    def blocks(self, *arms: str) -> tuple[Block, ...]:
        """Those in which all of these were run, in order of their names."""
        there = [block for block in self.bases if all(self.taken(arm, block) for arm in arms)]
        return tuple(sorted(there, key=lambda one: (one.model, one.task, one.seed)))

    def share(self, arm: str, block: Block, kind: Kind) -> float | None:
        """Of one arm; None where there is nothing that it could be of."""
        parts = self.parts((arm,), block, kind)
        return float(parts.whole[0]) if parts is not None else None

    def figure(self, kind: Kind, arms: Sequence[str], statistic: Statistic) -> Figure | None:
        """Over all blocks that have these arms; None where there is none, or nothing to divide."""
        found = [parts for block in self.blocks(*arms) if (parts := self.parts(arms, block, kind)) is not None]
        return figure(found, statistic) if found else None

    def parts(self, arms: Sequence[str], block: Block, kind: Kind) -> Parts | None:
        """What the shares of arms that were run are made of; None where a size asks for nothing of the kind."""
        base, taken = self.bases[block].taken, [one for arm in arms if (one := self.taken(arm, block)) is not None]
        match kind:
            case Kind.LEARNED:
                before = np.array(base.held_out.nats)
                return Parts(values=np.array([before - np.array(one.held_out.nats) for one in taken]), units=before)
            case Kind.FORGOTTEN:
                rises = [np.array(one.general.nats) - np.array(base.general.nats) for one in taken]
                return Parts(values=np.array(rises), units=np.array(base.general.tokens, np.float64))
            case Kind.SLIPPED:
                return _scored([one.slipped for one in taken])
            case Kind.RARE:
                rare = rare_places(block.task, self.sizes[block.task], block.seed)
                return _scored([[one.scores[place] for place in rare] for one in taken])
            case Kind.SCORE:
                return _scored([one.scores for one in taken])


def _scored(scores: Sequence[Sequence[float]]) -> Parts | None:
    values = np.array(scores, np.float64) / 100
    return Parts(values=values, units=np.ones(values.shape[1])) if values.size else None


@functools.cache
def rare_places(task: str, size: Size, seed: int) -> tuple[int, ...]:
    """Which of the prompts that are asked are edge cases: what a pool that is skewed has least of."""
    asked = material_of(task, size, seed).held_out[: size.asked]
    return tuple(place for place, pair in enumerate(asked) if not IS_COMMON[task](pair))


def read(directory: Path, sizes: Mapping[str, Size], code: str | None) -> Records:
    """Every finished cell of a directory that was made of these sizes and this code; None: of any."""
    bases: dict[Block, BaseResult] = {}
    results: dict[tuple[str, Block], Result] = {}
    for file in sorted(directory.glob("*.json")):
        model, task, *rest = file.stem.split("-")
        arm, block = "-".join(rest[:-1]), Block(model=model, task=task, seed=int(rest[-1]))
        found = kept(file, sizes[task], code) if task in sizes else None
        if isinstance(found, BaseResult):
            bases[block] = found
        elif found is not None:
            results[arm, block] = found
    return Records(sizes=sizes, bases=bases, results=results)
