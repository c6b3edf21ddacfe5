"""Ten claims of what each part of a learning pipeline is worth, beside what was measured here.

The claims are those that are made for such parts in general; a figure stands beside each as it came out. Where a part
is not there yet, or was not run yet, the table says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation.components import COMPONENTS, CURVE, RAW, Arm, Component, alone, halved, peer_of
from benchmarks.ablation.effects import Figure, Floats, ratio
from benchmarks.ablation.records import Kind, Records

AUGMENTATIONS = ("letters", "synonyms", "paraphrase", "backtranslate")
PAIRS_DRAWN = 500
"""Resamples of the labelled pairs by which the similarity metrics are compared."""

Take = Callable[[Records], Figure | None]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A part, by how much it is said to make something better, and how that is measured here."""

    part: str
    said: str
    goal: float
    """The ratio that was said."""
    how: str
    take: Take
    needs: tuple[Component, ...] = ()
    """What has to be there."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Plugins that are not there."""
        return tuple(plugin for one in self.needs for plugin in one.missing)


def component(name: str) -> Component:
    """The component of a name."""
    return next(one for one in COMPONENTS if one.name == name)


def augmented(components: Sequence[Component] = COMPONENTS) -> Arm:
    """Every augmentation that is there, together."""
    parts = tuple(one for one in components if one.name in AUGMENTATIONS and one.is_measured)
    return Arm(name="augmentations", components=parts)


def arms(components: Sequence[Component]) -> tuple[Arm, ...]:
    """What the claims about these need beside the raw pool and each of them alone."""
    halves = [halved(one) for one in components if one.name in ("active", "curriculum")]
    peers = [peer for one in components if (peer := peer_of(alone(one))) != RAW]
    together = [augmented()] if any(one.name in AUGMENTATIONS for one in components) else []
    return (*halves, *(CURVE if halves else ()), *together, *peers)


# --------------------------------------------------------------------------- figures


def _better(name: str, kind: Kind = Kind.SCORE) -> Take:
    """How many times better a component's share is than its peer's."""
    return partial(_ratio, alone(component(name)), kind)


def _ratio(arm: Arm, kind: Kind, records: Records) -> Figure | None:
    return records.figure(kind, (arm.name, peer_of(arm).name), ratio)


def _sooner(name: str, records: Records) -> Figure | None:
    """How many times the tokens that a component takes in half a night the raw pool needs to learn as much."""
    half, curve = halved(component(name)), (*CURVE, RAW)
    names = (half.name, *(one.name for one in curve))
    costs = [records.results[half.name, block].cost for block in records.blocks(*names)]
    if not costs:
        return None
    # a curriculum that begins with what is easy sees shorter examples
    taken = half.share * float(np.mean([one.tokens / one.budget for one in costs]))

    def times(found: Floats) -> float:
        return needed(found[1:], [one.share for one in curve], float(found[0])) / taken

    return records.figure(Kind.LEARNED, names, times)


def needed(learned: Sequence[float] | Floats, shares: Sequence[float], wanted: float) -> float:
    """The share of a night in which a curve reaches what is wanted, between its points by the logarithm of the share.

    Within the curve's ends: where it never gets there, its last point stands for what would be needed at least.
    """
    reached = np.maximum.accumulate(np.asarray(learned, np.float64))
    return float(np.exp(np.interp(wanted, reached, np.log(shares))))


def _tells_apart(_records: Records) -> Figure | None:
    """How much better all metrics together tell a slip of the pen from another meaning than the edit distance alone."""
    from benchmarks import selection

    metrics, slips = selection.separation()

    def times(places: NDArray[np.int64]) -> float:
        ours, peer = (selection.area(metrics[one][places], slips[places]) for one in ("combined", "edit"))
        return ours / peer

    chance, every = np.random.default_rng(0), np.arange(len(slips))
    return Figure.of(times(every), [times(chance.choice(every, len(every))) for _ in range(PAIRS_DRAWN)])


def _nothing(_records: Records) -> None:
    """No figure: nothing that would be fair was measured."""


CLAIMS: tuple[Claim, ...] = (
    Claim(
        part="reward",
        said="model quality +20 %",
        goal=1.20,
        how="score, by reward's weights and order / a random sample",
        take=_better("reward"),
        needs=(component("reward"),),
    ),
    Claim(
        part="similarity",
        said="accuracy in telling meaningful corrections from typos +15 %",
        goal=1.15,
        how="area under the ROC curve on labelled pairs, all metrics together / edit distance (`make bench-selection`)",
        take=_tells_apart,
    ),
    Claim(
        part="batch sizes",
        said="training efficiency +10 %",
        goal=1.10,
        how="nothing: a fair comparison is months of feedback that comes in bursts, a training for each batch of each "
        "plugin, and what is in use in between",
        take=_nothing,
        needs=(component("batching"),),
    ),
    Claim(
        part="curriculum",
        said="convergence +25 % faster",
        goal=1.25,
        how="tokens that the raw pool needs to learn as much as the curriculum in half a night / these tokens; "
        "2 stands for 2 and more",
        take=partial(_sooner, "curriculum"),
        needs=(component("curriculum"),),
    ),
    Claim(
        part="curriculum",
        said="final quality +15 %",
        goal=1.15,
        how="score, staged / shuffled",
        take=_better("curriculum"),
        needs=(component("curriculum"),),
    ),
    Claim(
        part="active selection",
        said="efficiency +30 %: fewer examples for the same quality",
        goal=1.30,
        how="examples that a random sample needs to teach as much as half as many chosen ones / these; "
        "2 stands for 2 and more",
        take=partial(_sooner, "active"),
        needs=(component("active"),),
    ),
    Claim(
        part="evaluation with early stopping",
        said="quality +20 %",
        goal=1.20,
        how="score, of up to 12 epochs, stopped by what is kept aside / to the end",
        take=_better("early stopping"),
        needs=(component("early stopping"),),
    ),
    Claim(
        part="preferences",
        said="+10 %",
        goal=1.10,
        how="score, pairs of answers on top, at equal tokens / wanted answers alone",
        take=_better("preferences"),
        needs=(component("preferences"),),
    ),
    Claim(
        part="augmentation",
        said="robustness +10 %",
        goal=1.10,
        how="score on prompts with a slip of the pen, every augmentation together / none",
        take=partial(_ratio, augmented(), Kind.SLIPPED),
        needs=tuple(map(component, AUGMENTATIONS)),
    ),
    Claim(
        part="tuning",
        said="+15 %",
        goal=1.15,
        how="score, searched for / the fixed defaults; the search's own tokens are not counted",
        take=_better("tuning"),
        needs=(component("tuning"),),
    ),
    Claim(
        part="hard negatives",
        said="edge cases +10 %",
        goal=1.10,
        how="score on what is rare in the pool, weighted / not",
        take=_better("negatives", Kind.RARE),
        needs=(component("negatives"),),
    ),
)
"""One of the ten has two figures."""
