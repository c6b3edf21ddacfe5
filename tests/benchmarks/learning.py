"""`make bench-learning`: what each part of the pipeline is worth, by real trainings at equal tokens.

**What is compared.** Corrections of real data (NL2Bash: commands from descriptions; Spider: ER diagrams from schemas)
come in over a month beside a small base, which said something else. Of its answers each is one that the base really
gave. A night learns from a part of them, and the model that it delivers is served by a real Ollama and measured. Every
cell is a run of the project itself, from the feedback to the served tag: its intake, steps, workers and plugins
(`ablation.cells`).

**The dirty pool** (`ablation.pools`). Of the corrections a fifth are wrong (the answer to another prompt), a quarter
repeat an earlier prompt with a slip of the pen, a few of them over and over, and most others are of the easy and
frequent kind. The *raw* pipeline learns from a random sample of it, every example alike. The *oracle* has a pool of the
same size without any of this. What is held out is clean, drawn evenly, and of other groups of near-duplicates.

**Equal tokens** (`ablation.budgets`). Whatever a component adds, repeats or leaves out, a night trains for the same
number of tokens, prompts included, as the training loop counts them: it goes through its examples in as many epochs as
come nearest, and some of them are dropped, or come twice, by chance. A curriculum alone differs, by what it shows when;
the tokens that were counted stand in the table. What a component takes besides (questions to a model, trials of a
search) is no training: it is told in seconds.

**What is measured** (`ablation.measures`). The loss of the delivered blocks on held-out answers, by our own forward
pass, is cheap and sees small effects. The score of what the served model answers, by the validators of the exams, is
what people get: a loss can get worse while answers get better (docs/learning.md, "For how long"). So both count.
Forgetting is the rise of the loss on general texts and on what the base itself answers to general prompts, in the same
run. Robustness is the score on prompts with a slip of the pen, edge cases are what the pool has least of.

**What is concluded** (`ablation.effects`, `ablation.decisions`). Cells of one base, task and seed share the pool, what
is held out and all chance, so all is paired. How figures, intervals, test and the correction for many components are
made stands there; the rule that makes something a default is code.

**Arms.** The base; raw; oracle; what is asked by default; everything; each component alone; everything without it; some
for the ten claims (`ablation.claims`). Components are records of plugins and settings (`ablation.components`); what is
not there is told as missing. Gemma 3 270M sits all of them, on two tasks and two seeds; SmolLM2 135M raw, everything
and the default. The most informative come first, so that a bench that is stopped has something to say.

About six hours on two cores. Finished cells are kept under `benchmarks/results/learning/` and not run again, so it can
be stopped at any time; `--quick` is a small one within a quarter of an hour, with results of its own under `build/`.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from benchmarks.ablation import claims, pages, records  # noqa: E402
from benchmarks.ablation.cells import BaseResult, Block, Cell, Place, Result, file_of, run  # noqa: E402
from benchmarks.ablation.components import (  # noqa: E402
    BASE,
    COMPONENTS,
    ORACLE,
    RAW,
    Arm,
    Component,
    alone,
    default,
    joining,
    measured,
    whole,
    without,
)
from benchmarks.ablation.pools import Size  # noqa: E402
from benchmarks.nightly import serving  # noqa: E402
from support.base_models import MODELS  # noqa: E402

PAGE = ROOT / "docs" / "ablation.md"
PLOT = ROOT / "docs" / "ablation.svg"
FIRST, SECOND = "gemma", "smollm2"


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is run."""

    sizes: Mapping[str, Size]
    """By task."""
    models: tuple[str, ...]
    """The first sits every arm, the others the few that matter most."""
    seeds: tuple[int, ...]
    components: tuple[Component, ...]
    is_whole: bool
    """The claims' arms, and everything without each component, too."""
    results: Path


SHELL = Size(
    pool=240, night=96, tokens=12_000, held_out=60, asked=40, slipped=20, answer_tokens=48, said_tokens=24, general=34
)
DIAGRAMS = Size(
    pool=40, night=16, tokens=14_000, held_out=20, asked=8, slipped=0, answer_tokens=256, said_tokens=48, general=34
)
FULL = Extent(
    sizes={"shell": SHELL, "diagrams": DIAGRAMS},
    models=(FIRST, SECOND),
    seeds=(0, 1),
    components=measured(),
    is_whole=True,
    results=ROOT / "benchmarks" / "results" / "learning",
)
QUICK = Extent(
    sizes={
        "shell": Size(
            pool=60,
            night=24,
            tokens=2400,
            held_out=20,
            asked=12,
            slipped=4,
            answer_tokens=32,
            said_tokens=16,
            general=10,
        )
    },
    models=(SECOND,),
    seeds=(0,),
    components=tuple(one for one in measured() if one.name in ("reward", "duplicates", "letters")),
    is_whole=False,
    results=ROOT / "build" / "learning" / "quick",
)


def main() -> int:
    """Run what is missing, show what was found. Returns 1 where a row falls short, or something was not run."""
    given = arguments()
    extent = narrowed(QUICK if given.quick else FULL, given)
    carry_out(extent, given.minutes)
    return show(extent, keeps=not given.quick)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long; the next call goes on")
    parser.add_argument("--quick", action="store_true", help="a small one, with results of its own")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="these alone")
    parser.add_argument("--tasks", nargs="+", choices=FULL.sizes, help="these alone")
    parser.add_argument("--components", nargs="*", choices=[one.name for one in COMPONENTS], help="these alone")
    return parser.parse_args()


def narrowed(extent: Extent, given: argparse.Namespace) -> Extent:
    """What of it was asked for."""
    tasks, models, components = given.tasks, given.models, given.components
    return Extent(
        sizes={task: size for task, size in extent.sizes.items() if tasks is None or task in tasks},
        models=tuple(one for one in extent.models if models is None or one in models),
        seeds=extent.seeds,
        components=extent.components
        if components is None
        else tuple(one for one in measured() if one.name in components),
        is_whole=extent.is_whole,
        results=extent.results,
    )


# --------------------------------------------------------------------------- which cells


def cells(extent: Extent) -> Iterator[Cell]:
    """Every cell that is known to be wanted before anything is decided, the most informative first."""
    first, *others = extent.models or (FIRST,)
    for arms in waves(extent.components, is_whole=extent.is_whole):
        yield from of_arms(extent, first, arms)
    for model in others:
        yield from of_arms(extent, model, (BASE, RAW, whole(measured())))


def waves(components: Sequence[Component], *, is_whole: bool) -> Iterator[tuple[Arm, ...]]:
    """Arms that are run on all tasks and seeds before the next ones."""
    yield (BASE, RAW, ORACLE, whole(measured()), default(()))
    yield tuple(map(alone, components))
    if is_whole:
        yield claims.arms(components)
        yield tuple(without(one, measured()) for one in joining(components))


def of_arms(extent: Extent, model: str, arms: Sequence[Arm]) -> Iterator[Cell]:
    """These arms on every seed and task of a model."""
    for seed in extent.seeds:
        for task in extent.sizes:
            block = Block(model=model, task=task, seed=seed)
            yield from (Cell(block=block, arm=arm) for arm in arms if task in arm.tasks)


def decided(extent: Extent) -> Iterator[Cell]:
    """The pipeline that the results so far speak for, on every model."""
    arm = found(extent).default
    for model in extent.models:
        yield from of_arms(extent, model, (arm,))


def found(extent: Extent) -> pages.Findings:
    """What the finished cells say."""
    return pages.Findings.of(records.read(extent.results, extent.sizes))


# --------------------------------------------------------------------------- running them


def carry_out(extent: Extent, minutes: float) -> None:
    """Run the cells that have no result yet, those that were decided on last. A server is started only for that."""
    deadline = time.monotonic() + 60 * minutes
    for wanted in (cells, decided):
        missing = unfinished(wanted(extent), extent.results)
        if not missing:
            continue
        with serving(dict.fromkeys(cell.block.model for cell in missing)) as server:
            place = Place(url=server.url, models_directory=server.models_directory, results=extent.results)
            started = {
                file_of(place.results, one.name): partial(apart, one, extent.sizes[one.block.task], place)
                for one in missing
            }
            results.carry_out(started, (deadline - time.monotonic()) / 60, briefly=True)


def unfinished(wanted: Iterable[Cell], directory: Path) -> list[Cell]:
    """Those that have no result yet, each once."""
    return [cell for name, cell in {one.name: one for one in wanted}.items() if not file_of(directory, name).exists()]


def apart(cell: Cell, size: Size, place: Place) -> BaseResult | Result:
    """Run a cell in a process of its own, whose memory goes with it and is counted by itself.

    Raises `results.CellFailed`.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(run, cell, size, place).result()
        except BrokenProcessPool as error:
            raise results.CellFailed("its process was killed") from error


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
    return max(told, bool(unfinished((*cells(extent), *decided(extent)), extent.results)))


if __name__ == "__main__":
    sys.exit(main())
