"""`make bench-exams`: how often the judge is deceived, what it finds, and how many items that takes.

Simulated: seasons between equal models in which every item is looked at; the share of real gains that is proven; the
expected items against a permutation test whose number of items is fixed beforehand, at the same error rates.
Real: forty exams of a small model against itself on a real Ollama, each on other prompts. Their answers are sampled,
which differ more than the greedy answers of a night. They are kept in build/exams, so that a stopped bench goes on.
"""

import argparse
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results, tasks  # noqa: E402 - found through the path above
from nightschool_daemon import codec  # noqa: E402
from nightschool_daemon.config import ExamSettings, OllamaSettings  # noqa: E402
from nightschool_daemon.evaluation.examiner import score_answer  # noqa: E402
from nightschool_daemon.evaluation.local_model import LocalModel  # noqa: E402
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings  # noqa: E402
from nightschool_daemon.hooks import Hooks  # noqa: E402
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp  # noqa: E402
from nightschool_daemon.ollama.library import OllamaLibrary, PinnedOptions  # noqa: E402
from nightschool_daemon.ollama.storage import sha256_of  # noqa: E402
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
from support.base_models import CACHE, MODELS  # noqa: E402
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
POWER = 0.95
GAINS = (2.0, 5.0, 10.0, 15.0, 20.0)
LOOKS = (10, 20, 40, 60, 120, 240)
FLIPS = 2000
HORIZON = 1200

EXAMS = 40
EXAM_ITEMS = 30
PROMPTS = 80
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
    """Expected items of an exam that is planned for a gain, where the gain is there and where there is none."""
    chance = numpy.random.default_rng(3)
    better = scores.gains(chance, planned, SIMULATIONS, HORIZON)
    most = int(numpy.sort(proofs(better))[math.ceil(POWER * SIMULATIONS) - 1])
    if most > HORIZON:
        raise ValueError(f"{scores.name}: a gain of {planned:g} points takes more than {HORIZON} items")
    asked, proven = sat_until_decided(better[:, :most], planned)
    equal = scores.gains(chance, 0.0, SIMULATIONS, most)
    asked_equal, proven_equal = sat_until_decided(equal, planned)
    level, power_seen = float(proven_equal.mean()), float(proven.mean())
    fixed = float(fixed_items(better, max(level, 1 / SIMULATIONS), power_seen))
    label = f"items, planned for {planned:g} points, {scores.name}"
    rates = f"(error {level:.4f}, power {power_seen:.3f})"
    yield row(f"{label}, gain there {rates}", float(asked.mean()), fixed, ITEMS_GOAL)
    yield row(f"{label}, no gain there {rates}", float(asked_equal.mean()), fixed, ITEMS_GOAL)


def sat_until_decided(gains: Gains, planned: float) -> tuple[NDArray[numpy.float64], NDArray[numpy.bool_]]:
    """How many items each simulation is asked, with a look after every one, and whether it ends with a proof."""
    judge = JudgePaired(worthwhile_gain=planned)
    simulations, most = gains.shape
    asked, proven = numpy.full(simulations, float(most)), proofs(gains)
    for number, one in enumerate(gains):
        last = min(int(proven[number]), most)
        looks = range(judge.fewest_items, last)
        hopeless = (look for look in looks if judge.is_hopeless(one[:look], one[:look], most - look, PROOF))
        asked[number] = next(hopeless, last)
    return asked, numpy.asarray(proven == asked)


def fixed_items(better: Gains, level: float, power_wanted: float) -> int:
    """The fewest items with which a permutation test of this level has this power."""
    fewest, most = 2, better.shape[1]
    while fewest < most:
        middle = (fewest + most) // 2
        if (permutation_p(better[:, :middle]) <= level).mean() >= power_wanted:
            most = middle
        else:
            fewest = middle + 1
    return fewest


def permutation_p(gains: Gains) -> NDArray[numpy.float64]:
    """One-sided p of each simulation, signs flipped at random."""
    signs = numpy.random.default_rng(4).choice([-1.0, 1.0], (gains.shape[1], FLIPS))
    as_large = (numpy.abs(gains) @ signs >= gains.sum(axis=1, keepdims=True) - 1e-6).sum(axis=1)
    return numpy.asarray((1 + as_large) / (1 + FLIPS))


# --------------------------------------------------------------------------- a real model against itself


def real_exams() -> tuple[results.Row, results.Row]:
    """Forty exams of one model, and what is worth knowing of its answers."""
    answers = asked()
    promoted, differing, deviations = 0, [], []
    for number in range(EXAMS):
        exam = drawn(answers, number)
        gains = numpy.array(gains_of(exam))
        differing.append(float((gains != 0).mean()))
        deviations.append(float(gains.std()))
        looks = numpy.flatnonzero(JUDGE.log_e_path(gains) >= PROOF) + 1
        promoted += any(judged(exam, int(look)) is Outcome.PROVEN for look in looks)
    figures: results.Row = {
        "prompts": PROMPTS,
        "items an exam": EXAM_ITEMS,
        "items that differ": round(float(numpy.mean(differing)), 3),
        "standard deviation of differences": round(float(numpy.mean(deviations)), 1),
        "mean score": round(float(numpy.mean([one.score for one in answers.values()])), 1),
    }
    return row(f"A/A, {EXAMS} exams of {BASE.title}: promoted", promoted / EXAMS, DECEIVED_GOAL, 1.0), figures


def drawn(answers: dict[tuple[str, Sitting], ExamAnswer], number: int) -> Exam:
    """An exam on prompts of its own, in which chance decides which sitting is the candidate's."""
    draw = random.Random(number)
    items = tuple(draw.sample(questions(), EXAM_ITEMS))
    roles = dict(zip(Sitting, draw.sample(list(Sitting), len(Sitting)), strict=True))
    return Exam(
        specialty=Specialty(base=BASE.tag, artifact_type="shell"),
        incumbent=BASE.tag,
        candidate=BASE.tag,
        items=items,
        answers=tuple(
            codec.build(ExamAnswer, codec.to_plain(answers[item.id, sat]) | {"sitting": role.value})
            for role, sat in roles.items()
            for item in items
        ),
    )


def gains_of(exam: Exam) -> list[float]:
    """What the candidate gained on each item."""
    scores = {(one.sitting, one.item_id): one.score for one in exam.answers}
    return [scores[Sitting.CANDIDATE, item.id] - scores[Sitting.INCUMBENT, item.id] for item in exam.items]


def judged(exam: Exam, look: int) -> Outcome:
    """The verdict of someone who looks after so many items."""
    items = exam.items[:look]
    names = {item.id for item in items}
    so_far = Exam(
        specialty=exam.specialty,
        incumbent=exam.incumbent,
        candidate=exam.candidate,
        items=items,
        answers=tuple(one for one in exam.answers if one.item_id in names),
    )
    return JUDGE.nightschool_judge_exam(so_far, (), look).outcome


def questions() -> list[ExamItem]:
    """Real descriptions of shell commands."""
    return [
        ExamItem(
            id=str(number),
            event_id=str(number),
            artifact_type="shell",
            role=ItemRole.GAIN,
            messages=(Message(role=Role.USER, content=f"{one.prompt}\nAnswer with one shell command only."),),
            reference=one.answer,
        )
        for number, one in enumerate(tasks.shell(0, 0, PROMPTS).held_out)
    ]


def asked() -> dict[tuple[str, Sitting], ExamAnswer]:
    """Every prompt's answers in three sittings, asked where they are not in the file yet."""
    WORK.mkdir(parents=True, exist_ok=True)
    file = WORK / "answers.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    known = {(one.item_id, one.sitting): one for one in (codec.from_json(line, ExamAnswer) for line in lines)}
    missing = [(sitting, item) for sitting in Sitting for item in questions() if (item.id, sitting) not in known]
    if missing:
        with OllamaServer("0.34.3", directory=WORK / "ollama") as server, file.open("a", encoding="utf-8") as stream:
            settings = OllamaSettings(host=server.url, models_directory=server.models_directory)
            import_model(settings)
            for answer in sat(OllamaLibrary(settings), missing):
                stream.write(codec.to_json(answer) + "\n")
                stream.flush()
                known[answer.item_id, answer.sitting] = answer
    return known


def sat(library: OllamaLibrary, missing: list[tuple[Sitting, ExamItem]]) -> Iterator[ExamAnswer]:
    """Answers of the model, sampled with another seed in each sitting."""
    hooks = Hooks.load(plugin_directory=None, tables={})
    measure, judge = CombinedMeasure(hooks, no_embeddings), LocalModel(library, BASE.tag, ExamSettings())
    for sitting, item in missing:
        said = library.chat(BASE.tag, item.messages, options(1 + list(Sitting).index(sitting)))
        found = score_answer(hooks, measure, judge, item, said.text)
        yield ExamAnswer(
            item_id=item.id,
            sitting=sitting,
            model=BASE.tag,
            text=said.text,
            score=found.score,
            detail=found.detail,
            failed=False,
            latency_s=said.latency_s,
            tokens=said.tokens,
            done_reason=said.done_reason,
        )


def options(seed: int) -> PinnedOptions:
    """Sampled answers, short ones."""
    return PinnedOptions(
        temperature=TEMPERATURE,
        seed=seed,
        top_k=40,
        top_p=0.9,
        min_p=0.0,
        repeat_penalty=1.0,
        repeat_last_n=64,
        num_ctx=1024,
        num_predict=ANSWER_TOKENS,
    )


def import_model(settings: OllamaSettings) -> None:
    """Give the server the model, once."""
    file = CACHE / "smollm2.gguf"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        BASE.fetch(file)
    ollama = OllamaHttp(settings)
    digest = sha256_of(file)
    ollama.upload_blob(file, digest)
    ollama.create(
        CreateRequest(
            model=BASE.tag,
            files={"base.gguf": digest},
            template=BASE.template,
            # two threads wait for each other by spinning, which beside other work takes many times as long as one
            parameters={"stop": [BASE.stop], "num_thread": 1},
        )
    )
    ollama.close()


# --------------------------------------------------------------------------- the table


def row(measure: str, ours: float, peer: float, goal: float) -> results.Row:
    """A line of the table: it holds where ours is at most `goal` times the peer's."""
    return results.row(measure, ours, peer, goal, holds=ours <= goal * peer)


def main() -> int:
    """Measure, print and write down. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulated", action="store_true", help="leave the real model out")
    simulated = parser.parse_args().simulated
    found = [row for scores in SCORES for row in power(scores)]
    rows = [seasons(scores) for scores in SCORES]
    points, right_or_wrong, ties = SCORES
    plans = [(points, gain) for gain in GAINS[1:]] + [(right_or_wrong, 20.0), (ties, 10.0)]
    rows += [one for scores, gain in plans for one in items_against_fixed(scores, gain)]
    if not simulated:
        real, figures = real_exams()
        rows.append(real)
        results.show("The answers of the model to itself", [figures])
    results.show("Share of real gains that is proven by so many items", found)
    results.write("exams-power", found)
    return results.presented("exams", "Exams", rows)


if __name__ == "__main__":
    sys.exit(main())
