"""`make bench-learning`: what each part of the pipeline is worth, by real trainings at equal tokens.

What is compared, how, and what was found stands in docs/ablation.md. A *cell* is one night of the project itself, from
its feedback to the tag that a real Ollama serves (`ablation.cells`): an *arm*, which is components switched by the
configuration (`ablation.components`), learns from a pool (`ablation.pools`) as many tokens as every other arm
(`ablation.budgets`), and what it delivers is measured (`ablation.measures`). `ablation.effects` holds intervals and
test, `ablation.decisions` the rule that makes something a default, `ablation.claims` the ten claims.

The most informative cells come first. Each is kept under `benchmarks/results/learning/` when it is finished, with a
digest of the code it was made of, and not run again: so the bench can be stopped at any time and goes on where it was.
The table tells of how many states of the code its cells are; `--anew` runs those of another one again. `--quick` is a
small one within a quarter of an hour, with results of its own under `build/`.
`--only gemma-shell ...` runs the cells alone whose names begin with one of these, and what is decided is left to a call
without it: so two calls can share the work, each on a core of its own (`taskset`).
"""

import argparse
import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from benchmarks.ablation import claims, pages, records  # noqa: E402
from benchmarks.ablation.apart import answered, kept_up  # noqa: E402
from benchmarks.ablation.cells import (  # noqa: E402
    BaseResult,
    Block,
    Cell,
    Place,
    Result,
    digest_of_code,
    file_of,
    kept,
    run,
)
from benchmarks.ablation.components import (  # noqa: E402
    BASE,
    ORACLE,
    RAW,
    Arm,
    Component,
    alone,
    joining,
    measured,
    whole,
    without,
)
from benchmarks.ablation.pools import Size  # noqa: E402
from benchmarks.nightly import serving  # noqa: E402
from support.ollama_server import OllamaServer  # noqa: E402

PAGE = ROOT / "docs" / "ablation.md"
PLOT = ROOT / "docs" / "ablation.svg"
CELL_LIMIT_S = 1500.0
"""After so long a cell is ended: its training may take `components.TRAINING_LIMIT_MINUTES`, and questions the rest."""
QUICK_MINUTES = 13.0
FIRST = ("rehearsal", "duplicates", "reward", "active", "curriculum", "negatives", "synonyms", "preferences", "plain")
RESERVE = 1 / 12
"""Of the time, left to the pipeline that is decided, which is what the bench is for: half an hour of six hours."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is run."""

    sizes: Mapping[str, Size]
    """By task."""
    models: tuple[str, ...]
    """The first sits every arm but those that put questions to their base, which the last sits: it can answer them."""
    seeds: tuple[int, ...]
    """On which is decided."""
    fresh_seeds: tuple[int, ...]
    """On which every model shows what was decided: what was chosen by its luck on the others has none here."""
    components: tuple[Component, ...]
    left_out_seeds: tuple[int, ...]
    """On which everything together is run, and without each component: these cells are the dearest."""
    results: Path
    code: str | None = None
    """Of which results have to be to count; None: of any."""


SHELL = Size(
    pool=120, night=48, tokens=6300, batch=5,
    held_out=60, asked=30, slipped=15, answer_tokens=40, said_tokens=160, general=34,
)  # fmt: skip
DIAGRAMS = Size(
    pool=36, night=12, tokens=7300, batch=1,
    held_out=20, asked=16, slipped=0, answer_tokens=200, said_tokens=320, general=34,
)  # fmt: skip
TINY = Size(
    pool=60, night=24, tokens=3200, batch=4,
    held_out=20, asked=12, slipped=4, answer_tokens=32, said_tokens=64, general=10,
)  # fmt: skip
FULL = Extent(
    sizes={"shell": SHELL, "diagrams": DIAGRAMS},
    models=("gemma", "smollm2"),
    seeds=(0, 1),
    fresh_seeds=(2,),
    components=measured(),
    left_out_seeds=(0, 1),
    results=ROOT / "benchmarks" / "results" / "learning",
)
QUICK = Extent(
    sizes={"shell": TINY},
    models=("smollm2",),
    seeds=(0,),
    fresh_seeds=(1,),
    components=tuple(one for one in measured() if one.name in ("reward", "duplicates", "negatives")),
    left_out_seeds=(),
    results=ROOT / "build" / "learning" / "quick",
)


def main() -> int:
    """Run what is missing, show what was found. Returns 1 where a row falls short, or something was not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="begin no cell after so long; a small one: after 13")
    parser.add_argument("--quick", action="store_true", help="a small one, with results of its own")
    parser.add_argument("--only", nargs="+", default=[], help="cells alone whose names begin with one of these")
    parser.add_argument("--list", action="store_true", help="name the cells that are missing, in their order")
    parser.add_argument("--anew", action="store_true", help="run cells again that were made of other code")
    given = parser.parse_args()
    # what is under way is ended and cleared away, as by an interrupt
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    extent = replace(QUICK if given.quick else FULL, code=digest_of_code() if given.anew else None)
    minutes = given.minutes or (QUICK_MINUTES if given.quick else math.inf)
    if given.list:
        print(*(one.name for one in unfinished(every(extent), extent)), sep="\n")
        return 0
    if outdated := [one for one in unfinished(every(extent), extent) if file_of(extent.results, one.name).exists()]:
        print(f"made of other code or sizes, and run again: {', '.join(one.name for one in outdated)}", flush=True)
    if given.only:
        share = [*cells(extent), *left_out(extent)]
        carry_out_some([one for one in share if one.name.startswith(tuple(given.only))], extent, minutes)
    else:
        carry_out(extent, minutes)
    return show(extent, keeps=not given.quick)


# --------------------------------------------------------------------------- which cells


def cells(extent: Extent) -> Iterator[Cell]:
    """What decisions are made from, what the decided pipeline is held against, and what the claims need besides."""
    for model in extent.models:
        yield from of_arms(extent, model, (BASE, RAW))
    for arm in map(alone, sorted(extent.components, key=_turn)):
        yield from of_arms(extent, model_of(extent, arm), (arm,))
    fresh = replace(extent, seeds=extent.fresh_seeds)
    for model in extent.models:
        yield from of_arms(fresh, model, (BASE, RAW, ORACLE, pages.TODAY))
    for arm in claims.arms(extent.components):
        yield from of_arms(extent, model_of(extent, arm), (arm,))
    yield from of_arms(extent, extent.models[0], (ORACLE,))


def _turn(one: Component) -> int:
    """First what is likely to decide something; the others in their order behind it."""
    return FIRST.index(one.name) if one.name in FIRST else len(FIRST)


def left_out(extent: Extent) -> Iterator[Cell]:
    """Everything together, and without each component: how parts get on with each other. It decides nothing."""
    some = replace(extent, seeds=extent.left_out_seeds)
    for model in extent.models:
        yield from of_arms(some, model, (whole(measured()),))
    for arm in (without(one, measured()) for one in joining(extent.components)):
        yield from of_arms(some, model_of(extent, arm), (arm,))


def model_of(extent: Extent, arm: Arm) -> str:
    """The model that shows what an arm is worth."""
    return extent.models[-1 if arm.asks else 0]


def of_arms(extent: Extent, model: str, arms: Sequence[Arm]) -> Iterator[Cell]:
    """These arms on every seed and task of a model."""
    for seed, task in product(extent.seeds, extent.sizes):
        block = Block(model=model, task=task, seed=seed)
        yield from (Cell(block=block, arm=arm) for arm in arms if task in arm.tasks)


def decided(extent: Extent) -> Iterator[Cell]:
    """The pipeline that the results so far speak for, on every model, where nothing was decided by."""
    arm, fresh = found(extent).default, replace(extent, seeds=extent.fresh_seeds)
    for model in extent.models:
        yield from of_arms(fresh, model, (arm,))


def every(extent: Extent) -> Iterator[Cell]:
    """All of them in their order, as far as it is known yet what is decided."""
    for some in (cells, decided, left_out):
        yield from some(extent)


def found(extent: Extent) -> pages.Findings:
    """What the finished cells say."""
    return pages.Findings.of(records.read(extent.results, extent.sizes, extent.code), extent.fresh_seeds)


# --------------------------------------------------------------------------- running them


def carry_out(extent: Extent, minutes: float) -> None:
    """Run the cells that have no result yet."""
    began = time.monotonic()
    # what failed is tried once more: without one block nothing is decided on a part
    for wanted, share in ((cells, 1 - RESERVE), (cells, 1 - RESERVE), (decided, 1.0), (left_out, 1.0)):
        carry_out_some(wanted(extent), extent, share * minutes - (time.monotonic() - began) / 60)


def carry_out_some(wanted: Iterable[Cell], extent: Extent, minutes: float) -> None:
    """Run those of them that have no result yet. A server is started only for that."""
    missing = unfinished(wanted, extent)
    if not missing:
        return
    with serving(dict.fromkeys(cell.block.model for cell in missing)) as server:
        cells_of = {file_of(extent.results, one.name): one for one in missing}
        started = {file: partial(apart, one, extent, server) for file, one in cells_of.items()}
        # another call may have run one since, and what is there may be of other code or sizes
        results.carry_out(started, minutes, is_finished=lambda file: not unfinished([cells_of[file]], extent))


def unfinished(wanted: Iterable[Cell], extent: Extent) -> list[Cell]:
    """Those that have no result of these sizes and this code yet, each once."""
    return [
        cell
        for name, cell in {one.name: one for one in wanted}.items()
        if kept(file_of(extent.results, name), extent.sizes[cell.block.task], extent.code) is None
    ]


def apart(cell: Cell, extent: Extent, server: OllamaServer) -> BaseResult | Result:
    """Run a cell in a process of its own. Raises `results.CellFailed`."""
    place = Place(url=server.url, models_directory=server.models_directory, results=extent.results, code=extent.code)
    with kept_up(server):
        return answered(partial(run, cell, extent.sizes[cell.block.task], place), CELL_LIMIT_S)


# --------------------------------------------------------------------------- showing them


def show(extent: Extent, *, keeps: bool) -> int:
    """Print the table. `keeps`: the tables and the plot of the documentation are made anew."""
    findings = found(extent)
    print(pages.arms_table(findings))
    print(pages.claims_table(findings))
    if keeps and findings.records.results:
        plot = f"![what each arm learned and scored]({PLOT.name})"
        results.put_into(PAGE, "arms", f"{pages.arms_table(findings)}\n\n{plot}")
        results.put_into(PAGE, "claims", pages.claims_table(findings))
        pages.draw(findings, PLOT)
    told = results.presented("learning", "What each part of the pipeline is worth", list(pages.rows(findings)))
    return max(told, bool(unfinished(every(extent), extent)))


if __name__ == "__main__":
    sys.exit(main())
