"""The split: exact in number, permanent, never a group that was trained on."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import PromptGroup, Side, SideChoice
from nightschool_plugins.evaluation_split import EvaluationSplit


def fresh(count: int) -> tuple[PromptGroup, ...]:
    return tuple(PromptGroup(key=f"g{index}", events=1) for index in range(count))


def choose(groups: tuple[PromptGroup, ...], seed: int = 1) -> dict[str, Side]:
    return {one.key: one.side for one in EvaluationSplit().nightschool_select_held_out(groups, seed)}


def held(choices: tuple[SideChoice, ...] | dict[str, Side]) -> int:
    assert isinstance(choices, dict)
    return sum(side is Side.HELD_OUT for side in choices.values())


def quota(groups: int) -> int:
    """A fifth; of few, six or half. From the fortieth on every second one up to 25, then a fifth."""
    young = min(groups, 39)
    held, later = max(young // 5, min(6, young // 2)), groups - young
    halved = min(later, 2 * (25 - held))
    return held + halved // 2 + (later - halved) // 5


def test_below_five_events_nothing_is_decided() -> None:
    assert choose(fresh(4)) == {}
    assert choose((*fresh(3), PromptGroup(key="many", events=2))) != {}


def test_young_specialty_gives_half_until_its_exam_can_prove_something() -> None:
    assert [held(choose(fresh(count))) for count in (5, 8, 12, 20, 30, 35)] == [2, 4, 6, 6, 6, 7]


def test_grown_specialty_soon_has_twenty_five_and_then_one_in_five() -> None:
    assert [held(choose(fresh(count))) for count in (39, 41, 75, 80, 200)] == [7, 8, 25, 26, 50]


def test_events_count_not_groups() -> None:
    groups = tuple(PromptGroup(key=f"g{index}", events=4) for index in range(40))
    # ten groups make forty events: the eleventh is the first that came after them
    assert held(choose(groups)) == 5 + 15


def test_what_a_young_specialty_learned_whole_is_not_made_up_for_at_once() -> None:
    """Every second new group, not all of them."""
    learned = tuple(
        PromptGroup(key=f"old {index}", events=1, side=Side.TRAINING, trained_on=True) for index in range(39)
    )
    choices = choose((*learned, *fresh(20)))
    assert held(choices) == 10


@given(st.lists(st.integers(0, 25), min_size=1, max_size=12), st.integers(0, 2**63))
def test_over_time_exactly_the_quota_is_held_out(arrivals: list[int], seed: int) -> None:
    groups: tuple[PromptGroup, ...] = ()
    for night, arrived in enumerate(arrivals):
        new = tuple(PromptGroup(key=f"{night}/{index}", events=1) for index in range(arrived))
        groups += new
        choices = choose(groups, seed + night)
        assert all(group.side is None for group in groups if group.key in choices)
        groups = tuple(replace(group, side=choices.get(group.key, group.side)) for group in groups)
        decided = [group for group in groups if group.side is not None]
        if len(groups) >= 5:
            assert len(decided) == len(groups)
            assert sum(group.side is Side.HELD_OUT for group in groups) == quota(len(groups))


@given(st.lists(st.booleans(), min_size=5, max_size=60), st.integers(0, 1000))
def test_a_group_that_was_trained_on_is_never_held_out(trained: list[bool], seed: int) -> None:
    groups = tuple(PromptGroup(key=f"g{index}", events=1, trained_on=seen) for index, seen in enumerate(trained))
    choices = choose(groups, seed)
    assert all(choices[group.key] is Side.TRAINING for group in groups if group.trained_on)
    assert held(choices) <= quota(len(trained))
    assert held(choices) >= min(quota(min(39, len(trained))), trained[:39].count(False))


@given(st.permutations(list(fresh(20))))
def test_the_order_of_arrival_does_not_matter(groups: list[PromptGroup]) -> None:
    assert choose(tuple(groups)) == choose(fresh(20))
