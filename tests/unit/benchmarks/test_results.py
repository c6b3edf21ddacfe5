"""Results of benches: kept cell by cell, and put into pages."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import results


@dataclass(frozen=True, kw_only=True)
class Result:
    name: str


def test_what_fails_is_left_for_the_next_call_and_the_others_are_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run(name: str) -> Result:
        ran.append(name)
        if name == "fails":
            raise results.CellFailed("the server went away")
        return Result(name=name)

    wanted = {tmp_path / f"{name}.json": (lambda name=name: run(name)) for name in ("first", "fails", "last")}
    for _ in range(2):
        results.carry_out(wanted, math.inf)
    assert ran == ["first", "fails", "last", "fails"]
    assert "fails failed: the server went away" in capsys.readouterr().out
    assert sorted(file.stem for file in tmp_path.iterdir()) == ["first", "last"]


def test_a_table_takes_the_place_of_the_last(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- arms -->\nold\n<!-- /arms -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        results.put_into(page, "arms", "| new |")
    assert page.read_text(encoding="utf-8") == "before\n<!-- arms -->\n| new |\n<!-- /arms -->\nafter\n"
    with pytest.raises(ValueError, match="no place"):
        results.put_into(page, "claims", "| new |")


def test_a_table_of_a_page_says_what_is_open_and_what_falls_short() -> None:
    rows = [results.row("a", 1.0, 2, 1.0, holds=False), results.row("b", 1, 0, None, holds=None)]
    assert results.as_markdown(rows).splitlines() == [
        "| measure | ours | peer | ratio | goal | holds |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | 1 | 2 | 0.5 | 1 | no |",
        "| b | 1 | 0 |  |  |  |",
    ]


@pytest.mark.parametrize("name", ["calibration", "power", "validators", "first-promotion", "seasons", "proxy"])
def test_the_page_on_exams_has_a_place_for_every_table(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "exams.md"
    page.write_bytes(results.EXAMS_PAGE.read_bytes())
    monkeypatch.setattr(results, "EXAMS_PAGE", page)
    results.fill(name, "Measured", [])
    assert page.read_bytes() == (results.ROOT / "docs" / "exams.md").read_bytes()
    results.fill(name, "Measured", [results.row("a", 1, 2, None, holds=None)], below="![drawing](drawing.svg)")
    assert f"<!-- {name} -->\nMeasured:\n\n| measure |" in page.read_text(encoding="utf-8")
