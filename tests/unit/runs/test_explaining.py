"""What is said of an event's fate, from the files that a run leaves."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon.explaining import _fate, _kin, _night, _standing
from nightschool_daemon.jobs import (
    FINDINGS,
    EventRow,
    LeftOut,
    NoiseRow,
    RunDirectory,
    SelectResult,
    Step,
    write_lines,
)
from nightschool_daemon.ledger import Ledger, RunRow
from nightschool_hookspecs.records import (
    ExamAnswer,
    ExamItem,
    Hyperparameters,
    ItemRole,
    Material,
    Message,
    NoiseFinding,
    Recipe,
    Role,
    Side,
    Sitting,
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


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    yield opened
    opened.close()


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


@pytest.mark.parametrize("side", Side)
def test_why_it_looked_wrong_is_told(tmp_path: Path, ledger: Ledger, side: Side) -> None:
    directory = RunDirectory(path=tmp_path)
    directory.begin(Step.SELECT)
    key = ROW.event.key
    left_out = (LeftOut(event_id=key, reason="it did not fit"),) if side is Side.TRAINING else ()
    directory.finish(Step.SELECT, replace(SELECTED, left_out=left_out))
    doubt = NoiseRow(finding=NoiseFinding(event_id=key, factor=0.4, reason="others want more"), side=side)
    row = replace(RUN, directory=tmp_path)
    before = _night(ROW, row, ledger.exams)
    write_lines(directory.step(Step.SELECT) / FINDINGS, [doubt])
    night = _night(ROW, row, ledger.exams)
    other = _night(replace(ROW, event=replace(ROW.event, id="other")), row, ledger.exams)
    assert (before is None) == (side is Side.HELD_OUT)
    assert before is None or before.noise is None
    assert night is not None
    assert night.noise == doubt
    said = {Side.TRAINING: "It was left out: it did not fit.", Side.HELD_OUT: "It was neither learned from nor asked."}
    assert night.fate == said[side]
    assert other is None


@pytest.mark.parametrize("broken", ["{", '{"new_key": 1}'])
def test_a_run_whose_files_cannot_be_read_hides_no_other(tmp_path: Path, ledger: Ledger, broken: str) -> None:
    directory = RunDirectory(path=tmp_path)
    directory.begin(Step.SELECT)
    directory.finish(Step.SELECT, SELECTED)
    (directory.step(Step.SELECT) / "result.json").write_text(broken, encoding="utf-8")
    night = _night(ROW, replace(RUN, directory=tmp_path), ledger.exams)
    assert night is not None
    assert night.fate == "The files of this run cannot be read."


def test_kin_are_the_questions_most_alike_that_count_and_not_the_event_itself() -> None:
    def question(name: str, text: str, role: ItemRole = ItemRole.GAIN) -> tuple[ExamItem, ExamAnswer, ExamAnswer]:
        messages = (Message(role=Role.USER, content=text),)
        item = ExamItem(id=name, event_id=name, artifact_type="shell", role=role, messages=messages, group=name)
        before, after = (
            ExamAnswer(
                item_id=name,
                sitting=sitting,
                model="m",
                text="",
                score=score,
                detail="",
                failed=False,
                latency_s=0.0,
                tokens=0,
                done_reason=None,
            )
            for sitting, score in ((Sitting.INCUMBENT, 20.0), (Sitting.CANDIDATE, 90.0))
        )
        return item, before, after

    row = replace(ROW, event=replace(ROW.event, input_data="one two three four"))
    questions = [
        question(row.event.key, "one two three four"),
        question("guard", "one two three five", ItemRole.GUARD),
        question("c", "one nine three"),
        question("a", "four three two one"),
        question("far", "xxxxxxxx"),
        question("b", "one two three five"),
        question("d", "two one"),
    ]
    found = _kin(row, questions)
    assert [one.question for one in found] == ["four three two one", "one two three five", "one nine three"]
    assert [(one.before, one.after) for one in found] == [(20.0, 90.0)] * 3
    assert found[0].alike == 1
