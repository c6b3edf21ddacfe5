"""`make bench-seasons`: what weeks of bad feedback do to a model, and what ten nights on other topics make it forget.

Shell commands (NL2Bash) corrected beside SmolLM2 135M. Every night the runs that are due are carried out as the daemon
does, with the default settings, on a real Ollama; only the calendar is made up.

Poison: of `POISONED` corrections some are wrong, half of them the command of another prompt, half one and the same
worthless answer. Each version that was promoted is asked commands that nobody corrected, beside the base.

Forgetting: ten batches of corrections, each of one topic. What the first promoted version can do of its own corrections
is asked of the last one again.

Finished seasons are kept under `benchmarks/results/seasons/` and not run again, so the bench can be stopped at any
time.
"""

import argparse
import dataclasses
import json
import random
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results, tasks  # noqa: E402 - found through the path above
from benchmarks.nightly import compared, correction, day_and_night, installation, noon  # noqa: E402
from nightschool_daemon.comparisons import Marks  # noqa: E402
from nightschool_hookspecs.records import RunEnd, RunReport  # noqa: E402
from support.base_models import MODELS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "seasons"
BASE = "smollm2"
SHARES = (0.01, 0.05, 0.1, 0.2)
SEEDS = (0,)
POISONED, A_DAY = 120, 20
HELD_OUT = 40
WORTHLESS = "echo done"
TOPICS: Mapping[str, str] = {
    "permissions": r"-perm|chmod|chown|chgrp|-user|-group|sudo",
    "sizes": r"-size|\bdu\b|\bdf\b|-empty",
    "times": r"-[amc](time|min)|-newer",
    "piped": r"xargs",
    "executed": r"-exec",
    "text": r"\b(grep|awk|sed|sort|cut|tr|wc|uniq|comm|join|paste|fold|cat|head|tail|echo)\b",
    "kinds": r"-type|depth|-prune",
    "names": r"-i?name",
    "files": r"\b(mkdir|cp|mv|rsync|tar|ln|cd|ls|rm|split)\b",
    "system": r"",
}
"""A command belongs to the first that it matches."""
OF_A_TOPIC = 24
HOLDS = 0.95
"""Of what the first version could do."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Something that was promoted, beside what it is to be held against."""

    tag: str
    score: float
    """0..100."""
    peer: float
    success_rate: float
    """Share of answers above 70, 0..1."""
    peer_success_rate: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a season."""

    versions: tuple[Version, ...]
    minutes: float
    ends: tuple[str, ...]
    """How each run ended, and why."""


def main() -> int:
    """Run what is missing, print the table. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long; the next call goes on")
    given = parser.parse_args()
    results.carry_out({file_of(name): partial(run, name) for name in names()}, given.minutes)
    return show()


def run(name: str) -> Result:
    """One season."""
    kind, *rest = name.split("-")
    return poisoned(float(rest[0]), int(rest[1])) if kind == "poison" else forgetting(int(rest[0]))


def file_of(name: str) -> Path:
    """Where its result is kept."""
    return RESULTS / f"{name}.json"


def names() -> Iterator[str]:
    """All seasons."""
    for seed in SEEDS:
        yield from (f"poison-{share:g}-{seed}" for share in reversed(SHARES))
        yield f"forgetting-{seed}"


def poisoned(share: float, seed: int) -> Result:
    """Some days of feedback of which a share is wrong."""
    task = tasks.shell(seed, POISONED, HELD_OUT)
    given = poison(task.learned, share, seed)
    began = time.monotonic()
    reports: list[RunReport] = []
    versions: list[Version] = []
    with installation(BASE) as here:
        for day, start in enumerate(range(0, len(given), A_DAY), start=1):
            new = [correction(f"c-{start + at}", BASE, one, noon(day)) for at, one in enumerate(given[start:][:A_DAY])]
            for report in day_and_night(here, day, new):
                reports.append(report)
                if report.end is RunEnd.PROMOTED and report.version is not None:
                    found = compared(here, MODELS[BASE].tag, report.version, BASE, task.held_out)
                    versions.append(
                        Version(
                            tag=report.version,
                            score=found.second_marks.score,
                            peer=found.first_marks.score,
                            success_rate=found.second_marks.success_rate,
                            peer_success_rate=found.first_marks.success_rate,
                        )
                    )
    return Result(versions=tuple(versions), minutes=(time.monotonic() - began) / 60, ends=tuple(map(ending, reports)))


def poison(pairs: Sequence[tasks.Pair], share: float, seed: int) -> list[tasks.Pair]:
    """The same with some answers that are wrong."""
    chooser = random.Random(seed)
    found = list(pairs)
    wrong = chooser.sample(range(len(pairs)), round(share * len(pairs)))
    for number, place in enumerate(wrong):
        other = pairs[(place + 1) % len(pairs)].answer if number % 2 else WORTHLESS
        found[place] = dataclasses.replace(found[place], answer=other)
    return found


def forgetting(seed: int) -> Result:
    """Ten days of feedback, each on a topic of its own."""
    pairs = tasks.shell(seed, 600, 0).learned
    batches = [of_topic(pairs, topic)[:OF_A_TOPIC] for topic in TOPICS]
    began = time.monotonic()
    reports: list[RunReport] = []
    known: list[tasks.Pair] = []
    alias: str | None = None
    then: Marks | None = None
    versions: tuple[Version, ...] = ()
    with installation(BASE) as here:
        for day, batch in enumerate(batches, start=1):
            new = [correction(f"c-{day}-{number}", BASE, one, noon(day)) for number, one in enumerate(batch)]
            reports += day_and_night(here, day, new)
            alias = next((one.alias for one in reports if one.end is RunEnd.PROMOTED), None)
            if alias is not None and then is None:
                known = [one for batch in batches[:day] for one in batch]
                then = compared(here, MODELS[BASE].tag, alias, BASE, known).second_marks
        if alias is not None and then is not None:
            now = compared(here, MODELS[BASE].tag, alias, BASE, known).second_marks
            versions = (
                Version(
                    tag=alias,
                    score=now.score,
                    peer=then.score,
                    success_rate=now.success_rate,
                    peer_success_rate=then.success_rate,
                ),
            )
    return Result(versions=versions, minutes=(time.monotonic() - began) / 60, ends=tuple(map(ending, reports)))


def of_topic(pairs: Sequence[tasks.Pair], topic: str) -> list[tasks.Pair]:
    """The commands of a topic."""
    return [
        one
        for one in pairs
        if next(name for name, pattern in TOPICS.items() if re.search(pattern, one.answer)) == topic
    ]


def ending(report: RunReport) -> str:
    """How a run ended, and why."""
    return f"{report.run.recipe.value}: {report.end.value}: {report.reason}"


def show() -> int:
    """Print a row a season, and write the table."""
    found = {name: json.loads(file_of(name).read_text(encoding="utf-8")) for name in names() if file_of(name).exists()}
    rows = [row for name, result in found.items() for row in rows_of(name, result["versions"])]
    return max(results.presented("seasons", "Seasons", rows), len(found) < len(list(names())))


def rows_of(name: str, versions: Sequence[Mapping[str, float]]) -> Iterator[results.Row]:
    """Of a poisoned season the worst version beside the base; of the other the last version beside the first."""
    if not versions:
        yield row(f"{name}: nothing was promoted", 0.0, 0.0, 0.0)
    elif name.startswith("poison"):
        worst = min(versions, key=lambda one: one["score"] - one["peer"])
        yield row(f"{name}: score, worst promoted / base", worst["score"], worst["peer"], 1.0)
    else:
        (last,) = versions
        told = f"{name}: share of the first batch that is answered well, last version / first"
        yield row(told, last["success_rate"], last["peer_success_rate"], HOLDS)


def row(measure: str, ours: float, peer: float, goal: float) -> results.Row:
    """A line of the table: it holds where ours is at least `goal` times the peer's."""
    return results.row(measure, ours, peer, goal, holds=ours >= goal * peer)


if __name__ == "__main__":
    sys.exit(main())
