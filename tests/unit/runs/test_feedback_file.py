"""A file of feedback that a person names is read as whole as it will be."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.runs.errors import RunRefused
from nightschool_daemon.runs.feedback_file import read_file

README = Path(__file__).parents[3] / "README.md"
LIKED: Mapping[str, object] = {"input_data": "q", "ai_output": "a", "feedback_type": "success"}


@pytest.fixture(scope="module")
def hooks() -> Hooks:
    return Hooks.load(plugin_directory=None, tables={})


def test_a_last_line_without_its_end_is_read(tmp_path: Path, hooks: Hooks) -> None:
    file = tmp_path / "data.jsonl"
    lines = [json.dumps({**LIKED, "id": f"{number}"}) for number in range(3)]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert [one.id for one in read_file(file, hooks).events] == ["0", "1", "2"]
    assert file.read_text(encoding="utf-8") == "\n".join(lines)


def test_a_last_line_that_is_cut_off_is_refused_with_its_place(tmp_path: Path, hooks: Hooks) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(LIKED) + "\n" + json.dumps(LIKED)[:20], encoding="utf-8")
    parsed = read_file(file, hooks)
    assert (len(parsed.events), [one.position for one in parsed.refused]) == (1, [2])


def test_a_file_that_ends_in_the_middle_says_so(tmp_path: Path, hooks: Hooks) -> None:
    file = tmp_path / "data.json"
    file.write_text("[" + json.dumps(LIKED), encoding="utf-8")
    with pytest.raises(RunRefused, match="it ends in the middle"):
        read_file(file, hooks)


def test_every_line_that_the_readme_shows_is_an_event(tmp_path: Path, hooks: Hooks) -> None:
    (section,) = re.findall(r"## Only a trainer\n(.*?)\n## ", README.read_text(encoding="utf-8"), re.DOTALL)
    (lines,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    file = tmp_path / "shell.jsonl"
    file.write_text(lines, encoding="utf-8")
    parsed = read_file(file, hooks)
    assert (len(parsed.events), parsed.refused) == (len(lines.splitlines()), ())
