"""What is shown: the rows of the bench, two tables for the documentation, and a plot."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import results
from benchmarks.ablation.cells import Cost
from benchmarks.ablation.claims import CLAIMS, Claim, component
from benchmarks.ablation.components import (
    BASE,
    COMPONENTS,
    ORACLE,
    RAW,
    Arm,
    Component,
    Pipeline,
    alone,
    default,
    measured,
    peer_of,
    whole,
    without,
)
from benchmarks.ablation.decisions import Decision, Evidence, decide
from benchmarks.ablation.effects import Figure, Floats, Layout, ratio
from benchmarks.ablation.records import Kind, Records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAIN, OF_ORACLE, FORGETS = 1.15, 0.95, 1 / 3
"""Goals of the default pipeline: its gain beside the raw pool's and the oracle's; and what of the forgetting is left
where there is rehearsal."""
NOT_MEASURED = "not measured"
COSTS = ("tokens", "seconds", "MB")
HEAD = (
    "arm", "blocks", "learned", "beside its peer (95 %)", "score", "beside its peer (95 %)", "forgotten",
    "tokens", "seconds", "MB", "everything without it (95 %)", "p", "by default",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the cells say, all together."""

    records: Records
    decisions: Mapping[str, Decision]
    """By component; those of which too little was run are left out."""
    claims: tuple[Claim, ...] = CLAIMS

    @classmethod
    def of(cls, records: Records) -> "Findings":
        """Decide on what was measured."""
        parts = [one for one in measured() if one.is_ordinary]
        arms = [RAW, whole(parts), *(alone(one) for one in parts), *(without(one, parts) for one in parts)]
        layouts = {kind: _layout(records, arms, kind) for kind in (Kind.LEARNED, Kind.SCORE, Kind.FORGOTTEN)}
        found = {one.name: _evidence(records, layouts, one, parts) for one in parts}
        return cls(records=records, decisions=decide({name: one for name, one in found.items() if one is not None}))

    @cached_property
    def claimed(self) -> tuple[tuple[Claim, Figure | None], ...]:
        """Each claim with its figure; None: something is not there, or was not run."""
        return tuple((claim, None if claim.missing else claim.take(self.records)) for claim in self.claims)

    @property
    def default(self) -> Arm:
        """The pipeline with all that is to be asked by default."""
        return default([one for one in measured() if one.name in self.decisions and self.decisions[one.name].is_on])


def _layout(records: Records, arms: Sequence[Arm], kind: Kind) -> Layout:
    shares = {
        (arm.name, block): share
        for arm in arms
        for block in records.blocks(arm.name)
        if (share := records.share(arm.name, block, kind)) is not None
    }
    return Layout(shares)


def _evidence(
    records: Records, layouts: Mapping[Kind, Layout], one: Component, parts: Sequence[Component]
) -> Evidence | None:
    arm, left_out = alone(one).name, without(one, parts).name
    both = [layouts[kind] for kind in (Kind.LEARNED, Kind.SCORE)]
    learned, score = (layout.contrast(arm, RAW.name) for layout in both)
    if learned is None or score is None:
        return None
    return Evidence(
        learned=learned,
        score=score,
        without=tuple(filter(None, (layout.contrast(left_out, whole(parts).name) for layout in both))),
        forgotten=layouts[Kind.FORGOTTEN].contrast(arm, RAW.name),
        cost=max(costs(records, arm, RAW.name).values(), default=math.inf),
    )


def costs(records: Records, arm: str, peer: str) -> dict[str, float]:
    """What an arm takes, as multiples of its peer: medians over the blocks that have both."""
    pairs = [[_taken(records.results[name, block].cost) for name in (arm, peer)] for block in records.blocks(arm, peer)]
    return {name: float(np.median([ours[name] / theirs[name] for ours, theirs in pairs])) for name in COSTS if pairs}


def _taken(cost: Cost) -> dict[str, float]:
    return {"tokens": cost.tokens, "seconds": cost.selecting_s + cost.training_s, "MB": cost.peak_mb}


# --------------------------------------------------------------------------- rows


def rows(findings: Findings) -> Iterator[results.Row]:
    """The goals, then the ten claims."""
    records, ours = findings.records, findings.default.name
    for peer, goal in ((RAW, GAIN), (ORACLE, OF_ORACLE)):
        told = f"default pipeline / {peer.name} pool"
        yield _row(f"held-out loss taken away, {told}", records.figure(Kind.LEARNED, (ours, peer.name), ratio), goal)
        yield _row(
            f"held-out score gained, {told}", records.figure(Kind.SCORE, (ours, peer.name, BASE.name), _gained), goal
        )
    arms = (whole(measured()).name, without(component("rehearsal"), measured()).name)
    told = "forgetting, everything together / the same without rehearsal"
    yield _row(told, records.figure(Kind.FORGOTTEN, arms, ratio), FORGETS, at_most=True)
    for claim, found in findings.claimed:
        yield _row(f"{claim.part}: {claim.said}", found, claim.goal, missing=claim.missing)


def _gained(shares: Floats) -> float:
    """The first arm's gain over the third, as a multiple of the second's."""
    return ratio(shares[:2] - shares[2])


def _row(
    told: str, found: Figure | None, goal: float, *, at_most: bool = False, missing: Sequence[str] = ()
) -> results.Row:
    """A ratio of at least the goal, or at most; without a figure, why there is none."""
    if found is None:
        why = _not_there(missing) or NOT_MEASURED
        return {"measure": f"{told} ({why})", "ours": None, "peer": 1.0, "ratio": None, "goal": goal, "holds": None}
    holds = found.value <= goal if at_most else found.value >= goal
    return results.row(f"{told} (95 %: {found.low:.2f} to {found.high:.2f})", found.value, 1.0, goal, holds=holds)


def _not_there(plugins: Sequence[str]) -> str:
    return f"not there: {', '.join(f'`{name}`' for name in plugins)}" if plugins else ""


# --------------------------------------------------------------------------- tables


def claims_table(findings: Findings) -> str:
    """The ten claims, how each was measured here, and what came out."""
    lines = ["| part | said | measured here | here, as a ratio (95 %) |", "|---|---|---|---|"]
    for claim, found in findings.claimed:
        shown = found.text() if found is not None else _not_there(claim.missing) or NOT_MEASURED
        lines.append(f"| {claim.part} | {claim.said} | {claim.how} | {shown} |")
    return "\n".join(lines)


def arms_table(findings: Findings) -> str:
    """A table a model: what every arm learned, scored, forgot and took. Below them what was not put to the test."""
    tables = [_table_of(findings, model) for model in dict.fromkeys(block.model for block in findings.records.bases)]
    untested = ((one.name, _not_there(one.missing) or one.why_not) for one in COMPONENTS)
    return "\n\n".join([*tables, *(f"{name}: {why}" for name, why in untested if why)])


def _table_of(findings: Findings, model: str) -> str:
    records = findings.records.of(model)
    lines = [_line(findings, records, arm, one) for arm, one in _shown_arms(findings) if records.blocks(arm.name)]
    return "\n".join([f"{model}:\n", _joined(HEAD), "|---" * len(HEAD) + "|", *lines])


def _shown_arms(findings: Findings) -> Iterator[tuple[Arm, Component | None]]:
    yield from ((arm, None) for arm in (RAW, ORACLE, findings.default, whole(measured())))
    yield from ((alone(one), one) for one in measured())


def _line(findings: Findings, records: Records, arm: Arm, one: Component | None) -> str:
    blocks, peer = records.blocks(arm.name), peer_of(arm).name
    learned, score, forgotten = (
        float(np.mean([share for block in blocks if (share := records.share(arm.name, block, kind)) is not None]))
        for kind in (Kind.LEARNED, Kind.SCORE, Kind.FORGOTTEN)
    )
    beside = ["" if arm == RAW else _beside(records, arm.name, peer, kind) for kind in (Kind.LEARNED, Kind.SCORE)]
    decision = findings.decisions.get(one.name) if one is not None else None
    left_out = "" if one is None else without(one, measured()).name
    return _joined(
        (
            _called(arm), str(len(blocks)), f"{learned:.3f}", beside[0], f"{100 * score:.1f}", beside[1],
            f"{forgotten:+.3f}", *_shown_costs(records, arm.name, peer),
            _beside(records, left_out, whole(measured()).name, Kind.LEARNED),
            "" if decision is None else f"{decision.p_better:.3f}",
            "" if decision is None else f"{decision.default.value} ({decision.reason})",
        )
    )  # fmt: skip


def _joined(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _beside(records: Records, arm: str, peer: str, kind: Kind) -> str:
    found = records.figure(kind, (arm, peer), ratio)
    return "" if found is None else found.text()


def _called(arm: Arm) -> str:
    """Without the letters that tell apart what was measured at different times."""
    return arm.name.rpartition("-")[0] if arm.pipeline is Pipeline.MEASURED else arm.name


def _shown_costs(records: Records, arm: str, peer: str) -> tuple[str, ...]:
    """As multiples of the peer's; what is its own peer is told as it is."""
    if arm == peer:
        found = [_taken(records.results[arm, block].cost) for block in records.blocks(arm)]
        return tuple(f"{np.median([one[name] for one in found]):.0f}" for name in COSTS)
    taken = costs(records, arm, peer)
    return tuple(f"{taken[name]:.2f}" if name in taken else "" for name in COSTS)


# --------------------------------------------------------------------------- plot


def draw(findings: Findings, file: Path) -> None:
    """What each arm learned and scored beside the raw pool, a colour a model."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawing

    kinds = (Kind.LEARNED, Kind.SCORE)
    arms = [arm for arm, _ in _shown_arms(findings) if arm != RAW and findings.records.blocks(arm.name)]
    if not arms:
        return
    # the names of the drawing's parts would differ each time
    with mpl.rc_context({"svg.hashsalt": "ablation"}):
        drawing = Drawing(figsize=(10, 1.2 + 0.32 * len(arms)), layout="constrained")
        panels = drawing.subplots(1, len(kinds), sharey=True)
        for kind, axes in zip(kinds, panels, strict=True):
            _points(axes, findings.records, arms, kind)
        panels[0].invert_yaxis()
        drawing.savefig(file, metadata={"Date": None})


def _points(axes: "Axes", records: Records, arms: Sequence[Arm], kind: Kind) -> None:
    for number, model in enumerate(dict.fromkeys(block.model for block in records.bases)):
        found = [records.of(model).figure(kind, (arm.name, peer_of(arm).name), ratio) for arm in arms]
        there = [(place + 0.2 * number, one) for place, one in enumerate(found) if one is not None]
        # beside next to nothing an interval has no end
        ends = [[one.value - one.low, min(one.high, one.value + 1) - one.value] for _, one in there]
        axes.errorbar(
            [one.value for _, one in there],
            [place for place, _ in there],
            xerr=np.maximum(0.0, np.array(ends).reshape(-1, 2)).T,
            fmt="o",
            label=model,
        )
    axes.axvline(1.0, color="grey", linestyle=":")
    axes.set(
        title=f"{kind.value}, beside its peer", yticks=range(len(arms)), yticklabels=[_called(one) for one in arms]
    )
    axes.legend(fontsize="small")
