"""A version that was put into use unproven, and what its next exam makes of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from nightschool_daemon.config import PromotionMode, PromotionSettings
from nightschool_daemon.evaluation.examiner import exam_of
from nightschool_daemon.evaluation.predecessor import ask_predecessor
from nightschool_daemon.evaluation.sitting import sit
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import PREDECESSOR_ANSWERS, ExamineResult, PrepareResult, RegisterResult, Step, write_lines
from nightschool_daemon.learning import judging
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.library import ChatAnswer
from nightschool_daemon.proxy.routes import RoutesFile
from nightschool_daemon.reasons import ASKED, REBUILD
from nightschool_daemon.reporting.sheet import markdown_of
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import RunInterrupted
from nightschool_daemon.runs.listener import SilentListener
from nightschool_daemon.runs.probation import Probation
from nightschool_daemon.runs.sheets import sheet_of
from nightschool_daemon.runs.unproven import unproven_key
from nightschool_hookspecs import (
    AnswerScore,
    Event,
    ExamItem,
    FeedbackType,
    GuardResult,
    Message,
    Outcome,
    Sitting,
    Specialty,
    hookimpl,
)
from nightschool_hookspecs.records import MoveKind, Recipe, RunEnd, RunReport
from nightschool_hookspecs.testing import FakeGenerate
from support.bare_runs import PLUGINS, START, TABLES, BareRuns, Plot, QuietWorker

BASE = "tiny:1b"
SHELL = Specialty(base=BASE, artifact_type="shell")
ALIAS = names.alias_of(SHELL)
FIRST, SECOND = f"{ALIAS}.v1", f"{ALIAS}.v2"
THINGS = (
    "invoices", "bakers", "letters", "menus", "meetings", "cats", "bicycles", "boats", "lamps", "gardens", "violins",
    "maps", "rivers", "candles",
)  # fmt: skip
ASK_MODELS = ("guard_capabilities", "guard_general", "guard_latency", "guard_memory")


def _nothing() -> None:
    """Nothing happens."""


@dataclass(kw_only=True)
class ExaminedRuns(BareRuns):
    """Exams are judged for real; what each model scores at every question is set."""

    ability: dict[str, float] = field(default_factory=dict)
    """By tag; of others it is that of the base."""
    candidate: float = 60.0
    meanwhile: Callable[[], None] = _nothing
    """What happens before the verdict."""
    asked_before: str | None = None
    """What an exam that was begun earlier in the night took for the predecessor."""

    def _work(self, context: StepContext, step: Step, *, limit_s: float | None = None, **_: object) -> None:
        if step not in (Step.EXAMINE, Step.JUDGE):
            super()._work(context, step, limit_s=limit_s)
            return
        worker = QuietWorker(
            step=step, run=context.directory, info=context.info, settings=context.settings, hooks=self.hooks
        )
        if step is Step.JUDGE:
            self.meanwhile()
            judging.run(worker)
            return
        incumbent = worker.run.result(Step.PREPARE, PrepareResult).incumbent
        candidate = worker.run.result(Step.REGISTER, RegisterResult).tag
        scores = {candidate: self.candidate}
        sitters = {
            Sitting.INCUMBENT: incumbent,
            Sitting.CANDIDATE: candidate,
            Sitting.INCUMBENT_AGAIN: incumbent,
        }
        answers = [
            sit(item, sitting, model, ask=_says_its_name, score=partial(self._score, scores))
            for sitting, model in sitters.items()
            for item in worker.run.own_items()
        ]
        write_lines(worker.run.step(step) / "answers.jsonl", answers)
        if self.asked_before is not None:
            earlier = partial(sit, model=self.asked_before, ask=_says_its_name, score=partial(self._score, scores))
            left = [earlier(item, Sitting.INCUMBENT) for item in worker.run.exam_items()]
            write_lines(worker.run.step(step) / PREDECESSOR_ANSWERS, left)
        exam = exam_of(worker, (*worker.run.trial_answers(), *answers))
        ask_predecessor(worker, exam, ask=_says_its_name, score=partial(self._score, scores))
        worker.run.finish(step, ExamineResult(answers=len(answers), failed=0, seconds=0.0))

    def _score(self, scores: Mapping[str, float], _item: ExamItem, said: str) -> AnswerScore:
        return AnswerScore(score={**scores, **self.ability}.get(said, 50.0), validator="set")


def _says_its_name(name: str, messages: tuple[Message, ...]) -> ChatAnswer:
    assert messages
    return ChatAnswer(text=name, tokens=1, latency_s=0.0, done_reason="stop")


@pytest.fixture
def house(tmp_path: Path, tiny_gguf: Path) -> Iterator[ExaminedRuns]:
    plugins = replace(PLUGINS, disabled=(*PLUGINS.disabled, *ASK_MODELS))
    with pytest.MonkeyPatch.context() as patch:
        made = ExaminedRuns(
            directory=tmp_path,
            gguf=tiny_gguf,
            bases=(BASE,),
            hooks=Hooks.load(plugin_directory=None, tables=TABLES, plugins=plugins),
            generate=FakeGenerate(),
            patch=patch,
        )
        made.settings = replace(made.settings, promotion=PromotionSettings(promote=PromotionMode.PROVISIONAL))
        yield made
        made.close()


def correct(house: BareRuns, first: int, count: int) -> None:
    for number in range(first, first + count):
        house.take_in(
            Event(
                id=str(number),
                timestamp=START,
                feedback_type=FeedbackType.USER_CORRECTION,
                input_data=f"{THINGS[number]} {THINGS[-number]} number {number * 7919}",
                artifact_type="shell",
                model=BASE,
                ai_output="ls",
                corrected_output=f"find /{THINGS[number]} -name {number}",
            )
        )


def hold(house: BareRuns, killed_at: Step | None = None) -> RunReport:
    return house.hold(SHELL, ASKED, Recipe.TRAINING, Plot(killed_at=killed_at))


def holds(house: BareRuns) -> str:
    digests = {entry.name: entry.digest for entry in house.ollama.tags()}
    return digests[ALIAS]


def put_there_unproven(house: ExaminedRuns) -> None:
    """The first version: ten points better at five questions."""
    correct(house, 0, 5)
    report = hold(house)
    assert (report.end, report.version) == (RunEnd.PROMOTED, FIRST), report.reason
    assert report.verdict is not None
    assert (report.verdict.outcome, report.verdict.items) == (Outcome.PROVISIONAL, 5)
    assert house.ledger.facts.get(unproven_key(FIRST))


def test_the_next_exam_takes_back_what_does_not_look_better_any_more(house: ExaminedRuns) -> None:
    base = f"digest of {BASE}"
    put_there_unproven(house)
    assert holds(house) != base
    # at new questions the version in use is worse than the base, and tonight's candidate no better than it
    house.ability, house.candidate = {FIRST: 20.0}, 20.0
    correct(house, 5, 6)
    report = hold(house)
    assert report.end is RunEnd.NOT_ENOUGH
    assert f"{FIRST} was taken back and" in report.reason
    assert "its next exam does not bear it out. No gain was seen: -11.8 points over 11 items" in report.reason
    assert holds(house) == base
    moved = house.ledger.moves.last_done(ALIAS)
    assert moved is not None
    assert (moved.kind, moved.from_tag) == (MoveKind.ROLL_BACK, FIRST)
    ends = [row.end for row in house.ledger.runs.latest(2, SHELL)]
    assert ends == [RunEnd.NOT_ENOUGH, RunEnd.ROLLED_BACK]
    assert house.ledger.facts.get(unproven_key(FIRST)) is None


def test_the_report_says_what_was_taken_back(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.ability, house.candidate = {FIRST: 20.0}, 20.0
    correct(house, 5, 6)
    report = hold(house)
    told = markdown_of(sheet_of(house.runs.context_of(report.run.id, SilentListener())))
    assert "The previous model is in use again" in told
    assert f"{FIRST} was put into use unproven; its next exam compared it with what stood there before again" in told
    assert "what was in use before the night still is" not in told


def test_the_next_exam_bears_out_what_is_better(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.ability = {FIRST: 60.0}
    correct(house, 5, 6)
    report = hold(house)
    assert report.end is RunEnd.NOT_ENOUGH
    assert holds(house) == f"digest of {FIRST}"
    assert house.ledger.facts.get(unproven_key(FIRST)) is None
    # then its predecessor sits no exam any more
    correct(house, 11, 2)
    assert not (hold(house).run.directory / "examine" / PREDECESSOR_ANSWERS).exists()


def test_what_still_looks_better_is_looked_at_again(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.ability = {FIRST: 60.0}
    correct(house, 5, 1)
    hold(house)
    assert holds(house) == f"digest of {FIRST}"
    assert house.ledger.facts.get(unproven_key(FIRST))
    house.ability, house.candidate = {FIRST: 20.0}, 20.0
    correct(house, 6, 6)
    hold(house)
    assert holds(house) == f"digest of {BASE}"


def test_a_candidate_that_is_proven_takes_the_place_of_what_does_not_look_better_any_more(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.ability, house.candidate = {FIRST: 20.0}, 60.0
    correct(house, 5, 8)
    report = hold(house)
    assert (report.end, report.version) == (RunEnd.PROMOTED, SECOND)
    assert holds(house) == f"digest of {SECOND}"
    assert house.ledger.facts.get(unproven_key(SECOND)) is None


def test_an_exam_that_asks_nothing_new_takes_nothing_back(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.ability = {FIRST: 0.0}
    hold(house)
    assert holds(house) == f"digest of {FIRST}"
    assert house.ledger.facts.get(unproven_key(FIRST))


def test_a_share_of_its_use_ends_with_what_is_taken_back(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.runs.share(ALIAS, 0.3, house.now)
    assert RoutesFile(house.directory).current().routes
    house.ability, house.candidate = {FIRST: 20.0}, 20.0
    correct(house, 5, 6)
    hold(house)
    assert holds(house) == f"digest of {BASE}"
    assert house.runs.shares.all() == ()
    assert RoutesFile(house.directory).current().routes == ()


def put_another_there_unproven(house: ExaminedRuns) -> None:
    """The second version: better still at other questions. The first still looks better than the base."""
    house.ability, house.candidate = {FIRST: 52.0}, 62.0
    correct(house, 5, 5)
    report = hold(house)
    assert (report.end, report.version) == (RunEnd.PROMOTED, SECOND), report.reason
    assert report.verdict is not None
    assert report.verdict.outcome is Outcome.PROVISIONAL


def by_an_exam(house: ExaminedRuns) -> None:
    house.ability, house.candidate = {FIRST: 52.0, SECOND: 20.0}, 20.0
    correct(house, 10, 2)
    hold(house)


def by_hand(house: ExaminedRuns) -> None:
    house.runs.undo(ALIAS, house.now)


@pytest.mark.parametrize("goes", [by_an_exam, by_hand])
def test_what_is_in_use_again_was_not_borne_out_either(
    house: ExaminedRuns, goes: Callable[[ExaminedRuns], None]
) -> None:
    put_there_unproven(house)
    put_another_there_unproven(house)
    goes(house)
    assert holds(house) == f"digest of {FIRST}"
    house.ability, house.candidate = {FIRST: 0.0}, 0.0
    correct(house, 12, 2)
    assert f"{FIRST} was taken back" in hold(house).reason
    assert holds(house) == f"digest of {BASE}"


def test_a_rebuild_takes_nothing_back_and_forgets_nothing(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.ability, house.candidate = {FIRST: 0.0}, 0.0
    correct(house, 5, 6)
    report = house.hold(SHELL, REBUILD, Recipe.TRAINING, Plot())
    assert "was taken back" not in report.reason
    house.runs.undo(ALIAS, house.now)
    assert holds(house) == f"digest of {FIRST}"
    assert f"{FIRST} was taken back" in hold(house).reason


@dataclass(frozen=True, kw_only=True)
class NoTime:
    """A guard that could not look."""

    @hookimpl
    def nightschool_guard_promotion(self) -> GuardResult:
        return GuardResult(guard="general", held=True, looked=False, reason="There was no time.")


def test_what_waited_and_was_approved_is_no_more_proven(house: ExaminedRuns) -> None:
    guard = NoTime()
    house.hooks.manager.register(guard, name="no_time")
    correct(house, 0, 5)
    assert hold(house).end is RunEnd.WAITING
    house.hooks.manager.unregister(guard)
    house.runs.approve(ALIAS, house.now)
    assert holds(house) == f"digest of {FIRST}"
    house.ability, house.candidate = {FIRST: 20.0}, 20.0
    correct(house, 5, 6)
    assert f"{FIRST} was taken back" in hold(house).reason
    assert holds(house) == f"digest of {BASE}"


def test_the_exam_of_what_waited_says_nothing_of_what_it_was_not_compared_with(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    guard = NoTime()
    house.hooks.manager.register(guard, name="no_time")
    house.ability, house.candidate = {FIRST: 52.0}, 62.0
    correct(house, 5, 5)
    assert hold(house).end is RunEnd.WAITING
    house.hooks.manager.unregister(guard)
    house.runs.undo(ALIAS, house.now)
    house.runs.approve(ALIAS, house.now)
    assert holds(house) == f"digest of {SECOND}"
    # ten points better than the first version at five questions, a little worse than the base at two
    house.ability, house.candidate = {SECOND: 49.0}, 49.0
    correct(house, 10, 2)
    assert f"{SECOND} was taken back" in hold(house).reason
    assert holds(house) == f"digest of {BASE}"


@pytest.mark.parametrize("step", [Step.EXAMINE, Step.JUDGE])
def test_a_night_that_is_killed_comes_to_the_same(house: ExaminedRuns, step: Step) -> None:
    put_there_unproven(house)
    house.ability, house.candidate = {FIRST: 20.0}, 20.0
    correct(house, 5, 6)
    assert f"{FIRST} was taken back" in hold(house, killed_at=step).reason
    assert holds(house) == f"digest of {BASE}"


def test_a_night_that_is_killed_behind_the_move_moves_no_further(
    house: ExaminedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_there_unproven(house)
    house.ability, house.candidate = {FIRST: 20.0}, 20.0
    correct(house, 5, 6)

    def die(_: Probation, *_rest: object) -> None:
        raise RunInterrupted

    with monkeypatch.context() as patch:
        patch.setattr(Probation, "settle_the_run", die)
        with pytest.raises(RunInterrupted):
            hold(house)
    assert holds(house) == f"digest of {BASE}"
    (run_id,) = house.runs.unfinished()
    assert f"{FIRST} was taken back" in house.runs.execute(run_id).reason
    assert holds(house) == f"digest of {BASE}"
    assert [row.kind for row in house.ledger.moves.history(ALIAS, 9)] == [MoveKind.ROLL_BACK, MoveKind.PROMOTE]


def test_what_was_moved_by_hand_meanwhile_stays(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.ability, house.candidate = {FIRST: 20.0}, 20.0
    correct(house, 5, 6)
    house.meanwhile = lambda: house.ollama.copy(BASE, ALIAS)
    report = hold(house)
    assert f"{FIRST} was to be taken back, but" in report.reason
    assert house.ledger.facts.get(unproven_key(FIRST))


def test_what_was_undone_meanwhile_is_not_taken_back_further(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    put_another_there_unproven(house)
    house.meanwhile = lambda: by_hand(house)
    by_an_exam(house)
    assert holds(house) == f"digest of {FIRST}"
    assert house.ledger.facts.get(unproven_key(FIRST))


def test_answers_of_another_model_are_not_the_predecessors(house: ExaminedRuns) -> None:
    put_there_unproven(house)
    house.ability, house.candidate = {FIRST: 20.0, "another": 0.0}, 20.0
    house.asked_before = "another"
    correct(house, 5, 6)
    assert f"{FIRST} was taken back" in hold(house).reason
