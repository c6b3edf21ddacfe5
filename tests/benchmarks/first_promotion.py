"""`make bench-first-promotion`: after how many corrections is something better proven and in use?

Shell commands (NL2Bash) corrected beside Gemma 3 270M, so many a week, spread over it. Every night the runs that are
due are carried out as the daemon does, with the default settings, on a real Ollama; only the calendar is made up. It
ends with the first promotion, or after `MOST` corrections. What was promoted then sits an exam on commands that nobody
corrected, against the base.

Finished seasons are kept under `benchmarks/results/first_promotion/` and not run again, so the bench can be stopped at
any time. Two calls share the work where each has some of the seasons and a core of its own:
`taskset -c 0 make bench-first-promotion ONLY="5- 20-"`, `taskset -c 1 make bench-first-promotion ONLY="10- 40-"`.
`ours`: corrections until the first promotion, `peer`: those that are allowed.
"""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import calls, nightly, results, tasks  # noqa: E402 - found through the path above
from benchmarks.nightly import Ended, compared, correction, day_and_night, installation, noon  # noqa: E402
from nightschool_daemon import codec  # noqa: E402
from nightschool_hookspecs.records import RunEnd, RunReport  # noqa: E402
from support.base_models import MODELS  # noqa: E402
from support.night import Night  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "first_promotion"
BASE = "gemma"
A_WEEK = (5, 10, 20, 40)
SEEDS = (0, 1, 2)
MOST = 40
"""Corrections after which a season ends without a promotion."""
GOAL = 20
HELD_OUT = 80


@dataclass(frozen=True, kw_only=True)
class Season:
    """Corrections that come so many a week."""

    a_week: int
    seed: int

    @property
    def file(self) -> Path:
        """Where its result is kept."""
        return RESULTS / f"{self.a_week}-{self.seed}.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    code: str
    corrections: int
    """That were there when the first version was promoted, or in all."""
    promoted: bool
    recipe: str
    """What was promoted: trained weights or shown examples. Empty: nothing was."""
    days: int
    minutes: float
    """Of the machine, in all."""
    base_score: float | None
    """On commands that nobody corrected, 0..100."""
    score: float | None
    interval: tuple[float, float] | None
    """95 % of the difference."""
    runs: tuple[Ended, ...]


def main() -> int:
    """Run what is missing, print the table. Returns 1 where a row falls short."""
    call = calls.Call.given(__doc__, digest_of_code())
    call.carry_out({season.file: partial(run, season, call.code) for season in seasons()})
    return show()


def digest_of_code() -> str:
    """Of all that a season depends on."""
    return calls.digest_of([Path(__file__), Path(nightly.__file__), Path(tasks.__file__)])


def seasons() -> Iterator[Season]:
    """One seed after the other, so that something is known of every pace early."""
    return (Season(a_week=a_week, seed=seed) for seed in SEEDS for a_week in A_WEEK)


def run(season: Season, code: str) -> Result:
    """One season on a server of its own. Raises `CellFailed`."""
    task = tasks.shell(season.seed, MOST, HELD_OUT)
    began = time.monotonic()
    with installation(BASE) as here:
        given, days, reports = nights(here, season, task.learned)
        best = next((one for _, one in reports if one.end is RunEnd.PROMOTED), None)
        found = None
        if best is not None and best.alias is not None:
            found = compared(here, MODELS[BASE].tag, best.alias, BASE, task.held_out)
    return Result(
        code=code,
        corrections=given,
        promoted=best is not None,
        recipe=best.run.recipe.value if best is not None else "",
        days=days,
        minutes=(time.monotonic() - began) / 60,
        base_score=found.first_marks.score if found else None,
        score=found.second_marks.score if found else None,
        interval=found.verdict.interval if found and found.verdict else None,
        runs=tuple(Ended.of(day, one) for day, one in reports),
    )


def nights(here: Night, season: Season, pairs: Sequence[tasks.Pair]) -> tuple[int, int, list[tuple[int, RunReport]]]:
    """Day by day until something is promoted: corrections that came, days, and reports, each with its day."""
    reports: list[tuple[int, RunReport]] = []
    given = day = 0
    while given < len(pairs) and not any(one.end is RunEnd.PROMOTED for _, one in reports):
        day += 1
        before, given = given, min(len(pairs), day * season.a_week // 7)
        new = [correction(f"c-{number}", BASE, pairs[number], noon(day)) for number in range(before, given)]
        reports += [(day, one) for one in day_and_night(here, day, new)]
    return given, day, reports


def show() -> int:
    """Print a row a pace, medians over the seeds that are there, and write the table."""
    found = {one: codec.from_json(one.file.read_bytes(), Result) for one in seasons() if one.file.exists()}
    rows = [
        row
        for a_week in A_WEEK
        if (ended := [result for season, result in found.items() if season.a_week == a_week])
        for row in rows_of(a_week, ended)
    ]
    title = f"Until something better is proven and in use, of {calls.states(found.values())}"
    results.fill("first-promotion", title, rows)
    told = results.presented("first-promotion", title, rows)
    return max(told, len(found) < len(A_WEEK) * len(SEEDS))


def rows_of(a_week: int, ended: Sequence[Result]) -> list[results.Row]:
    """How many corrections it took, and whether what was promoted is worse than the base."""
    taken = statistics.median(one.corrections if one.promoted else float("inf") for one in ended)
    told = f"{a_week} a week, {len(ended)} seeds"
    measure = f"corrections until the first promotion, {told}"
    rows = [results.row(measure, taken, GOAL, 1.0, holds=taken <= GOAL, ratio=GOAL / taken)]
    promoted = [one for one in ended if one.score is not None and one.base_score is not None]
    if promoted:
        worst = min(promoted, key=lambda one: (one.score or 0.0) - (one.base_score or 0.0))
        ours, peer = worst.score or 0.0, worst.base_score or 0.0
        measure = f"score on {HELD_OUT} others, promoted / base, the worst, {told}"
        rows.append(results.row(measure, ours, peer, 1.0, holds=ours >= peer))
    return rows


if __name__ == "__main__":
    sys.exit(main())
