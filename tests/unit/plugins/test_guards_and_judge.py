"""Guards and the judge, on exams made by hand and on many between equal models."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nightschool_hookspecs import (
    Exam,
    ExamAnswer,
    ExamItem,
    FirstScore,
    GuardResult,
    ItemRole,
    Outcome,
    Sitting,
    Specialty,
    Verdict,
)
from nightschool_plugins.guard_answers import GuardAnswers
from nightschool_plugins.guard_length import GuardLength
from nightschool_plugins.guard_liked import GuardLiked
from nightschool_plugins.guard_regression import GuardRegression
from nightschool_plugins.judge_paired import JudgePaired

HELD = GuardResult(guard="g", held=True, reason="fine")
BROKEN = GuardResult(guard="g", held=False, reason="Answers got longer.")


def exam(
    incumbent: Sequence[float],
    candidate: Sequence[float],
    again: Sequence[float] | None = None,
    *,
    role: ItemRole = ItemRole.GAIN,
    texts: dict[Sitting, str] | None = None,
    failed: frozenset[Sitting] = frozenset(),
) -> Exam:
    items = tuple(
        ExamItem(id=str(index), event_id=str(index), artifact_type="shell", role=role, messages=())
        for index in range(len(incumbent))
    )
    sittings = {
        Sitting.INCUMBENT: incumbent,
        Sitting.CANDIDATE: candidate,
        Sitting.INCUMBENT_AGAIN: incumbent if again is None else again,
    }
    answers = tuple(
        ExamAnswer(
            item_id=item.id,
            sitting=sitting,
            model="m",
            text=(texts or {}).get(sitting, "an answer"),
            score=score,
            detail="",
            failed=sitting in failed,
            latency_s=1.0,
            tokens=5,
            done_reason="stop",
        )
        for sitting, scores in sittings.items()
        for item, score in zip(items, scores, strict=True)
    )
    return Exam(
        specialty=Specialty(base="tiny:latest", artifact_type="shell"),
        incumbent="i",
        candidate="c",
        items=items,
        answers=answers,
    )


def judge(one: Exam, guards: tuple[GuardResult, ...] = (), seed: int = 1) -> Verdict:
    return JudgePaired().nightschool_judge_exam(one, guards, seed)


# --------------------------------------------------------------------------- judge


def test_a_clear_gain_is_proven() -> None:
    verdict = judge(exam([40] * 8, [60, 61, 62, 63, 64, 65, 66, 67]), (HELD,))
    assert verdict.outcome is Outcome.PROVEN
    assert verdict.p_value == 1 / 2**8
    assert (verdict.incumbent_mean, verdict.candidate_mean, verdict.gain) == (40, 63.5, 23.5)
    assert verdict.interval[0] < verdict.gain < verdict.interval[1]
    assert verdict.guards == (HELD,)
    assert "+23.5 points over 8 items" in verdict.reason


def test_a_broken_guard_is_worse_whatever_the_gain() -> None:
    verdict = judge(exam([0] * 20, [100] * 20), (HELD, BROKEN))
    assert verdict.outcome is Outcome.WORSE
    assert "Answers got longer." in verdict.reason


def test_a_significant_loss_is_worse() -> None:
    assert judge(exam([60, 61, 62, 63, 64, 65, 66, 67], [40] * 8)).outcome is Outcome.WORSE


def test_six_items_can_prove_and_five_cannot() -> None:
    assert judge(exam([0] * 6, [100] * 6)).outcome is Outcome.PROVEN
    five = judge(exam([0] * 5, [100] * 5))
    assert five.outcome is Outcome.PROVISIONAL


def test_a_gain_within_the_noise_is_not_proven() -> None:
    incumbent = [50.0] * 10
    verdict = judge(exam(incumbent, [52.0] * 10, [55.0] * 10))
    assert verdict.noise == 5
    assert verdict.p_value <= 0.025
    assert verdict.outcome is Outcome.PROVISIONAL
    assert verdict.items_needed is not None


def test_noise_of_single_items_does_not_hide_the_gain_of_many() -> None:
    verdict = judge(exam([50.0] * 60, [58.0] * 60, [62.0, 38.0] * 30))
    assert verdict.noise == 0
    assert verdict.outcome is Outcome.PROVEN


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_answers_that_the_server_owed_the_incumbent_are_no_gain(share: float) -> None:
    """A server that failed during the incumbent's sitting must not promote an equal candidate."""
    chance = numpy.random.default_rng(11)
    promoted, exams = 0, 200
    for number in range(exams):
        incumbent = numpy.clip(chance.normal(60, 20, 40), 0, 100)
        candidate = numpy.clip(60 + 0.7 * (incumbent - 60) + chance.normal(0, 14, 40), 0, 100)
        one = exam(list(incumbent), list(candidate))
        lost = {str(index) for index in range(40) if chance.random() < share}
        answers = tuple(
            replace(answer, failed=True, score=0.0)
            if answer.sitting is Sitting.INCUMBENT and answer.item_id in lost
            else answer
            for answer in one.answers
        )
        verdict = JudgePaired(resamples=999).nightschool_judge_exam(replace(one, answers=answers), (), number)
        assert verdict.items == 40 - len(lost)
        promoted += verdict.outcome is Outcome.PROVEN
    assert promoted <= stats.binom.ppf(0.999, exams, 0.025)


def test_not_enough_says_how_many_items_are_still_needed() -> None:
    gains = [30.0, -20, 25, -30, 20, -15, 10, 5]
    verdict = judge(exam([50] * 8, [50 + gain for gain in gains]))
    assert verdict.outcome is Outcome.NOT_ENOUGH
    assert verdict.items_needed is not None
    assert str(verdict.items_needed) in verdict.reason

    def proves(items: int) -> bool:
        return JudgePaired().log_e_value((gains * items)[: len(gains) + items]) >= verdict.log_e_needed

    # if the same gains went on coming; the other stakes help a little before the best one gets there alone
    assert proves(verdict.items_needed)
    assert not proves(int(0.8 * verdict.items_needed))


def test_without_a_gain_no_number_of_items_is_promised() -> None:
    verdict = judge(exam([50] * 8, [50] * 8))
    assert (verdict.outcome, verdict.items_needed, verdict.p_value) == (Outcome.NOT_ENOUGH, None, 1.0)


def test_an_exam_without_items_is_not_enough() -> None:
    verdict = judge(exam([], []))
    assert (verdict.outcome, verdict.items) == (Outcome.NOT_ENOUGH, 0)


def test_guard_items_never_count_as_gain() -> None:
    assert judge(exam([0] * 20, [100] * 20, role=ItemRole.GUARD)).items == 0


def test_the_test_agrees_with_an_exact_count_of_all_signs() -> None:
    difference = numpy.array([3.0, -1, 4, 1, -5, 9, 2])
    signs = numpy.array(numpy.meshgrid(*[[1, -1]] * 7)).reshape(7, -1)
    expected = (((signs * difference[:, None]).mean(axis=0)) >= difference.mean() - 1e-12).mean()
    assert judge(exam([50] * 7, list(50 + difference))).p_value == pytest.approx(expected)


def test_an_odd_one_out_has_a_finite_interval() -> None:
    low, high = judge(exam([50] * 12, [50] * 11 + [90])).interval
    assert -100 < low < 40 / 12 < high < 100


@pytest.mark.parametrize("gain", [6.0, 10.0])
def test_the_interval_holds_a_small_gain_also_where_the_exam_ended_as_it_was_proven(gain: float) -> None:
    one, chance, proven, held_in = JudgePaired(), numpy.random.default_rng(4), 0, 0
    for _ in range(600):
        gains = chance.normal(gain, 25, 60)
        ended = next((end for end in range(6, 61) if one.log_e_value(gains[:end]) >= math.log(40)), None)
        if ended is not None:
            low, high = one.interval(gains[:ended])
            assert 0 <= low < gains[:ended].mean() < high
            proven += 1
            held_in += low <= gain <= high
    assert proven > 100
    assert held_in >= 0.9 * proven


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_the_interval_has_the_mean_and_what_the_bets_do_not_refute(gains: list[float]) -> None:
    one, difference = JudgePaired(), numpy.array(gains)
    low, high = one.interval(difference)
    assert -100 <= low <= difference.mean() + 1e-9
    assert difference.mean() - 1e-9 <= high <= 100
    assert low == -100 or one.log_e_value(difference - low + 0.01) >= math.log(40)
    assert high == 100 or one.log_e_value(high - difference + 0.01) >= math.log(40)
    mirrored = one.interval(-difference)
    assert mirrored == pytest.approx((-high, -low), abs=0.01)


@settings(max_examples=25)
@given(st.lists(st.tuples(*[st.floats(0, 100)] * 3), max_size=16), st.integers(0, 2**63))
def test_a_verdict_is_finite_and_repeats_itself(scores: list[tuple[float, float, float]], seed: int) -> None:
    columns = [list(column) for column in zip(*scores, strict=True)] or [[], [], []]
    one = exam(columns[0], columns[1], columns[2])
    verdict = judge(one, seed=seed)
    figures = (verdict.gain, verdict.p_value, verdict.noise, *verdict.interval)
    assert all(map(math.isfinite, figures))
    assert verdict == judge(one, seed=seed)


@pytest.mark.parametrize("items", [6, 12, 40])
def test_equal_models_are_promoted_no_more_often_than_the_level_allows(items: int) -> None:
    chance = numpy.random.default_rng(items)
    judge_of_many = JudgePaired(resamples=999)
    exams = 400
    promoted = 0
    for number in range(exams):
        # two greedy sittings agree on most items and differ by a lot on the others
        base = chance.choice([0.0, 40.0, 70.0, 100.0], size=(3, items))
        kept = chance.random((3, items)) < 0.5
        incumbent, candidate, again = numpy.where(kept, base[0], base)
        verdict = judge_of_many.nightschool_judge_exam(exam(list(incumbent), list(candidate), list(again)), (), number)
        promoted += verdict.outcome is Outcome.PROVEN
    allowed = stats.binom.ppf(0.999, exams, 0.025)
    assert promoted <= allowed


def test_a_real_gain_is_found_in_most_exams() -> None:
    chance = numpy.random.default_rng(5)
    found = 0
    for number in range(40):
        incumbent = chance.normal(50, 10, 60)
        verdict = judge(exam(list(incumbent), list(incumbent + chance.normal(10, 15, 60))), seed=number)
        found += verdict.outcome is Outcome.PROVEN
    assert found >= 32


# --------------------------------------------------------------------------- guards


def held(result: GuardResult | None) -> bool:
    assert result is not None
    return result.held


def test_failed_empty_and_refusing_answers_break_the_guard() -> None:
    guard = GuardAnswers()
    equal = [50.0] * 10
    assert held(guard.nightschool_guard_promotion(exam(equal, equal)))
    assert not held(guard.nightschool_guard_promotion(exam(equal, equal, failed=frozenset({Sitting.CANDIDATE}))))
    for text in ("  ", "I\u2019m sorry, but I can not.", "As an AI I would rather not"):
        assert not held(guard.nightschool_guard_promotion(exam(equal, equal, texts={Sitting.CANDIDATE: text})))


def test_a_refusal_that_people_want_is_no_fault() -> None:
    asked = exam([5.0] * 6, [95.0] * 6, texts={Sitting.CANDIDATE: "I can't help with that, ask the front office."})
    assert not held(GuardAnswers().nightschool_guard_promotion(with_wanted(asked, "Ask the front office.")))
    assert held(GuardAnswers().nightschool_guard_promotion(with_wanted(asked, "I can't help with that.")))
    empty = exam([5.0] * 6, [5.0] * 6, texts={Sitting.CANDIDATE: " "})
    assert not held(GuardAnswers().nightschool_guard_promotion(with_wanted(empty, "I can't help with that.")))


def test_refusing_no_more_than_the_incumbent_is_held() -> None:
    texts = dict.fromkeys(Sitting, "As an AI, no.")
    assert held(GuardAnswers().nightschool_guard_promotion(exam([5.0] * 4, [5.0] * 4, texts=texts)))


WANTED = "x" * 100


@pytest.mark.parametrize(("length", "is_held"), [(100, True), (340, True), (341, False), (20, True), (19, False)])
def test_answers_are_about_as_long_as_the_wanted_ones(length: int, *, is_held: bool) -> None:
    """However much the score rose, and whatever the incumbent's habit is."""
    texts = {Sitting.CANDIDATE: "y" * length, Sitting.INCUMBENT: WANTED, Sitting.INCUMBENT_AGAIN: WANTED}
    asked = with_wanted(exam([50.0] * 6, [90.0] * 6, texts=texts), WANTED)
    assert held(GuardLength().nightschool_guard_promotion(asked)) is is_held


def test_a_lesson_may_teach_to_be_brief() -> None:
    texts = {Sitting.CANDIDATE: "ls", Sitting.INCUMBENT: "long " * 80, Sitting.INCUMBENT_AGAIN: "long " * 80}
    assert held(
        GuardLength().nightschool_guard_promotion(with_wanted(exam([50.0] * 6, [50.0] * 6, texts=texts), "ls -l"))
    )


@pytest.mark.parametrize(("wanted", "is_held"), [(None, False), ("y" * 30, False), ("y" * 60, True)])
def test_answers_must_end(wanted: str | None, *, is_held: bool) -> None:
    """Unless the wanted one would be cut off as well."""
    asked = with_wanted(exam([50.0] * 6, [50.0] * 6, texts={Sitting.CANDIDATE: "y" * 50}), wanted)
    cut = tuple(replace(one, done_reason="length") for one in asked.answers if one.sitting is Sitting.CANDIDATE)
    others = tuple(one for one in asked.answers if one.sitting is not Sitting.CANDIDATE)
    assert held(GuardLength().nightschool_guard_promotion(replace(asked, answers=(*others, *cut)))) is is_held


def with_wanted(asked: Exam, wanted: str | None) -> Exam:
    return replace(asked, items=tuple(replace(item, reference=wanted) for item in asked.items))


def test_liked_answers_may_not_get_worse_by_more_than_the_margin() -> None:
    guard = GuardLiked(margin=5.0)
    liked = ItemRole.GUARD
    assert held(guard.nightschool_guard_promotion(exam([80.0] * 4, [76.0] * 4, role=liked), 1))
    assert not held(guard.nightschool_guard_promotion(exam([80.0] * 4, [74.0] * 4, role=liked), 1))
    assert held(guard.nightschool_guard_promotion(exam([80.0] * 4, [74.0] * 4, [77.0] * 4, role=liked), 1))


@pytest.mark.parametrize("items", [4, 5, 10, 30])
def test_equal_models_seldom_break_the_guard_of_liked_answers(items: int) -> None:
    chance = numpy.random.default_rng(items)
    guard, exams, broken = GuardLiked(resamples=999), 300, 0
    for number in range(exams):
        incumbent = chance.normal(60, 20, items)
        candidate = 0.7 * (incumbent - 60) + chance.normal(60, 20 * math.sqrt(1 - 0.49), items)
        broken += not held(
            guard.nightschool_guard_promotion(exam(list(incumbent), list(candidate), role=ItemRole.GUARD), number)
        )
    assert broken <= stats.binom.ppf(0.999, exams, 0.1)


def test_clearly_worse_liked_answers_break_the_guard() -> None:
    chance = numpy.random.default_rng(3)
    guard, broken = GuardLiked(resamples=999), 0
    for number in range(40):
        incumbent = chance.normal(70, 10, 20)
        candidate = incumbent - chance.normal(15, 10, 20)
        broken += not held(
            guard.nightschool_guard_promotion(exam(list(incumbent), list(candidate), role=ItemRole.GUARD), number)
        )
    assert broken >= 36


def of_both_kinds(liked: tuple[float, float], disliked: tuple[float, float], each: int) -> Exam:
    """So many items of each kind, with the incumbent's score and the candidate's."""
    one = exam(*([was] * each + [been] * each for was, been in zip(liked, disliked, strict=True)), role=ItemRole.GUARD)
    bad = (replace(item, disliked="an answer") for item in one.items[each:])
    return replace(one, items=(*one.items[:each], *bad))


def test_disliked_answers_that_stay_away_make_up_for_no_liked_one_that_is_lost_nor_the_other_way_round() -> None:
    found = GuardLiked().nightschool_guard_promotion(of_both_kinds((100, 40), (20, 80), 10), 1)
    assert found is not None
    assert not found.held
    assert found.reason == (
        "Scores changed by -60.0 points over 10 liked items, and by +60.0 points over 10 disliked items; "
        "5.0 points less are tolerated."
    )
    assert not held(GuardLiked().nightschool_guard_promotion(of_both_kinds((40, 100), (80, 20), 10), 1))
    assert held(GuardLiked().nightschool_guard_promotion(of_both_kinds((70, 68), (70, 68), 10), 1))


def test_too_few_of_each_kind_are_judged_together() -> None:
    assert not held(GuardLiked().nightschool_guard_promotion(of_both_kinds((90, 50), (90, 50), 2), 1))
    assert held(GuardLiked().nightschool_guard_promotion(of_both_kinds((90, 50), (50, 90), 2), 1))


def test_what_was_learned_must_not_be_forgotten() -> None:
    guard, role = GuardRegression(), ItemRole.LEARNED
    known = [100.0] * 20
    assert held(guard.nightschool_guard_promotion(exam(known, known, role=role)))
    assert held(guard.nightschool_guard_promotion(exam(known, [*[0.0] * 3, *[100.0] * 17], role=role)))
    assert not held(guard.nightschool_guard_promotion(exam(known, [*[0.0] * 4, *[100.0] * 16], role=role)))
    regained = exam([*[100.0] * 16, *[0.0] * 4], [*[0.0] * 4, *[100.0] * 16], role=role)
    assert held(guard.nightschool_guard_promotion(regained))
    assert guard.nightschool_guard_promotion(exam(known, [0.0] * 20)) is None


@pytest.mark.parametrize("role", [ItemRole.LEARNED, ItemRole.LESSON])
def test_answers_as_good_as_the_correction_by_a_relative_score_are_no_forgotten_ones(role: ItemRole) -> None:
    same, other_words, worse = ([score] * 20 for score in (100.0, 50.0, 49.0))
    assert held(GuardRegression().nightschool_guard_promotion(relative(exam(same, other_words, role=role))))
    assert not held(GuardRegression().nightschool_guard_promotion(relative(exam(other_words, worse, role=role))))
    assert not held(GuardRegression().nightschool_guard_promotion(exam(same, other_words, role=role)))


@pytest.mark.parametrize(
    ("first_is_relative", "now", "told"),
    [
        (True, 50.0, "0 were forgotten and 0"),
        (False, 50.0, "0 were forgotten and 20"),
        (True, 0.0, "20 were forgotten and 0"),
    ],
)
def test_a_first_score_is_held_to_its_own_bound(first_is_relative: bool, now: float, told: str) -> None:
    """What scored 60 was known then if that was relative."""
    asked = relative(exam([now] * 20, [now] * 20, role=ItemRole.LEARNED))
    scores = tuple(
        FirstScore(event_id=item.event_id, reference=None, score=60.0, is_relative=first_is_relative)
        for item in asked.items
    )
    found = GuardRegression().nightschool_guard_promotion(replace(asked, first_scores=scores))
    assert found is not None
    assert f"Of 20 that were asked before, {told} regained" in found.reason


def relative(asked: Exam) -> Exam:
    """The same with scores that say how an answer stands to the correction."""
    return replace(asked, answers=tuple(replace(one, is_relative=True) for one in asked.answers))


def after_nights(first: int, incumbent: int, candidate: int) -> GuardResult | None:
    """Of 20 corrections each forgot so many, the same ones and more; when they were first asked, the first did."""
    asked = exam(
        *([*[0.0] * count, *[100.0] * (20 - count)] for count in (incumbent, candidate)), role=ItemRole.LEARNED
    )
    scores = tuple(
        FirstScore(event_id=item.event_id, reference=None, score=0.0 if number < first else 100.0)
        for number, item in enumerate(asked.items)
    )
    return GuardRegression().nightschool_guard_promotion(replace(asked, first_scores=scores))


def test_slips_of_several_nights_do_not_add_up() -> None:
    assert held(after_nights(0, 0, 3))
    found = after_nights(0, 3, 6)
    assert found is not None
    assert not found.held
    assert found.reason == (
        "Of 20 corrections that were learned before, 3 were forgotten and 0 regained. "
        "Of 20 that were asked before, 6 were forgotten and 0 regained since the first time."
    )


def test_what_went_in_earlier_nights_stops_no_candidate_that_forgets_nothing_further() -> None:
    assert held(after_nights(0, 8, 8))
    assert held(after_nights(0, 8, 7))
    assert not held(after_nights(0, 8, 9))
    assert held(after_nights(8, 8, 9))


@pytest.mark.parametrize(("corrections", "by_chance"), [(20, 0.1), (20, 0.2), (100, 0.1), (100, 0.2)])
def test_equal_models_seldom_seem_to_have_forgotten(corrections: int, by_chance: float) -> None:
    """Some corrections are known surely, and each of the others in every other answer."""
    chance, exams, broken = numpy.random.default_rng(corrections), 300, 0
    for _ in range(exams):
        undecided = chance.random(corrections) < by_chance
        first, incumbent, candidate = (
            numpy.where(undecided & (chance.random(corrections) < 0.5), 0.0, 100.0) for _ in range(3)
        )
        asked = exam(list(incumbent), list(candidate), role=ItemRole.LEARNED)
        scores = tuple(
            FirstScore(event_id=item.event_id, reference=None, score=float(score))
            for item, score in zip(asked.items, first, strict=True)
        )
        broken += not held(GuardRegression().nightschool_guard_promotion(replace(asked, first_scores=scores)))
    assert broken <= stats.binom.ppf(0.999, exams, 0.07)


def test_what_is_learned_tonight_makes_up_for_nothing_that_was_forgotten() -> None:
    """Twelve forgotten and fourteen new ones: of both together chance could make as much."""
    known = exam([*[100.0] * 12, *[0.0] * 14], [*[0.0] * 12, *[100.0] * 14], role=ItemRole.LEARNED)
    guard = GuardRegression()
    assert held(guard.nightschool_guard_promotion(known))
    roles = [ItemRole.LEARNED] * 12 + [ItemRole.LESSON] * 14
    placed = (replace(item, role=role) for item, role in zip(known.items, roles, strict=True))
    found = guard.nightschool_guard_promotion(replace(known, items=tuple(placed)))
    assert found is not None
    assert not found.held
    assert found.reason == (
        "Of 12 corrections that were learned before, 12 were forgotten and 0 regained. "
        "Of 14 corrections of tonight's lesson, 0 were lost and 14 gained."
    )


def test_a_candidate_that_lost_what_it_was_taught_is_not_sound() -> None:
    known = exam([100.0] * 6, [0.0] * 6, role=ItemRole.LESSON)
    assert not held(GuardRegression().nightschool_guard_promotion(known))


def test_single_empty_answer_breaks_nothing_and_many_do() -> None:
    def with_empty(count: int) -> Exam:
        one = exam([50.0] * 40, [50.0] * 40)
        empty = {str(number) for number in range(count)}
        answers = tuple(
            replace(answer, text="") if answer.sitting is Sitting.CANDIDATE and answer.item_id in empty else answer
            for answer in one.answers
        )
        return replace(one, answers=answers)

    assert held(GuardAnswers().nightschool_guard_promotion(with_empty(1)))
    assert held(GuardAnswers().nightschool_guard_promotion(with_empty(3)))
    assert not held(GuardAnswers().nightschool_guard_promotion(with_empty(4)))


def test_guards_without_anything_to_look_at_are_silent() -> None:
    assert GuardLiked().nightschool_guard_promotion(exam([80.0] * 4, [0.0] * 4), 1) is None
    assert GuardLiked().nightschool_guard_promotion(exam([80.0] * 2, [0.0] * 2, role=ItemRole.GUARD), 1) is None
    assert GuardLength().nightschool_guard_promotion(exam([], [])) is None
    assert GuardAnswers().nightschool_guard_promotion(exam([], [])) is None
