"""`make bench-noise`: how much wrong feedback `noise_agreement` finds, and what right feedback loses by it.

Real commands of NL2Bash, a tenth of them wrong. Swapped: the command of another description, among events of which a
third stand alone, a third in pairs and a third in threes of near-duplicates. Judged: what models answered, each event
with an answer that people found right, or wrong; three events a description. Losses are those of a real training of
SmolLM2 135M with the defaults of a night.

AUC is the probability that a wrong event is doubted more than a right one; ties count half, 0.5 is chance. Peers: the
agreement of the wanted answer with those of the three nearest prompts (Wilson 1972), by the same vectors and
similarities; mean confidence over the epochs (Swayamdipta et al. 2020), of the same losses.
"""

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import forms, results, tasks  # noqa: E402 - found through the path above
from nightschool_daemon.evaluation.embedding import CachedEmbed, StaticEmbedder  # noqa: E402
from nightschool_daemon.evaluation.similarity import CombinedMeasure  # noqa: E402
from nightschool_daemon.hooks import Hooks  # noqa: E402
from nightschool_daemon.jobs import RunDirectory, Step  # noqa: E402
from nightschool_daemon.learning import defaults, gguf_file  # noqa: E402
from nightschool_daemon.learning.engine.route import fine_tune  # noqa: E402
from nightschool_daemon.learning.loading import load_tokens  # noqa: E402
from nightschool_daemon.ollama.storage import sha256_of  # noqa: E402
from nightschool_daemon.runs.trajectories import trajectories_of  # noqa: E402
from nightschool_hookspecs import Embed, Event, FeedbackType, LossTrajectory, Measure, Metadata, ScoredEvent  # noqa: E402
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod, TrainingText  # noqa: E402
from nightschool_plugins.noise_agreement import NoiseAgreement  # noqa: E402
from support.base_models import MODELS  # noqa: E402
from support.training_jobs import training_job  # noqa: E402

BASE = "smollm2"
JUDGED = tasks.DATA / "nl2bash" / "judged.jsonl"
PROMPTS, WRONG_SHARE = 120, 0.1
SEEDS = (0, 1, 2)
WORDINGS = ("{}", "{}, please", "so {}")
VOICES = 3
NEAREST = 3
NEVER = 1000.0
"""A stubbornness that there is not."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Feedback, and which of it is wrong."""

    events: tuple[ScoredEvent, ...]
    wrong: frozenset[str]

    def only(self, kept: Sequence[ScoredEvent]) -> "Pool":
        """Of some events alone."""
        return Pool(events=tuple(kept), wrong=self.wrong & {one.event.key for one in kept})

    def in_groups(self) -> "Pool":
        """Of those that have near-duplicates."""
        groups = [one.group for one in self.events]
        return self.only([one for one in self.events if groups.count(one.group) > 1])


def main() -> int:
    """Take all figures, print the table. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-training", action="store_true", help="leave out what needs losses, which takes long")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        embed = CachedEmbed(StaticEmbedder, Path(text) / "vectors.sqlite3")
        measure = CombinedMeasure(Hooks.load(plugin_directory=None, tables={}), embed)
        rows = [*by_votes(measure, embed), *of_judged(measure, embed)]
        if not given.without_training:
            rows += by_losses(measure, Path(text))
    return results.presented("noise", "Wrong feedback found", rows)


# --------------------------------------------------------------------------- feedback


def swapped(seed: int, share: float = WRONG_SHARE) -> Pool:
    """Commands of descriptions, some of them those of another one."""
    chance = random.Random(f"{seed}/swapped")
    pairs = tasks.shell(seed, PROMPTS, 0).learned
    drafts = [
        (f"{number}", wording.format(pair.prompt[:1].lower() + pair.prompt[1:]), pair.answer)
        for number, pair in enumerate(pairs)
        for wording in WORDINGS[: 1 + number % len(WORDINGS)]
    ]
    wrong = set(chance.sample(range(len(drafts)), round(share * len(drafts))))
    events = []
    for place, (group, prompt, answer) in enumerate(drafts):
        others = [pair.answer for pair in pairs if pair.answer != answer]
        events.append(correction(place, group, prompt, chance.choice(others) if place in wrong else answer))
    return Pool(events=tuple(events), wrong=frozenset(events[place].event.key for place in wrong))


def judged(seed: int, share: float = WRONG_SHARE) -> Pool:
    """Answers that people judged: three different right ones of a description, some replaced by one found wrong."""
    chance = random.Random(f"{seed}/judged")
    events: list[ScoredEvent] = []
    wrong: set[str] = set()
    for number, row in enumerate(map(json.loads, JUDGED.open(encoding="utf-8"))):
        said = {"y": list(row["references"]), "n": []}
        for one in row["predictions"]:
            said[one["command"]].append(one["prediction"])
        right = list(dict.fromkeys(said["y"]))
        if len(right) < VOICES or not said["n"]:
            continue
        for answer in chance.sample(right, VOICES):
            is_wrong = chance.random() < share
            given = chance.choice(said["n"]) if is_wrong else answer
            events.append(correction(len(events), f"{number}", row["description"], given))
            if is_wrong:
                wrong.add(events[-1].event.key)
    return Pool(events=tuple(events), wrong=frozenset(wrong))


def correction(number: int, group: str, prompt: str, wanted: str) -> ScoredEvent:
    """By a person of its own."""
    event = Event(
        id=f"{number:04}",
        timestamp=NOW,
        feedback_type=FeedbackType.USER_CORRECTION,
        input_data=prompt,
        artifact_type="shell",
        corrected_output=wanted,
        metadata=Metadata(user=f"person {number}"),
    )
    return ScoredEvent(event=event, priority=1.5, reward=1.0, difficulty=0.5, group=group, trained_on=False)


# --------------------------------------------------------------------------- figures


def by_votes(measure: Measure, embed: Embed) -> list[results.Row]:
    """Among near-duplicates, without losses."""
    pools = [swapped(seed).in_groups() for seed in SEEDS]
    looks = [look(pool, measure) for pool in pools]
    clean = [look(swapped(seed, 0.0).in_groups(), measure) for seed in SEEDS]
    ours, peer = mean([one.auc() for one in looks]), mean([auc(one, nearest(one, measure, embed)) for one in pools])
    return [
        results.row("swapped among near-duplicates, AUC, by votes", ours, peer, None, holds=ours > 0.9),
        *told(looks),
        kept_row("a clean pool, weight that is left", clean, 0.999),
    ]


def of_judged(measure: Measure, embed: Embed) -> list[results.Row]:
    """Where several answers are right, and the wrong ones are near misses."""
    pools = [judged(seed) for seed in SEEDS]
    looks = [look(pool, measure) for pool in pools]
    clean = [look(judged(seed, 0.0), measure) for seed in SEEDS]
    ours, peer = mean([one.auc() for one in looks]), mean([auc(one, nearest(one, measure, embed)) for one in pools])
    return [
        results.row("judged wrong beside different right answers, AUC, by votes", ours, peer, None, holds=None),
        *told(looks),
        kept_row("different right answers, weight that is left", clean, 0.97),
    ]


def by_losses(measure: Measure, place: Path) -> list[results.Row]:
    """With those of a real training."""
    pools = [swapped(seed) for seed in SEEDS]
    known = [learned(pool, seed, place / f"{seed}") for seed, pool in zip(SEEDS, pools, strict=True)]
    stubborn = [NoiseAgreement().stubbornness(one) for one in known]
    alone = mean([auc(pool, scores) for pool, scores in zip(pools, stubborn, strict=True)])
    peer = mean([auc(pool, unconfident(one)) for pool, one in zip(pools, known, strict=True)])
    grouped = [pool.in_groups() for pool in pools]
    without = [look(pool, measure) for pool in grouped]
    beside = [look(pool, measure, one) for pool, one in zip(grouped, known, strict=True)]
    ours, votes = (mean([one.auc() for one in looks]) for looks in (beside, without))
    worth = evidence(grouped, stubborn)
    return [
        results.row("swapped among all, AUC, by losses alone", alone, peer, None, holds=alone > 0.7),
        *shown_rows(pools, stubborn),
        results.row("swapped among near-duplicates, AUC, by both", ours, votes, None, holds=ours >= votes),
        *told(beside),
        results.row("  what a unit of stubbornness is worth, log odds", worth, 0, None, holds=None),
    ]


def shown_rows(pools: Sequence[Pool], stubborn: Sequence[Mapping[str, float]]) -> list[results.Row]:
    """What is shown for its losses alone."""
    lowest = NoiseAgreement().stubborn_from
    shown = [
        key in pool.wrong
        for pool, scores in zip(pools, stubborn, strict=True)
        for key, score in scores.items()
        if score >= lowest
    ]
    wrong = sum(len(pool.wrong) for pool in pools)
    return [
        results.row("  share of those shown for it that is wrong", mean(shown), WRONG_SHARE, None, holds=None),
        results.row("  share of the wrong that is shown for it", sum(shown) / wrong, 0, None, holds=None),
    ]


def evidence(pools: Sequence[Pool], stubborn: Sequence[Mapping[str, float]]) -> float:
    """How far apart a wrong and a right answer to one question are, as the slope of a logistic curve through 0."""
    gaps = [
        scores[one.event.key] - scores[other.event.key]
        for pool, scores in zip(pools, stubborn, strict=True)
        for one in pool.events
        for other in pool.events
        if one.group == other.group and one.event.key in pool.wrong and other.event.key not in pool.wrong
    ]
    slopes = np.linspace(0, 5, 501)
    likelihoods = [float(np.sum(np.log1p(np.exp(-slope * np.array(gaps))))) for slope in slopes]
    print(f"{len(gaps)} wrong answers beside a right one, {np.mean(np.array(gaps) > 0):.1%} of them harder to learn")
    return float(slopes[int(np.argmin(likelihoods))])


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found in a pool."""

    pool: Pool
    factors: Mapping[str, float]
    """Of what was found."""

    def auc(self) -> float:
        """Of what is shown by what is left of its weight; what is not shown comes last."""
        scores = {one.event.key: 0.0 for one in self.pool.events}
        return auc(self.pool, scores | {key: 2 - factor for key, factor in self.factors.items()})

    def doubted(self) -> list[bool]:
        """Of what weighs less, whether it is wrong."""
        return [key in self.pool.wrong for key, factor in self.factors.items() if factor < 1]

    def shown(self) -> list[bool]:
        """The same of all that is shown."""
        return [key in self.pool.wrong for key in self.factors]

    def kept(self) -> list[float]:
        """The factor of each right event."""
        keys = (one.event.key for one in self.pool.events)
        return [self.factors.get(key, 1.0) for key in keys if key not in self.pool.wrong]


def look(pool: Pool, measure: Measure, known: Sequence[LossTrajectory] = ()) -> Look:
    """What is contradicted; what is shown for its losses alone is left out."""
    plugin = NoiseAgreement(stubborn_from=NEVER)
    found = plugin.nightschool_find_noise(pool.events, tuple(known), measure)
    return Look(pool=pool, factors={one.event_id: one.factor for one in found})


def told(looks: Sequence[Look]) -> list[results.Row]:
    """How much of what is doubted or shown is wrong, and how much of what is wrong is; what is left of the rest."""
    wrong = sum(len(one.pool.wrong) for one in looks)
    doubted = [is_wrong for one in looks for is_wrong in one.doubted()]
    shown = [is_wrong for one in looks for is_wrong in one.shown()]
    return [
        results.row("  share of the doubted that is wrong", mean(doubted), WRONG_SHARE, None, holds=None),
        results.row("  share of the wrong that is doubted", sum(doubted) / wrong, 0, None, holds=None),
        results.row("  share of the shown that is wrong", mean(shown), WRONG_SHARE, None, holds=None),
        results.row("  share of the wrong that is shown", sum(shown) / wrong, 0, None, holds=None),
        kept_row("  weight that is left to the right", looks, None),
    ]


def kept_row(title: str, looks: Sequence[Look], goal: float | None) -> results.Row:
    """The mean factor of what is right."""
    kept = mean([factor for one in looks for factor in one.kept()])
    return results.row(title, kept, 1.0, goal, holds=None if goal is None else kept >= goal)


# --------------------------------------------------------------------------- peers


def nearest(pool: Pool, measure: Measure, embed: Embed) -> dict[str, float]:
    """How unlike an answer is those of the nearest prompts."""
    prompts = [one.event.input_data for one in pool.events]
    answers = [one.event.target or "" for one in pool.events]
    found = embed(prompts)
    if found is None:
        raise RuntimeError("The static model is not there.")
    vectors = np.frombuffer(found.values, dtype=np.float32).reshape(found.rows, found.columns)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    scores = {}
    for place, near in enumerate(np.argsort(-cosines, axis=1)[:, :NEAREST]):
        alike = measure([answers[place]], [answers[other] for other in near]).values.tolist()
        scores[pool.events[place].event.key] = -mean(alike)
    return scores


def unconfident(known: Sequence[LossTrajectory]) -> dict[str, float]:
    """How low the mean over the epochs is of the likelihood of an answer's tokens."""
    return {one.event_id: -mean([math.exp(-loss) for loss in one.losses]) for one in known}


def auc(pool: Pool, scores: Mapping[str, float]) -> float:
    """The area under the curve of what is wrong."""
    of_wrong, of_right = (
        np.array([scores[one.event.key] for one in pool.events if (one.event.key in pool.wrong) is wanted])
        for wanted in (True, False)
    )
    higher: NDArray[np.float64] = np.sign(of_wrong[:, None] - of_right[None, :])
    return float((higher.mean() + 1) / 2)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# --------------------------------------------------------------------------- a training


def learned(pool: Pool, seed: int, place: Path) -> tuple[LossTrajectory, ...]:
    """How SmolLM2 learns a pool, by a night's defaults."""
    model = MODELS[BASE]
    base = forms.fetched(BASE, model)
    file = gguf_file.read(base)
    begin, end = model.turn
    texts = [
        TrainingText(
            event_id=one.event.key,
            prompt=begin.format(prompt=one.event.input_data),
            completion=(one.event.target or "") + end,
            group=one.group,
        )
        for one in random.Random(f"{seed}/order").sample(pool.events, len(pool.events))
    ]
    settings = Hyperparameters(form=TrainedForm.NEURONS)
    settings = replace(settings, learning_rate=defaults.rate_of(file, settings.form))
    run = RunDirectory(path=place)
    job = replace(training_job(run.step(Step.TRAIN), base, settings, texts=texts), seed=seed)
    tokens = load_tokens(file, sha256_of(base), forms.cached())
    fine_tune(file, tokens, job, TrainingMethod.SFT, settings, _heard)
    return tuple(trajectories_of(run, f"{seed}"))


def _heard(done: int, total: int, text: str) -> None:
    print(f"{done} of {total}: {text}", end="\r", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
