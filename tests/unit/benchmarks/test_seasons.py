"""Seasons of poison and forgetting: what is fed, and what the table makes of it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import seasons
from benchmarks.nightly import Ended
from benchmarks.seasons import GIVEN, WORTHLESS, Result, Version, draw, flipped, poison, poisoned, rows_of
from benchmarks.tasks import Pair
from nightschool_daemon import codec
from nightschool_hookspecs.records import Outcome, Recipe, RunEnd

PAIRS = [Pair(prompt=f"prompt {number}", answer=f"answer {number}") for number in range(GIVEN)]
RUN = Ended(
    day=1,
    recipe=Recipe.TRAINING,
    end=RunEnd.PROMOTED,
    reason="It is better.",
    outcome=Outcome.PROVEN,
    gain=12.0,
    interval=(4.0, 19.0),
)


def result(*scores: Sequence[float], base: Sequence[float] = (0.0,)) -> Result:
    versions = tuple(Version(day=day, tag=f"v{day}", scores=tuple(one)) for day, one in enumerate(scores, start=1))
    return Result(code="a", base=tuple(base), versions=versions, runs=(RUN,), minutes=1.0)


def test_a_share_of_the_corrections_is_wrong_and_the_same_in_every_season() -> None:
    wrong = {place for place, one in enumerate(poison(PAIRS, 0.2, 0)) if one != PAIRS[place]}
    assert len(wrong) == GIVEN // 5
    assert sum(one.answer == WORTHLESS for one in poison(PAIRS, 0.2, 0)) == GIVEN // 10
    assert poison(PAIRS, 0.0, 0) == PAIRS
    events = [event for day in flipped(PAIRS, 0.2, 0) for event in day if event["feedback_type"] == "explicit_negative"]
    assert {str(event["ai_output"]) for event in events} == {PAIRS[place].answer for place in wrong}


def test_flipped_thumbs_dislike_what_is_right_and_like_what_is_wrong() -> None:
    (day, *_), right = flipped(PAIRS, 1.0, 0), {one.prompt: one.answer for one in PAIRS}
    assert len({event["id"] for event in day}) == len(day) == 2 * seasons.A_DAY
    for event in day:
        is_right = right[str(event["input_data"])] == event["ai_output"]
        assert is_right == (event["feedback_type"] == "explicit_negative")
        assert event["corrected_output"] is None


def test_every_season_hands_out_the_same_prompts_on_the_same_days() -> None:
    assert [len(day) for day in poisoned(PAIRS, 0.1, 0)] == [seasons.A_DAY] * (GIVEN // seasons.A_DAY)
    prompts = [
        [list(dict.fromkeys(event["input_data"] for event in day)) for day in days]
        for days in (poisoned(PAIRS, 0.1, 0), flipped(PAIRS, 0.1, 0))
    ]
    assert prompts[0] == prompts[1]


def test_the_worst_version_is_held_against_the_base() -> None:
    found = {"poison-0.2-0": result([30.0, 30.0], [10.0, 0.0], base=(10.0, 10.0))}
    (row,) = rows_of("poison-0.2-0", found)
    assert (row["ours"], row["peer"], row["holds"]) == (5.0, 10.0, False)


def test_what_poison_costs_is_told_beside_the_season_without_any() -> None:
    found = {"poison-0-0": result([50.0, 60.0]), "poison-0.2-0": result([90.0, 90.0], [30.0, 40.0])}
    assert len(list(rows_of("poison-0-0", found))) == 1
    _, row = rows_of("poison-0.2-0", found)
    assert (row["ours"], row["peer"], row["holds"]) == (35.0, 55.0, None)
    assert "it costs 20.0 points (95 %: 20.0 to 20.0)" in str(row["measure"])


@pytest.mark.parametrize("name", ["poison-0.2-0", "forgetting-0"])
def test_where_nothing_was_promoted_nothing_is_shown(name: str) -> None:
    (row,) = rows_of(name, {name: result()})
    assert row["holds"] is None
    assert row["goal"] is not None


@pytest.mark.parametrize(
    ("versions", "holds"),
    [
        ([[90.0] * 20], None),
        ([[90.0] * 9 + [0.0] * 11, [90.0] * 20], None),
        ([[0.0] * 20, [90.0] * 20, [0.0] * 2 + [90.0] * 18], False),
        ([[90.0] * 20, [90.0] * 19 + [0.0]], True),
        ([[90.0] * 20, [0.0] * 20, [90.0] * 20], True),
        # as many are done well, and not the same
        ([[90.0] * 10 + [0.0] * 10, [0.0] * 3 + [90.0] * 10 + [0.0] * 7], False),
    ],
    ids=["one version", "too few", "first too few", "kept", "learned anew", "others"],
)
def test_what_an_early_version_did_well_the_last_has_to_do_well_too(
    versions: Sequence[Sequence[float]], *, holds: bool | None
) -> None:
    (row,) = rows_of("forgetting-0", {"forgetting-0": result(*versions)})
    assert row["holds"] is holds


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the results, the table and the drawing go."""
    monkeypatch.setattr(seasons, "RESULTS", tmp_path)
    monkeypatch.setattr(seasons, "PLOT", tmp_path / "seasons.svg")
    monkeypatch.setattr("benchmarks.results.BENCH", tmp_path / "bench")
    monkeypatch.setattr("benchmarks.results.EXAMS_PAGE", tmp_path / "exams.md")
    (tmp_path / "exams.md").write_text("<!-- seasons -->\n<!-- /seasons -->\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("found", "code"), [(result([50.0], [60.0]), 0), (result(), 1)], ids=["shown", "open"])
def test_the_bench_fails_where_a_goal_could_not_be_judged(place: Path, found: Result, code: int) -> None:
    kept = result([90.0] * 20, [90.0] * 20)
    for name in seasons.names():
        made = kept if name.startswith("forgetting") else found
        seasons.file_of(name).write_text(codec.to_json(made), encoding="utf-8")
    assert seasons.show() == code
    assert "![" in (place / "exams.md").read_text(encoding="utf-8")


def test_the_bench_fails_where_a_season_is_missing(place: Path) -> None:
    seasons.file_of("poison-0-0").write_text(codec.to_json(result([50.0])), encoding="utf-8")
    assert seasons.show() == 1


def test_the_drawing_of_the_same_seasons_is_the_same(place: Path) -> None:
    drawn = []
    for _ in range(2):
        draw({"poison-0-0": result([50.0, 60.0]), "forgetting-0": result()})
        drawn.append((place / "seasons.svg").read_bytes())
    assert drawn[0] == drawn[1]
