"""How runs end, on a real server: promoted, waiting, undone, overtaken; and what users do meanwhile."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from nightschool_daemon import codec
from nightschool_daemon.config import OllamaSettings, PromotionMode, PromotionSettings, Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.installation import Installation
from nightschool_daemon.intake import Intake
from nightschool_daemon.jobs import (
    ConcludeResult,
    ExportResult,
    JudgeResult,
    Losses,
    PrepareResult,
    Replayed,
    SelectResult,
    SplitResult,
    Step,
    write_durably,
)
from nightschool_daemon.ledger import FILE_NAME, IncomingEvent, Ledger, VersionRow, VersionState
from nightschool_daemon.ledger.evidence import EvidenceBook
from nightschool_daemon.ledger.runs import Runs as RunRows
from nightschool_daemon.ledger.versions import Moves, Versions
from nightschool_daemon.locking import StateLock
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import OllamaRefused
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.proxy.routes import Route, RoutesFile
from nightschool_daemon.reasons import ASKED, BY_HAND, REBUILD, RETRAIN
from nightschool_daemon.reporting.sheet import markdown_of
from nightschool_daemon.runs import (
    RunRefused,
    Runs,
    ShareRefused,
    UndoRefused,
    conclude,
    examine,
    going_on,
    pipeline,
    prepare,
    rebuild,
    report,
    retention,
    room,
)
from nightschool_daemon.runs.alone import MANUAL_TYPE, Order, train_alone
from nightschool_daemon.runs.conclude import Ending
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.listener import SilentListener
from nightschool_daemon.runs.moves import AliasMover
from nightschool_daemon.runs.planner import due_key, problem_key
from nightschool_daemon.runs.sheets import sheet_of
from nightschool_daemon.views import page_of
from nightschool_hookspecs import hookimpl
from nightschool_hookspecs.records import (
    AliasMove,
    CountedItem,
    DeliveryForm,
    DeliveryPlan,
    Event,
    Evidence,
    ExamItem,
    FeedbackType,
    GuardResult,
    ItemRole,
    Outcome,
    ParsedFeedback,
    RunEnd,
    RunReport,
    ServerAbilities,
    Specialty,
    TrainingMethod,
    TrainingResult,
    Verdict,
)
from support.night import TINY, import_tiny
from support.ollama_server import OllamaServer
from support.step_results import SELECTED, TRAINED
from support.tiny_gguf import write_tiny_gguf

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
GREETING = Specialty(base=TINY, artifact_type="greeting")
ALIAS = names.alias_of(GREETING)
MANUAL = Specialty(base=TINY, artifact_type=MANUAL_TYPE)


class Breakable(OllamaHttp):
    """The real client, whose next copy to a name can be made to fail."""

    refuse: str | None = None
    damage: tuple[str, Path] | None = None

    def copy(self, source: str, destination: str) -> None:
        if destination == self.refuse:
            self.refuse = None
            raise OllamaRefused("Ollama refused the copy: no space left on device", status=500)
        super().copy(source, destination)
        if self.damage is not None and destination == self.damage[0]:
            # what a full disk leaves: Ollama truncates a manifest before it writes it
            self.damage[1].write_bytes(b"")
            self.damage = None


class World:
    """A base, a ledger, and runs whose training is skipped: their candidates differ in a parameter."""

    def __init__(self, directory: Path, server: OllamaServer, tiny_gguf: Path) -> None:
        self.server = server
        self.directory = directory
        self.weights = import_tiny(server, tiny_gguf)
        self.ollama = Breakable(OllamaSettings(host=server.url, models_directory=server.models_directory))
        self.ledger = Ledger.open(directory / FILE_NAME)
        self.made = 0
        self.configure()

    def configure(
        self,
        *,
        replace_base: bool = False,
        keep_versions: int = 3,
        promote: PromotionMode = PromotionMode.PROVEN,
    ) -> None:
        """Set `[promotion]`."""
        settings = Settings(
            ollama=OllamaSettings(host=self.server.url, models_directory=self.server.models_directory),
            state=StateSettings(directory=self.directory),
            promotion=PromotionSettings(promote=promote, keep_versions=keep_versions, replace_base=replace_base),
        )
        settings = replace(settings, delivery=replace(settings.delivery, min_free_gb=0.1))
        hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
        self.runs = Runs(settings=settings, ledger=self.ledger, hooks=hooks, ollama=self.ollama, clock=lambda: NOW)

    def digest(self, tag: str) -> str | None:
        """Manifest digest of a tag."""
        return self.server.tags().get(tag)

    def create(self, tag: str, number: float, gguf: str | None = None) -> None:
        """A tag that differs from all others in a parameter."""
        weights = gguf or self.weights
        self.ollama.create(CreateRequest(model=tag, files={"tiny.gguf": weights}, parameters={"top_p": number}))

    def begin(self, reason: str = ASKED) -> StepContext:
        """A run that has been prepared, really, and whose candidate is registered."""
        self.made += 1
        context = self.runs.context_of(
            self.runs.start(GREETING, reason, NOW + timedelta(minutes=self.made)), SilentListener()
        )
        for step in (Step.PREPARE, Step.SPLIT, Step.SELECT, Step.TRAIN, Step.EXPORT, Step.JUDGE, Step.CONCLUDE):
            context.directory.step(step).mkdir()
        prepare.perform(context)
        context.directory.finish(Step.SPLIT, SplitResult(choices=(), training_events=0, held_out_events=0))
        base = context.result(Step.PREPARE, PrepareResult).base
        number = self.ledger.versions.next_number(GREETING)
        tag = names.version_of(GREETING, number)
        self.create(tag, 0.5 + number / 100)
        digest = self.digest(tag)
        assert digest is not None
        self.ledger.versions.add(
            VersionRow(
                tag=tag,
                specialty=GREETING,
                number=number,
                run_id=context.info.id,
                form=DeliveryForm.FUSED,
                tag_digest=digest,
                weights_digest=self.weights,
                base_tag_digest=base.tag_digest,
                base_weights_digest=base.weights_digest,
                state=VersionState.CANDIDATE,
                created_at=NOW,
                files=(),
            )
        )
        return context

    def end(self, context: StepContext, end: RunEnd = RunEnd.PROMOTED) -> ConcludeResult:
        """Conclude a run."""
        conclude.perform(context, Ending(end=end, reason="It was judged."))
        result = context.result(Step.CONCLUDE, ConcludeResult)
        self.ledger.runs.finish(context.info.id, result.end, result.reason, NOW)
        return result

    def promote(self) -> str:
        """A whole run that is promoted. Returns its version's tag."""
        result = self.end(self.begin())
        assert result.end is RunEnd.PROMOTED, result.reason
        assert result.version is not None
        assert self.digest(ALIAS) == self.digest(result.version)
        return result.version

    def manifest(self, tag: str) -> Path:
        """The file of a tag's manifest."""
        model, _, last = tag.partition(":")
        return next(self.server.models_directory.glob(f"manifests/*/*/{model}")) / last

    def due(self) -> str | None:
        return self.ledger.facts.get(due_key(GREETING))


@pytest.fixture
def world(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Iterator[World]:
    made = World(tmp_path, fresh_ollama, tiny_gguf)
    made.runs.look_at_registry(NOW)
    yield made
    made.ollama.close()
    made.ledger.close()


# --------------------------------------------------------------------------- evidence


def test_evidence_goes_on_until_a_promotion_and_is_kept_apart_for_each_incumbent(world: World) -> None:
    def known(context: StepContext) -> Evidence:
        return context.result(Step.PREPARE, PrepareResult).evidence

    teach(world, 3)
    first = world.begin()
    assert known(first) == Evidence()
    judged(first, shown=(CountedItem(key="a", gain=20.0),))
    examine.accept_verdict(first)
    world.end(first, RunEnd.NOT_ENOUGH)
    second = world.begin()
    assert known(second) == Evidence(log_e_value=0.5, counted=(CountedItem(key="a", gain=20.0),), used=("a",))
    assert world.end(second).end is RunEnd.PROMOTED
    third = world.begin()
    assert known(third) == Evidence()
    world.end(third, RunEnd.NOT_ENOUGH)
    world.runs.undo(ALIAS, NOW)
    assert known(world.begin()) == Evidence(used=("a",))


def test_evidence_that_an_approval_settled_during_a_run_does_not_come_back_with_it(world: World) -> None:
    teach(world, 3)
    first = world.begin()
    judged(first, shown=(CountedItem(key="a", gain=20.0),), log_e_value=3.0)
    examine.accept_verdict(first)
    world.end(first, RunEnd.WAITING)
    second = world.begin()
    replace(world.runs, clock=lambda: second.info.started_at + timedelta(hours=1)).approve(ALIAS, NOW)
    judged(second, shown=(CountedItem(key="b", gain=5.0),), log_e_value=3.5)
    examine.accept_verdict(second)
    world.end(second, RunEnd.NOT_ENOUGH)
    world.runs.undo(ALIAS, NOW)
    assert world.begin().result(Step.PREPARE, PrepareResult).evidence == Evidence(used=("a", "b"))


def test_what_a_candidate_gained_that_a_guard_turned_down_speaks_for_no_later_one(world: World) -> None:
    teach(world, 3)
    first = world.begin()
    judged(first, shown=(CountedItem(key="a", gain=20.0),))
    examine.accept_verdict(first)
    world.end(first, RunEnd.NOT_ENOUGH)
    second = world.begin()
    before = second.result(Step.PREPARE, PrepareResult).evidence
    broken = GuardResult(guard="liked", held=False, reason="Liked answers lost 12 points.")
    judged(second, shown=(CountedItem(key="b", gain=90.0),), guards=(broken,), log_e_value=3.0)
    examine.accept_verdict(second)
    world.end(second, RunEnd.DISCARDED)
    third = world.begin()
    # the incumbent did badly at b, and would do so again: for a later candidate it is nothing new
    assert third.result(Step.PREPARE, PrepareResult).evidence == replace(before, used=("a", "b"))
    # what such a candidate lost counts: E would rise by chance alone, were unwelcome evidence left out
    judged(third, shown=(CountedItem(key="c", gain=-90.0),), guards=(broken,), log_e_value=-1.0)
    examine.accept_verdict(third)
    world.end(third, RunEnd.DISCARDED)
    counted = (CountedItem(key="a", gain=20.0), CountedItem(key="c", gain=-90.0))
    assert world.begin().result(Step.PREPARE, PrepareResult).evidence == Evidence(
        log_e_value=-1.0, counted=counted, used=("a", "b", "c")
    )


@pytest.mark.parametrize(
    ("outcome", "dispensable", "known"),
    [
        (Outcome.PROVEN, False, Evidence()),
        (Outcome.PROVISIONAL, False, Evidence(used=("a",))),
        (Outcome.PROVEN, True, Evidence(log_e_value=3.0, counted=(CountedItem(key="a", gain=20.0),), used=("a",))),
    ],
)
def test_what_a_candidate_gained_that_waits_for_a_guard_speaks_for_no_later_one(
    world: World, outcome: Outcome, *, dispensable: bool, known: Evidence
) -> None:
    """What was asked stays new where it was proof: whatever it proves later comes after that one."""
    teach(world, 3)
    first = world.begin()
    unseen = GuardResult(guard="general", held=True, looked=False, dispensable=dispensable, reason="There was no time.")
    judged(first, shown=(CountedItem(key="a", gain=20.0),), guards=(unseen,), log_e_value=3.0, outcome=outcome)
    examine.accept_verdict(first)
    world.end(first, RunEnd.WAITING)
    assert world.begin().result(Step.PREPARE, PrepareResult).evidence == known


def test_all_that_was_learned_is_asked_once_a_week(world: World) -> None:
    def all_asked(begun: datetime) -> bool:
        context = world.begin()
        context = replace(context, info=replace(context.info, started_at=begun))
        prepare.perform(context)
        context.directory.step(Step.EXAMINE).mkdir()
        for step, name in ((Step.EXAMINE, "answers"), (Step.SELECT, "items"), (Step.SELECT, "regression")):
            (context.directory.step(step) / f"{name}.jsonl").touch()
        examine.accept(context)
        world.end(context, RunEnd.NOT_ENOUGH)
        return context.result(Step.PREPARE, PrepareResult).asks_all_learned

    teach(world, 3)
    nights = [all_asked(NOW + timedelta(days=day)) for day in (0, 1, 6, 7, 8)]
    assert nights == [True, False, False, True, False]


# --------------------------------------------------------------------------- trial candidates


def test_trial_candidates_go_with_their_run_and_no_base_is_made_of_them(world: World) -> None:
    context = world.begin()
    own, foreign = names.trial_of(context.info.id, 2), names.trial_of("20260101-000000-ffff", 1)
    world.create(own, 0.31)
    world.create(foreign, 0.32)
    (context.directory.step(Step.CROSSFIT) / "02").mkdir(parents=True)
    world.runs.look_at_registry(NOW)
    assert not {own, foreign} & world.ledger.bases.known().keys()
    # the run goes on, and needs it
    assert retention.sweep(world.ledger, world.ollama) == ()
    world.end(context, RunEnd.FAILED)
    assert (world.digest(own), world.digest(foreign) is None) == (None, False)


def test_trial_candidate_of_a_run_that_was_given_up_is_swept(world: World) -> None:
    context = world.begin()
    trial = names.trial_of(context.info.id, 1)
    world.create(trial, 0.31)
    world.runs.give_up(NOW)
    assert world.digest(trial) is None


# --------------------------------------------------------------------------- the user's own tag


def test_replaced_base_moves_and_is_undone_with_its_alias_every_time(world: World) -> None:
    world.configure(replace_base=True)
    base = world.digest(TINY)
    first = world.promote()
    second = world.promote()
    assert world.digest(TINY) == world.digest(second)
    world.runs.undo(ALIAS, NOW)
    assert (world.digest(ALIAS), world.digest(TINY)) == (world.digest(first),) * 2
    world.runs.undo(ALIAS, NOW)
    assert (world.digest(ALIAS), world.digest(TINY)) == (base,) * 2


def test_an_undo_that_was_killed_in_between_goes_on_where_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.configure(replace_base=True)
    base = world.digest(TINY)
    first = world.promote()
    world.promote()
    move = AliasMover.move

    def killed_at_the_alias(mover: AliasMover, **given: Any) -> AliasMove:
        if given["alias"] == ALIAS:
            raise KeyboardInterrupt
        return move(mover, **given)

    with monkeypatch.context() as patch:
        patch.setattr(AliasMover, "move", killed_at_the_alias)
        with pytest.raises(KeyboardInterrupt):
            world.runs.undo(ALIAS, NOW)
    moved = world.runs.undo(ALIAS, NOW)
    assert (world.digest(ALIAS), world.digest(TINY)) == (world.digest(first),) * 2
    assert moved.reason.startswith("undo of the promotion")
    world.runs.undo(ALIAS, NOW)
    assert (world.digest(ALIAS), world.digest(TINY)) == (base,) * 2


def test_base_that_learns_two_types_keeps_its_name(world: World) -> None:
    """Feedback of another type may come at any time: the alias moves all the same, and the reason is told."""
    world.configure(replace_base=True)
    teach(world, 1)
    teach(world, 1, artifact_type="other", prefix="o")
    base = world.digest(TINY)
    result = world.end(world.begin())
    assert result.end is RunEnd.PROMOTED
    assert "only one could take its name" in result.reason
    assert (world.digest(TINY), world.digest(ALIAS)) == (base, world.digest(result.version or ""))


def test_alias_that_the_user_put_back_to_the_base_is_the_users(world: World) -> None:
    world.promote()
    world.ollama.copy(TINY, ALIAS)
    assert "by hand" in (world.runs.problem(GREETING) or "")
    with pytest.raises(RunRefused, match="by hand"):
        world.runs.start(GREETING, ASKED, NOW)


def test_alias_that_was_undone_to_the_base_learns_on(world: World) -> None:
    world.promote()
    world.runs.undo(ALIAS, NOW)
    assert world.runs.problem(GREETING) is None
    world.promote()


def test_interrupted_run_can_be_given_up(world: World) -> None:
    context = world.begin()
    assert world.runs.give_up(NOW)
    assert world.runs.unfinished() == ()
    row = world.ledger.runs.get(context.info.id)
    assert row is not None
    assert row.end is RunEnd.CANCELLED
    assert names.version_of(GREETING, 1) not in world.server.tags()
    assert not world.runs.give_up(NOW)


def test_specialties_are_known_while_ollama_is_away(world: World) -> None:
    teach(world, 3)
    (state,) = world.runs.specialties_unseen()
    assert (state.specialty, state.total, state.serving) == (GREETING, 3, None)


def test_undo_of_a_replaced_base_is_no_change_of_the_base(world: World) -> None:
    world.configure(replace_base=True)
    world.promote()
    assert world.runs.look_at_registry(NOW) == ()
    world.runs.undo(ALIAS, NOW)
    assert world.runs.look_at_registry(NOW) == ()
    assert world.due() is None


def test_base_that_the_user_changed_during_the_run_stays_the_users(world: World) -> None:
    world.configure(replace_base=True)
    context = world.begin()
    world.create(TINY, 0.11)
    mine = world.digest(TINY)
    result = world.end(context)
    assert result.end is RunEnd.PROMOTED
    assert "was changed during the run, so it stays" in result.reason
    assert world.digest(TINY) == mine
    assert result.version is not None
    assert world.digest(ALIAS) == world.digest(result.version)


def test_base_that_vanished_and_returns_as_our_version_learns_again(world: World) -> None:
    world.configure(replace_base=True)
    teach(world, 1)
    version = world.promote()
    world.ollama.delete(TINY)
    assert "was removed" in world.runs.look_at_registry(NOW)[0]
    assert world.ledger.facts.get(problem_key(TINY)) is not None
    world.ollama.copy(version, TINY)
    assert "learns again" in world.runs.look_at_registry(NOW)[0]
    assert world.ledger.facts.get(problem_key(TINY)) is None


def test_base_that_is_removed_and_pulled_anew_is_learned_anew(world: World, tmp_path: Path) -> None:
    teach(world, 1)
    world.promote()
    world.ollama.delete(TINY)
    world.runs.look_at_registry(NOW)
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=5)
    import_tiny(world.server, other)
    world.runs.look_at_registry(NOW)
    assert world.due() == RETRAIN


# --------------------------------------------------------------------------- what users do to tags


def test_alias_that_was_undone_to_the_base_goes_on_after_the_base_changed(world: World) -> None:
    base = world.digest(TINY)
    world.promote()
    world.runs.undo(ALIAS, NOW)
    world.create(TINY, 0.22)
    second = world.promote()
    assert world.digest(ALIAS) == world.digest(second)
    world.runs.undo(ALIAS, NOW)
    assert world.digest(ALIAS) == base


def test_the_incumbent_is_told_with_what_its_tag_holds(world: World) -> None:
    def told(context: StepContext) -> str:
        """Ends the run; what stands there keeps answers that were drawn from it."""
        prepared = context.result(Step.PREPARE, PrepareResult)
        assert prepared.incumbent_digest == world.digest(prepared.incumbent)
        world.end(context, RunEnd.NOT_ENOUGH)
        return prepared.incumbent_digest

    base = told(world.begin())
    version = world.promote()
    assert told(world.begin()) == world.digest(version) != base
    world.runs.undo(ALIAS, NOW)
    assert told(world.begin()) == base
    world.create(TINY, 0.22)
    assert told(world.begin()) != base


def test_first_promotion_is_undone_to_the_base_as_it_was(world: World) -> None:
    base = world.digest(TINY)
    world.promote()
    world.create(TINY, 0.33)
    world.runs.undo(ALIAS, NOW)
    assert world.digest(ALIAS) == base != world.digest(TINY)


def test_version_whose_tag_the_user_removed_is_made_anew(world: World) -> None:
    first = world.promote()
    held = world.digest(first)
    world.ollama.delete(first)
    second = world.promote()
    assert world.digest(first) == held
    assert world.digest(ALIAS) == world.digest(second)
    world.runs.undo(ALIAS, NOW)
    assert world.digest(ALIAS) == held


def test_alias_that_the_user_pointed_elsewhere_ends_the_run_before_it_trains(world: World) -> None:
    world.promote()
    world.create("mine:latest", 0.44)
    world.ollama.copy("mine:latest", ALIAS)
    with pytest.raises(RunRefused, match=f"ollama rm {ALIAS}"):
        world.begin()
    teach(world, 1)
    (state,) = world.runs.specialties()
    assert state.problem is not None
    assert "by hand" in state.problem
    assert world.digest(ALIAS) == world.digest("mine:latest")


# --------------------------------------------------------------------------- moves that fail


def test_copy_that_damages_the_alias_puts_the_incumbent_back_and_keeps_the_candidate(world: World) -> None:
    first = world.promote()
    context = world.begin()
    world.ollama.damage = (ALIAS, world.manifest(ALIAS))
    result = world.end(context)
    assert result.end is RunEnd.WAITING
    assert f"nightschool approve {ALIAS}" in result.reason
    assert world.digest(ALIAS) == world.digest(first)
    assert result.version is not None
    assert world.digest(result.version) is not None
    assert not world.ledger.moves.unfinished()
    world.runs.recover(NOW)
    world.runs.approve(ALIAS, NOW)
    assert world.digest(ALIAS) == world.digest(result.version)


def test_alias_that_an_undo_moved_during_the_run_is_not_said_to_be_moved_by_hand(world: World) -> None:
    first, _ = world.promote(), world.promote()
    context = world.begin()
    world.runs.undo(ALIAS, NOW)
    result = world.end(context)
    assert result.end is RunEnd.WAITING
    assert result.version is not None
    assert result.reason.endswith(
        f"{ALIAS} was moved to {first} meanwhile, so it stays as it is. "
        f"`nightschool approve {ALIAS}` puts {result.version} there."
    )
    world.runs.approve(ALIAS, NOW)
    assert world.digest(ALIAS) == world.digest(result.version)


def test_copy_that_the_server_refuses_leaves_all_as_it_was(world: World) -> None:
    first = world.promote()
    context = world.begin()
    world.ollama.refuse = ALIAS
    result = world.end(context)
    assert result.end is RunEnd.WAITING
    assert "no space left" in result.reason
    assert world.digest(ALIAS) == world.digest(first)
    assert not world.ledger.moves.unfinished()


def test_move_of_the_base_that_fails_does_not_take_the_alias_back(world: World) -> None:
    world.configure(replace_base=True)
    context = world.begin()
    world.ollama.refuse = TINY
    result = world.end(context)
    assert result.end is RunEnd.PROMOTED
    assert "no space left" in result.reason
    assert result.version is not None
    assert world.digest(ALIAS) == world.digest(result.version)
    assert world.digest(TINY) is not None


def test_candidate_that_an_alias_holds_is_never_swept(world: World) -> None:
    context = world.begin()
    version = next(one for one in world.ledger.versions.of_specialty(GREETING) if one.run_id == context.info.id)
    world.ollama.copy(version.tag, ALIAS)
    world.ledger.runs.finish(context.info.id, RunEnd.FAILED, "it broke", NOW)
    world.runs.recover(NOW)
    assert world.digest(version.tag) == world.digest(ALIAS) == version.tag_digest
    world.ollama.delete(ALIAS)
    world.runs.recover(NOW)
    assert world.digest(version.tag) is None


def test_candidate_that_equals_the_serving_version_is_discarded_like_any_other(world: World) -> None:
    """A fixed seed on the same feedback makes the same model again."""
    first = world.promote()
    context = world.begin()
    version = next(one for one in world.ledger.versions.of_specialty(GREETING) if one.run_id == context.info.id)
    held = world.digest(first)
    assert held is not None
    world.ollama.delete(version.tag)
    world.ollama.copy(first, version.tag)
    world.ledger.versions.set_digests(version.tag, held, world.weights)
    world.end(context, RunEnd.NOT_ENOUGH)
    assert world.digest(version.tag) is None
    assert world.digest(ALIAS) == world.digest(first) == held
    assert not world.ledger.versions.in_state(VersionState.CANDIDATE)


# --------------------------------------------------------------------------- approval


def test_newest_waiting_candidate_is_approved_and_the_older_ones_are_gone(world: World) -> None:
    world.configure(promote=PromotionMode.ASK)
    teach(world, 1)
    older = world.end(world.begin(), RunEnd.WAITING).version
    write_page(world)
    newer = world.end(world.begin(), RunEnd.WAITING).version
    assert older is not None
    assert newer is not None
    assert world.digest(older) is None
    overtaken, waiting = reversed(world.ledger.runs.latest(2))
    assert (overtaken.end, overtaken.outcome_reason) == (RunEnd.OVERTAKEN, f"It was overtaken by {newer}.")
    assert waiting.end is RunEnd.WAITING
    page = page_now(world, overtaken.id)
    assert page.startswith("# Nothing changed: a newer model overtook this one")
    assert f"{older} was given up. It was overtaken by {newer}." in page
    assert "nightschool approve" not in page
    under_way = world.begin()
    world.runs.approve(ALIAS, NOW)
    assert world.digest(ALIAS) == world.digest(newer)
    with pytest.raises(UndoRefused, match="No candidate"):
        world.runs.approve(ALIAS, NOW)
    world.ledger.runs.finish(under_way.info.id, RunEnd.CANCELLED, "", NOW)
    world.runs.undo(ALIAS, NOW)
    assert world.digest(ALIAS) == world.digest(TINY)


@pytest.mark.parametrize(
    ("part", "call"),
    [
        # what comes next when the intent is written, the alias copied, the move recorded
        (OllamaHttp, "copy"),
        (Moves, "done"),
        (Versions, "set_state"),
        (EvidenceBook, "settle"),
        (RunRows, "finish"),
    ],
)
def test_approval_that_was_killed_is_completed_at_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch, part: type, call: str
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    candidate = waiting(world)
    world.runs.share(ALIAS, 0.3, NOW)
    with monkeypatch.context() as patch:
        patch.setattr(part, call, killed)
        with pytest.raises(KeyboardInterrupt):
            world.runs.approve(ALIAS, NOW)
    assert f"The approval of {candidate} was completed." in world.runs.recover(NOW)
    version = world.ledger.versions.get(candidate)
    assert version is not None
    assert version.state is VersionState.PROMOTED
    run = world.ledger.runs.get(version.run_id)
    assert run is not None
    assert (run.end, run.outcome_reason) == (RunEnd.PROMOTED, "approved")
    assert [one.to_tag for one in world.ledger.moves.history(ALIAS, 9)] == [candidate]
    assert told(world) == ()
    assert world.runs.recover(NOW) == ()
    # the next one does not take it for an older candidate that it overtook
    world.promote()
    assert world.runs.undo(ALIAS, NOW).to_tag == candidate
    assert world.digest(ALIAS) == world.digest(candidate)


def test_waiting_candidate_is_approved_although_the_alias_was_undone_since(world: World) -> None:
    world.promote()
    waiting = world.end(world.begin(), RunEnd.WAITING).version
    world.runs.undo(ALIAS, NOW)
    world.runs.approve(ALIAS, NOW)
    assert waiting is not None
    assert world.digest(ALIAS) == world.digest(waiting)


def test_old_versions_are_retired_and_pins_that_nobody_needs_go(world: World) -> None:
    world.configure(keep_versions=1)
    tags = [world.promote() for _ in range(3)]
    assert [world.digest(tag) is not None for tag in tags] == [False, True, True]
    world.runs.undo(ALIAS, NOW)
    with pytest.raises(UndoRefused, match="keep_versions"):
        world.runs.undo(ALIAS, NOW)


@pytest.mark.parametrize("kept", [0, 1])
def test_what_an_undo_would_put_back_stays_though_versions_behind_it_were_taken_back(world: World, kept: int) -> None:
    world.promote()
    in_use = world.promote()
    world.promote()
    world.runs.undo(ALIAS, NOW)
    assert world.digest(ALIAS) == world.digest(in_use)
    world.configure(keep_versions=kept)
    world.promote()
    assert world.digest(in_use) is not None
    world.runs.undo(ALIAS, NOW)
    assert world.digest(ALIAS) == world.digest(in_use)


# --------------------------------------------------------------------------- shares of the use


def say(world: World, tag: str, kind: FeedbackType, count: int = 12) -> None:
    """Feedback on answers of a version."""
    world.ledger.events.add(
        [
            IncomingEvent(
                event=Event(
                    id=f"{tag} {number}",
                    timestamp=NOW,
                    feedback_type=kind,
                    input_data=f"prompt {number}",
                    artifact_type="greeting",
                    ai_output="5",
                    model=tag,
                ),
                base=TINY,
                answered_by=tag,
                group=f"{tag} {number}",
                arrived_at=NOW,
            )
            for number in range(count)
        ]
    )


def judging(world: World) -> Runs:
    """Runs that judge by feedback."""
    return replace(world.runs, hooks=Hooks.load(plugin_directory=None, tables={}, built_in=("judge_feedback",)))


def told(world: World) -> tuple[Route, ...]:
    """What the proxy reads."""
    return RoutesFile(world.directory).current().routes


class ReportsSeen:
    """A plugin that is told of ends of runs."""

    def __init__(self) -> None:
        self.reports: list[RunReport] = []

    @hookimpl
    def nightschool_after_run(self, report: RunReport) -> None:
        self.reports.append(report)


def write_page(world: World) -> None:
    """Leave the page of the last run, as its step `report` does."""
    context = world.runs.context_of(world.ledger.runs.latest(1)[0].id, SilentListener())
    context.directory.step(Step.REPORT).mkdir()
    write_durably(context.directory.step(Step.REPORT) / report.SHEET, codec.to_json(sheet_of(context)))
    context.directory.finish(Step.REPORT, report.report_of(context))


def page_now(world: World, run_id: str | None = None) -> str:
    """The page of a run, else of the last one, with what came since."""
    found = Installation(
        settings=world.runs.settings,
        ledger=world.ledger,
        hooks=world.runs.hooks,
        ollama=world.ollama,
        runs=world.runs,
        intake=Intake(
            settings=world.runs.settings.feedback, hooks=world.runs.hooks, ledger=world.ledger, default_base={}
        ),
    )
    return page_of(found, run_id).text


def waiting(world: World) -> str:
    """A candidate that waits for approval."""
    world.configure(promote=PromotionMode.ASK)
    teach(world, 1)
    version = world.end(world.begin(), RunEnd.WAITING).version
    assert version is not None
    return version


def test_first_candidate_that_waits_is_compared_with_the_base_and_comes_into_use_where_it_wins(world: World) -> None:
    candidate = waiting(world)
    share = world.runs.share(ALIAS, 0.3, NOW)
    assert (share.candidate.tag, share.incumbent.digest) == (candidate, world.digest(TINY))
    assert told(world) == (Route(alias=ALIAS, incumbent=share.incumbent.tag, candidate=candidate, share=0.3),)
    say(world, TINY, FeedbackType.EXPLICIT_NEGATIVE)
    say(world, candidate, FeedbackType.EXPLICIT_POSITIVE)
    (sentence,) = judging(world).look_at_feedback(NOW)
    assert f"{candidate} won and is in use" in sentence
    assert world.digest(ALIAS) == world.digest(candidate)
    moved = world.ledger.moves.last_done(ALIAS)
    assert moved is not None
    assert "a share of its use decided" in moved.reason
    assert told(world) == ()


def test_candidate_whose_run_directory_is_gone_is_refused_with_a_sentence(world: World) -> None:
    candidate = waiting(world)
    world.runs.share(ALIAS, 0.3, NOW)
    shutil.rmtree(world.ledger.runs.latest(1)[0].directory)
    say(world, TINY, FeedbackType.EXPLICIT_NEGATIVE)
    say(world, candidate, FeedbackType.EXPLICIT_POSITIVE)
    (sentence,) = judging(world).look_at_feedback(NOW)
    assert f"feedback has decided, but {candidate} cannot be put into use, as the files" in sentence
    for refused in (lambda: world.runs.approve(ALIAS, NOW), lambda: world.runs.share(ALIAS, 0.5, NOW)):
        with pytest.raises(UndoRefused, match="makes a new version"):
            refused()
    assert world.digest(ALIAS) is None


def test_candidate_that_waits_and_loses_never_gets_there(world: World) -> None:
    first = world.promote()
    candidate = waiting(world)
    world.runs.share(ALIAS, 0.3, NOW)
    say(world, first, FeedbackType.EXPLICIT_POSITIVE)
    say(world, candidate, FeedbackType.EXPLICIT_NEGATIVE)
    (sentence,) = judging(world).look_at_feedback(NOW)
    assert f"{first} won and is in use" in sentence
    assert world.digest(ALIAS) == world.digest(first)
    assert world.digest(candidate) is None
    version = world.ledger.versions.get(candidate)
    assert version is not None
    run = world.ledger.runs.get(version.run_id)
    assert run is not None
    assert run.end is RunEnd.DISCARDED
    assert "a share of its use decided" in run.outcome_reason
    assert told(world) == ()
    assert judging(world).look_at_feedback(NOW) == ()


def test_page_of_a_candidate_that_waited_tells_that_it_was_approved_and_how_to_undo_it(world: World) -> None:
    candidate = waiting(world)
    write_page(world)
    assert "waits for your approval" in page_now(world)
    world.runs.approve(ALIAS, NOW)
    page = page_now(world)
    assert page.startswith("# A better model is in use")
    assert f"{ALIAS} was moved to {candidate}. approved" in page
    assert f"`nightschool undo {ALIAS}` puts" in page
    assert "nightschool approve" not in page
    world.runs.undo(ALIAS, NOW)
    page = page_now(world)
    assert f"{ALIAS} was moved back to" in page
    assert "Undo it" not in page


def test_where_feedback_could_not_take_a_promotion_back_status_and_page_say_so(world: World) -> None:
    """Corrections alone: what was corrected before and after tells nothing. Eight liked answers of the base would."""
    teach(world, 3)
    world.runs = judging(world)
    context = world.begin()
    world.end(context)
    told = "it takes 8 more liked answers of tiny:1m"
    (state,) = world.runs.specialties()
    assert state.unwatched is not None
    assert told in state.unwatched
    assert told in markdown_of(sheet_of(context))
    say(world, TINY, FeedbackType.EXPLICIT_POSITIVE, 8)
    assert world.runs.specialties()[0].unwatched is None
    assert "liked answers of" not in markdown_of(sheet_of(context))


def test_the_line_on_undo_names_what_undo_puts_back(world: World) -> None:
    """The alias holds the base as it was; the exam was against the base as it is."""
    world.promote()
    world.runs.undo(ALIAS, NOW)
    world.create(TINY, 0.9)
    world.runs.look_at_registry(NOW)
    context = world.begin()
    world.end(context)
    page = markdown_of(sheet_of(context))
    moved = world.runs.undo(ALIAS, NOW)
    assert context.result(Step.PREPARE, PrepareResult).incumbent != moved.to_tag
    assert f"`nightschool undo {ALIAS}` puts {moved.to_tag} back within a second" in page


def test_page_of_a_candidate_that_waited_and_lost_tells_why_and_somebody_is_told(world: World) -> None:
    first = world.promote()
    candidate = waiting(world)
    write_page(world)
    world.runs.share(ALIAS, 0.3, NOW)
    say(world, first, FeedbackType.EXPLICIT_POSITIVE)
    say(world, candidate, FeedbackType.EXPLICIT_NEGATIVE)
    runs, seen = judging(world), ReportsSeen()
    runs.hooks.manager.register(seen, name="seen")
    runs.look_at_feedback(NOW)
    assert [(one.end, "a share of its use decided" in one.reason) for one in seen.reports] == [(RunEnd.DISCARDED, True)]
    page = page_now(world)
    assert page.startswith("# Nothing changed: the new model was not better")
    assert f"{candidate} was given up. a share of its use decided" in page
    assert "nightschool approve" not in page


def test_version_in_use_that_wins_stays_without_a_move(world: World) -> None:
    first, second = world.promote(), world.promote()
    world.runs.share(ALIAS, 0.3, NOW)
    say(world, first, FeedbackType.EXPLICIT_NEGATIVE)
    say(world, second, FeedbackType.EXPLICIT_POSITIVE)
    before = world.ledger.moves.last_done(ALIAS)
    (sentence,) = judging(world).look_at_feedback(NOW)
    assert f"{second} won and is in use" in sentence
    assert world.ledger.moves.last_done(ALIAS) == before
    assert told(world) == ()


def test_undo_and_approval_by_a_person_end_the_share(world: World) -> None:
    world.promote()
    world.promote()
    world.runs.share(ALIAS, 0.3, NOW)
    world.runs.undo(ALIAS, NOW)
    assert told(world) == ()
    waiting(world)
    world.runs.share(ALIAS, 0.3, NOW)
    assert len(told(world)) == 1
    world.runs.approve(ALIAS, NOW)
    assert told(world) == ()


def test_without_a_candidate_nothing_is_shared(world: World) -> None:
    world.promote()
    world.runs.undo(ALIAS, NOW)
    with pytest.raises(ShareRefused, match="no candidate"):
        world.runs.share(ALIAS, 0.3, NOW)


# --------------------------------------------------------------------------- what was due, what is fresh


def teach(world: World, count: int, *, artifact_type: str = "greeting", prefix: str = "e") -> None:
    """Corrections of a specialty of the base."""
    world.ledger.events.add(
        [
            IncomingEvent(
                event=Event(
                    id=f"{prefix}{number}",
                    timestamp=NOW,
                    feedback_type=FeedbackType.USER_CORRECTION,
                    input_data=f"prompt {number}",
                    artifact_type=artifact_type,
                    corrected_output=f"answer {number}",
                ),
                base=TINY,
                answered_by=None,
                group=f"prompt {number}",
                arrived_at=NOW,
            )
            for number in range(count)
        ]
    )


def item_of(one: CountedItem) -> ExamItem:
    return ExamItem(
        id=f"id {one.key}", event_id="e", artifact_type="greeting", role=ItemRole.GAIN, messages=(), group=one.key
    )


def judged(
    context: StepContext,
    *keys: str,
    shown: tuple[CountedItem, ...] = (),
    guards: tuple[GuardResult, ...] = (),
    log_e_value: float = 0.5,
    outcome: Outcome = Outcome.PROVEN,
) -> None:
    """The run's select and judge steps are over."""
    verdict = Verdict(
        outcome=outcome,
        incumbent_mean=0,
        candidate_mean=1,
        gain=1,
        interval=(1, 1),
        p_value=0.01,
        noise=0,
        items=9,
        items_needed=None,
        guards=guards,
        reason="It was judged.",
        log_e_value=log_e_value,
        counted=shown,
    )
    context.ledger.exams.store(context.info.id, [item_of(one) for one in shown], [])
    context.directory.finish(Step.JUDGE, JudgeResult(guards=guards, verdict=verdict))
    material = replace(SELECTED.material, examples=len(keys))
    context.directory.finish(Step.SELECT, replace(SELECTED, material=material, sources={TrainingMethod.SFT: keys}))
    adapter = context.directory.step(Step.TRAIN) / "adapter"
    context.directory.finish(Step.TRAIN, replace(TRAINED, adapter=adapter, examples=len(keys)))


def test_what_was_too_long_is_not_learned_and_what_told_when_to_stop_is_kept_from_exams(world: World) -> None:
    teach(world, 3)
    context = world.begin()
    judged(context, "dropdir/e0", "dropdir/e1", "dropdir/e2")
    trained = context.result(Step.TRAIN, TrainingResult)
    seen = replace(trained, learned_events=("dropdir/e0",), watched_events=("dropdir/e1",))
    context.directory.finish(Step.TRAIN, seen)
    world.end(context)
    rows = world.ledger.events.of_specialty(GREETING, with_unassigned=True)
    assert {row.event.key for row in rows if row.trained_on} == {"dropdir/e0", "dropdir/e1"}
    told = markdown_of(sheet_of(context))
    assert "The model learned from 1 piece of your feedback: wanted answers." in told
    assert "1 more piece of it told when the model had learned enough." in told


def test_the_report_says_what_was_learned_again(world: World) -> None:
    context = world.begin()
    judged(context, *(f"dropdir/e{number}" for number in range(7)))
    selected = context.result(Step.SELECT, SelectResult)
    replayed = Replayed(events=("dropdir/e6",), answers=1)
    material = replace(selected.material, examples=6)
    context.directory.finish(Step.SELECT, replace(selected, material=material, replayed=replayed))
    context.directory.finish(
        Step.CONCLUDE, ConcludeResult(end=RunEnd.NOT_ENOUGH, reason="It ended.", alias=None, version=None)
    )
    told = markdown_of(sheet_of(context))
    assert "The model learned from 7 pieces of your feedback: wanted answers." in told
    assert (
        "So that nothing is forgotten, 1 of them, learned before, and 1 answer of the base's own to general prompts "
        "were gone over again: 25% of all examples."
    ) in told
    assert "Replayed: 1 earlier correction and 1 answer of the base's own, 25.0% of all examples" in told


@pytest.mark.parametrize(
    ("end", "where"),
    [
        (RunEnd.PROMOTED, "is in the model that Ollama has"),
        (RunEnd.WAITING, "is in the model that Ollama has"),
        (RunEnd.NOT_ENOUGH, "was in the new model, which was not kept"),
        (RunEnd.DISCARDED, "was in the new model, which was not kept"),
    ],
)
def test_the_report_says_whether_what_was_learned_is_in_ollama(world: World, end: RunEnd, where: str) -> None:
    context = world.begin()
    judged(context, "dropdir/e0")
    exported = ExportResult(
        abilities=ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama"),
        plan=DeliveryPlan(form=DeliveryForm.SPLIT, version_bytes=1, shared_bytes=0, reason="test"),
        files=(),
        touched=(),
        held_in=Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=2.1),
    )
    context.directory.finish(Step.EXPORT, exported)
    world.end(context, end)
    assert f"Of what was learned, 90.0% {where}." in markdown_of(sheet_of(context))


def fresh(world: World) -> int:
    return world.ledger.events.statistics(GREETING, with_unassigned=True).available


@pytest.mark.parametrize(
    ("end", "left"), [(RunEnd.FAILED, RETRAIN), (RunEnd.CANCELLED, RETRAIN), (RunEnd.NOT_ENOUGH, None)]
)
def test_what_was_due_stays_due_until_a_run_came_to_a_verdict(world: World, end: RunEnd, left: str | None) -> None:
    world.ledger.facts.put(due_key(GREETING), RETRAIN)
    world.end(world.begin(RETRAIN), end)
    assert world.due() == left


def test_rebuild_uses_up_no_feedback_that_it_did_not_learn(world: World) -> None:
    teach(world, 4)
    first = world.begin()
    judged(first, "dropdir/e0", "dropdir/e1")
    world.end(first)
    assert fresh(world) == 0
    teach(world, 9)
    assert fresh(world) == 5
    context = world.begin(REBUILD)
    (context.directory.step(Step.TRAIN) / rebuild.REUSED).write_text(str(first.directory.path))
    judged(context, "dropdir/e8")
    world.end(context)
    assert fresh(world) == 5
    trained = {
        row.event.key for row in world.ledger.events.of_specialty(GREETING, with_unassigned=True) if row.trained_on
    }
    assert trained == {"dropdir/e0", "dropdir/e1"}


def test_model_that_is_loaded_under_a_deleted_tag_does_not_stop_the_next_run(world: World) -> None:
    context = world.begin()
    version = names.version_of(GREETING, 1)
    chat = {"model": version, "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 2}}
    httpx.post(f"{world.server.url}/api/chat", json={**chat, "stream": False}, timeout=60).raise_for_status()
    world.ollama.delete(version)
    assert [one.name for one in world.ollama.loaded()] == [version]
    room.make_room(context)


@pytest.mark.parametrize("step", [Step.TRAIN, Step.EXPORT, Step.VERIFY])
def test_idle_models_are_unloaded_before_each_step_that_loads_the_base(
    world: World, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    found: list[object] = []
    monkeypatch.setattr(room, "run_worker", lambda *_, **__: found.append(world.ollama.loaded()))
    context = world.begin()
    chat = {"model": TINY, "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 2}}
    httpx.post(f"{world.server.url}/api/chat", json={**chat, "stream": False}, timeout=60).raise_for_status()
    assert world.ollama.loaded()
    pipeline.PERFORM[step](context)
    assert found == [()]


def left_by_a_training(world: World, name: str) -> Path:
    """The directory of a training by hand that was killed while it learned: a run without a version, and a pin."""
    directory = world.directory / f"{retention.MANUAL_PREFIX}{name}"
    directory.mkdir()
    retention.note_pins(directory, TINY, world.server.tags())
    own = Ledger.open(directory / FILE_NAME)
    settings = replace(world.runs.settings, state=StateSettings(directory=directory))
    runs = replace(world.runs, settings=settings, ledger=own)
    context = runs.context_of(runs.start(MANUAL, BY_HAND, NOW), SilentListener())
    context.directory.step(Step.PREPARE).mkdir()
    prepare.perform(context)
    own.close()
    return directory


def pins(world: World) -> list[str]:
    """The pins that Ollama has."""
    found = {name: names.parse(name) for name in world.server.tags()}
    return [name for name, own in found.items() if own is not None and own.kind is names.Kind.PIN]


def test_what_a_killed_training_by_hand_left_is_swept(world: World) -> None:
    left = world.directory / f"{retention.MANUAL_PREFIX}abc"
    left.mkdir()
    retention.note_pins(left, TINY, world.server.tags())
    tag = names.version_of(MANUAL, 1)
    world.create(tag, 0.9)
    digest = world.digest(TINY)
    assert digest is not None
    pin = names.pin_of(TINY, digest)
    world.ollama.copy(TINY, pin)
    with_ledger = Ledger.open(left / FILE_NAME)
    with_ledger.versions.add(
        VersionRow(
            tag=tag,
            specialty=MANUAL,
            number=1,
            run_id="r",
            form=None,
            tag_digest="",
            weights_digest="",
            base_tag_digest=digest,
            base_weights_digest=world.weights,
            state=VersionState.CANDIDATE,
            created_at=NOW,
            files=(),
        )
    )
    with_ledger.close()
    assert "unfinished `nightschool train`" in world.runs.recover(NOW)[0]
    assert set(world.server.tags()) == {TINY}
    assert not left.exists()


def test_the_base_that_a_killed_training_pinned_is_given_free_though_there_is_no_version(world: World) -> None:
    left = [left_by_a_training(world, name) for name in ("a", "b")]
    assert len(pins(world)) == 1
    assert len(world.runs.recover(NOW)) == 2
    assert pins(world) == []
    assert not any(one.exists() for one in left)


def test_a_killed_training_takes_no_pin_that_was_there_before_it(world: World) -> None:
    """Another installation may have made it, on the same Ollama with a ledger of its own."""
    digest = world.digest(TINY)
    assert digest is not None
    pin = names.pin_of(TINY, digest)
    world.ollama.copy(TINY, pin)
    left = left_by_a_training(world, "a")
    world.runs.recover(NOW)
    assert not left.exists()
    assert pins(world) == [pin]


def test_the_next_training_by_hand_sweeps_what_a_killed_one_left(world: World) -> None:
    left = left_by_a_training(world, "a")
    with pytest.raises(RunRefused, match="is in Ollama already"):
        train_alone(
            world.runs.settings,
            Order(model=TINY, feedback=ParsedFeedback(), data_digest="", name=TINY),
            hooks=world.runs.hooks,
            listener=SilentListener(),
            now=NOW,
        )
    assert pins(world) == []
    assert not left.exists()


def test_what_a_killed_training_left_waits_for_one_on_the_same_base_that_goes_on(world: World) -> None:
    """It began when the pin was there, and will not remove it itself."""
    going_on, left = (left_by_a_training(world, name) for name in ("a", "b"))
    lock = StateLock.take(going_on)
    assert world.runs.recover(NOW) == ()
    assert len(pins(world)) == 1
    assert left.exists()
    lock.release()
    assert len(world.runs.recover(NOW)) == 2
    assert pins(world) == []


def test_what_a_killed_training_can_go_on_with_stays_and_nothing_of_it_in_ollama(world: World) -> None:
    """Nor is a pin taken that another installation made when its own was gone."""
    left = left_by_a_training(world, "a")
    (left / going_on.MADE_OF).write_text("all of it")
    (run,) = left.glob("runs/*")
    for step in (Step.TRAIN, Step.EXPORT):
        (run / step).mkdir()
    (run / Step.TRAIN / "best.safetensors").touch()
    (pin,) = pins(world)
    assert world.runs.recover(datetime.now(UTC)) == ()
    assert pins(world) == []
    assert (run / Step.TRAIN).is_dir()
    assert not (run / Step.EXPORT).exists()
    world.ollama.copy(TINY, pin)
    assert world.runs.recover(datetime.now(UTC)) == ()
    assert len(world.runs.recover(datetime.now(UTC) + going_on.KEPT_FOR)) == 1
    assert not left.exists()
    assert pins(world) == [pin]


@pytest.mark.parametrize("end", [RunEnd.WAITING, RunEnd.PROMOTED])
def test_a_killed_training_takes_no_pin_from_a_version(world: World, end: RunEnd) -> None:
    """Approved or undone, the alias may lead back to the base as it was pinned."""
    world.end(world.begin(), end)
    needed = pins(world)
    left = left_by_a_training(world, "a")
    world.runs.recover(NOW)
    assert not left.exists()
    assert pins(world) == needed != []


def test_a_killed_training_takes_no_pin_from_a_run_under_way(world: World) -> None:
    """Nor where the base is not there any more: what the run learns from is what it pinned."""
    left = left_by_a_training(world, "a")
    world.begin()
    world.ollama.delete(TINY)
    world.runs.recover(NOW)
    assert not left.exists()
    assert len(pins(world)) == 1


def test_of_two_trainings_side_by_side_the_last_one_gives_the_base_free(world: World) -> None:
    first = left_by_a_training(world, "a")
    locks = [StateLock.take(first)]
    second = left_by_a_training(world, "b")
    locks.append(StateLock.take(second))
    assert not retention.give_pins_free(first, TINY, world.ollama)
    assert len(pins(world)) == 1
    shutil.rmtree(first)
    locks[0].release()
    assert retention.give_pins_free(second, TINY, world.ollama)
    assert pins(world) == []
    locks[1].release()
