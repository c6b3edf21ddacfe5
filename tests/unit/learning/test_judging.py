"""Guards may ask the models where the exam alone would promote, and nowhere else."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon.config import PromotionMode, PromotionSettings, Settings, StateSettings
from nightschool_daemon.evaluation.examiner import exam_of
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    BaseSnapshot,
    JudgeResult,
    PrepareResult,
    RegisterResult,
    RunDirectory,
    Step,
    write_lines,
)
from nightschool_daemon.learning import judging
from nightschool_daemon.learning.judging import JudgingError
from nightschool_daemon.reasons import ASKED, REBUILD
from nightschool_daemon.runs.conclude import decide
from nightschool_hookspecs import (
    Exam,
    FirstScore,
    GuardResult,
    ItemRole,
    Measure,
    Models,
    Outcome,
    RunEnd,
    RunInfo,
    Specialty,
    Verdict,
    hookimpl,
)
from nightschool_hookspecs.testing import sample_exam

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PUT_INTO_USE = (RunEnd.PROMOTED, RunEnd.WAITING)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Finds what it is told to, unless a guard is broken."""

    outcome: Outcome

    @hookimpl
    def nightschool_judge_exam(self, exam: Exam, guards: tuple[GuardResult, ...]) -> Verdict:
        broken = any(not guard.held for guard in guards)
        return Verdict(
            outcome=Outcome.WORSE if broken else self.outcome,
            incumbent_mean=50.0,
            candidate_mean=60.0,
            gain=10.0,
            interval=(5.0, 15.0),
            p_value=0.01,
            noise=0.0,
            items=len(exam.items),
            items_needed=None,
            guards=guards,
            reason="told",
        )


@dataclass(frozen=True, kw_only=True)
class Watchful:
    """A guard that is broken where it may ask."""

    given: list[bool] = field(default_factory=list)

    @hookimpl
    def nightschool_guard_promotion(self, measure: Measure, models: Models | None) -> GuardResult | None:
        assert list(measure(["same"], ["same"]).values) == [1.0]
        self.given.append(models is not None)
        return None if models is None else GuardResult(guard="watchful", held=False, reason="it asked")


@dataclass(frozen=True, kw_only=True)
class Night:
    """A worker's context without its process."""

    run: RunDirectory
    info: RunInfo
    settings: Settings
    hooks: Hooks

    def progress(self, done: int, total: int, text: str) -> None:
        raise AssertionError((done, total, text))

    def note(self, text: str) -> None:
        raise AssertionError(text)


def night(directory: Path, *plugins: object, mode: PromotionMode = PromotionMode.PROVEN, reason: str = "test") -> Night:
    run = RunDirectory(path=directory / "run")
    for step in Step:
        run.step(step).mkdir(parents=True)
    for name in ("items.jsonl", "regression.jsonl"):
        (run.step(Step.SELECT) / name).touch()
    (run.step(Step.EXAMINE) / "answers.jsonl").touch()
    base = BaseSnapshot(
        name="b:1",
        tag_digest="t",
        weights_digest="w",
        architecture="llama",
        capabilities=("completion",),
        pin="b:1",
        gguf=directory / "b.gguf",
    )
    run.finish(Step.PREPARE, PrepareResult(base=base, incumbent="b:1", undo_tag="b:1", undo_digest="t", events=0))
    run.finish(Step.REGISTER, RegisterResult(tag="c:1", number=1, tag_digest="c", weights_digest="w"))
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("similarity_edit",))
    for number, plugin in enumerate(plugins):
        hooks.manager.register(plugin, name=f"test{number}")
    specialty = Specialty(base="b:1", artifact_type="x")
    info = RunInfo(id="r", specialty=specialty, seed=5, started_at=NOW, reason=reason, directory=directory)
    settings = Settings(state=StateSettings(directory=directory), promotion=PromotionSettings(promote=mode))
    return Night(run=run, info=info, settings=settings, hooks=hooks)


@pytest.mark.parametrize(
    ("alone", "mode", "reason", "may_ask"),
    [
        (Outcome.PROVEN, PromotionMode.PROVEN, ASKED, True),
        (Outcome.PROVEN, PromotionMode.ASK, ASKED, True),
        (Outcome.PROVISIONAL, PromotionMode.PROVEN, ASKED, False),
        (Outcome.PROVISIONAL, PromotionMode.PROVISIONAL, ASKED, True),
        (Outcome.NOT_ENOUGH, PromotionMode.PROVISIONAL, ASKED, False),
        (Outcome.NOT_ENOUGH, PromotionMode.PROVEN, REBUILD, True),
        (Outcome.WORSE, PromotionMode.PROVEN, REBUILD, False),
    ],
)
def test_guards_ask_where_the_exam_alone_would_put_the_candidate_into_use(
    tmp_path: Path, alone: Outcome, mode: PromotionMode, reason: str, *, may_ask: bool
) -> None:
    guard = Watchful()
    context = night(tmp_path, Judge(outcome=alone), guard, mode=mode, reason=reason)
    judging.run(context)
    assert guard.given == [may_ask]
    result = context.run.result(Step.JUDGE, JudgeResult)
    assert result.verdict.outcome is (Outcome.WORSE if may_ask else alone)
    assert (decide(result.verdict, mode, reason).end in PUT_INTO_USE) is False
    assert (decide(replace(result.verdict, outcome=alone), mode, reason).end in PUT_INTO_USE) is may_ask
    assert [one.guard for one in result.guards] == (["watchful"] if may_ask else [])


@pytest.mark.parametrize(
    ("candidate", "of_incumbent", "end", "goes"),
    [
        (Outcome.NOT_ENOUGH, Outcome.NOT_ENOUGH, RunEnd.NOT_ENOUGH, True),
        (Outcome.WORSE, Outcome.WORSE, RunEnd.DISCARDED, True),
        (Outcome.NOT_ENOUGH, Outcome.PROVISIONAL, RunEnd.NOT_ENOUGH, False),
        (Outcome.NOT_ENOUGH, Outcome.PROVEN, RunEnd.NOT_ENOUGH, False),
        # what is better than something that is no better than what it replaced need not be better than that
        (Outcome.PROVISIONAL, Outcome.NOT_ENOUGH, RunEnd.NOT_ENOUGH, True),
        (Outcome.PROVISIONAL, Outcome.PROVISIONAL, RunEnd.PROMOTED, False),
        (Outcome.PROVEN, Outcome.NOT_ENOUGH, RunEnd.PROMOTED, False),
        (Outcome.PROVEN, Outcome.WORSE, RunEnd.NOT_ENOUGH, True),
    ],
)
def test_what_was_put_into_use_unproven_goes_where_it_would_not_be_by_now(
    candidate: Outcome, of_incumbent: Outcome, end: RunEnd, *, goes: bool
) -> None:
    found, other = (Judge(outcome=one).nightschool_judge_exam(sample_exam(), ()) for one in (candidate, of_incumbent))
    ending = decide(found, PromotionMode.PROVISIONAL, ASKED, other)
    assert (ending.end, ending.takes_back is not None) == (end, goes)


@pytest.mark.parametrize(
    ("candidate", "of_incumbent", "end", "goes"),
    [
        (Outcome.PROVISIONAL, Outcome.NOT_ENOUGH, RunEnd.NOT_ENOUGH, True),
        (Outcome.PROVISIONAL, Outcome.PROVISIONAL, RunEnd.WAITING, False),
        # proven against what was no worse than its predecessor, but not in its place yet
        (Outcome.PROVEN, Outcome.NOT_ENOUGH, RunEnd.WAITING, True),
        (Outcome.PROVEN, Outcome.WORSE, RunEnd.NOT_ENOUGH, True),
    ],
)
def test_no_candidate_waits_that_may_be_worse_than_what_comes_back_into_use(
    candidate: Outcome, of_incumbent: Outcome, end: RunEnd, *, goes: bool
) -> None:
    unseen = GuardResult(guard="general", held=True, looked=False, reason="There was no time.")
    found = Judge(outcome=candidate).nightschool_judge_exam(sample_exam(), (unseen,))
    other = Judge(outcome=of_incumbent).nightschool_judge_exam(sample_exam(), ())
    ending = decide(found, PromotionMode.PROVISIONAL, ASKED, other)
    assert (ending.end, ending.takes_back is not None) == (end, goes)


def test_of_first_scores_those_of_the_same_wanted_answers_are_part_of_the_exam(tmp_path: Path) -> None:
    context = night(tmp_path)
    items = [
        replace(item, role=role)
        for item, role in zip(
            sample_exam().items, (ItemRole.LEARNED, ItemRole.LEARNED, ItemRole.GAIN, ItemRole.LEARNED), strict=False
        )
    ]
    scores = tuple(FirstScore(event_id=one.event_id, reference=one.reference, score=80.0) for one in items)
    changed = replace(scores[1], reference="another one")
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    context.run.finish(Step.PREPARE, replace(prepared, first_scores=(scores[0], changed, *scores[2:])))
    write_lines(context.run.step(Step.SELECT) / "regression.jsonl", items)
    asked = {item.id for item in items[:3]}
    exam = exam_of(context, tuple(one for one in sample_exam().answers if one.item_id in asked))
    assert exam.first_scores == scores[:1]
    assert (exam.base, exam.base_apart) == ("b:1", None)


@pytest.mark.parametrize("mode", [PromotionMode.PROVEN, PromotionMode.PROVISIONAL])
def test_a_candidate_that_a_guard_could_not_look_at_waits_for_approval(mode: PromotionMode) -> None:
    seen = GuardResult(guard="liked", held=True, reason="Nothing was lost.")
    unseen = GuardResult(guard="general", held=True, looked=False, reason="There was no time.")
    proven = Judge(outcome=Outcome.PROVEN).nightschool_judge_exam(sample_exam(), (seen, unseen))
    ending = decide(proven, mode, ASKED)
    assert ending.end is RunEnd.WAITING
    assert ending.reason == (
        "told But it is not put into use by itself, as one check could not be made: `nightschool approve` does. "
        "There was no time."
    )
    assert decide(replace(proven, guards=(seen,)), mode, ASKED).end is RunEnd.PROMOTED
    never = replace(unseen, dispensable=True)
    assert decide(replace(proven, guards=(seen, never)), mode, ASKED).end is RunEnd.PROMOTED
    assert decide(replace(proven, outcome=Outcome.NOT_ENOUGH), mode, ASKED).end is RunEnd.NOT_ENOUGH
    assert decide(replace(proven, outcome=Outcome.NOT_ENOUGH), mode, REBUILD).end is RunEnd.WAITING


def test_an_exam_without_a_judge_says_so(tmp_path: Path) -> None:
    with pytest.raises(JudgingError, match="judge_paired"):
        judging.run(night(tmp_path, Watchful()))
