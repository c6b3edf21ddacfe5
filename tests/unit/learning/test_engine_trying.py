"""What a training that is tried out learns from, when it is looked at, and how a network is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.learning.engine.examples import parted
from nightschool_daemon.learning.engine.trying import answered, steps_of
from nightschool_daemon.learning.searching import in_order
from nightschool_hookspecs.records import TrainingText


@dataclass(frozen=True, kw_only=True)
class Text:
    prompt: str
    group: str
    beside: bool = False


texts = st.lists(
    st.builds(
        Text,
        prompt=st.text(max_size=3),
        group=st.sampled_from(["", "a", "b", "c"]),
        beside=st.sampled_from([True, False]),
    ),
    max_size=60,
)


@given(texts, st.integers(0, 2**32))
def test_near_duplicates_are_on_one_side_and_nothing_is_lost(examples: list[Text], seed: int) -> None:
    learned, measured = parted(examples, seed)
    sides = [{one.group or one.prompt for one in part if not one.beside} for part in (learned, measured)]
    assert not sides[0] & sides[1]
    # what stands beside the lesson says nothing of it
    assert not any(one.beside for one in measured)
    assert sorted(map(repr, (*learned, *measured))) == sorted(map(repr, examples))
    # the order of the curriculum stays
    assert [one for one in examples if one in learned] == list(learned)
    assert len(measured) <= sum(not one.beside for one in examples) // 5
    assert parted(examples, seed) == (learned, measured)


def test_a_fifth_is_kept_apart_where_groups_are_small() -> None:
    examples = [Text(prompt=str(number), group="") for number in range(200)]
    learned, measured = parted(examples, 1)
    assert (len(learned), len(measured)) == (160, 40)
    assert parted(examples, 2)[1] != measured
    assert parted([Text(prompt="x", group="one")] * 200, 1)[1] == ()


@given(st.lists(st.floats(0.01, 20), max_size=6, unique=True), st.integers(1, 40), st.integers(1, 10))
def test_marks_are_steps_before_the_end(marks: list[float], an_epoch: int, epochs: int) -> None:
    found = steps_of(marks, an_epoch * epochs, epochs)
    assert all(0 < step < an_epoch * epochs for step in found)
    assert list(found.values()) == sorted(found.values())
    for step, mark in found.items():
        assert abs(step - mark * an_epoch) <= 0.5 or step == 1


def test_of_marks_at_one_step_the_last_counts() -> None:
    assert steps_of((0.1, 0.2, 1.0, 2.0), 4, 2) == {1: 0.2, 2: 1.0}


@pytest.mark.parametrize("limit", [2, 3, 9])
def test_an_answer_ends_at_its_closing_or_at_its_limit(limit: int) -> None:
    """The network counts up from the last token, and 5, 6 is how answers end."""
    asked: list[int] = []

    def follow(given: Sequence[tuple[int, ...]]) -> list[int]:
        asked.append(len(given))
        return [one[-1] + 1 for one in given]

    said = answered(follow, [(0, 3), (1, 2, 10)], (5, 6), [limit, limit], lambda: False)
    whole = {2: (4, 5), 3: (4,), 9: (4,)}
    assert said == [whole[limit], tuple(range(11, 11 + limit))]
    # who has ended is not asked again
    assert asked == [2] * min(limit, 3) + [1] * (limit - min(limit, 3))


@pytest.mark.parametrize("steps", [0, 3])
def test_nothing_is_said_when_the_time_is_over(steps: int) -> None:
    asked: list[int] = []

    def follow(given: Sequence[tuple[int, ...]]) -> list[int]:
        asked.append(len(given))
        return [1] * len(given)

    assert answered(follow, [(0,), (1,)], (5,), [9, 9], lambda: len(asked) >= steps) is None
    assert len(asked) == steps


def test_what_wants_a_long_answer_is_asked_last() -> None:
    """The time of an answer grows with the square of its length; among short ones chance decides."""
    lengths = [1000, 12, 256, 257, 3, 100]
    texts = [(TrainingText(event_id=str(length), prompt="", completion=""), length) for length in lengths]
    orders = [[int(one.event_id) for one in in_order(texts, seed)] for seed in range(8)]
    assert all(one[4:] == [257, 1000] for one in orders)
    assert len({tuple(one) for one in orders}) > 1
