"""`make bench-noise`: how much wrong feedback `noise_agreement` finds, and what right feedback loses by it.

Real commands of NL2Bash, a tenth of them wrong. Swapped: the command of another description, among events of which a
third stand alone, a third in pairs and a third in threes of near-duplicates. Judged: what models answered, each event
with an answer that people found right, or wrong; three events a description. Losses are those of a real training of
SmolLM2 135M with the defaults of a night, and of another under the curriculum by stages.

AUC is the probability that a wrong event is doubted more than a right one; ties count half. Peers, each on the same
events: chance, by random scores; the agreement of the wanted answer with those of the three nearest prompts (Wilson
1972), by the same vectors and similarities; the plain loss of an answer when it was last learned from; its mean
likelihood over the training (Swayamdipta et al. 2020), which is the confidence of confident learning (Northcutt et al.
2021) where an answer is a text and no class.

A row holds where ours is at least the goal times the peer's, one of weights where so much is left. What has no goal is
only told: votes find what to doubt, and make no ranking. With one training there are 16 wrong events, so that areas are
certain to a twentieth; hence the goal beside the other losses.
"""

import argparse
import json
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
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
from nightschool_daemon.learning.engine.curriculum import Arrange, nobody_arranges  # noqa: E402
from nightschool_daemon.learning.loading import load_tokens  # noqa: E402
from nightschool_daemon.ollama.storage import sha256_of  # noqa: E402
from nightschool_daemon.runs.trajectories import trajectories_of  # noqa: E402
from nightschool_hookspecs import Embed, Event, FeedbackType, LossTrajectory, Measure, Metadata, ScoredEvent  # noqa: E402
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod, TrainingText  # noqa: E402
from nightschool_plugins.noise_agreement import NoiseAgreement  # noqa: E402
from support.base_models import MODELS  # noqa: E402
from support.training_jobs import fine_tune, staged, training_job  # noqa: E402

BASE = "smollm2"
JUDGED = tasks.DATA / "nl2bash" / "judged.jsonl"
PROMPTS, WRONG_SHARE = 80, 0.1
SEEDS = (0, 1, 2)
WORDINGS = ("{}", "{}, please", "so {}")
VOICES = 3
NEAREST = 3
LOSS_GOAL = 0.95
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

    def by_nobody(self) -> "Pool":
        """As if nobody had said who they are, each a day after the other."""
        events = [
            replace(
                one,
                event=replace(
                    one.event, timestamp=NOW + timedelta(days=day), metadata=replace(one.event.metadata, user=None)
                ),
            )
            for day, one in enumerate(self.events)
        ]
        return Pool(events=tuple(events), wrong=self.wrong)

    def in_groups(self) -> "Pool":
        """Of those that have near-duplicates."""
        groups = Counter(one.group for one in self.events)
        return self.only([one for one in self.events if groups[one.group] > 1])

    def alone(self) -> "Pool":
        """Of the others."""
        groups = Counter(one.group for one in self.events)
        return self.only([one for one in self.events if groups[one.group] == 1])


def main() -> int:
    """Take all figures, print the table. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=1, help="pools that are trained on, twice each, of at most 3")
    given = parser.parse_args()
    seeds = SEEDS[: given.trainings]
    with tempfile.TemporaryDirectory() as text:
        embed = CachedEmbed(StaticEmbedder, Path(text) / "vectors.sqlite3")
        measure = CombinedMeasure(Hooks.load(plugin_directory=None, tables={}), embed)
        rows = [*by_votes(measure, embed), *of_judged(measure, embed)]
        if seeds:
            rows += [*by_losses(seeds, measure, Path(text)), *by_stages(seeds, Path(text))]
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
    rivals = [nearest(one, measure, embed) for one in pools]
    ours = mean([one.auc() for one in looks])
    return [
        area_row("swapped among near-duplicates, AUC, by votes; peer: chance", ours, by_chance(pools), 1.5),
        area_row("  peer: the nearest prompts", ours, areas(pools, rivals), None),
        at_once_row(looks, rivals, 1.0),
        *told(looks),
        kept_row("a clean pool, weight that is left", clean, 0.999),
    ]


def of_judged(measure: Measure, embed: Embed) -> list[results.Row]:
    """Where several answers are right, and the wrong ones are near misses."""
    pools = [judged(seed) for seed in SEEDS]
    looks = [look(pool, measure) for pool in pools]
    right = [judged(seed, 0.0) for seed in SEEDS]
    rivals = [nearest(one, measure, embed) for one in pools]
    ours = mean([one.auc() for one in looks])
    return [
        area_row(
            "judged wrong beside different right answers, AUC, by votes; peer: chance", ours, by_chance(pools), 1.0
        ),
        area_row("  peer: the nearest prompts", ours, areas(pools, rivals), None),
        at_once_row(looks, rivals, None),
        *told(looks),
        kept_row("different right answers, weight that is left", [look(one, measure) for one in right], 0.97),
        kept_row("  the same without a user, day after day", [look(one.by_nobody(), measure) for one in right], 0.97),
    ]


def by_losses(seeds: Sequence[int], measure: Measure, place: Path) -> list[results.Row]:
    """With those of a real training."""
    pools = [swapped(seed) for seed in seeds]
    known = [learned(pool, seed, place / f"{seed}") for seed, pool in zip(seeds, pools, strict=True)]
    stubborn = [NoiseAgreement().stubbornness(one) for one in known]
    grouped, alone = [pool.in_groups() for pool in pools], [pool.alone() for pool in pools]
    without = [look(pool, measure) for pool in grouped]
    beside = [look(pool, measure, one) for pool, one in zip(grouped, known, strict=True)]
    both = mean([one.auc() for one in beside])
    ours, of_alone = areas(pools, stubborn), areas(alone, stubborn)
    last, confident = [last_losses(one) for one in known], [unconfident(one) for one in known]
    return [
        area_row("swapped among all, AUC, by losses; peer: chance", ours, by_chance(pools), 1.5),
        area_row("  peer: the last loss", ours, areas(pools, last), LOSS_GOAL),
        area_row("  peer: mean likelihood", ours, areas(pools, confident), LOSS_GOAL),
        area_row("  those without near-duplicates; peer: mean likelihood", of_alone, areas(alone, confident), None),
        *shown_rows(pools, stubborn),
        area_row(
            "swapped among near-duplicates, AUC, by both; peer: the last loss", both, areas(grouped, last), LOSS_GOAL
        ),
        area_row("  peer: votes alone", both, mean([one.auc() for one in without]), None),
        *told(beside),
        results.row(
            "  what a unit of stubbornness is worth, log odds", evidence(grouped, stubborn), 0, None, holds=None
        ),
    ]


def by_stages(seeds: Sequence[int], place: Path) -> list[results.Row]:
    """With those of a training that learns easy examples first and more often."""
    pools = [swapped(seed) for seed in seeds]
    known = [learned(pool, seed, place / f"{seed}-staged", staged()) for seed, pool in zip(seeds, pools, strict=True)]
    stubborn = [NoiseAgreement().stubbornness(one) for one in known]
    covered = mean([len(scores) / len(pool.events) for pool, scores in zip(pools, stubborn, strict=True)])
    ours = areas(pools, stubborn)
    return [
        area_row("swapped among all, AUC, by losses under a curriculum; peer: chance", ours, by_chance(pools), 1.0),
        area_row("  peer: the last loss", ours, areas(pools, [last_losses(one) for one in known]), None),
        area_row("  peer: mean likelihood", ours, areas(pools, [unconfident(one) for one in known]), 1.0),
        results.row("  share of events whose losses count", covered, 1, None, holds=None),
    ]


def area_row(title: str, ours: float, peer: float, goal: float | None) -> results.Row:
    """An area under the curve beside a peer's."""
    return results.row(title, ours, peer, goal, holds=None if goal is None else ours >= goal * peer)


def areas(pools: Sequence[Pool], scores: Sequence[Mapping[str, float]]) -> float:
    """The mean area; an event that has no score has one of 0."""
    return mean([auc(pool, of_pool) for pool, of_pool in zip(pools, scores, strict=True)])


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
        share_row("  share of those shown for it that is wrong", mean(shown), None),
        results.row("  share of the wrong that is shown for it", sum(shown) / wrong, 0, None, holds=None),
    ]


def evidence(pools: Sequence[Pool], stubborn: Sequence[Mapping[str, float]]) -> float:
    """How far apart a wrong and a right answer to one question are, as the slope of a logistic curve through 0."""
    gaps = [
        scores[one.event.key] - scores[other.event.key]
        for pool, scores in zip(pools, stubborn, strict=True)
        for one in pool.events
        for other in pool.events
        if one.group == other.group
        and {one.event.key, other.event.key} <= scores.keys()
        and one.event.key in pool.wrong
        and other.event.key not in pool.wrong
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
        share_row("  share of the doubted that is wrong; peer: chance", mean(doubted), 3.0),
        results.row("  share of the wrong that is doubted", sum(doubted) / wrong, 0, None, holds=None),
        share_row("  share of the shown that is wrong; peer: chance", mean(shown), None),
        results.row("  share of the wrong that is shown", sum(shown) / wrong, 0, None, holds=None),
        kept_row("  weight that is left to the right", looks, None),
    ]


def share_row(title: str, share: float, goal: float | None) -> results.Row:
    """Which share of some events is wrong, beside that of as many which chance picks."""
    holds = None if goal is None else share >= goal * WRONG_SHARE
    return results.row(title, share, WRONG_SHARE, goal, holds=holds)


def at_once_row(looks: Sequence[Look], rivals: Sequence[Mapping[str, float]], goal: float | None) -> results.Row:
    """Which share of the doubted is wrong, beside that of as many to which a peer gives the highest scores."""
    ours = mean([is_wrong for one in looks for is_wrong in one.doubted()])
    peer = mean(
        [
            key in one.pool.wrong
            for one, scores in zip(looks, rivals, strict=True)
            for key in sorted(scores, key=lambda key: -scores[key])[: len(one.doubted())]
        ]
    )
    title = "  share of the doubted that is wrong; peer: as many by the nearest prompts"
    return results.row(title, ours, peer, goal, holds=None if goal is None else ours >= goal * peer)


def kept_row(title: str, looks: Sequence[Look], goal: float | None) -> results.Row:
    """The mean factor of what is right."""
    kept = mean([factor for one in looks for factor in one.kept()])
    return results.row(title, kept, 1.0, goal, holds=None if goal is None else kept >= goal)


# --------------------------------------------------------------------------- peers


def by_chance(pools: Sequence[Pool]) -> float:
    """By random scores."""
    chance = random.Random("chance")
    return areas(pools, [{one.event.key: chance.random() for one in pool.events} for pool in pools])


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
    return {one.event_id: -mean([math.exp(-point.loss) for point in one.points]) for one in known}


def last_losses(known: Sequence[LossTrajectory]) -> dict[str, float]:
    """The plain loss when an answer was last learned from."""
    return {one.event_id: one.points[-1].loss for one in known}


def auc(pool: Pool, scores: Mapping[str, float]) -> float:
    """The area under the curve of what is wrong."""
    of_wrong, of_right = (
        np.array([scores.get(one.event.key, 0.0) for one in pool.events if (one.event.key in pool.wrong) is wanted])
        for wanted in (True, False)
    )
    higher: NDArray[np.float64] = np.sign(of_wrong[:, None] - of_right[None, :])
    return float((higher.mean() + 1) / 2)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# --------------------------------------------------------------------------- a training


def learned(pool: Pool, seed: int, place: Path, arrange: Arrange = nobody_arranges) -> tuple[LossTrajectory, ...]:
    """How SmolLM2 learns a pool, by a night's defaults."""
    model = MODELS[BASE]
    base = forms.fetched(BASE, model)
    file = gguf_file.read(base)
    hooks = Hooks.load(plugin_directory=None, tables={})
    begin, end = model.turn
    texts = [
        TrainingText(
            event_id=one.event.key,
            prompt=begin.format(prompt=one.event.input_data),
            completion=(one.event.target or "") + end,
            group=one.group,
            difficulty=hooks.score_difficulty(event=one.event),
        )
        for one in random.Random(f"{seed}/order").sample(pool.events, len(pool.events))
    ]
    settings = Hyperparameters(form=TrainedForm.NEURONS)
    settings = replace(settings, learning_rate=defaults.rate_of(file, settings.form))
    run = RunDirectory(path=place)
    job = replace(training_job(run.step(Step.TRAIN), base, settings, texts=texts), seed=seed)
    tokens = load_tokens(file, sha256_of(base), forms.cached())
    fine_tune(file, tokens, job, TrainingMethod.SFT, settings, _heard, arrange=arrange)
    return tuple(trajectories_of(run, f"{seed}"))


def _heard(done: int, total: int, text: str) -> None:
    print(f"{done} of {total}: {text}", end="\r", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
