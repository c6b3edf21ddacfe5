"""What is said of events' fates, from the files that a run leaves, and which of them a report tells."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool_daemon.jobs import (
    FINDINGS,
    MARKS,
    STRETCHES,
    Choice,
    EventMark,
    EventRow,
    LeftOut,
    NoiseRow,
    Replayed,
    RunDirectory,
    SelectResult,
    Step,
    StretchMark,
    write_lines,
)
from nightschool_daemon.reporting.sheet import Section
from nightschool_daemon.runs.fates import COMPARED_LETTERS, Answered, Fates
from nightschool_daemon.runs.pieces import MOST_LEFT_OUT, MOST_PIECES, TELLING, chosen_names, pieces_section
from nightschool_daemon.runs.rebuild import REUSED
from nightschool_daemon.runs.sheets import _stages
from nightschool_hookspecs.records import (
    ExamAnswer,
    ExamItem,
    ItemRole,
    Message,
    NoiseFinding,
    Role,
    Side,
    Sitting,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.testing import sample_event
from support.step_results import SELECTED, TRAINED

CHOSEN = replace(
    SELECTED,
    sources={
        TrainingMethod.SFT: ("a/learned", "a/again"),
        TrainingMethod.DPO: ("a/learned", "a/paired"),
        TrainingMethod.KTO: ("a/thumb",),
    },
    left_out=(LeftOut(event_id="a/left", reason="it was withdrawn"),),
    replayed=Replayed(events=("a/again",)),
)
LEARNED = replace(TRAINED, methods=(TrainingMethod.SFT, TrainingMethod.DPO))


def mark(name: str, weight: float | None = None, priority: float = 0.0, choice: Choice | None = None) -> EventMark:
    return EventMark(event_id=name, priority=priority, reward=priority, difficulty=0.5, weight=weight, choice=choice)


def left(
    path: Path,
    selected: SelectResult = CHOSEN,
    *,
    trained: bool = True,
    marks: Sequence[EventMark] = (),
    result: TrainingResult = LEARNED,
) -> RunDirectory:
    """The directory of a run that came so far."""
    directory = RunDirectory(path=path)
    directory.begin(Step.SELECT)
    write_lines(directory.step(Step.SELECT) / MARKS, marks)
    directory.finish(Step.SELECT, selected)
    if trained:
        directory.begin(Step.TRAIN)
        directory.finish(Step.TRAIN, result)
    return directory


def question(
    name: str, text: str, role: ItemRole = ItemRole.GAIN, *, before: float = 20.0, after: float = 90.0
) -> Answered:
    messages = (Message(role=Role.USER, content=text),)
    item = ExamItem(id=name, event_id=name, artifact_type="shell", role=role, messages=messages, group=name)
    given = (
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
        for sitting, score in ((Sitting.INCUMBENT, before), (Sitting.CANDIDATE, after))
    )
    return (item, *given)  # type: ignore[return-value]  # two of them


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("a/learned", "It was learned from: wanted answers, then better answers over worse ones."),
        ("a/again", "It was learned from again, so that it is not forgotten: wanted answers."),
        ("a/paired", "It was learned from: better answers over worse ones."),
        ("a/thumb", "This run learned from other kinds."),
        ("a/left", "It was left out: it was withdrawn."),
        ("a/not built", "It was left out: no example was made of it."),
        ("a/other", None),
    ],
)
def test_what_a_run_made_of_an_event(tmp_path: Path, key: str, said: str | None) -> None:
    directory = left(tmp_path, marks=[mark("a/learned", 1.0), mark("a/not built")])
    assert Fates(directory, (), is_over=True).fate(key) == said


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (0.814, "The selection had it in place 3 of 1,200, by a score of 0.81."),
        (None, "The selection had it in place 3 of 1,200."),
    ],
)
def test_it_is_told_why_an_event_was_chosen(tmp_path: Path, score: float | None, said: str) -> None:
    chosen = mark("a/learned", 1.0, choice=Choice(place=3, of=1200, score=score))
    fate = Fates(left(tmp_path, marks=[chosen, mark("a/again", 1.0)]), (), is_over=True).fate
    assert fate("a/learned") == f"It was learned from: wanted answers, then better answers over worse ones. {said}"
    assert fate("a/again") == "It was learned from again, so that it is not forgotten: wanted answers."


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("a/learned", "It was learned from: wanted answers, then better answers over worse ones."),
        ("a/again", "It was kept aside while the model learned, to see when to stop."),
        ("a/paired", "It was left out: it is too long."),
        ("a/thumb", "This run learned from other kinds."),
    ],
)
def test_what_no_update_came_from_is_not_called_learned(tmp_path: Path, key: str, said: str) -> None:
    result = replace(LEARNED, learned_events=("a/learned",), watched_events=("a/again",))
    assert Fates(left(tmp_path, result=result), (), is_over=True).fate(key) == said


def test_a_rebuild_has_learned_nothing_of_what_is_new(tmp_path: Path) -> None:
    directory = left(tmp_path / "run", result=replace(LEARNED, learned_events=("a/again",)))
    (directory.step(Step.TRAIN) / REUSED).write_text(str(tmp_path / "first"))
    fates = Fates(directory, (), is_over=True)
    assert fates.fate("a/learned") == "It was left out: this run delivered again what was learned before."
    assert fates.fate("a/again") == "It was learned from again, so that it is not forgotten: wanted answers."


def doubting(directory: RunDirectory, doubts: Mapping[str, float]) -> Fates:
    findings = (NoiseFinding(event_id=key, factor=factor, reason="2 others do") for key, factor in doubts.items())
    write_lines(directory.step(Step.SELECT) / FINDINGS, [NoiseRow(finding=one, side=Side.TRAINING) for one in findings])
    return Fates(directory, (), is_over=True)


def test_what_looked_wrong_is_told_with_what_it_means_once(tmp_path: Path) -> None:
    fates = doubting(left(tmp_path), {"a/again": 0.4, "a/learned": 1.0, "a/left": 0.0})
    assert fates.doubt("a/again") == "It looks wrong: 2 others do. It counts 40% of its weight."
    assert fates.doubt("a/learned") == "It looks wrong: 2 others do. It counts as ever."
    # that it was left out says why
    assert fates.doubt("a/left") is None
    assert fates.suspicion("a/left") == "2 others do. Nothing is learned from it."
    assert fates.doubt("a/paired") is None
    assert Fates(left(tmp_path / "earlier"), (), is_over=True).doubt("a/learned") is None


NOTHING = "2 others do. This run learns nothing from it."
LESS = "2 others do. It counts 70% of its weight."
BOTH = "2 others do. It counts 70% of its weight as a wanted answer, and in full as a preference."
PREFERRED = "2 others do. It counts as ever, as a preference has no weight."


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ((TrainingMethod.SFT,), {"a/learned": LESS, "a/paired": NOTHING, "a/thumb": NOTHING}),
        ((TrainingMethod.SFT, TrainingMethod.DPO), {"a/learned": BOTH, "a/again": LESS, "a/paired": PREFERRED}),
        ((TrainingMethod.DPO,), {"a/learned": PREFERRED, "a/again": NOTHING, "a/paired": PREFERRED}),
        ((TrainingMethod.KTO,), {"a/learned": NOTHING, "a/thumb": PREFERRED}),
    ],
)
def test_how_much_is_left_is_told_of_what_was_learned_by(
    tmp_path: Path, methods: tuple[TrainingMethod, ...], said: Mapping[str, str]
) -> None:
    directory = left(tmp_path, result=replace(LEARNED, methods=methods))
    fates = doubting(directory, dict.fromkeys(said, 0.7))
    assert {key: fates.suspicion(key) for key in said} == said


def test_how_much_counts_of_what_was_not_learned_is_not_told(tmp_path: Path) -> None:
    told = replace(LEARNED, learned_events=("a/paired",), watched_events=("a/learned",))
    fates = doubting(left(tmp_path, result=told), {"a/learned": 0.7, "a/again": 0.7, "a/nowhere": 0.7})
    assert {fates.suspicion(key) for key in ("a/learned", "a/again", "a/nowhere")} == {NOTHING}
    # before it is trained, what was chosen counts
    assert doubting(left(tmp_path / "b", trained=False), {"a/again": 0.7}).suspicion("a/again") == LESS


def test_of_a_candidate_of_examples_it_is_told_what_is_shown_and_what_is_not(tmp_path: Path) -> None:
    shown = replace(CHOSEN, sources={}, left_out=(), shots=("a/shown",))
    fates = Fates(left(tmp_path, shown, trained=False, marks=[mark("a/shown"), mark("a/rest")]), (), is_over=True)
    assert fates.fate("a/shown") == "It was shown to the model as an example."
    assert fates.fate("a/rest") == "It was left out: others are shown."


def test_what_was_chosen_is_not_called_learned_where_the_run_broke(tmp_path: Path) -> None:
    directory = left(tmp_path, trained=False)
    said = [Fates(directory, (), is_over=is_over).fate("a/learned") for is_over in (True, False)]
    assert said == [
        "It was chosen, and the run ended before it had learned.",
        "It was chosen, and the run is under way.",
    ]


def stretch(number: int, epoch: int, stage: str, *first_seen: str, reason: str = "") -> StretchMark:
    return StretchMark(
        number=number,
        epoch=epoch,
        stage=stage,
        examples=8,
        tokens=100,
        watched_loss=2.0 / number,
        first_seen=first_seen,
        reason=reason,
    )


STRETCHES_OF_A_RUN = (
    stretch(1, 1, "easy", "a/easy"),
    stretch(2, 1, "easy"),
    stretch(3, 2, "easy", "a/late", "a/learned"),
    stretch(4, 2, "hard", "a/hard", reason="the stage before was learned"),
)


@pytest.mark.parametrize("place", ["", "sft"])
def test_where_there_was_a_curriculum_its_stages_are_told(tmp_path: Path, place: str) -> None:
    """Whether it was all of the training, or the wanted answers before the pairs."""
    directory = left(tmp_path)
    (directory.step(Step.TRAIN) / place).mkdir(exist_ok=True)
    write_lines(directory.step(Step.TRAIN) / place / STRETCHES, STRETCHES_OF_A_RUN)
    fates = Fates(directory, (), is_over=True)
    ways = "It was learned from: wanted answers, then better answers over worse ones."
    assert fates.fate("a/learned") == f"{ways} It was first seen in epoch 2, in the stage `easy`."
    assert fates.fate("a/paired") == "It was learned from: better answers over worse ones."
    assert list(_stages(directory.stretches())) == [
        "`easy` in epochs 1 to 2, 24 examples, new events: 3, loss 0.667",
        "`hard` (as the stage before was learned) in epoch 2, 8 examples, new events: 1, loss 0.500",
    ]


def test_no_stage_is_told_of_a_training_that_did_not_end(tmp_path: Path) -> None:
    directory = left(tmp_path, trained=False)
    directory.begin(Step.TRAIN)
    write_lines(directory.step(Step.TRAIN) / STRETCHES, STRETCHES_OF_A_RUN)
    said = Fates(directory, (), is_over=True).fate("a/learned")
    assert said == "It was chosen, and the run ended before it had learned."


def test_kin_are_the_questions_most_alike_that_count_and_not_the_event_itself(tmp_path: Path) -> None:
    event = replace(sample_event(), input_data="one two three four")
    questions = [
        question(event.key, "one two three four"),
        question("guard", "one two three five", ItemRole.GUARD),
        question("c", "one nine three"),
        question("a", "four three two one"),
        question("far", "xxxxxxxx"),
        question("b", "one two three five"),
        question("d", "two one"),
    ]
    fates = Fates(left(tmp_path), questions, is_over=True)
    found = fates.kin(event)
    assert [one.question for one in found] == ["four three two one", "one two three five", "one nine three"]
    assert [(one.before, one.after) for one in found] == [(20.0, 90.0)] * 3
    assert found[0].alike == 1
    assert fates.asked(event) == replace(found[0], question="one two three four")
    assert fates.asked(replace(event, id="another")) is None


def test_its_own_question_is_the_one_that_was_put_to_who_had_not_learned_it(tmp_path: Path) -> None:
    event = sample_event()
    of_trial = question(event.key, event.input_data, after=60.0)
    of_candidate = question(event.key, event.input_data, ItemRole.LESSON, after=100.0)
    asked = Fates(left(tmp_path), (of_trial, of_candidate), is_over=True).asked(event)
    assert asked is not None
    assert (asked.before, asked.after) == (20.0, 60.0)


def test_a_prompt_of_megabytes_is_compared_by_its_beginning(tmp_path: Path) -> None:
    begun = "x" * COMPARED_LETTERS
    event = replace(sample_event(), input_data=begun + "y" * 2_000_000)
    (found,) = Fates(left(tmp_path), [question("long", begun + "z" * 2_000_000)], is_over=True).kin(event)
    assert found.alike == 1


# --------------------------------------------------------------------------- which of them are told


def chosen(tmp_path: Path, learned: int, others: int) -> tuple[Sequence[str], Sequence[str]]:
    marks = [
        *(mark(f"a/learned {number}", 1.0 + number, float(number)) for number in range(learned)),
        *(mark(f"a/other {number}", None, float(number)) for number in range(others)),
    ]
    sources = {TrainingMethod.SFT: tuple(one.event_id for one in marks[:learned])}
    reasons = tuple(LeftOut(event_id=one.event_id, reason="it did not fit") for one in marks[learned:])
    directory = left(tmp_path, replace(CHOSEN, sources=sources, left_out=reasons), marks=marks)
    return chosen_names(Fates(directory, (), is_over=True))


@given(learned=st.integers(0, 120), others=st.integers(0, 120))
@settings(deadline=None, max_examples=30)
def test_as_many_as_there_is_room_for_are_told_the_heaviest_first(
    tmp_path_factory: pytest.TempPathFactory, learned: int, others: int
) -> None:
    told, left_out = chosen(tmp_path_factory.mktemp("run"), learned, others)
    assert len(told) + len(left_out) == min(learned + others, MOST_PIECES)
    assert len(left_out) >= min(others, MOST_LEFT_OUT)
    assert list(told) == [f"a/learned {number}" for number in reversed(range(learned))][: len(told)]
    assert list(left_out) == [f"a/other {number}" for number in reversed(range(others))][: len(left_out)]


def test_of_ten_thousand_events_fifty_are_told(tmp_path: Path) -> None:
    told, left_out = chosen(tmp_path, 2000, 8000)
    assert (len(told), len(left_out)) == (MOST_PIECES - MOST_LEFT_OUT, MOST_LEFT_OUT)


# --------------------------------------------------------------------------- the section


def section(path: Path, rows: Sequence[EventRow], weights: Sequence[float], answered: Sequence[Answered]) -> Section:
    """Of a run that learned from the first rows, by their weights, and left the others out."""
    names = [row.event.key for row in rows]
    learned, others = names[: len(weights)], names[len(weights) :]
    selected = replace(
        CHOSEN,
        sources={TrainingMethod.SFT: tuple(learned)},
        left_out=tuple(LeftOut(event_id=name, reason="it was withdrawn") for name in others),
    )
    directory = left(
        path, selected, marks=[mark(name, weight, 0.5) for name, weight in zip(learned, weights, strict=True)]
    )
    directory.begin(Step.PREPARE)
    write_lines(directory.step(Step.PREPARE) / "events.jsonl", rows)
    (found,) = pieces_section(directory, Fates(directory, answered, is_over=True))
    return found


def row(identifier: str, prompt: str) -> EventRow:
    event = sample_event(identifier, input_data=prompt)
    return EventRow(event=event, group="g", side=None, trained_on=False, arrival=1)


def test_the_section_tells_the_most_telling_pieces_in_words(tmp_path: Path) -> None:
    rows = [
        row("1", "count all lines"),
        row("2", "list hidden files"),
        row("3", "show the disk's size"),
        row("4", "remove `x`\x1b[2J"),
    ]
    found = section(
        tmp_path,
        rows,
        (2.0, 1.5, 1.0),
        [question("q", "list the hidden files"), question("r", "count lines", after=25.0)],
    )
    assert found.sentences[0] == (
        "4 pieces of feedback were not kept for the exam. What became of each stands on the page."
    )
    assert found.points == (
        "`list hidden files` (corrected, weight 1.50): It was learned from: wanted answers. "
        "A question of the exam like it, `list the hidden files`, went from 20 to 90 of 100 points.",
        "`count all lines` (corrected, weight 2.00): It was learned from: wanted answers. "
        "A question of the exam like it, `count lines`, went from 20 to 25 of 100 points.",
        "`show the disk's size` (corrected, weight 1.00): It was learned from: wanted answers.",
        "All of one piece, over the nights: `nightschool explain dropdir/2`",
    )
    *_, last = found.pieces
    assert (last.prompt, last.said, last.score) == ("remove 'x'\N{REPLACEMENT CHARACTER}[2J", "corrected", 40.0)
    assert (last.fate, last.mark, last.asked) == ("It was left out: it was withdrawn.", None, None)


def test_a_piece_that_was_asked_itself_is_told_so(tmp_path: Path) -> None:
    found = section(tmp_path, [row("1", "list files")], (1.0,), [question("dropdir/1", "list files")])
    assert found.points[0].endswith("Its own question went from 20 to 90 of 100 points.")
    assert found.sentences[0].startswith("1 piece of feedback was not kept for the exam. What became of it stands")


def test_a_piece_that_looks_wrong_says_why(tmp_path: Path) -> None:
    section(tmp_path, [row("1", "list files"), row("2", "count lines")], (1.0, 1.0), ())
    directory = RunDirectory(path=tmp_path)
    finding = NoiseFinding(event_id="dropdir/1", factor=0.4, reason="others want `more`", contradicts="dropdir/2")
    write_lines(directory.step(Step.SELECT) / FINDINGS, [NoiseRow(finding=finding, side=Side.TRAINING)])
    (found,) = pieces_section(directory, Fates(directory, (), is_over=True))
    assert [one.fate for one in found.pieces] == [
        "It was learned from: wanted answers. "
        "It looks wrong: others want 'more' (`dropdir/2`). It counts 40% of its weight.",
        "It was learned from: wanted answers.",
    ]


@pytest.mark.parametrize("name", ["x; rm -rf ~", "`reboot`", "$(reboot)", "a b", "\x1b[2J"])
def test_no_name_becomes_a_command_of_its_own(tmp_path: Path, name: str) -> None:
    found = section(tmp_path, [row(name, "list files")], (1.0,), ())
    assert found.points[-1] == "All of one piece, over the nights: `nightschool explain EVENT`"


def test_where_there_are_too_many_pieces_it_is_said_which_are_told(tmp_path: Path) -> None:
    rows = [row(str(number), f"count {number} lines") for number in range(100)]
    found = section(tmp_path, rows, [1.0] * 70, ())
    assert len(found.pieces) == MOST_PIECES
    assert len(found.points) == TELLING + 1
    assert found.sentences[0] == (
        "100 pieces of feedback were not kept for the exam. What became of the 40 that counted most and of the 10 that "
        "were worth most of the others stands on the page."
    )


def test_where_nothing_was_chosen_there_is_nothing_to_tell(tmp_path: Path) -> None:
    directory = left(tmp_path, replace(CHOSEN, sources={}, left_out=()), trained=False)
    assert not list(pieces_section(directory, Fates(directory, (), is_over=True)))
