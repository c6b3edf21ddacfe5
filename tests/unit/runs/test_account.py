"""From how many records of a file a training by hand learned, and why not from the others."""

from dataclasses import replace
from pathlib import Path

from nightschool_daemon.jobs import MARKS, EventMark, EventRow, LeftOut, RunDirectory, Step, write_lines
from nightschool_daemon.reasons import OTHER_KIND
from nightschool_daemon.runs.account import APART, REFUSED, REPLACED, WATCHED, account_of
from nightschool_hookspecs.records import (
    Hyperparameters,
    ParsedFeedback,
    RefusedRecord,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.testing import sample_event
from support.step_results import SELECTED, TRAINED

LEARNED, WATCHED_ONE, LONG, THUMB, HELD, WEAK, BOTH = (f"dropdir/{number}" for number in range(7))
LEARNED_FROM = replace(TRAINED, examples=2, left_out=1, learned_events=(LEARNED, BOTH), watched_events=(WATCHED_ONE,))
CHOSEN = replace(
    SELECTED,
    hyperparameters=Hyperparameters(max_length=77),
    sources={
        TrainingMethod.SFT: (LEARNED, BOTH, WATCHED_ONE, LONG),
        TrainingMethod.KTO: (THUMB,),
        TrainingMethod.DPO: (BOTH,),
    },
    left_out=(LeftOut(event_id=WEAK, reason="it is a weak signal"),),
)


def trained(place: Path, result: TrainingResult = LEARNED_FROM) -> RunDirectory:
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
    directory.finish(Step.SELECT, CHOSEN)
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
    silent = replace(LEARNED_FROM, learned_events=None, watched_events=())
    assert account_of(trained(tmp_path, silent), ParsedFeedback(events=events)).learned == 4
