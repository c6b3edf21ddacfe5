"""Which corrections are shown, and in which order."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Budget, Event, FeedbackType, ScoredEvent
from nightschool_plugins.training_examples import TrainingExamples

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def scored(number: int, priority: float, *, group: str | None = None, length: int = 30) -> ScoredEvent:
    return ScoredEvent(
        event=Event(
            id=str(number),
            timestamp=NOW,
            feedback_type=FeedbackType.USER_CORRECTION,
            input_data="q" * length,
            corrected_output="a" * length,
            ai_output="b",
        ),
        priority=priority,
        reward=priority,
        difficulty=0.5,
        group=group or f"g{number}",
        trained_on=False,
    )


def chosen(*events: ScoredEvent, most: int = 8, tokens: int = 1000) -> tuple[str, ...]:
    found = TrainingExamples().nightschool_choose_shots(events, Budget(events=most, tokens=tokens), 1)
    return tuple(key.rpartition("/")[2] for key in found)


def test_the_best_stands_next_to_the_question() -> None:
    assert chosen(scored(1, 0.5), scored(2, 0.9), scored(3, 0.7), most=2) == ("3", "2")


def test_one_of_many_near_duplicates_is_shown() -> None:
    assert chosen(scored(1, 0.5, group="g"), scored(2, 0.9, group="g"), scored(3, 0.1)) == ("3", "2")


def test_what_is_too_long_makes_room_for_shorter_ones() -> None:
    assert chosen(scored(1, 0.9, length=600), scored(2, 0.5), tokens=100) == ("2",)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400), st.integers(0, 5)), max_size=20),
    st.integers(1, 10),
    st.integers(1, 500),
)
def test_the_budget_is_kept_whatever_comes_and_the_order_of_events_says_nothing(
    given_events: list[tuple[float, int, int]], most: int, tokens: int
) -> None:
    events = [
        scored(number, priority, group=f"g{group}", length=length)
        for number, (priority, length, group) in enumerate(given_events)
    ]
    found = chosen(*events, most=most, tokens=tokens)
    assert len(found) <= most
    assert sum(2 * given_events[int(one)][1] / 3 for one in found) <= tokens
    assert len({given_events[int(one)][2] for one in found}) == len(found)
    assert found == chosen(*reversed(events), most=most, tokens=tokens)
