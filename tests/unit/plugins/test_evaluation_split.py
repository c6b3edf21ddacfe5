"""The split: exact in number, permanent, never a group that was trained on. The folds: balanced, disjoint, stable."""

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
    """None of the first 39; from then on every second one up to 25, then a fifth."""
    later = max(0, groups - 39)
    halved = min(later, 50)
    return halved // 2 + (later - halved) // 5


def test_below_five_events_nothing_is_decided() -> None:
    assert choose(fresh(4)) == {}
    assert choose((*fresh(3), PromptGroup(key="many", events=2))) != {}


def test_grown_specialty_soon_has_twenty_five_and_then_one_in_five() -> None:
    assert [held(choose(fresh(count))) for count in (5, 39, 41, 75, 89, 94, 200)] == [0, 0, 1, 18, 25, 26, 47]


def test_what_an_earlier_rule_held_out_counts() -> None:
    """A ledger may hold groups of the first 39 on the held-out side: they are among the 25."""
    earlier = tuple(PromptGroup(key=f"old {index}", events=1, side=Side.HELD_OUT) for index in range(7))
    groups = (*earlier, *fresh(32 + 60))
    assert held(choose(groups)) + 7 == 25 + (60 - 36) // 5


def test_events_count_not_groups() -> None:
    groups = tuple(PromptGroup(key=f"g{index}", events=4) for index in range(40))
    # ten groups make forty events: the eleventh is the first that came after them
    assert held(choose(groups)) == 15


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


@given(st.lists(st.booleans(), min_size=45, max_size=90), st.integers(0, 1000))
def test_of_what_goes_on_nothing_is_held_out_and_it_makes_no_room(goes_on: list[bool], seed: int) -> None:
    """Every second one of the others is, and not all of them."""
    groups = tuple(PromptGroup(key=f"g{index}", events=1, goes_on=one) for index, one in enumerate(goes_on))
    choices = choose(groups, seed)
    assert all(choices[group.key] is Side.TRAINING for group in groups if group.goes_on)
    assert held(choices) == quota(39 + goes_on[39:].count(False))


@given(st.permutations(list(fresh(20))))
def test_the_order_of_arrival_does_not_matter(groups: list[PromptGroup]) -> None:
    assert choose(tuple(groups)) == choose(fresh(20))


# --------------------------------------------------------------------------- folds


def folds(groups: tuple[PromptGroup, ...]) -> tuple[tuple[str, ...], ...]:
    return EvaluationSplit().nightschool_select_folds(groups)


def learned_from(count: int) -> tuple[PromptGroup, ...]:
    return tuple(replace(group, side=Side.TRAINING) for group in fresh(count))


def test_below_five_events_there_are_no_folds_and_with_twenty_five_held_out_groups_neither() -> None:
    assert folds(learned_from(4)) == ()
    assert len(folds(learned_from(5))) == 4
    held_out = tuple(PromptGroup(key=f"h{index}", events=1, side=Side.HELD_OUT) for index in range(25))
    assert len(folds((*learned_from(8), *held_out[:24]))) == 4
    assert folds((*learned_from(8), *held_out)) == ()


def test_folds_can_be_switched_off() -> None:
    assert EvaluationSplit(folds=0).nightschool_select_folds(learned_from(16)) == ()


groups_of_a_type = st.lists(
    st.builds(
        PromptGroup,
        key=st.uuids().map(str),
        events=st.integers(1, 3),
        side=st.sampled_from([Side.TRAINING, Side.TRAINING, Side.TRAINING, Side.HELD_OUT]),
        in_use=st.booleans(),
    ),
    unique_by=lambda group: group.key,
    max_size=40,
).map(tuple)


@given(groups_of_a_type)
def test_folds_are_disjoint_balanced_and_cover_what_no_version_in_use_knows(groups: tuple[PromptGroup, ...]) -> None:
    divided = folds(groups)
    if not divided:
        return
    keys = [key for fold in divided for key in fold]
    free = {group.key for group in groups if group.side is Side.TRAINING and not group.in_use}
    assert len(keys) == len(set(keys))
    assert set(keys) == free
    assert max(map(len, divided)) - min(map(len, divided)) <= 1
    assert len(divided) == min(4, len(free))


@given(groups_of_a_type, groups_of_a_type)
def test_a_group_stays_in_its_fold_when_others_come(
    groups: tuple[PromptGroup, ...], later: tuple[PromptGroup, ...]
) -> None:
    known = {group.key for group in groups}
    before, after = folds(groups), folds((*groups, *(one for one in later if one.key not in known)))
    if not before or not after:
        return
    place = {key: number for number, fold in enumerate(after) for key in fold}
    assert {key: number for number, fold in enumerate(before) for key in fold}.items() <= place.items()
