"""Cross-fitting: what each trial candidate learns and is asked, and how many the night has time for."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon import codec
from nightschool_daemon.config import ExamSettings
from nightschool_daemon.jobs import ExamineResult, RunDirectory, SplitResult, Step
from nightschool_daemon.runs.crossfit import affordable, caps_of_trial, halved, split_of_trial
from nightschool_daemon.runs.errors import StepFailed
from nightschool_hookspecs import ExamAnswer, ExamItem, ItemRole, PromptGroup, Side, Sitting
from nightschool_plugins.evaluation_split import EvaluationSplit
from support.step_results import SELECTED

sided_groups = st.lists(
    st.builds(
        PromptGroup,
        key=st.uuids().map(str),
        events=st.integers(1, 3),
        side=st.sampled_from(list(Side)),
        in_use=st.booleans(),
    ),
    unique_by=lambda group: group.key,
    min_size=5,
    max_size=40,
).map(tuple)


def split_of(groups: tuple[PromptGroup, ...]) -> SplitResult:
    return SplitResult(
        choices=(),
        training_events=0,
        held_out_events=0,
        sides={group.key: group.side for group in groups if group.side is not None},
        folds=EvaluationSplit().nightschool_select_folds(groups),
    )


@given(sided_groups, st.booleans())
def test_no_trial_candidate_is_asked_what_it_learned_or_what_is_held_out(
    groups: tuple[PromptGroup, ...], in_two: bool
) -> None:
    found = split_of(groups)
    folds = halved(found.folds) if in_two and found.folds else found.folds
    asked: list[str] = []
    for number in range(1, len(folds) + 1):
        trial = split_of_trial(found, folds, number, counted=9)
        own = {key for key, side in trial.sides.items() if side is Side.HELD_OUT}
        learned = {key for key, side in trial.sides.items() if side is Side.TRAINING}
        assert own == set(folds[number - 1])
        assert own | learned == {key for key, side in found.sides.items() if side is Side.TRAINING}
        assert (trial.folds, trial.counted) == ((), 9)
        asked += own
    assert len(asked) == len(set(asked))
    assert set(asked) == {key for fold in found.folds for key in fold}


def test_halves_hold_whole_folds() -> None:
    assert halved((("a", "e"), ("b",), ("c",), ("d",))) == (("a", "e", "c"), ("b", "d"))
    assert halved((("a",), ("b",), ("c",))) == (("a", "c"), ("b",))


FOLDS = (("a",), ("b",), ("c",), ("d",))


@pytest.mark.parametrize(("trained_s", "left_s", "folds"), [(0, 1, 4), (10, 40, 4), (10, 39.9, 2), (10, 10, 2)])
def test_two_folds_are_taken_where_the_night_is_too_short_for_four(trained_s: float, left_s: float, folds: int) -> None:
    """Fewer examples may be gone through more often, so that a trial candidate may take as long as the candidate."""
    taken = affordable(FOLDS, trained_s=trained_s, left_s=left_s)
    assert len(taken) == folds
    assert {key for fold in taken for key in fold} == set("abcd")


def test_an_exam_that_the_night_has_no_time_for_is_refused_with_what_to_change() -> None:
    with pytest.raises(StepFailed, match=r"as long as the candidate's \(10 min\), .* leaves 5 min\. Raise it"):
        affordable(FOLDS, trained_s=600, left_s=300)


counts = st.integers(0, 200)


@given(counts, counts, counts, counts, st.integers(2, 4))
def test_trial_candidates_share_the_caps_of_the_night_as_the_folds_share_what_counts(
    items: int, folded: int, pairs: int, folded_pairs: int, folds: int
) -> None:
    exam = ExamSettings()
    found = replace(SELECTED, items=items, folded=folded, pairs=pairs, folded_pairs=folded_pairs)
    own = caps_of_trial(exam, found, folds)
    assert folds * own.max_items >= min(folded, exam.max_items * folded / max(1, folded + items))
    assert folds * own.max_pairs >= min(folded_pairs, exam.max_pairs * folded_pairs / max(1, folded_pairs + pairs))
    assert own.max_items <= exam.max_items
    assert own.max_pairs <= exam.max_pairs


def test_a_fold_of_pairs_alone_has_an_exam_too() -> None:
    own = caps_of_trial(ExamSettings(), replace(SELECTED, items=3, folded_pairs=4), 4)
    assert own.max_items == 1
    assert own.max_pairs > 0


# --------------------------------------------------------------------------- what joins the exam


def item(name: str, role: ItemRole = ItemRole.GAIN) -> ExamItem:
    return ExamItem(id=name, event_id=name, artifact_type="shell", role=role, messages=())


def laid_out(directory: RunDirectory, items: list[ExamItem], learned: list[ExamItem], *, is_examined: bool) -> None:
    for step in (Step.SELECT, Step.EXAMINE):
        directory.step(step).mkdir(parents=True)
    for name, some in (("items", items), ("regression", learned)):
        lines = "".join(codec.to_json(one) + "\n" for one in some)
        (directory.step(Step.SELECT) / f"{name}.jsonl").write_text(lines)
    answers = [
        ExamAnswer(
            item_id=one.id,
            sitting=Sitting.CANDIDATE,
            model=str(directory.path.name),
            text="",
            score=1.0,
            detail="",
            failed=False,
            latency_s=0.0,
            tokens=0,
            done_reason=None,
        )
        for one in items
    ]
    (directory.step(Step.EXAMINE) / "answers.jsonl").write_text("".join(codec.to_json(one) + "\n" for one in answers))
    if is_examined:
        directory.finish(Step.EXAMINE, ExamineResult(answers=len(answers), failed=0, seconds=0.0))


def test_what_trial_candidates_answered_joins_the_exam(tmp_path: Path) -> None:
    run = RunDirectory(path=tmp_path)
    first, second, third = (RunDirectory(path=run.step(Step.CROSSFIT) / f"{number:02}") for number in (1, 2, 3))
    laid_out(run, [item("held out")], [item("lesson/a", ItemRole.LESSON)], is_examined=False)
    laid_out(first, [item("a")], [item("b", ItemRole.LESSON)], is_examined=True)
    laid_out(second, [item("b")], [item("a", ItemRole.LESSON)], is_examined=True)
    laid_out(third, [item("c")], [], is_examined=False)

    assert [one.path.name for one in run.trials()] == ["01", "02"]
    assert [one.id for one in run.exam_items()] == ["a", "b", "held out", "lesson/a"]
    assert [(one.item_id, one.model) for one in run.exam_answers()] == [
        ("a", "01"),
        ("b", "02"),
        ("held out", tmp_path.name),
    ]
    # a trial candidate's exam goes on from those before it, and what it learned is not put to it
    assert [one.id for one in second.exam_items()] == ["a", "b"]
    assert [one.item_id for one in second.trial_answers()] == ["a"]
    assert [one.id for one in second.own_items()] == ["b"]
