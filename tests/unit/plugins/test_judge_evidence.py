"""The evidence of the judge: what no night may earn by luck, whatever is looked at and however often."""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from nightschool_hookspecs import (
    CountedItem,
    Evidence,
    Exam,
    ExamAnswer,
    ExamItem,
    ItemRole,
    Outcome,
    RankedPair,
    Sitting,
    Specialty,
    Verdict,
)
from nightschool_plugins.judge_paired import JudgePaired

JUDGE = JudgePaired(resamples=999)
PROOF = math.log(40)
GAINS = st.lists(st.floats(-100, 100), max_size=30)


def exam(
    gains: Sequence[float],
    keys: Sequence[str] | None = None,
    evidence: Evidence | None = None,
    *,
    together: int = 1,
    to_come: int = 0,
) -> Exam:
    """An exam whose candidate gained this on the items with these keys, from 50 points."""
    names = [str(number) for number in range(len(gains))] if keys is None else keys
    scores = {Sitting.INCUMBENT: 0.0, Sitting.CANDIDATE: 1.0, Sitting.INCUMBENT_AGAIN: 0.0}
    return Exam(
        specialty=Specialty(base="tiny:latest", artifact_type="shell"),
        incumbent="i",
        candidate="c",
        items=tuple(
            ExamItem(id=f"id {key}", event_id=key, artifact_type="shell", role=ItemRole.GAIN, messages=(), group=key)
            for key in names
        ),
        answers=tuple(
            ExamAnswer(
                item_id=f"id {key}",
                sitting=sitting,
                model="m",
                text="an answer",
                score=50 + share * gain,
                detail="",
                failed=False,
                latency_s=1.0,
                tokens=5,
                done_reason="stop",
            )
            for sitting, share in scores.items()
            for key, gain in zip(names, gains, strict=True)
        ),
        evidence=evidence or Evidence(),
        judged_together=together,
        to_come=to_come,
    )


def ranked(*changes: float, margin: float = 0.0) -> tuple[RankedPair, ...]:
    """Pairs whose margin changed so much, in nats a token."""
    return tuple(
        RankedPair(event_id=f"e {number}", key=f"pair {number}", incumbent=margin, candidate=margin + change)
        for number, change in enumerate(changes)
    )


def judge(one: Exam, seed: int = 1) -> Verdict:
    return JUDGE.nightschool_judge_exam(one, (), seed)


def scores(chance: numpy.random.Generator, items: int, gain: float) -> tuple[NDArray[numpy.float64], ...]:
    """Incumbent and candidate: standard deviation 20, correlation 0.7, within 0..100."""
    incumbent = chance.normal(60, 20, items)
    candidate = 60 + 0.7 * (incumbent - 60) + chance.normal(0, 20 * math.sqrt(1 - 0.7**2), items) + gain
    return numpy.clip(incumbent, 0, 100), numpy.clip(candidate, 0, 100)


# --------------------------------------------------------------------------- the bet is fair


@settings(max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_between_equal_models_the_expected_capital_is_what_it_was(sizes: list[float]) -> None:
    """Over all signs, each as likely: the martingale, exactly."""
    values = [
        math.exp(JUDGE.log_e_value([size * sign for size, sign in zip(sizes, signs, strict=True)]))
        for signs in itertools.product((1, -1), repeat=len(sizes))
    ]
    assert numpy.mean(values) == pytest.approx(1)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 40)), min_size=1, max_size=8))
def test_against_a_better_incumbent_the_expected_capital_falls(items: list[tuple[float, float]]) -> None:
    values = [
        math.exp(JUDGE.log_e_value([size * sign - loss for (size, loss), sign in zip(items, signs, strict=True)]))
        for signs in itertools.product((1, -1), repeat=len(items))
    ]
    assert numpy.mean(values) <= 1 + 1e-9


@given(GAINS)
def test_the_capital_is_never_negative_and_always_a_number(gains: list[float]) -> None:
    assert math.isfinite(JUDGE.log_e_value(gains))


@given(GAINS.filter(bool))
def test_a_look_after_an_item_sees_what_came_so_far(gains: list[float]) -> None:
    looks = [JUDGE.log_e_value(gains[: seen + 1]) for seen in range(len(gains))]
    assert list(JUDGE.log_e_path(gains)) == pytest.approx(looks, abs=1e-9)


@given(GAINS, st.integers(0, 2**32))
def test_the_order_of_items_does_not_matter(gains: list[float], seed: int) -> None:
    shuffled = random.Random(seed).sample(gains, len(gains))
    assert JUDGE.log_e_value(shuffled) == pytest.approx(JUDGE.log_e_value(gains), abs=1e-9)


@given(GAINS.filter(bool), st.floats(0, 100), st.integers(0, 29))
def test_a_larger_gain_is_never_less_evidence(gains: list[float], more: float, place: int) -> None:
    raised = list(gains)
    raised[place % len(gains)] = min(100.0, raised[place % len(gains)] + more)
    assert JUDGE.log_e_value(raised) >= JUDGE.log_e_value(gains) - 1e-9


@given(GAINS.filter(bool))
def test_gains_that_sum_to_nothing_earn_nothing(gains: list[float]) -> None:
    """Whatever their distribution: log(1 + tanh) is concave."""
    level = [gain - max(0.0, float(numpy.mean(gains))) for gain in gains]
    assert JUDGE.log_e_value(level) <= 1e-9


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 1))
def test_no_stake_gains_in_the_long_run_where_many_small_gains_make_up_for_rare_losses_at_most(
    gain: float, loss: float, share: float
) -> None:
    """Growth an item of each stake, exactly. What such a candidate is proven by is what came before the first loss."""
    gain = min(gain, share * loss / (1 - share)) if share < 1 else gain
    for stake in JUDGE.stakes:
        alone = JudgePaired(stakes=(stake,))
        assert (1 - share) * alone.log_e_value([gain]) + share * alone.log_e_value([-loss]) <= 1e-9


def test_a_rare_loss_is_proof_of_nothing_only_where_it_was_met() -> None:
    """+5 on nine of ten and -90 on the tenth is worse, and proven by eleven items that all are among the nine."""
    assert JUDGE.log_e_value([5.0] * 10) < PROOF <= JUDGE.log_e_value([5.0] * 11)
    assert JUDGE.log_e_path([5.0] * 5 + [-90.0] + [5.0] * 9 * 4).max() < PROOF


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=5))
def test_five_items_never_prove(gains: list[float]) -> None:
    assert JUDGE.log_e_value(gains) < PROOF


# --------------------------------------------------------------------------- over the nights


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(-100, 100), max_size=8), min_size=1, max_size=4))
def test_e_values_multiply_over_the_nights(nights: list[list[float]]) -> None:
    evidence = Evidence()
    for number, gains in enumerate(nights):
        keys = [f"{number}/{place}" for place in range(len(gains))]
        verdict = judge(exam(gains, keys, evidence))
        evidence = Evidence(
            log_e_value=verdict.log_e_value,
            counted=(*evidence.counted, *verdict.counted),
            used=(*evidence.used, *keys),
        )
    every = [gain for gains in nights for gain in gains]
    assert [one.gain for one in evidence.counted] == pytest.approx(every, abs=1e-9)
    assert evidence.log_e_value == pytest.approx(JUDGE.log_e_value(every), abs=1e-9)


def test_proof_may_take_two_nights() -> None:
    first = judge(exam([60.0] * 5))
    assert first.outcome is Outcome.PROVISIONAL
    evidence = Evidence(
        log_e_value=first.log_e_value, counted=first.counted, used=tuple(one.key for one in first.counted)
    )
    second = judge(exam([60.0] * 6, list("abcdef"), evidence))
    assert second.outcome is Outcome.PROVEN
    assert len(second.counted) == 6


def test_an_item_that_was_used_is_no_evidence_but_part_of_the_night() -> None:
    known = Evidence(used=tuple("abcdef"))
    verdict = judge(exam([50.0] * 7, list("abcdefg"), known))
    assert verdict.counted == (CountedItem(key="g", gain=50.0),)
    assert verdict.items == 7
    assert verdict.outcome is Outcome.PROVISIONAL


def test_proof_of_earlier_nights_promotes_nothing_that_does_not_look_better_tonight() -> None:
    proven = Evidence(log_e_value=2 * PROOF)
    verdict = judge(exam([5.0, -5.0, 4.0, -4.0, 1.0, -1.0, 0.0, 0.0], None, proven))
    assert verdict.log_e_value > verdict.log_e_needed
    assert verdict.outcome is Outcome.NOT_ENOUGH


def test_an_exam_is_decided_by_proof_a_loss_or_when_nothing_could_prove_it_any_more() -> None:
    assert judge(exam([60.0] * 7, to_come=50)).decided
    assert judge(exam([-60.0] * 7, to_come=50)).decided
    level = [30.0, -30.0, 20.0, -10.0] * 5
    assert not judge(exam(level, to_come=200)).decided
    hopeless = judge(exam(level, to_come=10))
    assert (hopeless.outcome, hopeless.decided) == (Outcome.NOT_ENOUGH, True)


@pytest.mark.parametrize(("least_chance", "decided"), [(0.2, False), (0.6, True)])
def test_an_exam_goes_on_where_luck_alone_is_missing(least_chance: float, *, decided: bool) -> None:
    """Of 17 questions nine are asked, of which four gained: it takes about as many more as there are to come."""
    plugin = JudgePaired(resamples=999, least_chance=least_chance)
    one = exam([60.0, 0.0, 45.0, 0.0, 0.0, 30.0, 0.0, 0.0, 20.0], to_come=8)
    verdict = plugin.nightschool_judge_exam(one, (), 1)
    assert (verdict.outcome, verdict.decided) == (Outcome.PROVISIONAL, decided)


@given(
    gains=st.lists(st.floats(-100, 100), min_size=6, max_size=20),
    to_come=st.integers(0, 60),
    chances=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)),
)
def test_who_wants_less_of_a_chance_is_asked_longer(
    gains: list[float], to_come: int, chances: tuple[float, float]
) -> None:
    tonight = numpy.array(gains)
    patient, hasty = (
        JudgePaired(least_chance=one).is_hopeless(gains, tonight, to_come, PROOF) for one in sorted(chances)
    )
    assert hasty or not patient


def test_the_more_specialties_are_judged_together_the_more_is_needed() -> None:
    needed = [math.exp(judge(exam([20.0] * 6, together=number)).log_e_needed) for number in (1, 2, 3, 8)]
    assert needed == pytest.approx([40, 40, 60, 160])


# --------------------------------------------------------------------------- what is still missing


def test_where_the_number_of_items_is_not_what_is_missing_the_obstacle_is_named() -> None:
    before = Evidence(log_e_value=2 * PROOF, counted=(CountedItem(key="a", gain=90.0),) * 6)
    noisy = exam([20.0] * 12)
    again = [replace(one, score=25.0) if one.sitting is Sitting.INCUMBENT_AGAIN else one for one in noisy.answers]
    cases = {
        "asked twice, differs by as much as the gain (25.0 points)": replace(noisy, answers=tuple(again)),
        "No gain was seen": exam([-5.0] * 6, evidence=before),
        "Questions and ranked pairs say opposite things": replace(exam([-4] * 6), ranked=ranked(*[3.0] * 15)),
        "may be chance": exam([30.0, -20.0, 10.0, -15.0, 5.0, 2.0], evidence=before),
    }
    for obstacle, one in cases.items():
        verdict = judge(one)
        assert verdict.outcome in (Outcome.NOT_ENOUGH, Outcome.PROVISIONAL)
        assert (obstacle in verdict.obstacle, verdict.items_needed) == (True, None)
    assert judge(exam([20.0] * 12)).obstacle == ""


def test_the_fewest_items_that_prove_anything_are_part_of_what_is_still_needed() -> None:
    before = Evidence(log_e_value=2 * PROOF, counted=(CountedItem(key="a", gain=90.0),) * 6)
    verdict = judge(exam([90.0] * 3, evidence=before))
    assert (verdict.outcome, verdict.items_needed) == (Outcome.PROVISIONAL, 3)
    assert "about 3 new items are still needed" in verdict.reason


# --------------------------------------------------------------------------- honest, and not blind


def promotions(gain: float, exams: int, seed: int) -> int:
    chance = numpy.random.default_rng(seed)
    found = 0
    for number in range(exams):
        incumbent, candidate = scores(chance, 100, gain)
        one = exam(list(candidate - incumbent))
        found += judge(one, number).outcome is Outcome.PROVEN
    return found


def test_equal_models_are_promoted_at_most_ten_times_in_two_hundred() -> None:
    assert promotions(0.0, 200, seed=17) <= 10


def test_a_worse_candidate_is_promoted_at_most_twice_in_two_hundred() -> None:
    assert promotions(-5.0, 200, seed=18) <= 2


def test_who_looks_after_every_item_of_a_season_is_not_deceived() -> None:
    """400 seasons of 30 nights between equal models: no more proofs at any moment than Ville allows."""
    chance = numpy.random.default_rng(19)
    deceived = 0
    for season in range(400):
        kept = chance.random(120) < 0.5
        gains = numpy.where(kept, 0, chance.choice([-100.0, -40.0, 40.0, 100.0], 120))
        if season % 2:
            incumbent, candidate = scores(chance, 120, 0.0)
            gains = candidate - incumbent
        deceived += bool((JUDGE.log_e_path(list(gains)) >= PROOF).any())
    assert deceived <= stats.binom.ppf(0.999, 400, 0.025)


def test_a_gain_of_ten_points_is_found_in_most_nights_of_sixty_items() -> None:
    chance = numpy.random.default_rng(20)
    found = 0
    for number in range(40):
        incumbent, candidate = scores(chance, 60, 10.0)
        found += judge(exam(list(candidate - incumbent)), number).outcome is Outcome.PROVEN
    assert found >= 34


@pytest.mark.parametrize("folds", [2, 4])
def test_cross_fitted_learners_whose_lesson_is_worth_nothing_are_proven_in_few_seasons(folds: int) -> None:
    """Ridge regression on labels that have nothing to do with the items: each learner is right by chance alone.

    An item gains where prediction and label agree in sign. A learner shares its items with those of the other folds,
    so that the gains of a season are not independent.
    """
    chance = numpy.random.default_rng(1)
    seasons, items, width = 1000, 32, 8
    proven = 0
    for _ in range(seasons):
        known, labels = chance.standard_normal((items, width)), chance.standard_normal(items)
        fold = numpy.arange(items) % folds
        gains = numpy.empty(items)
        for number in range(folds):
            seen, asked = known[fold != number], known[fold == number]
            lesson = numpy.linalg.solve(seen.T @ seen + numpy.eye(width), seen.T @ labels[fold != number])
            gains[fold == number] = 60 * (asked @ lesson) * labels[fold == number]
        gains = numpy.clip(gains + 5 * chance.standard_normal(items), -100, 100)
        proven += bool(JUDGE.log_e_path(gains[numpy.argsort(fold, kind="stable")]).max() >= PROOF)
    assert proven <= 0.025 * seasons


# --------------------------------------------------------------------------- pairs that were ranked


@pytest.mark.parametrize("margin", [-5, 0, 5])
def test_pairs_alone_can_prove_whichever_answer_was_the_likelier_one(margin: float) -> None:
    verdict = judge(replace(exam([]), ranked=ranked(*[0.5] * 12, margin=margin)))
    assert (verdict.outcome, verdict.items, verdict.pairs, verdict.noise) == (Outcome.PROVEN, 12, 12, 0)
    assert verdict.gain == pytest.approx(100 * math.tanh(0.5))
    assert [one.key for one in verdict.counted] == [f"pair {number}" for number in range(12)]


def test_pairs_alone_can_refute() -> None:
    assert judge(replace(exam([]), ranked=ranked(*[-0.5] * 12))).outcome is Outcome.WORSE


def test_preferences_make_up_for_no_worse_answers() -> None:
    """Twelve questions at -8 are as good as proof of a loss, whatever the pairs say."""
    alone = judge(exam([-8] * 12))
    both = judge(replace(exam([-8] * 12), ranked=ranked(*[3.0] * 15)))
    assert (alone.outcome, both.outcome) == (Outcome.WORSE, Outcome.WORSE)
    assert both.gain > 30
    worse = judge(replace(exam([10] * 20), ranked=ranked(*[-1.0] * 6)))
    assert worse.outcome is Outcome.WORSE


def test_where_questions_and_pairs_say_opposite_things_nothing_is_proven() -> None:
    verdict = judge(replace(exam([-4] * 6), ranked=ranked(*[3.0] * 15)))
    assert verdict.outcome is Outcome.NOT_ENOUGH
    assert "opposite" in verdict.reason
    alike = judge(replace(exam([4] * 6), ranked=ranked(*[3.0] * 15)))
    assert alike.outcome is Outcome.PROVEN


def test_a_pair_that_an_earlier_exam_ranked_is_no_new_evidence() -> None:
    known = Evidence(used=("pair 0",))
    verdict = judge(replace(exam([], evidence=known), ranked=ranked(1, 1)))
    assert [one.key for one in verdict.counted] == ["pair 1"]


@pytest.mark.parametrize("margin", [-1.0, 0.0])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_a_lesson_that_only_disturbs_is_not_proven(margin: float, spread: float) -> None:
    """Where the incumbent ranks most pairs wrong, whatever disturbs it ranks more right. It is looked at each pair."""
    chance = numpy.random.default_rng(5)
    seasons = 1000
    proven = 0
    for _ in range(seasons):
        margins = chance.normal(margin, 1, 40)
        changed = margins + chance.normal(0, spread, 40)
        pairs = [
            RankedPair(event_id="e", key="k", incumbent=before, candidate=after)
            for before, after in zip(margins, changed, strict=True)
        ]
        proven += JUDGE.log_e_path([one.gain for one in pairs]).max() >= PROOF
    assert stats.binomtest(int(proven), seasons, 0.025, alternative="greater").pvalue > 0.001
