"""What becomes a default: the rule, as a function of what was measured.

A component is on by default where

    it helps      its learned share or its score is above the raw pool's, or it forgets less: p <= 0.05 after Holm's
                  rule over the three figures of all components. Of share and score the other one is not below the raw
                  pool's; where only less is forgotten, neither is lower by more than 5 %, as below
    or is free    neither share nor score is lower by more than 5 % (non-inferiority, the larger p of the two <= 0.05
                  after Holm's rule over the components), and it costs next to nothing: tokens and memory at most 5 %
                  above the raw pool's, and no more than a minute beside the training

and in either case

    it does not forget more: no more than a tenth above the raw pool, or not surely

"Below" and "more" are tested as well, one-sided, with p <= 0.05 each by itself: how many components there are must not
make it harder to see that one does harm. The p-values are those of `effects`. Where fewer than four blocks were run
nothing is decided.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.ablation.effects import Contrast, adjusted

SIGNIFICANT = 0.05
MARGIN = 0.05
"""Of a block's mean share, up to which an arm counts as no worse."""
DEARER = 1.05
"""Times the raw pool's tokens and memory, up to which something costs nothing."""
FREE_S = 60.0
"""That a part may take in a night and still cost nothing: a night has hours. As a share of a cell's minutes it would be
decided by the clock."""
FEWEST_BLOCKS = 4
"""Both tasks on two seeds: what one block shows may be that block's."""
FORGETS_MORE = 0.1
"""Of a block's mean, from which more forgetting is looked at."""


class Default(StrEnum):
    """What is decided."""

    HELPS = "on: it helps"
    FREE = "on: it does no harm and costs nothing"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a component."""

    learned: Contrast
    """Alone, beside the raw pool."""
    score: Contrast
    forgotten: Contrast | None
    """None where nothing is forgotten at all."""
    cost: float
    """The larger of tokens and memory, as multiples of the raw pool's."""
    added_s: float
    """Seconds that choosing and preparing take longer: what is learned is as many tokens in any case."""

    @property
    def is_enough(self) -> bool:
        """Whether it can be decided on."""
        return min(self.learned.blocks, self.score.blocks) >= FEWEST_BLOCKS


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of a component, and why."""

    default: Default
    reason: str
    p_better: float
    """That it helps, the smallest of its figures', after Holm's rule."""
    detectable: float
    """The smallest gain of its learned share that would probably have been found, as a part of the mean share."""

    @property
    def is_on(self) -> bool:
        """Whether it is asked by default."""
        return self.default is not Default.OFF


def decide(evidence: Mapping[str, Evidence]) -> dict[str, Decision]:
    """Decide on all components together: how many there are is part of what each of them has to show."""
    tests = _Tests({name: one for name, one in evidence.items() if one.is_enough})
    return {name: tests.decided(name) if one.is_enough else _open(one) for name, one in evidence.items()}


def _open(one: Evidence) -> Decision:
    reason = f"{one.learned.blocks} blocks are too few to decide"
    return Decision(default=Default.OFF, reason=reason, p_better=1.0, detectable=math.inf)


class _Tests:
    """All p-values, after Holm's rule."""

    def __init__(self, evidence: Mapping[str, Evidence]) -> None:
        self._evidence = evidence
        both = {(name, kind): c for name, one in evidence.items() for kind, c in _both(one).items()}
        forgotten = {name: one.forgotten for name, one in evidence.items() if one.forgotten is not None}
        self._figures = len(both) + len(forgotten)
        self._better = adjusted(
            {
                **{key: contrast.p_above() for key, contrast in both.items()},
                **{(name, "forgotten"): contrast.p_below() for name, contrast in forgotten.items()},
            }
        )
        self._worse = {key: contrast.p_below() for key, contrast in both.items()}
        self._harmless = adjusted(
            {name: max(c.p_above(-MARGIN) for c in _both(one).values()) for name, one in evidence.items()}
        )
        self._forgets = {name: contrast.p_above() for name, contrast in forgotten.items()}

    def decided(self, name: str) -> Decision:
        """What becomes of a component."""
        one, p_better = self._evidence[name], min(p for (other, _), p in self._better.items() if other == name)
        more = one.forgotten
        if more is not None and more.difference > FORGETS_MORE and self._forgets[name] <= SIGNIFICANT:
            default, reason = Default.OFF, f"it forgets more, by {more.difference:.0%} of what arms forget"
        elif self._helps(name):
            default, reason = Default.HELPS, f"p = {p_better:.3f}"
        elif self._is_harmless(name) and one.cost <= DEARER and one.added_s <= FREE_S:
            default, reason = Default.FREE, f"less than {MARGIN:.0%} worse, p = {self._harmless[name]:.3f}"
        else:
            default, reason = Default.OFF, "no effect is proven"
        detectable = one.learned.detectable(SIGNIFICANT / self._figures)
        return Decision(default=default, reason=reason, p_better=p_better, detectable=detectable)

    def _helps(self, name: str) -> bool:
        learned, score = (self._better[name, kind] <= SIGNIFICANT for kind in ("learned", "score"))
        keeps = self._better.get((name, "forgotten"), 1.0) <= SIGNIFICANT
        return (
            (learned and not self._is_worse(name, "score"))
            or (score and not self._is_worse(name, "learned"))
            or (keeps and self._is_harmless(name))
        )

    def _is_worse(self, name: str, kind: str) -> bool:
        return self._worse[name, kind] <= SIGNIFICANT

    def _is_harmless(self, name: str) -> bool:
        return self._harmless[name] <= SIGNIFICANT


def _both(one: Evidence) -> dict[str, Contrast]:
    return {"learned": one.learned, "score": one.score}
