"""What cells of the ablation bench learn from and are asked."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ablation.cells import reaction
from benchmarks.ablation.measures import Said
from benchmarks.ablation.pools import (
    COMMON,
    DISLIKED,
    IS_COMMON,
    LIKED,
    MISSING,
    NEARLY,
    REPEATED,
    WRONG,
    Row,
    Size,
    clean_pool,
    dirty_pool,
    groups_of,
    held_apart,
    material_of,
    nearly_known,
    pairs_of,
    slip,
    with_parts_missing,
)
from benchmarks.tasks import Pair
from nightschool_hookspecs.records import FeedbackType

SIZE = Size(
    pool=40, night=16, tokens=1, batch=1,
    held_out=16, asked=8, slipped=4, answer_tokens=1, said_tokens=1, general=1,
)  # fmt: skip
MANY = [Pair(prompt=f"prompt number {number}", answer=f"answer {number}") for number in range(200)]


def is_even(pair: Pair) -> bool:
    return int(pair.answer.split()[1]) % 2 == 0


@given(count=st.integers(8, 100), seed=st.integers(0, 50))
def test_a_dirty_pool_has_its_shares_exactly(count: int, seed: int) -> None:
    rows = dirty_pool(MANY, count, seed, is_even)
    first = [row for row in rows if not row.is_repeated]
    assert len(rows) == count
    assert sum(row.is_wrong for row in rows) == round(WRONG * count)
    assert count - len(first) == round(REPEATED * count)
    assert abs(sum(is_even(row.source) for row in first) - COMMON * len(first)) <= 0.5
    assert max(Counter(row.source for row in first).values()) == 1
    reactions = Counter(row.feedback for row in rows)
    assert reactions[FeedbackType.EXPLICIT_POSITIVE] == round(LIKED * count)
    assert reactions[FeedbackType.EXPLICIT_NEGATIVE] == round(DISLIKED * count)


def test_what_is_rare_was_asked_for_again() -> None:
    rows = dirty_pool(MANY, 60, 1, is_even)
    asked_again = [row for row in rows if row.retries]
    assert asked_again
    assert not any(is_even(row.source) or row.feedback.is_like for row in asked_again)


@given(seed=st.integers(0, 50), share=st.sampled_from(MISSING))
def test_what_is_nearly_known_is_the_right_answer_with_parts_missing(seed: int, share: float) -> None:
    right = "erDiagram\n  artist {\n    number id PK\n    text name\n  }\n  artist ||--o{ volume : id"
    found = with_parts_missing(right, share, random.Random(seed))
    kept = found.split("\n")
    assert [line for line in right.split("\n") if line in kept] == kept
    assert kept[0] == "erDiagram"
    assert len(kept) == 6 - max(1, round(3 * share))
    assert ("  artist {" in kept, "  }" in kept) == (True, True)
    assert with_parts_missing("ls -l -a", share, random.Random(seed)).startswith("ls")


def test_the_incumbent_nearly_knows_some_of_what_is_common() -> None:
    rows = dirty_pool(MANY, 60, 1, is_even)
    common = {row.source.prompt for row in rows if is_even(row.source)}
    assert set(nearly_known(rows, 1, is_even)) < common
    assert len(nearly_known(rows, 1, is_even)) == round(NEARLY * len(common))


# --------------------------------------------------------------------------- as feedback


SAID = Said(text="ls", score=20.0)
ASKED = Row.of(Pair(prompt="list all", answer="ls -a"))


def test_a_like_has_the_answer_and_nothing_else() -> None:
    found = reaction(replace(ASKED, feedback=FeedbackType.EXPLICIT_POSITIVE), SAID)
    assert (found["ai_output"], found["corrected_output"], found["validation_score"]) == ("ls -a", None, None)


def test_a_dislike_has_what_was_said_and_no_correction() -> None:
    found = reaction(replace(ASKED, feedback=FeedbackType.EXPLICIT_NEGATIVE), SAID)
    assert (found["ai_output"], found["corrected_output"], found["validation_score"]) == ("ls", None, 20.0)


def test_a_correction_has_what_was_said_and_how_often_it_was_asked() -> None:
    assert reaction(replace(ASKED, retries=2), SAID) == {"ai_output": "ls", "validation_score": 20.0, "retries": 2}


def test_where_nothing_was_said_the_answer_is_shown_as_it_should_be() -> None:
    for said in (None, Said(text=" ", score=0.0), Said(text="ls -a", score=100.0)):
        assert reaction(replace(ASKED, feedback=FeedbackType.EXPLICIT_NEGATIVE), said) == {}


# --------------------------------------------------------------------------- what they are drawn from


@given(seed=st.integers(0, 50))
def test_a_wrong_answer_is_that_to_another_prompt_of_the_pool(seed: int) -> None:
    rows = dirty_pool(MANY, 60, seed, is_even)
    answers = {row.source.answer for row in rows}
    assert all(row.answer in answers for row in rows if row.is_wrong)


def test_a_repetition_has_the_prompt_of_another_with_a_slip() -> None:
    rows = dirty_pool(MANY, 60, 1, is_even)
    there = {row.source for row in rows if not row.is_repeated}
    repeated = [row for row in rows if row.is_repeated]
    assert all(row.source in there for row in repeated)
    assert max(Counter(row.source for row in repeated).values()) > 1


def test_what_is_too_rare_is_made_up_for_by_what_is_common() -> None:
    few = [one for one in MANY if is_even(one) or one.answer == "answer 1"]
    rows = dirty_pool(few, 80, 1, is_even)
    assert len({row.source for row in rows}) == 60


def test_a_clean_pool_is_right_and_of_different_prompts() -> None:
    rows = clean_pool(MANY, 60, 3)
    assert len({row.source for row in rows}) == len(rows) == 60
    assert not any(row.is_wrong or row.is_repeated for row in rows)


def test_pools_follow_from_the_seed() -> None:
    pools = [dirty_pool(MANY, 60, seed, is_even) for seed in (1, 1, 2)]
    assert pools[0] == pools[1] != pools[2]


def test_near_duplicates_and_equal_answers_are_one_group() -> None:
    pairs = [
        Pair(prompt="List every file below the directory that was changed today", answer="a"),
        Pair(prompt="List every file below the directory that was changed today.", answer="b"),
        Pair(prompt="something else altogether, about archives", answer="b"),
        Pair(prompt="count the words of a text", answer="c"),
    ]
    first, second, third, fourth = groups_of(pairs)
    assert first == second == third != fourth


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_held_out_is_of_other_groups(seed: int) -> None:
    pairs = pairs_of("shell")
    group = dict(zip(pairs, groups_of(pairs), strict=True))
    held_out, others = held_apart(pairs, 60, seed)
    assert len(held_out) == 60
    assert len({group[one] for one in held_out}) == 60
    assert {group[one] for one in held_out}.isdisjoint(group[one] for one in others)


@pytest.mark.parametrize("task", IS_COMMON)
def test_nothing_that_is_asked_is_in_a_pool(task: str) -> None:
    material = material_of(task, SIZE, 0)
    asked = {one.prompt for one in (*material.held_out, *material.slipped)}
    learned = {text for row in (*material.dirty, *material.clean) for text in (row.prompt, row.source.prompt)}
    assert asked.isdisjoint(learned)
    assert len(material.held_out) == SIZE.held_out
    assert [one.answer for one in material.slipped] == [one.answer for one in material.held_out[: SIZE.slipped]]


@given(text=st.text(min_size=4), seed=st.integers(0, 20))
def test_a_slip_changes_the_first_line_alone(text: str, seed: int) -> None:
    first, newline, rest = f"list the files{text}".partition("\n")
    found = slip(first + newline + rest, random.Random(seed))
    assert found != first + newline + rest
    assert found.endswith(newline + rest)
