"""`make bench-seasons`: what weeks of bad feedback do to a model, and what ten nights on other topics make it forget.

Shell commands (NL2Bash) corrected beside SmolLM2 135M. Every night the runs that are due are carried out as the daemon
does, with the default settings, on a real Ollama; only the calendar is made up.

Poison: of `GIVEN` corrections some are wrong, half of them the command of another prompt, half one and the same
worthless answer. In the season that is called flipped they come as thumbs the wrong way round: the right command is
disliked, that of another prompt liked. Each version that was promoted is asked commands that nobody corrected. The base
can do next to none of these, so that hardly anything is worse: how much the poison costs is told by the season without
any.

Forgetting: ten batches of corrections, each of one topic. What the first promoted version has learned from is asked of
it and of each that follows: what was done well early is to be done well by the last.

Finished seasons are kept under `benchmarks/results/seasons/` and not run again, so the bench can be stopped at any
time. Two calls share the work where each has some of the seasons and a core of its own:
`taskset -c 0 make bench-seasons ONLY="poison-0- poison-0.2 poison-0.1 poison-0.05"`, and with
`taskset -c 1` the others: `ONLY="flipped forgetting poison-0.01"`.
"""

import dataclasses
import math
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import calls, nightly, results, tasks  # noqa: E402 - found through the path above
from benchmarks.nightly import Ended, correction, day_and_night, installation, noon  # noqa: E402
from nightschool_daemon import codec  # noqa: E402
from nightschool_hookspecs.corrections import GOOD_SCORE  # noqa: E402
from nightschool_hookspecs.records import FeedbackType, RunEnd  # noqa: E402
from support.base_models import MODELS  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = ROOT / "benchmarks" / "results" / "seasons"
PLOT = ROOT / "docs" / "seasons.svg"
BASE = "smollm2"
CLEAN, FLIPPED = "poison-0", "flipped-0.2"
POISONED = ("poison-0.2", "poison-0.1", "poison-0.05", "poison-0.01")
SEEDS = (0,)
GIVEN, A_DAY = 120, 20
HELD_OUT = 80
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
"""Of what an early version did well."""
FEWEST = 10
"""Corrections that a version has to do well for that share to tell anything: the first that does is the early one."""
DRAWS = 10_000
ACROSS = 4
"""Seasons side by side in the drawing."""

Event = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Version:
    """Something that was promoted."""

    day: int
    tag: str
    scores: tuple[float, ...]
    """Of its answers, 0..100."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a season."""

    code: str
    base: tuple[float, ...]
    """Scores of the base's answers to what the versions are asked. Empty: there is no version."""
    versions: tuple[Version, ...]
    """In their order."""
    runs: tuple[Ended, ...]
    minutes: float
    """Of the machine."""


def main() -> int:
    """Run what is missing, print the table, draw. Returns 1 where a row falls short or is open, or one is missing."""
    call = calls.Call.given(__doc__, digest_of_code())
    call.carry_out({file_of(name): partial(run, name, call.code) for name in names()})
    return show()


def digest_of_code() -> str:
    """Of all that a season depends on."""
    return calls.digest_of([Path(__file__), Path(nightly.__file__), Path(tasks.__file__)])


def names() -> Iterator[str]:
    """All seasons: what the others are held against comes first, then what is likeliest to do harm."""
    for seed in SEEDS:
        heaviest, *lighter = POISONED
        yield from (f"{kind}-{seed}" for kind in (CLEAN, heaviest, FLIPPED, "forgetting", *lighter))


def file_of(name: str) -> Path:
    """Where a season's result is kept."""
    return RESULTS / f"{name}.json"


# --------------------------------------------------------------------------- a season


def run(name: str, code: str) -> Result:
    """One season. Raises `CellFailed`."""
    kind, *rest = name.split("-")
    if kind == "forgetting":
        batches = of_topics(int(rest[0]))
        days = [corrections(batch, day) for day, batch in enumerate(batches, start=1)]
        return lived(days, lambda first: [pair for batch in batches[:first] for pair in batch], code)
    share, seed = float(rest[0]), int(rest[1])
    task = tasks.shell(seed, GIVEN, HELD_OUT)
    given = flipped(task.learned, share, seed) if kind == "flipped" else poisoned(task.learned, share, seed)
    return lived(given, lambda _: task.held_out, code)


def lived(days: Sequence[Sequence[Event]], asked: Callable[[int], Sequence[tasks.Pair]], code: str) -> Result:
    """Days with their feedback, each with its night. `asked`: of the versions, by the day of the first of them."""
    began = time.monotonic()
    runs: list[Ended] = []
    versions: list[Version] = []
    questions: Sequence[tasks.Pair] = ()
    with installation(BASE) as here:
        for day, events in enumerate(days, start=1):
            for report in day_and_night(here, day, events):
                runs.append(Ended.of(day, report))
                if report.end is RunEnd.PROMOTED and report.version is not None:
                    questions = questions or asked(day)
                    scores = nightly.scores(here, report.version, questions)
                    versions.append(Version(day=day, tag=report.version, scores=scores))
            print(f"  day {day} of {len(days)}: {len(versions)} promoted of {len(runs)} runs", flush=True)
        base = nightly.scores(here, MODELS[BASE].tag, questions)
    return Result(
        code=code,
        base=base,
        versions=tuple(versions),
        runs=tuple(runs),
        minutes=(time.monotonic() - began) / 60,
    )


def corrections(pairs: Sequence[tasks.Pair], day: int) -> list[Event]:
    """A day's corrections."""
    return [correction(f"c-{day}-{number}", BASE, one, noon(day)) for number, one in enumerate(pairs)]


def poisoned(pairs: Sequence[tasks.Pair], share: float, seed: int) -> list[list[Event]]:
    """Days of corrections, some of them wrong."""
    return [corrections(batch, day) for day, batch in enumerate(in_days(poison(pairs, share, seed)), start=1)]


def poison(pairs: Sequence[tasks.Pair], share: float, seed: int) -> list[tasks.Pair]:
    """The same with some answers that are wrong."""
    found = list(pairs)
    for number, place in enumerate(chosen(pairs, share, seed)):
        other = _next(pairs, place).answer if number % 2 else WORTHLESS
        found[place] = dataclasses.replace(found[place], answer=other)
    return found


def flipped(pairs: Sequence[tasks.Pair], share: float, seed: int) -> list[list[Event]]:
    """Days of corrections, in the place of some of them two thumbs the wrong way round."""
    wrong = {pairs[place].prompt: _next(pairs, place).answer for place in chosen(pairs, share, seed)}
    return [
        [
            event
            for one, pair in zip(corrections(batch, day), batch, strict=True)
            for event in (_thumbs(one, pair.answer, wrong[pair.prompt]) if pair.prompt in wrong else [one])
        ]
        for day, batch in enumerate(in_days(pairs), start=1)
    ]


def _thumbs(event: Event, right: str, wrong: str) -> list[Event]:
    kinds = ((FeedbackType.EXPLICIT_POSITIVE, wrong), (FeedbackType.EXPLICIT_NEGATIVE, right))
    shared = {**event, "corrected_output": None, "validation_score": None}
    return [
        {**shared, "id": f"{event['id']}-{kind.value}", "feedback_type": kind.value, "ai_output": answer}
        for kind, answer in kinds
    ]


def chosen(pairs: Sequence[tasks.Pair], share: float, seed: int) -> list[int]:
    """Which are to be wrong, in whichever way."""
    return random.Random(seed).sample(range(len(pairs)), round(share * len(pairs)))


def _next(pairs: Sequence[tasks.Pair], place: int) -> tasks.Pair:
    return pairs[(place + 1) % len(pairs)]


def in_days(pairs: Sequence[tasks.Pair]) -> list[Sequence[tasks.Pair]]:
    """So many a day."""
    return [pairs[start : start + A_DAY] for start in range(0, len(pairs), A_DAY)]


def of_topics(seed: int) -> list[list[tasks.Pair]]:
    """A batch a topic."""
    pairs = tasks.shell(seed, 600, 0).learned
    return [of_topic(pairs, topic)[:OF_A_TOPIC] for topic in TOPICS]


def of_topic(pairs: Sequence[tasks.Pair], topic: str) -> list[tasks.Pair]:
    """The commands of a topic."""
    return [
        one
        for one in pairs
        if next(name for name, pattern in TOPICS.items() if re.search(pattern, one.answer)) == topic
    ]


# --------------------------------------------------------------------------- what is shown


def show() -> int:
    """Print a season's rows, write the table, and draw."""
    found = {name: codec.from_json(file_of(name).read_bytes(), Result) for name in names() if file_of(name).exists()}
    rows = [row for name in found for row in rows_of(name, found)]
    title = f"Seasons, of {calls.states(found.values())}"
    if found:
        draw(found)
        results.fill("seasons", title, rows, below=f"![what runs gained and what is in use scores]({PLOT.name})")
    told = results.presented("seasons", title, rows)
    is_open = any(row["goal"] is not None and row["holds"] is None for row in rows)
    return max(told, is_open, len(found) < len(list(names())))


def rows_of(name: str, found: Mapping[str, Result]) -> Iterator[results.Row]:
    """Of a poisoned season the worst version beside the base, and what poison costs; of the other what was kept."""
    result = found[name]
    if name.startswith("forgetting"):
        yield kept(name, result)
    elif not result.versions:
        yield row(f"{name}: nothing was promoted", 0.0, 0.0, 1.0, holds=None)
    else:
        base, worst = statistics.fmean(result.base), min(statistics.fmean(one.scores) for one in result.versions)
        told = f"{name}: held-out score, the worst of {len(result.versions)} promoted / base"
        yield row(told, worst, base, 1.0, holds=worst >= base)
        clean = found.get(f"{CLEAN}-{name.rpartition('-')[2]}")
        if clean is not None and clean.versions and clean is not result:
            yield beside_clean(name, result, clean)


def kept(name: str, result: Result) -> results.Row:
    """What an early version did well and the last still does, of all that the first had learned from."""
    versions = result.versions
    well = [{place for place, score in enumerate(one.scores) if score > GOOD_SCORE} for one in versions]
    first = next((number for number, one in enumerate(well[:-1]) if len(one) >= FEWEST), None)
    if first is None:
        told = f"{name}: of {len(versions)} promoted, none but the last does {FEWEST} corrections well"
        return row(told, 0.0, 0.0, HOLDS, holds=None)
    still = len(well[first] & well[-1])
    told = (
        f"{name}: of {len(versions[first].scores)} corrections until day {versions[0].day}, done well by the version "
        f"of day {versions[-1].day} too / by that of day {versions[first].day}"
    )
    return row(told, still, len(well[first]), HOLDS, holds=still >= HOLDS * len(well[first]))


def beside_clean(name: str, result: Result, clean: Result) -> results.Row:
    """What is in use at the end beside the same without poison; there is no goal for it."""
    ours, theirs = np.array(result.versions[-1].scores), np.array(clean.versions[-1].scores)
    low, high = interval_of(theirs - ours)
    told = f"{name}: held-out score at the end / without poison; it costs {(theirs - ours).mean():.1f} points"
    return row(f"{told} (95 %: {low:.1f} to {high:.1f})", float(ours.mean()), float(theirs.mean()), None, holds=None)


def interval_of(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean difference."""
    drawn = np.random.default_rng(0).integers(len(differences), size=(DRAWS, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def row(measure: str, ours: float, peer: float, goal: float | None, *, holds: bool | None) -> results.Row:
    """A line of the table: ours is to be at least `goal` times the peer's."""
    return results.row(measure, ours, peer, goal, holds=holds)


def draw(found: Mapping[str, Result]) -> None:
    """A panel a season: what each run gained in its exam, and what each promoted version scores at what it is asked."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # the names of the drawing's parts would differ each time
    with mpl.rc_context({"svg.hashsalt": "seasons"}):
        height = math.ceil(len(found) / ACROSS)
        figure = Figure(figsize=(3 * ACROSS, 2.8 * height + 0.4), layout="constrained")
        panels = figure.subplots(height, ACROSS, squeeze=False, sharey=True).flat
        for (name, result), axes in zip(found.items(), panels, strict=False):
            _draw_season(axes, name, result)
        for axes in panels[len(found) :]:
            axes.remove()
        figure.supylabel("points of 0..100")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
        figure.savefig(PLOT, metadata={"Date": None})


def _draw_season(axes: "Axes", name: str, result: Result) -> None:
    for is_promoted, colour in ((True, "tab:green"), (False, "tab:grey")):
        ends = [one for one in result.runs if one.interval is not None and (one.end is RunEnd.PROMOTED) is is_promoted]
        axes.errorbar(
            [one.day for one in ends],
            [one.gain or 0.0 for one in ends],
            yerr=np.array([_arms(one) for one in ends]).reshape(-1, 2).T,
            fmt="o",
            color=colour,
            label="gain in the exam, promoted" if is_promoted else "gain in the exam, not promoted",
        )
    last = max((one.day for one in result.runs), default=1)
    steps = [(one.day, statistics.fmean(one.scores)) for one in result.versions]
    axes.step(
        [*(day for day, _ in steps), last],
        [*(score for _, score in steps), steps[-1][1] if steps else np.nan],
        where="post",
        marker=".",
        label="score of what is in use",
    )
    axes.axhline(
        statistics.fmean(result.base) if result.base else np.nan, color="grey", linestyle=":", label="the base's"
    )
    axes.set(title=name, xlabel="day")


def _arms(one: Ended) -> tuple[float, float]:
    """How far the interval reaches below and above the gain."""
    low, high = one.interval or (0.0, 0.0)
    gain = one.gain or 0.0
    return max(0.0, gain - low), max(0.0, high - gain)


if __name__ == "__main__":
    sys.exit(main())
