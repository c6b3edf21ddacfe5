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
from benchmarks.ablation.claims import CLAIMS, Claim
from benchmarks.ablation.components import (
    BASE,
    COMPONENTS,
    ORACLE,
    RAW,
    Arm,
    Component,
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
NOT_RUN = "not run"
COSTS = ("tokens", "seconds", "MB")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the cells say, all together."""

    records: Records
    decisions: Mapping[str, Decision]
    """By component; those of which too little was run are left out."""
    claims: tuple[Claim, ...] = CLAIMS

    @cached_property
    def claimed(self) -> Mapping[Claim, Figure | None]:
        """The figure of each claim; None: something is missing, or was not run."""
        return {claim: None if claim.missing else claim.take(self.records) for claim in self.claims}

    @property
    def winners(self) -> tuple[Component, ...]:
        """What is to be asked by default."""
        return tuple(one for one in measured() if one.name in self.decisions and self.decisions[one.name].is_on)

    @property
    def default(self) -> Arm:
        """The pipeline that follows from that."""
        return default(self.winners)

    @classmethod
    def of(cls, records: Records) -> "Findings":
        """Decide on what was measured."""
        parts = [one for one in measured() if one.is_ordinary]
        arms = [RAW, whole(parts), *(alone(one) for one in parts), *(without(one, parts) for one in parts)]
        layouts = {kind: _layout(records, arms, kind) for kind in (Kind.LEARNED, Kind.SCORE, Kind.FORGOTTEN)}
        found = {one.name: _evidence(records, layouts, one, parts) for one in parts}
        return cls(
            records=records,
            decisions=decide({name: one for name, one in found.items() if one is not None}),
        )


def _layout(records: Records, arms: Sequence[Arm], kind: Kind) -> Layout:
    shares = {
        (arm.name, block): share
        for arm in arms
        for block in records.blocks(arm.name)
        if (share := records.share(arm.name, block, kind)) is not None
    }
    return Layout(shares)


def _evidence(
    records: Records, layouts: Mapping[Kind, Layout], component: Component, parts: Sequence[Component]
) -> Evidence | None:
    arm, left_out = alone(component).name, without(component, parts).name
    both = [layouts[kind] for kind in (Kind.LEARNED, Kind.SCORE)]
    learned, score = (one.contrast(arm, RAW.name) for one in both)
    if learned is None or score is None:
        return None
    return Evidence(
        learned=learned,
        score=score,
        without=tuple(filter(None, (one.contrast(left_out, whole(parts).name) for one in both))),
        forgotten=layouts[Kind.FORGOTTEN].contrast(arm, RAW.name),
        cost=max(costs(records, arm, RAW.name).values(), default=math.inf),
    )


def costs(records: Records, arm: str, peer: str) -> dict[str, float]:
    """What an arm takes, as multiples of its peer: medians over the blocks that have both."""
    pairs = [
        (records.results[arm, block].cost, records.results[peer, block].cost) for block in records.blocks(arm, peer)
    ]
    return {
        name: float(np.median([_taken(ours)[name] / _taken(theirs)[name] for ours, theirs in pairs]))
        for name in COSTS
        if pairs
    }


def _taken(cost: Cost) -> dict[str, float]:
    return {"tokens": cost.tokens, "seconds": cost.selecting_s + cost.training_s, "MB": cost.peak_mb}


# --------------------------------------------------------------------------- rows


def rows(findings: Findings) -> Iterator[results.Row]:
    """The goals, then the ten claims."""
    yield from _goals(findings)
    for claim, found in findings.claimed.items():
        yield _row(f"{claim.part}: {claim.said}", found, claim.goal, claim.missing)


def _goals(findings: Findings) -> Iterator[results.Row]:
    records, ours = findings.records, findings.default.name
    for peer, goal in ((RAW, GAIN), (ORACLE, OF_ORACLE)):
        told = f"default pipeline / {peer.name} pool"
        yield _row(f"held-out loss taken away, {told}", records.figure(Kind.LEARNED, (ours, peer.name), ratio), goal)
        yield _row(
            f"held-out score gained, {told}", records.figure(Kind.SCORE, (ours, peer.name, BASE.name), _gained), goal
        )
    yield _forgetting(records)


def _gained(shares: Floats) -> float:
    """The first arm's gain over the third, as a multiple of the second's."""
    return ratio(shares[:2] - shares[2])


def _forgetting(records: Records) -> results.Row:
    """Everything together, with what is learned again beside it and without."""
    parts = [one for one in measured() if one.is_ordinary]
    rehearsal = next(one for one in COMPONENTS if one.name == "rehearsal")
    told = "forgetting, everything together / the same without rehearsal"
    arms = (whole(parts).name, without(rehearsal, parts).name)
    found = None if rehearsal.missing else records.figure(Kind.FORGOTTEN, arms, ratio)
    if found is None:
        return _row(told, None, FORGETS, rehearsal.missing)
    return results.row(_with_interval(told, found), found.value, 1.0, FORGETS, holds=found.value <= FORGETS)


def _row(told: str, found: Figure | None, goal: float, missing: Sequence[str] = ()) -> results.Row:
    """A ratio of at least the goal; without a figure, why there is none."""
    if found is None:
        why = f"missing: {', '.join(missing)}" if missing else NOT_RUN
        return {"measure": f"{told} ({why})", "ours": None, "peer": 1.0, "ratio": None, "goal": goal, "holds": None}
    return results.row(_with_interval(told, found), found.value, 1.0, goal, holds=found.value >= goal)


def _with_interval(told: str, found: Figure) -> str:
    return f"{told} (95 %: {found.low:.2f} to {found.high:.2f})"


# --------------------------------------------------------------------------- tables


def claims_table(findings: Findings) -> str:
    """The ten claims, how each was measured here, and what came out."""
    lines = ["| part | said | measured here | here, as a ratio (95 %) |", "|---|---|---|---|"]
    for claim, found in findings.claimed.items():
        missing = f"missing: {', '.join(f'`{one}`' for one in claim.missing)}" if claim.missing else NOT_RUN
        shown = missing if found is None else found.text()
        lines.append(f"| {claim.part} | {claim.said} | {claim.how} | {shown} |")
    return "\n".join(lines)


def arms_table(findings: Findings) -> str:
    """A table a model: what every arm learned, scored, forgot and took."""
    tables = [_table_of(findings, model) for model in dict.fromkeys(block.model for block in findings.records.bases)]
    return "\n\n".join([*tables, *_absent()])


def _table_of(findings: Findings, model: str) -> str:
    records = findings.records.of(model)
    head = (
        "arm", "blocks", "learned", "beside its peer (95 %)", "score", "beside its peer (95 %)", "forgotten",
        "tokens", "seconds", "MB", "everything without it (95 %)", "p", "by default",
    )  # fmt: skip
    shown = [_line(findings, records, arm, component) for arm, component in _shown_arms(findings)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *filter(None, shown)]
    return f"{model}:\n\n" + "\n".join(lines)


def _shown_arms(findings: Findings) -> Iterator[tuple[Arm, Component | None]]:
    yield from ((arm, None) for arm in (RAW, ORACLE, findings.default, whole(measured())))
    yield from ((alone(one), one) for one in measured())


def _line(findings: Findings, records: Records, arm: Arm, component: Component | None) -> str | None:
    blocks, peer = records.blocks(arm.name), peer_of(arm).name
    if not blocks:
        return None
    shares = {
        kind: float(np.mean([share for block in blocks if (share := records.share(arm.name, block, kind)) is not None]))
        for kind in (Kind.LEARNED, Kind.SCORE, Kind.FORGOTTEN)
    }
    beside = {kind: _text(records.figure(kind, (arm.name, peer), ratio)) for kind in (Kind.LEARNED, Kind.SCORE)}
    taken = _shown_costs(records, arm.name, peer)
    decision = findings.decisions.get(component.name) if component is not None else None
    cells = (
        arm.name,
        str(len(blocks)),
        f"{shares[Kind.LEARNED]:.3f}",
        "" if arm == RAW else beside[Kind.LEARNED],
        f"{100 * shares[Kind.SCORE]:.1f}",
        "" if arm == RAW else beside[Kind.SCORE],
        f"{shares[Kind.FORGOTTEN]:+.3f}",
        *taken,
        "" if component is None else _text(_left_out(records, component)),
        "" if decision is None else f"{decision.p_better:.3f}",
        "" if decision is None else f"{decision.default.value} ({decision.reason})",
    )
    return "| " + " | ".join(cells) + " |"


def _shown_costs(records: Records, arm: str, peer: str) -> tuple[str, ...]:
    """As multiples of the peer's; what is its own peer is told as it is."""
    if arm == peer:
        found = [_taken(records.results[arm, block].cost) for block in records.blocks(arm)]
        return tuple(f"{np.median([one[name] for one in found]):.0f}" for name in COSTS)
    taken = costs(records, arm, peer)
    return tuple(f"{taken[name]:.2f}" if name in taken else "" for name in COSTS)


def _left_out(records: Records, component: Component) -> Figure | None:
    parts = measured()
    return records.figure(Kind.LEARNED, (without(component, parts).name, whole(parts).name), ratio)


def _text(found: Figure | None) -> str:
    return "" if found is None else found.text()


def _absent() -> Iterator[str]:
    """What was not put to the test, and why."""
    for one in COMPONENTS:
        if one.missing:
            yield f"{one.name}: missing, {', '.join(f'`{name}`' for name in one.missing)}"
        elif one.why_not:
            yield f"{one.name}: {one.why_not}"


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
        for kind, axes in zip(kinds, drawing.subplots(1, len(kinds), sharey=True), strict=True):
            _points(axes, findings.records, arms, kind)
        drawing.savefig(file, metadata={"Date": None})


def _points(axes: "Axes", records: Records, arms: Sequence[Arm], kind: Kind) -> None:
    models = list(dict.fromkeys(block.model for block in records.bases))
    for number, model in enumerate(models):
        of_model = records.of(model)
        found = [(place, of_model.figure(kind, (arm.name, peer_of(arm).name), ratio)) for place, arm in enumerate(arms)]
        there = [(place, one) for place, one in found if one is not None]
        axes.errorbar(
            [one.value for _, one in there],
            [place + 0.2 * number for place, _ in there],
            xerr=[
                [max(0.0, one.value - one.low) for _, one in there],
                # beside next to nothing an interval has no end
                [max(0.0, min(one.high, one.value + 1) - one.value) for _, one in there],
            ],
            fmt="o",
            label=model,
        )
    axes.axvline(1.0, color="grey", linestyle=":")
    axes.set(
        title=f"{kind.value}, beside the raw pool", yticks=range(len(arms)), yticklabels=[one.name for one in arms]
    )
    axes.invert_yaxis()
    axes.legend(fontsize="small")
