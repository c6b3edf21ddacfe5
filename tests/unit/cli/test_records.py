"""Names in a table can be copied, however narrow the terminal is."""

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from nightschool_daemon import display

COLUMNS = ("version", "state", "form", "MB", "kept", "loss")
TAGS = ("smol-nightschool:135m.shell.v1", "smol-nightschool:135m.shell.v2")
ROWS = [(tag, "promoted", "split", "57.8", "99.6% of wanted answers", "3.111") for tag in TAGS]


def shown(monkeypatch: pytest.MonkeyPatch, width: int, rows: Sequence[Sequence[object]] = ROWS) -> list[str]:
    """The lines of a table."""
    text = io.StringIO()
    monkeypatch.setattr(display, "out", Console(file=text, width=width, highlight=False, soft_wrap=True))
    display.show_records("Versions", COLUMNS, rows)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [50, 80, 200])
def test_no_word_is_broken(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = shown(monkeypatch, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert all(text.count(tag) == 1 for tag in TAGS)
    assert all(word in text for row in ROWS for cell in row for word in cell.split())


def test_what_fits_stands_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = shown(monkeypatch, 90), shown(monkeypatch, 60)
    assert any(TAGS[0] in line and "promoted" in line for line in wide)
    assert not any(TAGS[0] in line and "promoted" in line for line in narrow)
    assert sum("version" in line for line in narrow) == len(ROWS), "each value stands beside its column's name"


def test_a_row_may_be_shorter_than_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 60, [*ROWS, ("smol-nightschool:135m.shell.v3", None)])
    assert sum("loss" in line for line in lines) == len(ROWS)
