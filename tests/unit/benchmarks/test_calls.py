"""What a call of a bench makes of what is wanted."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from benchmarks.calls import ROOT, Call, digest_of, states


@dataclass(frozen=True, kw_only=True)
class Result:
    code: str


def call(*, only: tuple[str, ...] = (), anew: bool = False) -> Call:
    return Call(minutes=float("inf"), only=only, anew=anew, code="new")


def wanted(directory: Path, *names: str) -> dict[Path, Callable[[], Result]]:
    return {directory / f"{name}.json": partial(Result, code="new") for name in names}


def test_a_call_makes_what_it_was_asked_for_and_leaves_the_rest_to_others(tmp_path: Path) -> None:
    call(only=("5-", "20-0")).carry_out(wanted(tmp_path, "5-0", "5-1", "20-0", "20-1", "50-0"))
    assert sorted(file.stem for file in tmp_path.iterdir()) == ["20-0", "5-0", "5-1"]


@pytest.mark.parametrize(("anew", "code"), [(False, "old"), (True, "new")])
def test_what_other_code_made_counts_unless_it_is_to_be_made_again(tmp_path: Path, *, anew: bool, code: str) -> None:
    file = tmp_path / "5-0.json"
    file.write_text('{"code": "old"}', encoding="utf-8")
    call(anew=anew).carry_out(wanted(tmp_path, "5-0"))
    assert json.loads(file.read_bytes()) == {"code": code}


def test_what_this_code_made_is_not_made_again(tmp_path: Path) -> None:
    def fail() -> Result:
        pytest.fail("it was made again")

    (tmp_path / "5-0.json").write_text('{"code": "new"}', encoding="utf-8")
    made = call(anew=True)
    assert made.is_finished(tmp_path / "5-0.json")
    made.carry_out({tmp_path / "5-0.json": fail})


def test_another_bench_is_another_state_of_the_code() -> None:
    first, second = (ROOT / "tests" / "benchmarks" / name for name in ("seasons.py", "first_promotion.py"))
    assert digest_of([first]) == digest_of([first]) != digest_of([second])


def test_a_table_says_how_many_states_of_the_code_it_is_of() -> None:
    assert states([Result(code="a"), Result(code="a")]) == "one state of the code"
    assert states([Result(code="a"), Result(code="b")]) == "2 states of the code"
