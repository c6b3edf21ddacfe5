"""What guards compare by, beside scipy."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nightschool_hookspecs import Exam, ExamItem, ItemRole, Sitting, Specialty
from nightschool_hookspecs.paired import compare_abilities, compare_faults, sign_test


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_scipys(more: int, others: int) -> None:
    assert sign_test(more, more + others) == pytest.approx(stats.binom.sf(more - 1, more + others, 0.5))


def test_nothing_that_differs_is_no_evidence() -> None:
    assert sign_test(0, 0) == 1.0


@pytest.mark.parametrize(
    ("lost", "gained", "tolerated", "held"),
    [
        (5, 0, 0.0, False),
        (4, 0, 0.0, True),
        (10, 3, 8.0, True),
        (10, 3, 6.0, False),
        (10, 10, 0.0, True),
        (5, 0, 5.0, True),
    ],
)
def test_losses_count_beyond_gains_beyond_what_is_tolerated_and_beyond_chance(
    lost: int, gained: int, tolerated: float, *, held: bool
) -> None:
    pairs = [(True, False)] * lost + [(False, True)] * gained + [(True, True), (False, False)] * 5
    found = compare_abilities(pairs, tolerated=tolerated, level=0.05)
    assert (found.lost, found.gained, found.held) == (lost, gained, held)


def exam(count: int) -> Exam:
    items = tuple(
        ExamItem(id=str(number), event_id=str(number), artifact_type="shell", role=ItemRole.LEARNED, messages=())
        for number in range(count)
    )
    return Exam(
        specialty=Specialty(base="b", artifact_type="shell"), incumbent="i", candidate="c", items=items, answers=()
    )


def test_what_was_learned_is_looked_at_though_the_incumbent_sits_it_once() -> None:
    asked = exam(10)
    items = asked.items
    faulty = {
        (sitting, one.id): sitting is Sitting.CANDIDATE
        for sitting in (Sitting.INCUMBENT, Sitting.CANDIDATE)
        for one in items
    }
    found = compare_faults(asked, faulty, tolerated_share=0.02, level=0.1)
    assert found is not None
    assert (found.incumbent, found.candidate, found.held) == (0.0, 1.0, False)
    again = {(Sitting.INCUMBENT_AGAIN, one.id): True for one in items[:2]}
    # the incumbent's worse sitting is what the candidate is held against
    worse = compare_faults(asked, faulty | again, tolerated_share=0.02, level=0.1)
    assert worse is not None
    assert worse.held


def test_a_second_sitting_says_nothing_of_items_that_it_has_not() -> None:
    """Four of ten held-out answers are faulty in both sittings, none of twenty learned ones: 13 % is the bound."""
    roles = [*[ItemRole.GAIN] * 10, *[ItemRole.LEARNED] * 20]
    items = tuple(
        ExamItem(id=str(number), event_id=str(number), artifact_type="shell", role=role, messages=())
        for number, role in enumerate(roles)
    )
    asked = Exam(
        specialty=Specialty(base="b", artifact_type="shell"), incumbent="i", candidate="c", items=items, answers=()
    )
    faulty = {(Sitting.INCUMBENT, one.id): int(one.id) < 4 for one in items}
    faulty |= {(Sitting.INCUMBENT_AGAIN, one.id): int(one.id) < 4 for one in items[:10]}
    faulty |= {(Sitting.CANDIDATE, one.id): int(one.id) < 4 or int(one.id) >= 22 for one in items}
    found = compare_faults(asked, faulty, tolerated_share=0.02, level=0.1)
    assert found is not None
    assert (found.incumbent, found.candidate) == pytest.approx((4 / 30, 12 / 30))
    assert not found.held


def test_the_lesson_is_no_further_evidence_of_what_trial_candidates_showed() -> None:
    """Two faults of ten, shown by the trial candidates and again by the candidate, are two, not four."""
    asked = exam(20)
    roles = [ItemRole.GAIN] * 10 + [ItemRole.LESSON] * 10
    items = tuple(replace(item, role=role) for item, role in zip(asked.items, roles, strict=True))
    faulty = {
        (sitting, item.id): sitting is Sitting.CANDIDATE and int(item.id) % 10 < 2
        for sitting in (Sitting.INCUMBENT, Sitting.CANDIDATE)
        for item in items
    }
    together = compare_faults(asked, faulty, tolerated_share=0.02, level=0.1)
    apart = compare_faults(replace(asked, items=items), faulty, tolerated_share=0.02, level=0.1)
    assert together is not None
    assert apart is not None
    assert (together.held, apart.held) == (False, True)
    lesson = {key: faulty[key] or (key[0] is Sitting.CANDIDATE and int(key[1]) >= 10) for key in faulty}
    broken = compare_faults(replace(asked, items=items), lesson, tolerated_share=0.02, level=0.1)
    assert broken is not None
    assert not broken.held
