"""What is said of an event's fate, from the files that a run leaves."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon.explaining import Asked, _fate, _kin, _night, _standing
from nightschool_daemon.jobs import EventRow, LeftOut, RunDirectory, SelectResult, Step
from nightschool_daemon.ledger import RunRow
from nightschool_hookspecs.records import (
    ExamItem,
    Hyperparameters,
    ItemRole,
    Material,
    Recipe,
    Side,
    Specialty,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.testing import sample_event

ROW = EventRow(event=sample_event(), group="g", side=None, trained_on=False, arrival=1)
SELECTED = SelectResult(
    material=Material(examples=1, better_known=1, pairs=1, liked=0, disliked=0),
    variants=0,
    items=0,
    guard_items=0,
    hyperparameters=Hyperparameters(),
    closing="",
    sources={
        TrainingMethod.SFT: ("a/learned",),
        TrainingMethod.DPO: ("a/learned", "a/paired"),
        TrainingMethod.KTO: ("a/thumb",),
    },
    left_out=(LeftOut(event_id="a/left", reason="it was withdrawn"),),
    shots=("a/shown",),
)
RUN = RunRow(
    id="r",
    specialty=Specialty(base="tiny:1b", artifact_type="shell"),
    seed=1,
    reason="test",
    started_at=datetime(2026, 1, 2, tzinfo=UTC),
    finished_at=None,
    end=None,
    outcome_reason="",
    directory=Path("nowhere"),
    recipe=Recipe.TRAINING,
)
TRAINED = TrainingResult(
    adapter=Path("adapter"),
    methods=(TrainingMethod.SFT, TrainingMethod.DPO),
    steps=1,
    tokens=1,
    examples=1,
    left_out=0,
    base_loss=1.0,
    trained_loss=0.5,
    seconds=1.0,
)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW, "No run has decided yet where it belongs."),
        (replace(ROW, side=Side.HELD_OUT), "no version learns from it"),
        (replace(ROW, side=Side.TRAINING), "It may be learned from."),
        (replace(ROW, side=Side.TRAINING, trained_on=True), "A version has learned from it."),
        (replace(ROW, group=None), "goes to neither"),
        (
            replace(
                ROW, side=Side.TRAINING, event=replace(ROW.event, metadata=replace(ROW.event.metadata, deleted=True))
            ),
            "It was withdrawn",
        ),
    ],
)
def test_where_an_event_stands(row: EventRow, said: str) -> None:
    assert said in _standing(row)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("a/learned", "It was learned from: wanted answers, then better answers over worse ones."),
        ("a/paired", "It was learned from: better answers over worse ones."),
        ("a/thumb", "This run learned from other kinds."),
        ("a/left", "It was left out: it was withdrawn."),
        ("a/shown", "It was shown to the model as an example."),
        ("a/other", None),
    ],
)
def test_what_a_run_made_of_an_event(tmp_path: Path, key: str, said: str | None) -> None:
    directory = RunDirectory(path=tmp_path)
    for step, result in ((Step.SELECT, SELECTED), (Step.TRAIN, TRAINED)):
        directory.begin(step)
        directory.finish(step, result)
    assert _fate(key, directory, is_over=True) == said


def test_what_was_chosen_is_not_called_learned_where_the_run_broke(tmp_path: Path) -> None:
    directory = RunDirectory(path=tmp_path)
    directory.begin(Step.SELECT)
    directory.finish(Step.SELECT, SELECTED)
    said = [_fate("a/learned", directory, is_over=is_over) for is_over in (True, False)]
    assert said == [
        "It was chosen, and the run ended before it had learned.",
        "It was chosen, and the run is under way.",
    ]


@pytest.mark.parametrize("broken", ["{", '{"new_key": 1}'])
def test_a_run_whose_files_cannot_be_read_hides_no_other(tmp_path: Path, broken: str) -> None:
    directory = RunDirectory(path=tmp_path)
    directory.begin(Step.SELECT)
    directory.finish(Step.SELECT, SELECTED)
    (directory.step(Step.SELECT) / "result.json").write_text(broken, encoding="utf-8")
    night = _night(ROW, replace(RUN, directory=tmp_path))
    assert night is not None
    assert night.fate == "The files of this run cannot be read."


def test_kin_are_the_questions_most_alike_that_count_and_not_the_event_itself() -> None:
    def question(name: str, alike: float, role: ItemRole = ItemRole.GAIN) -> tuple[ExamItem, Asked]:
        item = ExamItem(id=name, event_id=name, artifact_type="shell", role=role, messages=(), group=name)
        return item, Asked(question=name, alike=alike, before=0.0, after=100.0)

    questions = [
        question("own", 1.0),
        question("guard", 0.9, ItemRole.GUARD),
        *(question(name, alike) for name, alike in (("c", 0.6), ("a", 0.8), ("far", 0.4), ("b", 0.7), ("d", 0.5))),
    ]
    assert [one.question for one in _kin("own", questions)] == ["a", "b", "c"]
