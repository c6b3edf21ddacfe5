"""`make bench-exams`: how often the judge is deceived, what it finds, and how many items that takes.

Simulated: seasons between equal models in which every item is looked at; the same with candidates that gain a little
and fail badly now and then, which nothing bounds; the share of real gains that is proven; the expected items against a
permutation test whose number of items is fixed beforehand, at the same error rates: looked at after each round, as a
night does, and beside it after every item.
Real: forty exams of a small model against itself on a real Ollama, held by the examiner of a night, with its drawing,
its rounds, its three sittings and its scores. 600 prompts are twenty blocks of thirty without a prompt in common, and
each block is sat twice, with fresh answers. Three things are not those of a night: answers are sampled, as greedy ones
of one model to one prompt are the same; no guard is asked, which could only stop a promotion; and the judge is asked
after every item. Answers are kept in build/exams, so that a stopped bench goes on. Beside it stands in how many of the
exams a proof could have been reached at all: where models differ on a few items only, none could.

What is simulated takes some minutes, the 3600 real answers about an hour of one core.
"""

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
from numpy.typing import NDArray
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import calls, results, tasks  # noqa: E402 - found through the path above
from benchmarks.forms import fetched  # noqa: E402
from nightschool_daemon.config import (  # noqa: E402
    EmbeddingSource,
    ExamSettings,
    OllamaSettings,
    Settings,
    SimilaritySettings,
    StateSettings,
)
from nightschool_daemon.evaluation.embedding import open_embed  # noqa: E402
from nightschool_daemon.evaluation.examiner import Sitters, choose_items, examine, rounds, score_answer  # noqa: E402
from nightschool_daemon.evaluation.local_model import LocalModel, pinned_options  # noqa: E402
from nightschool_daemon.evaluation.similarity import CombinedMeasure  # noqa: E402
from nightschool_daemon.hooks import Hooks  # noqa: E402
from nightschool_daemon.jobs import whole_lines  # noqa: E402
from nightschool_daemon.ollama.library import OllamaLibrary, PinnedOptions  # noqa: E402
from nightschool_hookspecs.records import (  # noqa: E402
    Exam,
    ExamAnswer,
    ExamItem,
    ItemRole,
    Message,
    Outcome,
    Role,
    Sitting,
    Specialty,
)
from nightschool_plugins.judge_paired import JudgePaired  # noqa: E402
from support.base_models import MODELS  # noqa: E402
from support.night import import_base  # noqa: E402
from support.ollama_server import OllamaServer  # noqa: E402

WORK = ROOT / "build" / "exams"
BASE = MODELS["smollm2"]
JUDGE = JudgePaired()
PROOF = math.log(1 / JUDGE.proven_level)

SEASONS = 400
SEASON_ITEMS = 240
"""Thirty nights of eight new items."""
SIMULATIONS = 2000
DECEIVED_GOAL = 0.05
ITEMS_GOAL = 0.7
HELD_TO = "`ours` is to be at most `goal` times `peer`"
POWER = 0.95
GAINS = (2.0, 5.0, 10.0, 15.0, 20.0)
LOOKS = (10, 20, 40, 60, 120, 240)
FLIPS_BEYOND = 100
"""So many flips of a permutation test reach what is just significant: fewer would tell its p-value too roughly."""
FLIPS_AT_ONCE = 5000
HORIZON = 1200

BLOCKS = 20
EXAM_ITEMS = 30
EXAMS = 2 * BLOCKS
SEEDS_AN_EXAM = 1000
"""Far more than it has questions."""
TEMPERATURE = 0.8
ANSWER_TOKENS = 32

Gains = NDArray[numpy.float64]
"""Shape (simulations, items), points."""


# --------------------------------------------------------------------------- simulated scores


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A way in which two models score on the same items."""

    name: str
    gains: Callable[[numpy.random.Generator, float, int, int], Gains]
    """(chance, gain in points, simulations, items)"""


def _latent(chance: numpy.random.Generator, shape: tuple[int, int]) -> tuple[Gains, Gains]:
    """Two standard normal variables with correlation 0.7."""
    first = chance.standard_normal(shape)
    return first, 0.7 * first + math.sqrt(1 - 0.7**2) * chance.standard_normal(shape)


def _points(chance: numpy.random.Generator, gain: float, simulations: int, items: int) -> Gains:
    incumbent, candidate = _latent(chance, (simulations, items))
    return numpy.clip(60 + 20 * candidate + gain, 0, 100) - numpy.clip(60 + 20 * incumbent, 0, 100)


def _right_or_wrong(chance: numpy.random.Generator, gain: float, simulations: int, items: int) -> Gains:
    incumbent, candidate = _latent(chance, (simulations, items))
    before, after = stats.norm.ppf(0.4), stats.norm.ppf(0.4 + gain / 100)
    return numpy.asarray(100.0 * (candidate < after) - 100.0 * (incumbent < before))


def _mostly_ties(chance: numpy.random.Generator, gain: float, simulations: int, items: int) -> Gains:
    """Seven answers of ten are the same, the others differ by a lot: greedy answers of a small lesson."""
    differs = chance.random((simulations, items)) < 0.3
    up = chance.random((simulations, items)) < 0.5 + gain / (2 * 0.3 * 60)
    sizes = chance.choice([40.0, 80.0], (simulations, items))
    return numpy.asarray(numpy.where(differs, numpy.where(up, sizes, -sizes), 0.0))


SCORES = (
    Scores(name="points (sd 20, correlation 0.7)", gains=_points),
    Scores(name="right or wrong", gains=_right_or_wrong),
    Scores(name="mostly ties", gains=_mostly_ties),
)


def proofs(gains: Gains, proof: float = PROOF) -> NDArray[numpy.int64]:
    """The item after which each simulation has reached the proof; beyond all items where it never does."""
    reached = numpy.array([JUDGE.log_e_path(one) >= proof for one in gains])
    return numpy.where(reached.any(axis=1), reached.argmax(axis=1) + 1, numpy.iinfo(numpy.int64).max)


# --------------------------------------------------------------------------- deceived, and blind


def seasons(scores: Scores) -> results.Row:
    """Between equal models, with a look at every item."""
    chance = numpy.random.default_rng(1)
    deceived = float((proofs(scores.gains(chance, 0.0, SEASONS, SEASON_ITEMS)) <= SEASON_ITEMS).mean())
    return row(f"A/A, {SEASONS} seasons of {SEASON_ITEMS} items, {scores.name}: proven", deceived, DECEIVED_GOAL, 1.0)


@dataclass(frozen=True, kw_only=True)
class RareFailure:
    """A candidate that gains on most items, and loses much more on the others: no better on average, or worse."""

    gain: float
    loss: float
    share: float
    """Of items with the loss, 0..1."""

    @property
    def mean(self) -> float:
        return (1 - self.share) * self.gain - self.share * self.loss

    def gains(self, chance: numpy.random.Generator, simulations: int, items: int) -> Gains:
        return numpy.where(chance.random((simulations, items)) < self.share, -self.loss, self.gain)


RARE_FAILURES = (
    RareFailure(gain=10.0, loss=90.0, share=0.1),
    RareFailure(gain=5.0, loss=95.0, share=0.05),
    RareFailure(gain=5.0, loss=90.0, share=0.1),
    RareFailure(gain=20.0, loss=90.0, share=0.2),
)


def failing_seasons(failure: RareFailure) -> results.Row:
    """How often what is no better is proven all the same, with a look at every item. Told, not judged."""
    gains = failure.gains(numpy.random.default_rng(5), SEASONS, SEASON_ITEMS)
    proven = float((proofs(gains) <= SEASON_ITEMS).mean())
    measure = (
        f"rare failures, {SEASONS} seasons of {SEASON_ITEMS} items, {failure.gain:+g} points on "
        f"{1 - failure.share:.0%} and {-failure.loss:+g} on the others, {failure.mean:+.1f} on average: proven"
    )
    return results.row(measure, proven, JUDGE.proven_level, None, holds=None)


def power(scores: Scores) -> Iterator[results.Row]:
    """Which share of real gains is proven by so many items."""
    for gain in GAINS:
        chance = numpy.random.default_rng(2)
        at = proofs(scores.gains(chance, gain, SIMULATIONS // 4, max(LOOKS)))
        yield {
            "scores": scores.name,
            "gain": gain,
            **{f"by {look}": round(float((at <= look).mean()), 3) for look in LOOKS},
        }


# --------------------------------------------------------------------------- items, against a fixed number of them


def items_against_fixed(scores: Scores, planned: float) -> Iterator[results.Row]:
    """Expected items of an exam that is planned for a gain, where the gain is there and where there is none.

    Held to the goal with the rounds of a night; a look at every item, which no night has, is told beside it.
    """
    chance = numpy.random.default_rng(3)
    better = scores.gains(chance, planned, SIMULATIONS, HORIZON)
    most = int(numpy.sort(proofs(better))[math.ceil(POWER * SIMULATIONS) - 1])
    if most > HORIZON:
        raise ValueError(f"{scores.name}: a gain of {planned:g} points takes more than {HORIZON} items")
    better, equal = better[:, :most], scores.gains(chance, 0.0, SIMULATIONS, most)
    size = ExamSettings().round_items
    for items_a_look, looked, goal in ((size, f"rounds of {size}", ITEMS_GOAL), (1, "a look at every item", None)):
        asked, proven = sat_until_decided(better, planned, items_a_look)
        asked_equal, proven_equal = sat_until_decided(equal, planned, items_a_look)
        level, power_seen = float(proven_equal.mean()), float(proven.mean())
        fixed = float(fixed_items(better, max(level, 1 / SIMULATIONS), power_seen))
        label = f"items, planned for {planned:g} points, {scores.name}, {looked}"
        rates = f"(error {level:.4f}, power {power_seen:.3f})"
        yield row(f"{label}, gain there {rates}", float(asked.mean()), fixed, goal)
        yield row(f"{label}, no gain there {rates}", float(asked_equal.mean()), fixed, goal)


def sat_until_decided(
    gains: Gains, planned: float, items_a_look: int
) -> tuple[NDArray[numpy.int64], NDArray[numpy.bool_]]:
    """How many items each simulation is asked, with a look after so many at a time, and whether it ends with a proof.

    The last look may come after fewer.
    """
    judge = JudgePaired(worthwhile_gain=planned)
    simulations, most = gains.shape
    looks = (*range(items_a_look, most, items_a_look), most)
    asked, proven = numpy.full(simulations, most), numpy.zeros(simulations, dtype=numpy.bool_)
    for number, one in enumerate(gains):
        proves = judge.log_e_path(one) >= PROOF
        asked[number] = next(
            look
            for look in looks
            if look == most or proves[look - 1] or judge.is_hopeless(one[:look], one[:look], most - look, PROOF)
        )
        proven[number] = proves[asked[number] - 1]
    return asked, proven


def fixed_items(better: Gains, level: float, power_wanted: float) -> int:
    """The fewest items with which a permutation test of this level has this power."""
    fewest, most = 2, better.shape[1]
    while fewest < most:
        middle = (fewest + most) // 2
        if (permutation_p(better[:, :middle], math.ceil(FLIPS_BEYOND / level)) <= level).mean() >= power_wanted:
            most = middle
        else:
            fewest = middle + 1
    return fewest


def permutation_p(gains: Gains, flips: int) -> NDArray[numpy.float64]:
    """One-sided p of each simulation, signs flipped at random so often."""
    chance = numpy.random.default_rng(4)
    seen, sizes = gains.sum(axis=1, keepdims=True) - 1e-6, numpy.abs(gains)
    as_large = numpy.zeros(len(gains))
    for begun in range(0, flips, FLIPS_AT_ONCE):
        signs = chance.choice([-1.0, 1.0], (gains.shape[1], min(FLIPS_AT_ONCE, flips - begun)))
        as_large += (sizes @ signs >= seen).sum(axis=1)
    return numpy.asarray((1 + as_large) / (1 + flips))


# --------------------------------------------------------------------------- a real model against itself


def real_exams() -> tuple[results.Row, results.Row]:
    """Forty exams of one model, and what is worth knowing of its answers."""
    promoted, able, differing, deviations, scores = 0, 0, [], [], []
    for exam in held():
        gains = numpy.array(gains_of(exam))
        differing.append(float((gains != 0).mean()))
        deviations.append(float(gains.std()))
        scores += [one.score for one in exam.answers]
        looks = numpy.flatnonzero(JUDGE.log_e_path(gains) >= PROOF) + 1
        able += could_prove(gains)
        promoted += any(judged(exam, int(look)) is Outcome.PROVEN for look in looks)
    figures: results.Row = {
        "prompts": BLOCKS * EXAM_ITEMS,
        "items an exam": EXAM_ITEMS,
        "items that differ": round(float(numpy.mean(differing)), 3),
        "standard deviation of differences": round(float(numpy.mean(deviations)), 1),
        "mean score": round(float(numpy.mean(scores)), 1),
        "exams that could prove anything": able,
    }
    return row(f"A/A, {EXAMS} exams of {BASE.title}: promoted", promoted / EXAMS, DECEIVED_GOAL, 1.0), figures


def could_prove(gains: Gains) -> bool:
    """Whether an exam would prove something if each item that differs did so in the candidate's favour."""
    return JUDGE.log_e_value(numpy.abs(gains)) >= PROOF


def held() -> list[Exam]:
    """The exams as the examiner holds them, asked where their answers are not in their files yet."""
    WORK.mkdir(parents=True, exist_ok=True)
    if any(len(whole_lines(file_of(number), ExamAnswer)) < len(Sitting) * EXAM_ITEMS for number in range(EXAMS)):
        with OllamaServer("0.34.3", directory=WORK / "ollama") as server:
            # two threads wait for each other by spinning, which beside other work takes many times as long as one
            import_base(server, BASE, fetched("smollm2", BASE), threads=1)
            settings = OllamaSettings(host=server.url, models_directory=server.models_directory)
            examiner = Examiner(OllamaLibrary(settings))
            for number in range(EXAMS):
                examiner.hold(number)
                print(f"exam {number + 1} of {EXAMS}", flush=True)
    return [exam_of(number, whole_lines(file_of(number), ExamAnswer)) for number in range(EXAMS)]


def file_of(number: int) -> Path:
    """Where the answers of an exam are kept."""
    return WORK / f"exam-{number}.jsonl"


class Examiner:
    """Holds exams between a model and itself."""

    def __init__(self, library: OllamaLibrary) -> None:
        similarity = SimilaritySettings(embedding=EmbeddingSource.STATIC)
        settings = Settings(state=StateSettings(directory=WORK / "state"), similarity=similarity)
        self._hooks = Hooks.load(plugin_directory=None, tables={})
        self._measure = CombinedMeasure(self._hooks, open_embed(settings))
        self._judge = LocalModel(library, BASE.tag, ExamSettings())
        self._library = library

    def hold(self, number: int) -> None:
        """Ask what is not answered yet, each time with chance of its own."""
        seeds = itertools.count(number * SEEDS_AN_EXAM + len(whole_lines(file_of(number), ExamAnswer)))
        examine(
            rounds(items_of(number), ExamSettings().round_items),
            Sitters(incumbent=BASE.tag, candidate=BASE.tag, candidate_digest=""),
            ask=lambda name, messages: self._library.chat(name, messages, options(next(seeds))),
            score=lambda item, text: score_answer(self._hooks, self._measure, self._judge, item, text),
            file=file_of(number),
            report=lambda _done, _total, _text: None,
        )


def exam_of(number: int, answers: tuple[ExamAnswer, ...]) -> Exam:
    """An exam that was held."""
    return Exam(
        specialty=Specialty(base=BASE.tag, artifact_type="shell"),
        incumbent=BASE.tag,
        candidate=BASE.tag,
        items=items_of(number),
        answers=answers,
    )


def items_of(number: int) -> tuple[ExamItem, ...]:
    """The block of an exam, in the order of its drawing: no two blocks share a prompt, and each is sat twice."""
    block = number % BLOCKS
    return choose_items(questions()[block * EXAM_ITEMS :][:EXAM_ITEMS], ExamSettings(), number)


def gains_of(exam: Exam) -> list[float]:
    """What the candidate gained on each item."""
    scores = {(one.sitting, one.item_id): one.score for one in exam.answers}
    return [scores[Sitting.CANDIDATE, item.id] - scores[Sitting.INCUMBENT, item.id] for item in exam.items]


def judged(exam: Exam, look: int) -> Outcome:
    """The verdict of someone who looks after so many items."""
    items = exam.items[:look]
    names = {item.id for item in items}
    answers = tuple(one for one in exam.answers if one.item_id in names)
    return JUDGE.nightschool_judge_exam(replace(exam, items=items, answers=answers), (), look).outcome


@functools.cache
def questions() -> tuple[ExamItem, ...]:
    """Real descriptions of shell commands."""
    return tuple(
        ExamItem(
            id=str(number),
            event_id=str(number),
            artifact_type="shell",
            role=ItemRole.GAIN,
            messages=(Message(role=Role.USER, content=f"{one.prompt}\nAnswer with one shell command only."),),
            reference=one.answer,
        )
        for number, one in enumerate(tasks.shell(0, 0, BLOCKS * EXAM_ITEMS).held_out)
    )


def options(seed: int) -> PinnedOptions:
    """Sampled answers, short ones."""
    exam = replace(ExamSettings(), temperature=TEMPERATURE, context_tokens=1024, max_answer_tokens=ANSWER_TOKENS)
    return pinned_options(exam, seed)


# --------------------------------------------------------------------------- the table


def row(measure: str, ours: float, peer: float, goal: float | None) -> results.Row:
    """A line of the table: it holds where ours is at most `goal` times the peer's. Without a goal it is only told."""
    return results.row(measure, ours, peer, goal, holds=None if goal is None else ours <= goal * peer)


def main() -> int:
    """Measure, print and write down. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulated", action="store_true", help="leave the real model out, and its table as it is")
    simulated = parser.parse_args().simulated
    calls.get_ready()
    found = [row for scores in SCORES for row in power(scores)]
    rows = [seasons(scores) for scores in SCORES]
    rows += [failing_seasons(one) for one in RARE_FAILURES]
    points, right_or_wrong, ties = SCORES
    plans = [(points, gain) for gain in GAINS[1:]] + [(right_or_wrong, 20.0), (ties, 10.0)]
    rows += [one for scores, gain in plans for one in items_against_fixed(scores, gain)]
    results.fill("calibration", f"Simulated, {HELD_TO}", rows)
    results.show("Share of real gains that is proven by so many items", found)
    results.write("exams-power", found)
    results.fill("power", f"Of {SIMULATIONS // 4} simulations each", found)
    short = results.presented("exams", "Exams, simulated", rows)
    return short if simulated else max(short, presented_real())


def presented_real() -> int:
    """Hold the real exams, print and write down what they show. Returns 1 where their row falls short."""
    real, figures = real_exams()
    results.show("The answers of the model to itself", [figures])
    told = f"The answers of {BASE.title} to itself:\n\n{results.as_markdown([figures])}"
    results.fill("real-exams", f"Real, {HELD_TO}", [real], below=told)
    return results.presented("exams-real", "Exams of a model against itself", [real])


if __name__ == "__main__":
    sys.exit(main())
