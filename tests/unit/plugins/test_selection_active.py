"""Active selection: its formula by hand, the lazy loop against the plain one, and what the older formula got wrong."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nightschool_hookspecs import Budget, Embed, Event, FeedbackType, Matrix, ScoredEvent
from nightschool_hookspecs.testing import FakeEmbed, matrix
from nightschool_plugins import selection_active
from nightschool_plugins.selection_active import (
    SelectionActive,
    _Candidates,
    _cosines,
    _meanings,
    _ranks,
    _whole,
    _wordings,
)

MANY = Budget(events=10_000, tokens=10_000_000)
VECTORS = {
    "x": (1.0, 0.0, 0.0),
    "y": (0.0, 1.0, 0.0),
    "y z": (0.0, 0.6, 0.8),
    "z": (0.0, 0.0, 1.0),
    "-x": (-1.0, 0.0, 0.0),
    "": (0.0, 0.0, 0.0),
}


def embed(texts: Sequence[str]) -> Matrix:
    return matrix([VECTORS[text] for text in texts], columns=3)


def scored(
    identifier: str,
    priority: float = 0.0,
    text: str = "x",
    *,
    kind: FeedbackType = FeedbackType.SUCCESS,
    score: float | None = 100.0,
    answer: str | None = "x",
    corrected: str | None = None,
    retries: int = 0,
    artifact_type: str = "shell",
    reward: float = 0.0,
) -> ScoredEvent:
    event = Event(
        id=identifier,
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        feedback_type=kind,
        input_data=text,
        artifact_type=artifact_type,
        ai_output=answer,
        corrected_output=corrected,
        validation_score=score,
        retries=retries,
    )
    return ScoredEvent(
        event=event, priority=priority, reward=reward, difficulty=0.5, group=identifier, trained_on=False
    )


def select(
    events: Sequence[ScoredEvent], budget: Budget = MANY, plugin: SelectionActive | None = None, by: Embed = embed
) -> list[str]:
    """The chosen ones by their id."""
    chosen = (plugin or SelectionActive()).nightschool_select_events(tuple(events), (), budget, by)
    return [key.removeprefix("dropdir/") for key, _ in chosen]


def test_what_no_run_has_chosen_comes_first() -> None:
    """However little is uncertain of it; the rest of the budget goes to the others again."""
    failed = [scored(f"failed {number}", kind=FeedbackType.VALIDATION_FAILURE, score=0.0) for number in range(2)]
    before = [replace(one, is_fresh=False) for one in failed]
    fresh = [scored(f"fresh {number}") for number in range(2)]
    assert set(select([*before, *fresh], Budget(events=2, tokens=1000))) == {"fresh 0", "fresh 1"}
    assert select([*before, *fresh], Budget(events=3, tokens=1000))[2].startswith("failed")


# --------------------------------------------------------------------------- uncertainty

CORRECTION, FAILURE, NEGATIVE, SUCCESS, POSITIVE = (
    FeedbackType.USER_CORRECTION,
    FeedbackType.VALIDATION_FAILURE,
    FeedbackType.EXPLICIT_NEGATIVE,
    FeedbackType.SUCCESS,
    FeedbackType.EXPLICIT_POSITIVE,
)


@pytest.mark.parametrize(
    ("kind", "score", "corrected", "retries", "gap", "expected"),
    [
        (CORRECTION, 40.0, "y", 0, None, 0.4 * 0.6 + 0.3 + 0.3 * 0.8),
        (CORRECTION, None, "y", 0, 0.2, 0.4 * 0.2 + 0.3 + 0.3 * 0.8),
        (CORRECTION, math.nan, "y", 0, None, 0.4 * 0.5 + 0.3 + 0.3 * 0.8),
        (FAILURE, 0.0, "y", 0, None, 1.0),
        (NEGATIVE, 50.0, "y", 2, None, 0.4 * 0.5 + 0.3 + 0.3 * 0.9 + 0.2),
        (SUCCESS, 90.0, None, 0, None, 0.4 * 0.1 + 0.3 * 0.1),
        (SUCCESS, 900.0, None, -5, None, 0.3 * 0.1),
        (POSITIVE, None, None, 0, None, 0.4 * 0.5 + 0.3 * 0.1),
    ],
)
def test_uncertainty_of_an_event_by_itself(
    kind: FeedbackType, score: float | None, corrected: str | None, retries: int, gap: float | None, expected: float
) -> None:
    event = scored("1", kind=kind, score=score, corrected=corrected, retries=retries).event
    assert SelectionActive()._own_uncertainty(event, gap) == pytest.approx(expected)


def base_of(
    events: Sequence[ScoredEvent], plugin: SelectionActive, by: Embed = embed, others: Sequence[ScoredEvent] = ()
) -> list[float]:
    found: list[float] = plugin._candidates(events, others, by).base.tolist()
    return found


UNCERTAIN = SelectionActive(uncertainty_weight=1.0, diversity_weight=0.0, quality_weight=0.0, near_weight=0.0)


def test_uncertainty_is_at_most_one() -> None:
    events = [scored("1", kind=FAILURE, score=0.0, corrected="y", retries=7)]
    assert base_of(events, UNCERTAIN) == [1.0]


@pytest.mark.parametrize(
    ("answer", "corrected", "gap"),
    [
        ("tar", "zip", 1.0),
        ("ls -a", "ls -l", 1 / 3),  # " ls ", "ls -" and one of their own
        ("ls -a", "ls -a", 0.0),
        ("", "ls -a", 1.0),
        (None, "ls -a", 0.5),
    ],
)
def test_a_missing_score_is_how_far_the_answer_is_from_its_correction(
    answer: str | None, corrected: str, gap: float
) -> None:
    event = scored("1", kind=CORRECTION, score=None, answer=answer, corrected=corrected)
    assert base_of([event], UNCERTAIN) == pytest.approx([0.4 * gap + 0.3 + 0.24], abs=1e-3)


NEAR = SelectionActive(
    uncertainty_weight=1.0, diversity_weight=0.0, quality_weight=0.0,
    score_weight=0.0, correction_weight=0.0, type_weight=0.0, near_weight=0.2, neighbours=2,
)  # fmt: skip


def test_uncertainty_grows_with_the_share_of_failures_among_the_nearest_prompts() -> None:
    events = [
        scored("1", text="x"),
        scored("2", text="x", kind=CORRECTION, corrected="y"),
        scored("3", text="x", score=70.0),
        scored("4", text="y"),
        scored("5", text="y"),
        scored("6", text="y z", kind=NEGATIVE),
    ]
    shares = [share / 0.2 for share in base_of(events, NEAR)]
    assert shares == pytest.approx([1.0, 0.5, 0.5, 0.5, 0.5, 0.0])


def test_failures_that_cannot_be_chosen_make_what_is_near_them_uncertain() -> None:
    """A lone dislike teaches nothing, and says where the model fails."""
    events = [scored("1", text="x"), scored("2", text="y"), scored("3", text="y")]
    disliked = [scored(name, text="x", kind=NEGATIVE) for name in "45"]
    liked = [scored("6", text="z", kind=POSITIVE)]
    shares = [share / 0.2 for share in base_of(events, NEAR, others=[*disliked, *liked])]
    assert shares[0] == pytest.approx(1.0)
    assert max(shares[1:]) < 1.0
    assert [share / 0.2 for share in base_of(events, NEAR)] == [0.0] * 3
    plugin = SelectionActive()
    chosen = plugin.nightschool_select_events(tuple(events), (*disliked, *liked), MANY, embed)
    assert sorted(key for key, _ in chosen) == ["dropdir/1", "dropdir/2", "dropdir/3"]


def test_an_event_without_neighbours_counts_itself() -> None:
    assert base_of([scored("1", kind=NEGATIVE)], NEAR) == [0.2]
    assert base_of([scored("1")], NEAR) == [0.0]


@pytest.mark.parametrize(("answer", "failed"), [("Yes", 0.2), ("No", 0.0)])
def test_a_minor_correction_is_no_failure(answer: str, failed: float) -> None:
    event = scored("1", kind=CORRECTION, answer=answer, corrected="no.", artifact_type="other")
    assert base_of([event], NEAR, FakeEmbed()) == [failed]


def test_every_prompt_is_in_one_cell_however_small_cells_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection_active, "CELL", 3)
    monkeypatch.setattr(selection_active, "LARGEST_CELL", 4)
    monkeypatch.setattr(selection_active, "ROWS_AT_ONCE", 5)
    texts = [f"{number % 4} and {number % 3}" for number in range(40)]
    cells = selection_active._cells(_meanings(texts, FakeEmbed()))
    assert sorted(place for cell in cells for place in cell.tolist()) == list(range(40))
    assert max(map(len, cells)) == 4


# --------------------------------------------------------------------------- quality

QUALITY = SelectionActive(uncertainty_weight=0.0, diversity_weight=0.0, quality_weight=1.0)


def test_quality_is_the_rank_of_the_priority() -> None:
    assert _ranks([9.0, 1.0, 5.0, 5.0]).tolist() == [1.0, 0.0, 0.5, 0.5]
    assert _ranks([0.1, 1000.0, -7.0]).tolist() == [0.5, 1.0, 0.0]
    assert _ranks([3.0]).tolist() == [0.0]


def test_good_events_whose_rewards_are_clipped_alike_are_not_equal() -> None:
    """The old formula took the reward, which is 1 for all of these."""
    events = [scored("a", 1.2, reward=1.0), scored("b", 3.0, reward=1.0), scored("c", 2.0, reward=1.0)]
    assert select(events, plugin=QUALITY) == ["b", "c", "a"]


# --------------------------------------------------------------------------- diversity


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (scored("2", text="x", answer="x"), 1.0),
        (scored("2", text="x", answer="x", artifact_type="sql"), 0.7),
        (scored("2", text="y", answer="x"), 0.6),
        (scored("2", text="-x", answer="x"), 0.6),
        (scored("2", text="x", answer="y z"), 0.7),
        (scored("2", text="", answer=""), 0.3),
    ],
)
def test_similarity_is_of_artifact_type_input_and_output(other: ScoredEvent, expected: float) -> None:
    candidates = SelectionActive()._candidates([scored("1"), other], (), embed)
    assert candidates.space.similarities([0], [1]).tolist() == [pytest.approx([expected])]


def test_similarity_of_near_directions() -> None:
    events = [scored("1", text="y", answer="ls -a"), scored("2", text="y z", answer="ls -l")]
    found = SelectionActive()._candidates(events, (), embed).space.similarities([0], [1])
    assert found.tolist() == [pytest.approx([0.3 + 0.4 * 0.6 + 0.3 * 2 / 3], abs=1e-3)]


@pytest.mark.parametrize("vectors", [_meanings(["", "x", ""], embed), _wordings(["", "x", ""])])
def test_texts_without_words_are_alike_and_like_no_other(vectors: NDArray[np.int16]) -> None:
    assert _cosines(vectors, vectors).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


@given(st.lists(st.text(), max_size=5))
@settings(deadline=None)
def test_any_wording_is_about_as_long_as_the_others_and_stands_by_itself(texts: list[str]) -> None:
    vectors = _wordings(texts)
    assert vectors.shape == (len(texts), 257)
    assert np.linalg.norm(vectors.astype(float), axis=1) == pytest.approx(np.full(len(texts), 4000), abs=8)
    assert np.array_equal(vectors[::-1], _wordings(texts[::-1]))


def test_a_twin_of_what_is_selected_waits() -> None:
    events = [scored("best", 3.0), scored("twin", 2.0), scored("other", 1.0, "y", answer="y")]
    # base .3, .15 and 0 of quality; beside the best, the twin's diversity is 0 and the other's .7
    assert select(events) == ["best", "other", "twin"]


def test_each_has_the_score_by_which_it_was_chosen_beside_those_before_it() -> None:
    events = (scored("best", 3.0), scored("twin", 2.0), scored("other", 1.0, "y", answer="y"))
    plugin = SelectionActive(uncertainty_weight=0.0)
    chosen = plugin.nightschool_select_events(events, (), MANY, embed)
    assert [score for _, score in chosen] == pytest.approx([0.3 + 0.3, 0.3 * 0.7, 0.15], abs=1e-3)


def test_diversity_is_against_what_is_selected_not_against_what_was_seen() -> None:
    """The old loop compared `d` with `c` too, which comes before it and is no part of the selection."""
    events = [
        scored("a", 3.0, "x", answer="x"),
        scored("c", 1.0, "y", answer="y"),
        scored("d", 2.0, "y z", answer="y z"),
    ]
    plugin = SelectionActive(quality_weight=0.1)
    # beside `a`: .05 + .3 * .7 for `d`, .3 * .7 for `c`; beside `c` too, `d` would have .05 + .3 * .46
    assert select(events, Budget(events=2, tokens=100), plugin) == ["a", "d"]


def test_scores_are_computed_anew_as_the_selection_grows() -> None:
    """`b` and `c` are alike: the second of them is worth less as soon as the first is in."""
    events = [
        scored("a", 4.0, "x", answer="x"),
        scored("b", 3.0, "y", answer="y"),
        scored("c", 2.0, "y", answer="y"),
        scored("d", 1.0, "z", answer="z"),
    ]
    assert select(events) == ["a", "b", "d", "c"]


# --------------------------------------------------------------------------- greedy

WORDS = ("ls", "list", "files", "all", "grep", "the", "")
texts = st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)
Row = tuple[float, str, FeedbackType, float | None, str, str | None, int, str]
rows_of_events = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 2.0]), texts, st.sampled_from(FeedbackType), st.sampled_from([None, 30.0, 90.0]),
        texts, st.none() | texts, st.integers(0, 3), st.sampled_from(["shell", "sql"]),
    ),
    min_size=1, max_size=25,
)  # fmt: skip


def build(rows: Sequence[Row]) -> list[ScoredEvent]:
    return [
        scored(
            f"{number:02}", priority, text,
            kind=kind, score=score, answer=answer, corrected=corrected, retries=retries, artifact_type=artifact_type,
        )
        for number, (priority, text, kind, score, answer, corrected, retries, artifact_type) in enumerate(rows)
    ]  # fmt: skip


def tokens_of(one: ScoredEvent) -> int:
    return math.ceil((len(one.event.input_data) + len(one.event.target or "")) / 3)


def plain(candidates: _Candidates, tokens: Sequence[int], budget: Budget) -> list[int]:
    """Every score of every candidate anew at every step."""
    chosen: list[int] = []
    left, spent = list(range(len(tokens))), 0
    while left and len(chosen) < budget.events:
        left = [place for place in left if tokens[place] <= budget.tokens - spent]
        scores = {place: _score_beside(candidates, place, chosen) for place in left}
        best = max(left, key=lambda place: (scores[place], -place), default=None)
        if best is None:
            break
        chosen.append(best)
        left.remove(best)
        spent += tokens[best]
    return chosen


def _score_beside(candidates: _Candidates, place: int, chosen: Sequence[int]) -> float:
    nearest = max((candidates.space.similarities([place], [one])[0, 0] for one in chosen), default=0.0)
    return float(candidates.base[place] + candidates.weight * (1 - nearest))


@given(rows_of_events, st.integers(0, 30), st.integers(0, 60), st.sampled_from([1, 3, 64]))
@settings(deadline=None)
def test_the_lazy_loop_chooses_as_the_plain_one(
    rows: list[Row],
    most: int,
    tokens: int,
    block: int,
) -> None:
    events, budget = build(rows), Budget(events=most, tokens=tokens)
    expected = plain(SelectionActive()._candidates(events, (), FakeEmbed()), [tokens_of(one) for one in events], budget)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection_active, "BLOCK", block)
        assert select(events, budget, by=FakeEmbed()) == [f"{place:02}" for place in expected]


@given(rows_of_events, st.integers(0, 30), st.integers(0, 60), st.randoms())
@settings(deadline=None)
def test_the_order_of_arrival_does_not_matter_and_the_budget_is_kept(
    rows: list[Row],
    most: int,
    tokens: int,
    chance: random.Random,
) -> None:
    events, budget = build(rows), Budget(events=most, tokens=tokens)
    chosen = select(events, budget, by=FakeEmbed())
    shuffled = chance.sample(events, len(events))
    assert select(shuffled, budget, by=FakeEmbed()) == chosen
    sizes = {one.event.id: tokens_of(one) for one in events}
    left = tokens - sum(sizes[identifier] for identifier in chosen)
    assert len(set(chosen)) == len(chosen) <= most
    assert left >= 0
    assert len(chosen) == most or all(sizes[one] > left for one in sizes if one not in chosen)


def test_equal_events_go_by_their_keys() -> None:
    assert select([scored(name) for name in "cab"]) == ["a", "b", "c"]


def test_an_event_too_large_makes_room_for_smaller_ones() -> None:
    events = [scored("large", 2.0, "x " * 3000), scored("small", 1.0)]
    assert select(events, Budget(events=5, tokens=100), by=FakeEmbed()) == ["small"]


def test_products_do_not_depend_on_what_is_computed_beside_them() -> None:
    random_rows = np.random.default_rng(7).normal(size=(300, 257)).astype(np.float32)
    unit = random_rows / np.linalg.norm(random_rows, axis=1, keepdims=True)
    vectors = _whole(unit)
    whole = _cosines(vectors, vectors)
    assert np.array_equal(whole, np.vstack([_cosines(vectors[row : row + 1], vectors) for row in range(300)]))
    assert np.abs(whole - np.clip(unit @ unit.T, 0, 1)).max() < 1e-3


def test_without_an_embedding_model_the_wording_tells_what_is_alike() -> None:
    events = [
        scored("a", 0.0, "list all files"),
        scored("b", 0.0, "list all file"),
        scored("c", 0.0, "count the lines"),
    ]
    assert select(events, by=FakeEmbed(available=False)) == ["a", "c", "b"]


def test_of_nothing_nothing_is_selected() -> None:
    assert select([]) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"diversity_weight": -0.1}, "diversity_weight must be 0 or more"),
        ({"quality_weight": math.nan}, "quality_weight must be 0 or more"),
        ({"uncertainty_weight": math.inf}, "uncertainty_weight must be 0 or more"),
        ({"success": 1.1}, "success must be within"),
        ({"unknown_gap": 2.0}, "unknown_gap must be within"),
        ({"input_weight": 0.5}, "together"),
        ({"neighbours": 0}, "neighbours must be 1 or more"),
        ({"lowest_score": 101.0}, "lowest_score must be within"),
        ({"characters_per_token": 0.0}, "characters_per_token must be above 0"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SelectionActive(**changed)  # type: ignore[arg-type]
