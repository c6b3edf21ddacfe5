"""What guards have in common: whether the candidate fails more often than chance makes it.

The same items were put to both models, so those alone say something on which the two differ:

    p = P(X >= more), X ~ binomial(differing, 1/2)      (exact one-sided sign test; McNemar's of paired proportions)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

from nightschool_hookspecs.records import Exam, ItemRole, Sitting


def sign_test(more: int, differing: int) -> float:
    """How likely so many of the items that differ, or more of them, fall to one side by chance. 1 for none."""
    return sum(comb(differing, count) for count in range(max(0, more), differing + 1)) / (1 << differing)


def median(values: Iterable[float]) -> float:
    """The middle one, or the mean of the two in the middle. Raises `StatisticsError` for none."""
    # it brings decimals and fractions, half a megabyte that the idle daemon has no use for
    import statistics

    return statistics.median(values)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How often both showed a fault on the items that both answered."""

    candidate: float
    """Share of its answers, 0..1; of the lesson's where nothing else was asked."""
    incumbent: float
    held: bool
    """The candidate's share is no more than tolerated above the incumbent's worse sitting, or chance makes it so."""


def compare_faults(
    exam: Exam, is_faulty: Mapping[tuple[Sitting, str], bool], *, tolerated_share: float, level: float
) -> Faults | None:
    """Compare by sitting and item; None where no item was answered by both.

    What was learned is not put to the incumbent again: by how much its second sitting was worse is taken by the items
    that both sittings have. Tonight's lesson is compared by itself: where trial candidates were asked the same, its
    items are no further evidence.
    """
    kinds = (
        [item.id for item in exam.items if item.role is not ItemRole.LESSON],
        [item.id for item in exam.items if item.role is ItemRole.LESSON],
    )
    found = [one for ids in kinds if (one := _compare(ids, is_faulty, tolerated_share, level)) is not None]
    return replace(found[0], held=all(one.held for one in found)) if found else None


def _compare(
    ids: Sequence[str], is_faulty: Mapping[tuple[Sitting, str], bool], tolerated_share: float, level: float
) -> Faults | None:
    both = (Sitting.INCUMBENT, Sitting.CANDIDATE)
    sat = [one for one in ids if all((sitting, one) in is_faulty for sitting in both)]
    if not sat:
        return None
    again = [one for one in sat if (Sitting.INCUMBENT_AGAIN, one) in is_faulty]
    shares = {sitting: sum(is_faulty[sitting, one] for one in sat) / len(sat) for sitting in both}
    more = sum(is_faulty[Sitting.INCUMBENT_AGAIN, one] - is_faulty[Sitting.INCUMBENT, one] for one in again)
    bound = shares[Sitting.INCUMBENT] + max(0.0, more / max(1, len(again))) + tolerated_share
    differing = [
        is_faulty[Sitting.CANDIDATE, one]
        for one in sat
        if is_faulty[Sitting.CANDIDATE, one] != is_faulty[Sitting.INCUMBENT, one]
    ]
    return Faults(
        candidate=shares[Sitting.CANDIDATE],
        incumbent=shares[Sitting.INCUMBENT],
        held=shares[Sitting.CANDIDATE] <= bound or sign_test(sum(differing), len(differing)) > level,
    )


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What the candidate cannot do that the incumbent can."""

    lost: int
    gained: int
    """What it can do in exchange."""
    held: bool
    """No more is lost than tolerated, or chance makes it so."""


def compare_abilities(pairs: Sequence[tuple[bool, bool]], *, tolerated: float, level: float) -> Losses:
    """Compare whether incumbent and candidate can do each thing. `tolerated` counts losses beyond gains.

    What was gained counts too: of two equal models that are right by chance, each loses what the other could do.
    """
    lost = sum(before and not after for before, after in pairs)
    gained = sum(after and not before for before, after in pairs)
    return Losses(
        lost=lost,
        gained=gained,
        held=lost - gained <= tolerated or sign_test(lost, lost + gained) > level,
    )
