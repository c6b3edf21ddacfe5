"""What a bench found: a table on the terminal, the same in `build/bench/NAME.json`, and whether it fell short."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from nightschool_daemon.jobs import write_durably

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "build" / "bench"
EXAMS_PAGE = ROOT / "docs" / "exams.md"
"""What an exam is worth, by several benches."""
WIDTH = 160

Row = Mapping[str, object]
"""`measure`, `ours`, `peer`, `ratio`, `goal`, `holds`; the last is None where there is nothing to compare with."""


def row(
    measure: str, ours: float, peer: float, goal: float | None, *, holds: bool | None, ratio: float | None = None
) -> Row:
    """A line. `ratio`: ours over the peer's where nothing else is told; None beside a peer of 0."""
    plain = ours / peer if peer else None
    found = plain if ratio is None else ratio
    return {"measure": measure, "ours": ours, "peer": peer, "ratio": found, "goal": goal, "holds": holds}


def presented(name: str, title: str, rows: Sequence[Row]) -> int:
    """Show rows and write them down. Returns the exit code: 1 where one falls short, or where there is none."""
    show(title, rows)
    write(name, rows)
    return 0 if rows and all(row["holds"] is None or row["holds"] for row in rows) else 1


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a table."""
    table = Table(*(rows[0] if rows else ()), title=title)
    for row in rows:
        table.add_row(*map(_shown, row.values()))
    Console(width=WIDTH).print(table)


def as_markdown(rows: Sequence[Row]) -> str:
    """A table for a page; there is one row at least."""
    lines = (map(_shown, row.values()) for row in rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], ["---"] * len(rows[0]), *lines))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def write(name: str, rows: Sequence[Row]) -> None:
    """Write a table down."""
    BENCH.mkdir(parents=True, exist_ok=True)
    (BENCH / f"{name}.json").write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


class CellFailed(Exception):
    """A cell came to nothing; the message says why. It is tried again by the next call."""


def fill(name: str, title: str, rows: Sequence[Row], *, below: str = "") -> None:
    """Put a table into the page on exams, with what it is of above it. Without a row the page stays as it is."""
    if rows:
        put_into(EXAMS_PAGE, name, "\n\n".join(filter(None, (f"{title}:", as_markdown(rows), below))))


def put_into(file: Path, name: str, text: str) -> None:
    """Put a table into a page, between `<!-- NAME -->` and `<!-- /NAME -->`. What stood there goes."""
    page = file.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{file} has no place for the table {name}")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def carry_out(
    wanted: "Mapping[Path, Callable[[], DataclassInstance]]",
    minutes: float,
    *,
    is_finished: Callable[[Path], bool] = Path.exists,
) -> None:
    """Run what is not finished, and keep each result in its file. Nothing is begun after so many minutes.

    What fails is told, and the others are run all the same.
    """
    deadline = time.monotonic() + 60 * minutes
    for file, run in wanted.items():
        if is_finished(file):
            continue
        if time.monotonic() > deadline:
            break
        began = time.monotonic()
        try:
            text = json.dumps(dataclasses.asdict(run()))
        except CellFailed as failure:
            print(f"{file.stem} failed: {failure}", flush=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, f"{text}\n")
        print(f"{file.stem} in {time.monotonic() - began:.0f} s", flush=True)
