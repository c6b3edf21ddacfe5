"""From how many records of a file a training by hand learned, and why not from the others."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import MARKS, EventMark, EventRow, LeftOut, RunDirectory, SelectResult, Step, write_lines
from nightschool_daemon.runs.account import APART, OTHER_KIND, REFUSED, REPLACED, WATCHED, account_of
from nightschool_daemon.runs.alone import read_file
from nightschool_daemon.runs.errors import RunRefused
from nightschool_hookspecs.records import (
    Hyperparameters,
    Material,
    ParsedFeedback,
    RefusedRecord,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.testing import sample_event

README = Path(__file__).parents[3] / "README.md"
LEARNED, WATCHED_ONE, LONG, THUMB, HELD, WEAK, BOTH = (f"dropdir/{number}" for number in range(7))
TRAINED = TrainingResult(
    adapter=Path("adapter"),
    methods=(TrainingMethod.SFT,),
    steps=1,
    tokens=1,
    examples=2,
    left_out=1,
    base_loss=2.0,
    trained_loss=1.0,
    seconds=1.0,
    learned_events=(LEARNED, BOTH),
    watched_events=(WATCHED_ONE,),
)
SELECTED = SelectResult(
    material=Material(examples=3, better_known=3, pairs=1, liked=0, disliked=1),
    variants=0,
    items=1,
    guard_items=0,
    hyperparameters=Hyperparameters(max_length=77),
    closing="",
    sources={
        TrainingMethod.SFT: (LEARNED, BOTH, WATCHED_ONE, LONG),
        TrainingMethod.KTO: (THUMB,),
        TrainingMethod.DPO: (BOTH,),
    },
    left_out=(LeftOut(event_id=WEAK, reason="it is a weak signal"),),
)


def trained(place: Path, result: TrainingResult = TRAINED) -> RunDirectory:
    """A run that learned from some of seven events."""
    directory = RunDirectory(path=place)
    for step in (Step.PREPARE, Step.SELECT, Step.TRAIN):
        directory.begin(step)
    events = [sample_event(f"{number}") for number in range(7)]
    rows = [EventRow(event=one, group=one.id, side=None, trained_on=False, arrival=1) for one in events]
    marks = [
        EventMark(event_id=one.key, priority=1, reward=1, difficulty=0.5, weight=None)
        for one in events
        if one.key != HELD
    ]
    write_lines(directory.step(Step.PREPARE) / "events.jsonl", rows)
    write_lines(directory.step(Step.SELECT) / MARKS, marks)
    directory.finish(Step.SELECT, SELECTED)
    directory.finish(Step.TRAIN, result)
    return directory


def test_every_record_is_accounted_for_once(tmp_path: Path) -> None:
    again = sample_event("0")
    refused = (RefusedRecord(reason="no.", text=""), RefusedRecord(reason="no.", text=""))
    events = (*(sample_event(f"{number}") for number in range(7)), again)
    account = account_of(trained(tmp_path), ParsedFeedback(events=events, refused=refused))
    assert (account.records, account.learned) == (10, 2)
    assert account.left_out == {
        REFUSED: 2,
        WATCHED: 1,
        "it has more than 77 tokens (max_length in [plugins.tuning_fixed])": 1,
        OTHER_KIND: 1,
        APART: 1,
        "it is a weak signal": 1,
        REPLACED: 1,
    }
    assert account.learned + sum(account.left_out.values()) == account.records
    assert next(iter(account.left_out)) == REFUSED


def test_a_trainer_that_does_not_tell_has_learned_all_that_it_was_given(tmp_path: Path) -> None:
    events = tuple(sample_event(f"{number}") for number in range(7))
    silent = replace(TRAINED, learned_events=None, watched_events=())
    assert account_of(trained(tmp_path, silent), ParsedFeedback(events=events)).learned == 4


# --------------------------------------------------------------------------- the file

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
