"""What becomes a default: the rule, as a function of what was measured.

A component is on by default where

    it helps      its learned share or its score is above the raw pool's, with p <= 0.05 after Holm's rule over both
                  figures of all components, and the other figure is not below it (one-sided p > 0.05)
    or is free    neither figure is lower by more than 5 % (non-inferiority, p <= 0.05 after Holm's rule over both
                  figures of all components), and it costs nothing: tokens, seconds and memory at most 5 % above the raw
                  pool's

and in either case

    it does not forget more: no more than a tenth above the raw pool, or not surely (one-sided p > 0.05)
    it is not in the way of the others: without it, everything together is no better (one-sided p > 0.05)

The p-values are those of `effects`. Where too few blocks were run to tell, nothing becomes a default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.ablation.effects import Contrast, adjusted

SIGNIFICANT = 0.05
MARGIN = 0.05
"""Of a block's mean share, up to which an arm counts as no worse."""
DEARER = 1.05
"""Times the raw pool's cost, up to which something costs nothing: times of two equal trainings differ by as much."""
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
    without: tuple[Contrast, ...]
    """Everything but it beside everything, by both figures; none where that was not run."""
    forgotten: Contrast | None
    """Alone, beside the raw pool; None where nothing is forgotten at all."""
    cost: float
    """The largest of tokens, seconds and memory, as multiples of the raw pool's."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of a component, and why."""

    default: Default
    reason: str
    p_better: float
    """That it helps, the smaller of both figures', after Holm's rule."""

    @property
    def is_on(self) -> bool:
        """Whether it is asked by default."""
        return self.default is not Default.OFF


def decide(evidence: Mapping[str, Evidence]) -> dict[str, Decision]:
    """Decide on all components together: how many there are is part of what each of them has to show."""
    better = _adjusted_of_both(evidence, 0.0)
    harmless = _adjusted_of_both(evidence, -MARGIN)
    return {name: _decided(one, better[name], harmless[name]) for name, one in evidence.items()}


Both = tuple[float, float]
"""P-values of the learned share and of the score."""


def _adjusted_of_both(evidence: Mapping[str, Evidence], least: float) -> dict[str, Both]:
    found = adjusted(
        {
            (name, number): contrast.p_above(least)
            for name, one in evidence.items()
            for number, contrast in enumerate((one.learned, one.score))
        }
    )
    return {name: (found[name, 0], found[name, 1]) for name in evidence}


def _decided(one: Evidence, better: Both, harmless: Both) -> Decision:
    objection = _objection(one)
    if objection is not None:
        default, reason = Default.OFF, objection
    elif _helps(one, better):
        default, reason = Default.HELPS, f"p = {min(better):.3f}"
    elif max(harmless) <= SIGNIFICANT and one.cost <= DEARER:
        default, reason = Default.FREE, f"less than {MARGIN:.0%} worse, p = {max(harmless):.3f}"
    else:
        default, reason = Default.OFF, "no effect is proven"
    return Decision(default=default, reason=reason, p_better=min(better))


def _helps(one: Evidence, better: Both) -> bool:
    learned, score = (p_value <= SIGNIFICANT for p_value in better)
    return (learned and not _is_worse(one.score)) or (score and not _is_worse(one.learned))


def _objection(one: Evidence) -> str | None:
    """What speaks against it, whatever it gains."""
    more = one.forgotten
    if more is not None and more.difference > FORGETS_MORE and more.p_above() <= SIGNIFICANT:
        return f"it forgets more, by {more.difference:.0%} of what arms forget"
    if any(contrast.p_above() <= SIGNIFICANT for contrast in one.without):
        return "without it, everything together is better"
    return None


def _is_worse(contrast: Contrast) -> bool:
    return contrast.p_below() <= SIGNIFICANT
