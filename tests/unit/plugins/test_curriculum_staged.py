"""The curriculum by stages: what is hard, when a stage is learned, what each sees; nothing shrinks or is lost."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ablation.components import COMPONENTS, PASSES
from benchmarks.ablation.pools import Size
from benchmarks.learning import FULL
from nightschool_hookspecs import LearnedExample, Specialty, Stretch, TrainingMethod, TrainingSoFar
from nightschool_hookspecs.testing import FakeStore
from nightschool_plugins import curriculum_staged
from nightschool_plugins.curriculum_staged import AT_THE_END, EVERYTHING_NAME, LATE, LEARNED, STAGES, CurriculumStaged
from nightschool_plugins.tuning_fixed import TuningFixed

STAGED = CurriculumStaged()
ORDER = (*STAGES, EVERYTHING_NAME)
LEVELS = (0.1, 0.5, 0.9)
SHARES = st.floats(0, 1)
"""Difficulties."""


def examples_of(difficulties: Sequence[float | None], scores: Sequence[float | None] = ()) -> list[LearnedExample]:
    return [
        LearnedExample(
            event_id=f"a/{number}", group="", tokens=10, weight=1.0, difficulty=difficulty, score=score, seen=0
        )
        for number, (difficulty, score) in enumerate(itertools.zip_longest(difficulties, scores[: len(difficulties)]))
    ]


def in_thirds(count: int) -> list[LearnedExample]:
    """As many easy ones as of medium difficulty and hard."""
    return examples_of([LEVELS[number % 3] for number in range(count)])


def so_far(count: int, **changed: Any) -> TrainingSoFar:
    """A long training that begins."""
    known = {"epochs": 20, "epoch": 1, "left": count, "batch_size": 4, "losses": (1.0,), "goes_on": False}
    return TrainingSoFar(method=TrainingMethod.SFT, **{**known, **changed})


def arranged(examples: Sequence[LearnedExample], *, plugin: CurriculumStaged = STAGED, **changed: Any) -> Stretch:
    found = plugin.nightschool_arrange_stretch(tuple(examples), so_far(len(examples), **changed), 3)
    assert found is not None
    return found


def levels_of(stretch: Stretch) -> list[int]:
    """How many of each level, of examples in thirds."""
    counts = Counter(place % 3 for place in stretch.places)
    return [counts[level] for level in range(3)]


def course(
    examples: Sequence[LearnedExample],
    losses: Iterator[float],
    *,
    epochs: int,
    batch_size: int,
    seed: int = 3,
    goes_on: bool = False,
    plugin: CurriculumStaged = STAGED,
) -> Iterator[tuple[int, Stretch, list[int]]]:
    """Every stretch of a training with the epoch that it is of, and how often each example was seen after it."""
    count, seen, found = len(examples), [0] * len(examples), [1.0]
    for epoch in range(1, epochs + 1):
        left = count
        while left:
            known = tuple(
                LearnedExample(**{**vars(one), "seen": times}) for one, times in zip(examples, seen, strict=True)
            )
            now = so_far(
                count,
                epochs=epochs,
                epoch=epoch,
                left=left,
                batch_size=batch_size,
                losses=tuple(found),
                goes_on=goes_on,
            )
            stretch = plugin.nightschool_arrange_stretch(known, now, seed)
            assert stretch is not None
            assert stretch == plugin.nightschool_arrange_stretch(known, now, seed), "asked again it says the same"
            for place in stretch.places:
                seen[place] += 1
            left -= len(stretch.places)
            yield epoch, stretch, list(seen)
            found.append(next(losses))


def falling() -> Iterator[float]:
    return (0.5**number for number in itertools.count(1))


def resting() -> Iterator[float]:
    return itertools.repeat(1.0)


# --------------------------------------------------------------------------- beside the lesson


def with_some_beside(lesson: Sequence[LearnedExample], count: int) -> list[LearnedExample]:
    """A lesson, and behind it what stands beside it: of no event, and of no difficulty."""
    (of_no_event,) = examples_of([None])
    return [*lesson, *[replace(of_no_event, event_id="", beside=True)] * count]


@given(count=st.integers(9, 60), beside=st.integers(0, 20), epochs=st.integers(1, 6), batch_size=st.integers(1, 8))
def test_what_stands_beside_it_goes_along_with_every_stage_once_an_epoch(
    count: int, beside: int, epochs: int, batch_size: int
) -> None:
    examples = with_some_beside(in_thirds(count), beside)
    seen: Sequence[int] = ()
    for epoch, stretch, seen in course(examples, falling(), epochs=epochs, batch_size=batch_size):
        along = sum(place >= count for place in stretch.places)
        assert abs(along - len(stretch.places) * beside / len(examples)) < 1
        assert set(seen[count:]) <= {epoch - 1, epoch}
        if stretch.stage == STAGES[0]:
            assert {place % 3 for place in stretch.places if place < count} == {0}
    assert set(seen[count:]) <= {epochs}
    assert min(seen[:count]) >= 1


def test_what_stands_beside_it_makes_no_stages_of_a_lesson_that_has_none() -> None:
    examples = with_some_beside(examples_of([0.5] * 20), 5)
    assert STAGED.nightschool_arrange_stretch(tuple(examples), so_far(25), 3) is None
    harder = [replace(one, difficulty=0.9) if one.beside else one for one in examples]
    assert STAGED.nightschool_arrange_stretch(tuple(harder), so_far(25), 3) is None


# --------------------------------------------------------------------------- how hard an example is


@pytest.mark.parametrize(
    ("difficulty", "score", "stage"),
    [
        (0.0, None, 0),
        (0.29, None, 0),
        (0.3, None, 1),
        (0.69, None, 1),
        (0.7, None, 2),
        (1.0, None, 2),
        (1.0, 0.0, 2),
        (0.2, 0.0, 1),
        (0.2, 100.0, 0),
        (0.5, 95.0, 0),
        (0.5, 10.0, 2),
        (0.9, 100.0, 1),
        (0.9, 50.0, 2),
    ],
)
def test_the_ranges_take_half_of_a_difficulty_from_how_badly_the_model_did(
    difficulty: float, score: float | None, stage: int
) -> None:
    """1.0 is hard; an answer without a score changes nothing."""
    examples = examples_of([*LEVELS, difficulty], [None, None, None, score])
    difficulties = STAGED._difficulties(examples)
    assert difficulties is not None
    assert 3 in STAGED._staged(examples, difficulties, 0)[stage]


def test_what_was_observed_counts_as_much_as_is_set() -> None:
    (one,) = examples_of([0.2], [0.0])
    found = [CurriculumStaged(observed_weight=weight)._difficulties([one]) or [] for weight in (0.0, 0.25, 1.0)]
    assert list(itertools.chain(*found)) == pytest.approx([0.2, 0.4, 1.0])


@pytest.mark.parametrize(
    "difficulties",
    [
        [0.15 + number / 100 for number in range(12)],
        [0.4 + number / 100 for number in range(12)],
        [0.1 * (number % 2) for number in range(12)],
        [0.1, 0.2, 0.4],
    ],
    ids=["all easy, as of one artifact type", "none easy", "two levels", "none hard"],
)
def test_where_a_range_is_empty_each_stage_has_a_third(difficulties: list[float]) -> None:
    staged = STAGED._staged(examples_of(difficulties), difficulties, 0)
    assert {len(places) for places in staged} == {len(difficulties) // 3}


@given(difficulties=st.lists(st.one_of(SHARES, st.sampled_from(LEVELS)), min_size=3, max_size=60), seed=st.integers(0))
def test_no_stage_is_empty_and_none_has_what_is_harder_than_the_next(difficulties: list[float], seed: int) -> None:
    staged = STAGED._staged(examples_of(difficulties), difficulties, seed)
    assert sorted(itertools.chain(*staged)) == list(range(len(difficulties)))
    assert all(staged)
    for easier, harder in itertools.pairwise(staged):
        assert max(difficulties[place] for place in easier) <= min(difficulties[place] for place in harder)


def test_near_duplicates_of_one_difficulty_are_in_one_stage() -> None:
    examples = [LearnedExample(**{**vars(one), "group": f"g{number % 3}"}) for number, one in enumerate(in_thirds(9))]
    staged = STAGED._staged(examples, [0.1] * 9, 0)
    assert all(len({examples[place].group for place in places}) == 1 for places in staged)


@pytest.mark.parametrize(
    "examples",
    [examples_of([None] * 30), examples_of([*[0.1] * 29, None]), examples_of([0.4] * 30), examples_of([0.1, 0.9])],
    ids=["pairs", "one unknown", "all the same", "too few"],
)
def test_what_has_no_difficulty_of_its_own_is_left_to_chance(examples: list[LearnedExample]) -> None:
    assert STAGED.nightschool_arrange_stretch(tuple(examples), so_far(len(examples)), 0) is None


# --------------------------------------------------------------------------- when a stage is learned


@pytest.mark.parametrize(
    ("losses", "stage"),
    [
        ((1.0,), "easy"),
        ((1.0, 1.0), "easy"),
        ((1.0, 1.0, 1.0), "medium"),
        ((1.0, 0.995, 0.991), "medium"),
        ((1.0, 0.99, 0.98), "easy"),
        ((1.0, 0.995, 0.9), "easy"),
        ((1.0, 1.0, 0.9, 0.9), "easy"),
        ((1.0, 1.0, 0.9, 0.9, 0.9), "medium"),
        ((1.0, 1.1, 1.2), "medium"),
        ((1.0, 1.1, 1.2, 1.15, 1.1), "medium"),
        ((1.0, 1.0, 1.0, 1.0), "medium"),
        ((1.0,) * 5, "hard"),
        ((1.0,) * 6, "hard"),
        ((1.0,) * 7, "all"),
        ((1.0,) * 9, "all"),
    ],
)
def test_a_stage_is_learned_after_two_evaluations_in_a_row_without_gain(losses: tuple[float, ...], stage: str) -> None:
    assert arranged(in_thirds(60), losses=losses).stage == stage


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"losses": (1.0,)}, ""),
        ({"losses": (1.0, 1.0, 1.0)}, LEARNED),
        ({"losses": (1.0, 1.0, 1.0, 0.5, 0.2)}, LEARNED),
        ({"losses": (1.0, 0.5, 0.2), "epochs": 3}, LATE),
        ({"losses": (1.0, 0.5, 0.2, 0.1, 0.05), "epochs": 3, "epoch": 2}, LATE),
        ({"losses": (1.0, 1.0, 1.0), "epochs": 3}, LEARNED),
        ({"losses": (1.0,) * 7}, LEARNED),
        ({"losses": (1.0,) * 7, "left": 40}, LEARNED),
        ({"losses": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01), "epochs": 3, "epoch": 3}, AT_THE_END),
        ({"losses": (1.0, 0.5), "goes_on": True}, ""),
    ],
)
def test_each_stage_says_whether_the_one_before_was_learned_or_its_time_was_over(
    told: dict[str, Any], reason: str
) -> None:
    assert arranged(in_thirds(60), **told).reason == reason


@pytest.mark.parametrize("count", [60, 600, 6000])
def test_no_number_of_examples_ends_a_stage(count: int) -> None:
    """Only what is learned does: the old curriculum went on as soon as there were enough examples."""
    losses = tuple(0.9**number for number in range(8))
    assert arranged(in_thirds(count), losses=losses, epoch=3).stage == "easy"


@pytest.mark.parametrize("count", [17, 40, 160, 2000])
def test_learning_alone_ends_a_stage_where_that_is_set(count: int) -> None:
    """In trainings as they are by default: what goes on learning stays with the easy ones until the last epoch."""
    alone = CurriculumStaged(longest_stage=1.0)
    specialty = Specialty(base="tiny:latest", artifact_type="erd")
    chosen = TuningFixed().nightschool_suggest_hyperparameters(specialty, count, FakeStore(), 0)
    taken = [
        one.stage
        for _, one, _ in course(
            in_thirds(count), falling(), epochs=chosen.num_epochs, batch_size=chosen.batch_size, plugin=alone
        )
    ]
    assert [stage for stage, _ in itertools.groupby(taken)] == ["easy", EVERYTHING_NAME]


@pytest.mark.parametrize(("share", "stages"), [(0.33, "eemmhh"), (1 / 2, "eeemmm"), (1 / 6, "emhhhh"), (1.0, "eeeeee")])
def test_a_stage_takes_its_share_of_the_time_at_most(share: float, stages: str) -> None:
    plugin = CurriculumStaged(longest_stage=share)
    taken = course(in_thirds(60), falling(), epochs=3, batch_size=4, plugin=plugin)
    assert "".join(one.stage[0] for _, one, _ in taken) == f"{stages}a"


def test_everything_begins_with_an_epoch() -> None:
    """Else no epoch would see everything."""
    examples, learned = in_thirds(60), (1.0,) * 7
    assert arranged(examples, losses=learned, left=40).stage == "hard"
    assert arranged(examples, losses=learned, left=60).stage == "all"


def test_few_epochs_are_enough_for_every_stage() -> None:
    """Though nothing was learned to its end: three epochs of three stretches, and two thirds of the first six."""
    stages = [stretch.stage for _, stretch, _ in course(in_thirds(60), falling(), epochs=3, batch_size=4)]
    assert stages == ["easy", "easy", "medium", "medium", "hard", "hard", "all"]


@pytest.mark.parametrize("count", [17, 24, 39, 40, 79, 80, 160, 2000])
@pytest.mark.parametrize("losses", [falling, resting])
def test_the_epochs_that_a_training_has_by_default_reach_every_stage(count: int, losses: Any) -> None:
    specialty = Specialty(base="tiny:latest", artifact_type="erd")
    chosen = TuningFixed().nightschool_suggest_hyperparameters(specialty, count, FakeStore(), 0)
    examples = in_thirds(count)
    taken = list(course(examples, losses(), epochs=chosen.num_epochs, batch_size=chosen.batch_size))
    assert [stage for stage, _ in itertools.groupby(stretch.stage for _, stretch, _ in taken)] == list(ORDER)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("size", FULL.sizes.values(), ids=FULL.sizes)
def test_the_nights_by_which_it_is_measured_reach_every_stage(size: Size, share: float) -> None:
    (component,) = (one for one in COMPONENTS if one.name == "curriculum")
    plugin = CurriculumStaged(**component.tables["plugins.curriculum_staged"])  # type: ignore[arg-type]  # a table
    examples = in_thirds(round(share * size.night))
    taken = list(course(examples, falling(), epochs=PASSES, batch_size=size.batch, plugin=plugin))
    assert [stage for stage, _ in itertools.groupby(one.stage for _, one, _ in taken)] == list(ORDER)


def test_an_only_epoch_goes_from_easy_to_hard() -> None:
    ((_, stretch, seen),) = course(in_thirds(60), falling(), epochs=1, batch_size=4)
    assert [place % 3 for place in stretch.places] == [0] * 20 + [1] * 20 + [2] * 20
    assert seen == [1] * 60


def test_what_goes_on_from_an_earlier_training_begins_where_that_ended() -> None:
    examples = in_thirds(60)
    stages = [one.stage for _, one, _ in course(examples, falling(), epochs=3, batch_size=4, goes_on=True)]
    assert stages == ["hard"] * 6 + ["all"]
    assert arranged(examples, losses=(1.0, 1.0, 1.0), goes_on=True).stage == "all"
    only = arranged(examples, epochs=1, goes_on=True)
    assert {place % 3 for place in only.places[:20]} == {0, 1, 2}, "it knows the easy ones"


# --------------------------------------------------------------------------- what a stage sees


@pytest.mark.parametrize(("evaluated", "levels"), [(1, [20, 0, 0]), (3, [14, 6, 0]), (5, [10, 6, 4])])
def test_the_mix_of_each_stage(evaluated: int, levels: list[int]) -> None:
    """A third of an epoch, in which nobody is seen twice."""
    stretch = arranged(in_thirds(60), losses=(1.0,) * evaluated)
    assert levels_of(stretch) == levels
    assert len(set(stretch.places)) == 20


def test_an_epoch_of_one_stage_sees_its_examples_more_often_and_others_not_at_all() -> None:
    """Not another order of the same: that is what a curriculum is."""
    easy = [stretch for epoch, stretch, _ in course(in_thirds(60), falling(), epochs=20, batch_size=4) if epoch == 1]
    seen = Counter(place for stretch in easy for place in stretch.places)
    assert seen == dict.fromkeys(range(0, 60, 3), 3)


def test_every_batch_has_the_mix() -> None:
    stretch = arranged(in_thirds(600), losses=(1.0,) * 5, batch_size=20)
    assert levels_of(stretch) == [70, 42, 28]
    for start in range(0, len(stretch.places), 20):
        levels = levels_of(Stretch(places=stretch.places[start : start + 20], stage=""))
        assert all(abs(found - wanted) <= 2 for found, wanted in zip(levels, (10, 6, 4), strict=True))


@pytest.mark.parametrize(
    ("mix", "sizes", "length", "counts"),
    [
        ((1.0, 0.0, 0.0), (20, 20, 20), 20, [20, 0, 0]),
        ((1.0, 0.0, 0.0), (2, 20, 20), 14, [2, 12, 0]),
        ((1.0, 0.0, 0.0), (2, 5, 35), 14, [2, 5, 7]),
        ((1.0, 0.0, 0.0), (4, 4, 4), 12, [12, 0, 0]),
        ((1.0, 0.0, 0.0), (1, 5, 6), 12, [3, 9, 0]),
        ((0.7, 0.3, 0.0), (20, 2, 20), 14, [12, 2, 0]),
        ((0.7, 0.3, 0.0), (8, 2, 32), 14, [8, 2, 4]),
        ((0.5, 0.3, 0.2), (20, 20, 2), 14, [7, 5, 2]),
        ((0.5, 0.3, 0.2), (2, 20, 20), 14, [2, 9, 3]),
    ],
)
def test_a_stage_that_runs_short_is_filled_from_its_neighbours(
    mix: tuple[float, ...], sizes: tuple[int, ...], length: int, counts: list[int]
) -> None:
    assert curriculum_staged._counts(mix, sizes, length) == counts


@given(
    mix=st.tuples(*[st.integers(0, 100)] * 3).filter(any),
    sizes=st.tuples(*[st.integers(1, 50)] * 3),
    share=st.floats(0.01, 1),
)
def test_a_mix_adds_up_and_nobody_runs_short_without_need(
    mix: tuple[int, ...], sizes: tuple[int, ...], share: float
) -> None:
    count = sum(sizes)
    length = max(1, int(share * count))
    shares = [part / sum(mix) for part in mix]
    counts = curriculum_staged._counts(shares, sizes, length)
    assert sum(counts) == length
    times = math.ceil(3 * length / count)
    wanted = curriculum_staged._apportioned(shares, length)
    assert sum(wanted) == length
    for found, asked, part, size in zip(counts, wanted, shares, sizes, strict=True):
        assert found <= times * size
        assert found >= min(asked, times * size)
        assert abs(asked - part * length) < 1 + 1e-9
    if all(asked <= times * size for asked, size in zip(wanted, sizes, strict=True)):
        assert counts == wanted


# --------------------------------------------------------------------------- a whole training


@given(
    difficulties=st.lists(SHARES, min_size=3, max_size=80).filter(lambda found: len(set(found)) > 1),
    scores=st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=80),
    losses=st.lists(st.floats(0.1, 2), min_size=40, max_size=40),
    epochs=st.integers(1, 10),
    batch_size=st.integers(1, 16),
    seed=st.integers(0, 2**31),
    goes_on=st.booleans(),
)
def test_nothing_shrinks_nothing_is_lost_and_no_stage_comes_back(
    difficulties: list[float],
    scores: list[float | None],
    losses: list[float],
    epochs: int,
    batch_size: int,
    seed: int,
    goes_on: bool,
) -> None:
    examples = examples_of(difficulties, scores)
    told = STAGED._difficulties(examples)
    assert told is not None
    if len(set(told)) == 1:
        return
    staged, count = STAGED._staged(examples, told, seed), len(examples)
    stages, lengths = list[int](), Counter[int]()
    for epoch, stretch, seen in course(
        examples, iter(losses), epochs=epochs, batch_size=batch_size, seed=seed, goes_on=goes_on
    ):
        stages.append(ORDER.index(stretch.stage))
        lengths[epoch] += len(stretch.places)
        assert lengths[epoch] == count or len(stretch.places) % batch_size == 0, "a batch is as large as others"
        for places in staged:
            found = [seen[place] for place in places]
            assert max(found) - min(found) <= 1, "each has its turn"
        if epoch == epochs:
            assert sorted(stretch.places) == list(range(count)), "the last epoch sees everything"
    assert lengths == dict.fromkeys(range(1, epochs + 1), count)
    assert len(stages) <= 4 * epochs
    assert stages == sorted(stages)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"observed_weight": 1.1}, "observed_weight"),
        ({"medium_from": 0.7}, "medium_from and hard_from"),
        ({"medium_from": 0.0}, "medium_from and hard_from"),
        ({"hard_from": 1.1}, "medium_from and hard_from"),
        ({"easy_mix": (1.0,)}, "easy_mix"),
        ({"medium_mix": (0.7, 0.2, 0.0)}, "medium_mix"),
        ({"hard_mix": (1.5, -0.5, 0.0)}, "hard_mix"),
        ({"least_gain": 1.0}, "least_gain"),
        ({"least_gain": float("nan")}, "least_gain"),
        ({"longest_stage": 0.0}, "longest_stage"),
        ({"longest_stage": 1.1}, "longest_stage"),
        ({"patience": 0}, "patience"),
        ({"evaluations": 0}, "evaluations"),
        ({"fewest_steps": 0}, "fewest_steps"),
        ({"whole_epochs": 0}, "whole_epochs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CurriculumStaged(**settings)
