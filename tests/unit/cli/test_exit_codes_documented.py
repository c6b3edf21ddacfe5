"""The table of exit codes in the documentation is the enumeration."""

import re
from pathlib import Path

from nightschool_daemon.exits import Exit

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "operation.md"


def test_every_exit_code_is_documented_and_no_other() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    documented = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", text, re.MULTILINE)}
    assert documented == {one.name: one.value for one in Exit}
