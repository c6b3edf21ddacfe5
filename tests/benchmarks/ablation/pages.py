"""What is shown: the rows of the bench, two tables for the documentation, and a plot."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
"""Goals of the default pipeline: its gain beside the raw pool's and the oracle's; and what of the raw pool's forgetting
is left, with rehearsal and by default."""
NOT_MEASURED = "not measured"
TODAY = default(())
"""What is asked by default as the project is."""
COSTS = ("tokens", "seconds", "MB")
HEAD = (
    "arm", "blocks", "learned", "beside its peer (95 %)", "score", "beside its peer (95 %)", "forgotten",
    "tokens", "seconds", "MB", "everything without it (95 %)", "p", "detectable", "by default",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the cells say, all together."""

    records: Records
    """By which is decided."""
    fresh: Records
    """Of other blocks, by which nothing was decided: of what was chosen by its luck they show none."""
    decisions: Mapping[str, Decision]
    """By component; those of which too little was run are left out."""
    claims: tuple[Claim, ...] = CLAIMS

    @classmethod
    def of(cls, records: Records, fresh_seeds: Collection[int]) -> "Findings":
        """Decide on what was measured, but for the blocks that are to show what was decided."""
        fresh = records.where(lambda block: block.seed in fresh_seeds)
        records = records.where(lambda block: block.seed not in fresh_seeds)
        parts = [one for one in measured() if one.is_ordinary]
        arms = [RAW, *map(alone, parts)]
        layouts = {kind: _layout(records, arms, kind) for kind in (Kind.LEARNED, Kind.SCORE, Kind.FORGOTTEN)}
        found = {one.name: _evidence(records, layouts, one) for one in parts}
        decisions = decide({name: one for name, one in found.items() if one is not None})
        return cls(records=records, fresh=fresh, decisions=decisions)

    @cached_property
    def claimed(self) -> tuple[tuple[Claim, Figure | None], ...]:
        """Each claim with its figure; None: something is not there, or was not run."""
        return tuple((claim, None if claim.missing else claim.take(self.records)) for claim in self.claims)

    @property
    def default(self) -> Arm:
        """The pipeline with all that is to be asked by default."""
        on = [one for one in measured() if one.name in self.decisions and self.decisions[one.name].is_on]
        best: dict[str, Component] = {}
        for one in sorted(on, key=lambda one: self.decisions[one.name].p_better):
            best.setdefault(one.variant_of or one.name, one)
        return default([one for one in on if one in best.values()])

    @property
    def headline(self) -> Arm:
        """The same, or what is asked by default today where the other was not run on all of the fresh blocks yet."""
        is_whole = self.fresh.blocks(self.default.name) == self.fresh.blocks(BASE.name)
        return self.default if is_whole else TODAY


def _layout(records: Records, arms: Sequence[Arm], kind: Kind) -> Layout:
    shares = {
        (arm.name, block): share
        for arm in arms
        for block in records.blocks(arm.name)
        if (share := records.share(arm.name, block, kind)) is not None
    }
    return Layout(shares)


def _evidence(records: Records, layouts: Mapping[Kind, Layout], one: Component) -> Evidence | None:
    arm = alone(one).name
    learned, score, forgotten = (layouts[kind].contrast(arm, RAW.name) for kind in layouts)
    blocks = records.blocks(arm, RAW.name)
    if learned is None or score is None or not blocks:
        return None
    chosen_in = {name: [records.results[name, block].cost.selecting_s for block in blocks] for name in (arm, RAW.name)}
    taken = costs(records, arm, RAW.name)
    return Evidence(
        learned=learned,
        score=score,
        forgotten=forgotten,
        cost=max(taken["tokens"], taken["MB"]),
        # equal tokens take equal times; that cells were run beside other work, or elsewhere, is no part's doing
        added_s=float(np.median(np.subtract(chosen_in[arm], chosen_in[RAW.name]))),
    )


def costs(records: Records, arm: str, peer: str) -> dict[str, float]:
    """What an arm takes, as multiples of its peer: medians over the blocks that have both."""
    pairs = _costs_of_both(records, arm, peer)
    return {name: float(np.median([ours[name] / theirs[name] for ours, theirs in pairs])) for name in COSTS if pairs}


def _costs_of_both(records: Records, arm: str, peer: str) -> list[list[dict[str, float]]]:
    return [[_taken(records.results[name, block].cost) for name in (arm, peer)] for block in records.blocks(arm, peer)]


def _taken(cost: Cost) -> dict[str, float]:
    return {"tokens": cost.tokens + cost.searched, "seconds": cost.selecting_s + cost.training_s, "MB": cost.peak_mb}


# --------------------------------------------------------------------------- rows


def rows(findings: Findings) -> Iterator[results.Row]:
    """The goals, then the ten claims."""
    fresh, ours = findings.fresh, findings.headline
    called = "default pipeline" if ours == findings.default else "today's default, as the decided one was not run"
    for peer, goal in ((RAW, GAIN), (ORACLE, OF_ORACLE)):
        told, arms = f"{called} / {peer.name} pool", (ours.name, peer.name)
        yield _row(f"held-out loss taken away, {told}", fresh.figure(Kind.LEARNED, arms, ratio), goal)
        yield _row(f"held-out score gained, {told}", fresh.figure(Kind.SCORE, (*arms, BASE.name), _gained), goal)
    control = fresh.figure(Kind.LEARNED, (TODAY.name, RAW.name), ratio)
    yield _row("held-out loss taken away, today's default / raw pool, as a control", control, None)
    rehearsal = alone(component("rehearsal"))
    for records, arm, told in ((findings.records, rehearsal, "rehearsal"), (fresh, ours, called)):
        found = records.figure(Kind.FORGOTTEN, (arm.name, RAW.name), ratio)
        yield _row(f"forgetting, {told} / raw pool", found, FORGETS, at_most=True)
    for claim, found in findings.claimed:
        yield _row(f"{claim.part}: {claim.said}", found, claim.goal, missing=claim.missing)


def _gained(shares: Floats) -> float:
    """The first arm's gain over the third, as a multiple of the second's."""
    return ratio(shares[:2] - shares[2])


def _row(
    told: str, found: Figure | None, goal: float | None, *, at_most: bool = False, missing: Sequence[str] = ()
) -> results.Row:
    """A ratio of at least the goal, or at most, with its whole interval; without a figure, why there is none."""
    if found is None:
        why = _not_there(missing) or NOT_MEASURED
        return {"measure": f"{told} ({why})", "ours": None, "peer": 1.0, "ratio": None, "goal": goal, "holds": None}
    holds = None if goal is None else held(found, goal, at_most=at_most)
    is_open = ", undecided" if goal is not None and holds is None else ""
    told = f"{told} (95 %: {found.low:.2f} to {found.high:.2f}{is_open})"
    return results.row(told, found.value, 1.0, goal, holds=holds)


def held(found: Figure, goal: float, *, at_most: bool) -> bool | None:
    """Whether a figure holds its goal with all of its interval; None: only with a part of it."""
    reaches, misses = (found.high <= goal, found.low > goal) if at_most else (found.low >= goal, found.high < goal)
    return True if reaches else False if misses else None


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
    """A table a model: what every arm learned, scored, forgot and took. Below them by what parts told events apart, and
    what was not put to the test."""
    tables = [_table_of(findings, model) for model in dict.fromkeys(block.model for block in findings.records.bases)]
    untested = ((one.name, _not_there(one.missing) or one.why_not) for one in COMPONENTS)
    told = (f"{name}: {why}" for name, why in untested if why)
    signals = filter(None, map(partial(_signal, findings.records), measured()))
    return "\n\n".join([*tables, *signals, *told, _made_of(findings)])


def _made_of(findings: Findings) -> str:
    """Of how many states of the code the cells are."""
    cells = [*findings.records.made(), *findings.fresh.made()]
    counts = Counter(one.code for one in cells)
    told = ", ".join(f"{number} of `{code}`" for code, number in counts.most_common())
    return f"{len(cells)} cells, by the digest of the code that they were made of: {told}."


def _signal(records: Records, one: Component) -> str:
    """By what a part tells events apart, and how far they differ in that; empty: it does not, or was not run."""
    spreads = {block: records.results[alone(one).name, block].spread for block in records.blocks(alone(one).name)}
    if not (one.signal and spreads):
        return ""
    found = {f"{block.model} {block.task} {block.seed}": spread[one.signal] for block, spread in spreads.items()}
    shown = ", ".join(f"{f'{value:.3g}' if value else 'no signal'} ({block})" for block, value in found.items())
    return f"{one.name}, standard deviation of {one.signal}: {shown}"


def _table_of(findings: Findings, model: str) -> str:
    records, fresh = findings.records.of(model), findings.fresh.of(model)
    arms = [(fresh if arm == findings.headline else records, arm, one) for arm, one in _shown_arms(findings)]
    lines = [_line(findings, some, arm, one) for some, arm, one in arms if some.blocks(arm.name)]
    missing = [arm.name for some, arm, _ in arms if not some.blocks(arm.name)]
    told = [f"\nNot measured beside it: {', '.join(missing)}."] if missing else []
    return "\n".join([f"{model}:\n", _joined(HEAD), "|---" * len(HEAD) + "|", *lines, *told])


def _shown_arms(findings: Findings) -> Iterator[tuple[Arm, Component | None]]:
    yield from ((arm, None) for arm in (RAW, ORACLE, findings.headline, whole(measured())))
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
            "" if decision is None or math.isinf(decision.detectable) else f"{decision.detectable:.0%}",
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
