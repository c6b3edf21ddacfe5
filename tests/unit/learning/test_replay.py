"""What is learned beside a lesson weighs no more than it and is spread over it; a quarter at most is replayed."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.learning.beside import interleaved, of_no_event, pull
from nightschool_daemon.learning.replay import bounded
from nightschool_hookspecs.records import Message, Role, TrainingExample
from nightschool_hookspecs.replay import LARGEST_SHARE

PULLS = st.tuples(st.floats(0.01, 100), st.integers(1, 2000))
"""Weight and length of an answer."""


def example(weight: float, length: int) -> TrainingExample:
    messages = (Message(role=Role.USER, content="?"),)
    return TrainingExample(event_id="s/1", messages=messages, target="x" * length, weight=weight)


@given(lesson=st.lists(PULLS, max_size=40), replayed=st.lists(PULLS, max_size=40))
def test_replayed_examples_are_a_quarter_at_most_of_all_and_of_the_loss(
    lesson: list[tuple[float, int]], replayed: list[tuple[float, int]]
) -> None:
    taught, offered = [example(*one) for one in lesson], [example(*one) for one in replayed]
    kept = bounded(taught, offered)
    assert len(kept) <= LARGEST_SHARE * (len(taught) + len(kept))
    pulls = [math.fsum(map(pull, part)) for part in (taught, kept)]
    assert pulls[1] <= LARGEST_SHARE * sum(pulls) * (1 + 1e-6)
    order = iter(offered)
    assert all(any(one is other for other in order) for one in kept)


@given(lesson=st.lists(PULLS, min_size=4, max_size=60), length=st.integers(1, 2000))
def test_own_answers_fill_a_quarter_and_weigh_no_more_than_the_lesson(
    lesson: list[tuple[float, int]], length: int
) -> None:
    taught = [example(*one) for one in lesson]
    own = of_no_event("?", "y" * length, taught)
    assert own.event_id == ""
    assert own.difficulty == taught[0].difficulty
    assert 0 < own.weight <= math.fsum(one.weight for one in taught) / len(taught)
    assert pull(own) <= math.fsum(map(pull, taught)) / len(taught) * (1 + 1e-9)
    assert len(bounded(taught, [own] * 99)) == len(taught) // 3


@given(lesson=st.integers(0, 50), replayed=st.integers(0, 20))
def test_nothing_is_lost_and_what_is_replayed_is_spread_over_the_lesson(lesson: int, replayed: int) -> None:
    order = interleaved([("lesson", number) for number in range(lesson)], [("old", n) for n in range(replayed)])
    assert [number for kind, number in order if kind == "lesson"] == list(range(lesson))
    assert [number for kind, number in order if kind == "old"] == list(range(replayed))
    if replayed and lesson >= replayed:
        places = [place for place, (kind, _) in enumerate(order) if kind == "old"]
        gaps = [after - before for before, after in itertools.pairwise(places)]
        assert not gaps or max(gaps) - min(gaps) <= 2
