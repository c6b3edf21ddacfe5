"""The one door to runs: starting, executing, resuming, undoing, and what `status` wants to know."""

import contextlib
import logging
import random
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from nightschool_daemon import codec
from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks, PluginFailed
from nightschool_daemon.jobs import PrepareResult, RunDirectory, Step, write_durably
from nightschool_daemon.ledger import Ledger, LedgerError, MoveRow, RunRow, VersionRow, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import OllamaError, OllamaUnreachable
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.registry import compare, read_registry
from nightschool_daemon.runs import bases, conclude, pipeline, retention
from nightschool_daemon.runs import undo as undoing
from nightschool_daemon.runs.context import StepContext, StopSignals
from nightschool_daemon.runs.errors import MoveFailed, RunInterrupted, RunRefused, UndoRefused
from nightschool_daemon.runs.estimate import Estimate, estimate
from nightschool_daemon.runs.listener import RunListener, SilentListener
from nightschool_daemon.runs.moves import AliasMover, Destination, as_alias_move
from nightschool_daemon.runs.planner import Due, Planner, SpecialtyState, problem_key
from nightschool_daemon.runs.probation import Probation
from nightschool_daemon.runs.shares import Share, ShareRefused, Shares
from nightschool_hookspecs.records import (
    AliasMove,
    MoveKind,
    Recipe,
    RunEnd,
    RunInfo,
    RunReport,
    Specialty,
)

logger = logging.getLogger(__name__)


def _signals() -> StopSignals:
    return StopSignals(cancelled=threading.Event(), interrupted=threading.Event())


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Plans, executes and undoes runs. One run at a time; its caller sees to that."""

    settings: Settings
    ledger: Ledger
    hooks: Hooks
    ollama: OllamaHttp
    clock: Callable[[], datetime]
    signals: StopSignals = field(default_factory=_signals)

    @property
    def planner(self) -> Planner:
        """Which specialties there are."""
        return Planner(settings=self.settings, ledger=self.ledger, hooks=self.hooks)

    @property
    def mover(self) -> AliasMover:
        """Moves aliases."""
        return AliasMover(ledger=self.ledger, ollama=self.ollama, hooks=self.hooks, clock=self.clock)

    @property
    def probation(self) -> Probation:
        """Watches what was promoted lately."""
        return Probation(settings=self.settings, ledger=self.ledger, hooks=self.hooks)

    @property
    def shares(self) -> Shares:
        """Shares of aliases' use that candidates get."""
        return Shares(settings=self.settings, ledger=self.ledger, hooks=self.hooks, digests=self._digests)

    def _digests(self) -> dict[str, str]:
        return {entry.name: entry.digest for entry in self.ollama.tags()}

    def due(self, now: datetime) -> tuple[Due, ...]:
        """Specialties whose run should start now, most urgent first."""
        return self.planner.due(now)

    def find(self, text: str) -> Specialty | None:
        """The specialty that a person means by an alias, `base/type` or a base."""
        return self.planner.find(text)

    def start(self, specialty: Specialty, reason: str, now: datetime, recipe: Recipe = Recipe.TRAINING) -> str:
        """Write a run down and return its id. Raises `RunRefused`."""
        if (problem := self.problem(specialty, reason)) is not None:
            raise RunRefused(problem)
        running = next((row for row in self.ledger.runs.unfinished() if row.specialty == specialty), None)
        if running is not None:
            raise RunRefused(f"A run of {specialty} is under way ({running.id}); it is finished first.")
        identifier = f"{now:%Y%m%d-%H%M%S}-{random.SystemRandom().randrange(16**4):04x}"
        directory = self.settings.state_directory / "runs" / identifier
        directory.mkdir(parents=True, mode=0o700)
        row = RunRow(
            id=identifier,
            specialty=specialty,
            seed=self.settings.training.seed or random.SystemRandom().randrange(1, 2**31),
            reason=reason,
            started_at=now,
            finished_at=None,
            end=None,
            outcome_reason="",
            directory=directory,
            recipe=recipe,
        )
        write_durably(directory / "settings.json", codec.to_json(self.settings))
        write_durably(directory / "run.json", codec.to_json(self.info_of(row)))
        self.ledger.runs.create(row)
        return identifier

    def execute(self, run_id: str, listener: RunListener | None = None) -> RunReport:
        """Take a run to its end, from wherever it stopped.

        Raises `RunInterrupted` where the service stops, `OllamaUnreachable` and `LedgerError` where it cannot go on
        at present: it goes on later. Anything else that breaks ends the run, so that it cannot block the others.
        """
        self.signals.cancelled.clear()
        context = self.context_of(run_id, listener or SilentListener())
        try:
            return pipeline.execute(context)
        except (RunInterrupted, OllamaUnreachable, LedgerError):
            raise
        except Exception as error:
            logger.exception("The run %s broke", run_id)
            reason = f"{type(error).__name__}: {error}. This is a fault of Night School's; its log has more."
            self.ledger.runs.finish(run_id, RunEnd.FAILED, reason, self.clock())
            return RunReport(run=context.info, end=RunEnd.FAILED, reason=reason, verdict=None, alias=None, version=None)

    def context_of(self, run_id: str, listener: RunListener) -> StepContext:
        """What the steps of a run work with. Raises `RunRefused` for a run that nobody knows."""
        row = self.ledger.runs.get(run_id)
        if row is None:
            raise RunRefused(f"There is no run {run_id}. `nightschool history` lists them.")
        return self._context(row, listener)

    def info_of(self, row: RunRow) -> RunInfo:
        """A run as plugins see it."""
        return RunInfo(
            id=row.id,
            specialty=row.specialty,
            seed=row.seed,
            started_at=row.started_at,
            reason=row.reason,
            directory=row.directory,
            recipe=row.recipe,
        )

    def unfinished(self) -> tuple[str, ...]:
        """Runs that a stop or a crash left in the middle, oldest first."""
        return tuple(row.id for row in self.ledger.runs.unfinished())

    def cancel(self, reason: str) -> bool:
        """Ask the run under way to end. False: there is none."""
        under_way = bool(self.ledger.runs.unfinished())
        if under_way:
            self.signals.cancelled.set()
        return under_way

    def give_up(self, now: datetime) -> bool:
        """End the runs that a stop or a crash left in the middle. False: there is none. What they made is swept.

        One that was decided is past that: the next start ends it as it was. A move that was begun is finished first.
        """
        rows = [row for row in self.ledger.runs.unfinished() if not pipeline.is_decided(row.directory)]
        for row in rows:
            self.ledger.runs.finish(row.id, RunEnd.CANCELLED, "Cancelled after it was interrupted.", now)
        if rows:
            with contextlib.suppress(OllamaError):
                # where the server is away, the next start does both
                self.mover.replay()
                retention.sweep(self.ledger, self.ollama)
        return bool(rows)

    def interrupt(self) -> None:
        """Ask the run under way to stop where it is, to go on at the next start."""
        self.signals.interrupted.set()

    def recover(self, now: datetime) -> tuple[str, ...]:
        """Repair what a crash left: finish recorded moves, remove stray tags and directories.

        Called at start, before anything else, with the server reachable. Returns a sentence for each deed, and one for
        what only a person can repair.
        """
        self.shares.tell_the_proxy()
        sentences = self.mover.replay() + self._finish_approvals(now) + retention.sweep(self.ledger, self.ollama)
        sentences += retention.sweep_trainings(self.settings.state_directory, self.ollama, now)
        forgotten = self.ledger.events.forgotten()
        return sentences + self._remove_stray_directories() + (() if forgotten is None else (forgotten,))

    def estimate(self, specialty: Specialty, now: datetime) -> Estimate:
        """What a run would do, without doing any of it. Raises `RunRefused`."""
        if (problem := self.problem(specialty)) is not None:
            raise RunRefused(problem)
        return estimate(specialty, settings=self.settings, ledger=self.ledger, ollama=self.ollama, now=now)

    def undo(self, text: str, now: datetime) -> AliasMove:
        """Put an alias back by one promotion, and with it the user's own tag. Raises `UndoRefused`."""
        promotion = undoing.promotion_to_undo(self.mover, self._alias(text))
        return self._take_back(promotion, MoveKind.UNDO, None)

    def look_at_feedback(self, now: datetime) -> tuple[str, ...]:
        """Take back what feedback shows to be worse than what stood there before. Returns a sentence for each deed.

        Called whenever feedback came in.
        """
        shared = {one.alias for one in self.shares.all()}
        decided = self.shares.look(keep=partial(self._keep, now), take_back=partial(self._give_up_shared, now))
        alone = tuple(one for one in self.planner.specialties() if names.alias_of(one) not in shared)
        return decided + self.probation.look(alone, self._roll_back, now)

    def share(self, text: str, share: float, now: datetime) -> Share:
        """Give a share of an alias's use to its candidate. Raises `ShareRefused`, `UndoRefused`.

        The candidate is the version that waits for approval, else what the last promotion brought.
        """
        alias = self._alias(text)
        incumbent, candidate = self._sides(alias)
        version = self.ledger.versions.get(candidate.tag)
        specialty = version.specialty if version is not None else self.find(alias)
        if specialty is None:
            raise ShareRefused(f"{alias} belongs to no specialty that is known. `nightschool status` lists them.")
        return self.shares.begin(
            Share(alias=alias, specialty=specialty, incumbent=incumbent, candidate=candidate, share=share, since=now)
        )

    def _sides(self, alias: str) -> tuple[Destination, Destination]:
        """Incumbent and candidate between which the use of an alias can be shared."""
        waiting, last = self._waiting(alias), self.ledger.moves.last_done(alias)
        if waiting is not None:
            version, row = waiting
            incumbent = self._present_origin(alias, self._context_of_waiting(version, row))
            return incumbent, Destination(tag=version.tag, digest=version.tag_digest)
        if last is None or last.kind is not MoveKind.PROMOTE:
            raise ShareRefused(
                f"{alias} has no candidate: no version waits for approval, and its last move was no promotion. "
                "`nightschool run --now` may make one."
            )
        promotion = undoing.promotion_to_undo(self.mover, alias)
        return (
            Destination(tag=promotion.from_tag or "", digest=promotion.from_digest or ""),
            Destination(tag=promotion.to_tag or "", digest=promotion.to_digest or ""),
        )

    def unshare(self, text: str) -> bool:
        """End the share of an alias; it stays what it is. False: there was none. Raises `UndoRefused`."""
        return self.shares.end(self._alias(text))

    def _keep(self, now: datetime, share: Share, reason: str) -> None:
        """The candidate of a share won. Another one that waits by now has to win by itself."""
        waiting = self._waiting(share.alias)
        is_there = self.mover.digest_of(share.alias) == share.candidate.digest
        if not is_there and waiting is not None and waiting[0].tag == share.candidate.tag:
            self.approve(share.alias, now, reason=reason)

    def _give_up_shared(self, now: datetime, share: Share, reason: str) -> None:
        """The candidate of a share lost: the alias goes back to the incumbent, or the candidate never gets there."""
        waiting = self._waiting(share.alias)
        if self.mover.digest_of(share.alias) == share.candidate.digest:
            self._take_back(undoing.promotion_to_undo(self.mover, share.alias), MoveKind.ROLL_BACK, reason)
            self.probation.settle_the_run(share.specialty, now)
        elif waiting is not None and waiting[0].tag == share.candidate.tag:
            version, run = waiting
            retention.discard(self.ledger, self.ollama, version)
            self.ledger.runs.finish(run.id, RunEnd.DISCARDED, reason, now)
            # no alias moves, so that nothing else tells anybody
            self.hooks.after_run(
                report=RunReport(
                    run=self.info_of(run),
                    end=RunEnd.DISCARDED,
                    reason=reason,
                    verdict=self.ledger.exams.verdict(run.id),
                    alias=None,
                    version=None,
                )
            )

    def unwatched(self, specialty: Specialty) -> str | None:
        """Why feedback could not take back what was promoted lately. None: it could, or a share of the use decides."""
        if any(one.alias == names.alias_of(specialty) for one in self.shares.all()):
            return None
        return self.probation.unwatched(specialty, self.clock())

    def _roll_back(self, promotion: MoveRow, reason: str) -> AliasMove:
        """Take a promotion back because feedback says so. Raises `UndoRefused`."""
        present = undoing.promotion_to_undo(self.mover, promotion.alias)
        if present.id != promotion.id:
            raise UndoRefused(
                f"{promotion.alias} was moved by hand since, and what was said is not of what it holds now."
            )
        return self._take_back(present, MoveKind.ROLL_BACK, reason)

    def _take_back(self, promotion: MoveRow, kind: MoveKind, reason: str | None) -> AliasMove:
        moved = undoing.take_back(self.mover, promotion, kind=kind, reason=reason)
        self.shares.end(promotion.alias)
        return moved

    def approve(self, text: str, now: datetime, *, reason: str = "approved") -> AliasMove:
        """Promote the candidate that waits for approval. Raises `UndoRefused` where none waits."""
        alias = self._alias(text)
        found = self._waiting(alias)
        if found is None:
            raise UndoRefused(f"No candidate of {alias} waits for approval. `nightschool status` shows what does.")
        notes = self._put_into_use(*found, now, reason)
        moved = self.ledger.moves.last_done(alias)
        if moved is None:
            raise UndoRefused(f"{alias} was not moved.")
        return replace(as_alias_move(moved), reason=" ".join((moved.reason, *notes)))

    def _put_into_use(self, version: VersionRow, row: RunRow, now: datetime, reason: str) -> tuple[str, ...]:
        """Promote a candidate that waited, and end its run. Done again, it changes nothing.

        Returns a sentence for what could not be done beside it. Raises `UndoRefused`.
        """
        alias, context = names.alias_of(version.specialty), self._context_of_waiting(version, row)
        try:
            notes = conclude.promote(context, version, reason, self._present_origin(alias, context))
        except MoveFailed as error:
            raise UndoRefused(str(error)) from error
        self.shares.end(alias)
        self.ledger.runs.finish(row.id, RunEnd.PROMOTED, reason, now)
        retention.retire_old_versions(self.ledger, self.ollama, self.settings, version.specialty)
        retention.discard_superseded(self.ledger, self.ollama, version, now)
        return notes

    def _finish_approvals(self, now: datetime) -> tuple[str, ...]:
        """Bring approvals to their end of which a crash left the alias moved and no more. A sentence for each."""
        sentences: list[str] = []
        for version, row, move in self._half_approved():
            try:
                notes = self._put_into_use(version, row, now, move.reason)
            except UndoRefused as refusal:
                sentences.append(f"The approval of {version.tag} could not be completed: {refusal}")
            else:
                sentences.append(" ".join((f"The approval of {version.tag} was completed.", *notes)))
        return tuple(sentences)

    def _half_approved(self) -> list[tuple[VersionRow, RunRow, MoveRow]]:
        """Versions that aliases were moved to, while their runs still wait for approval."""
        versions = self.ledger.versions
        found = []
        for version in (*versions.in_state(VersionState.CANDIDATE), *versions.in_state(VersionState.PROMOTED)):
            row = self.ledger.runs.get(version.run_id)
            move = self.ledger.moves.last_done(names.alias_of(version.specialty))
            if row is None or row.end is not RunEnd.WAITING or move is None or move.kind is not MoveKind.PROMOTE:
                continue
            if move.run_id == row.id:
                found.append((version, row, move))
        return found

    def _waiting(self, alias: str) -> tuple[VersionRow, RunRow] | None:
        """The newest candidate of an alias whose run is over and that waits."""
        for version in self.ledger.versions.in_state(VersionState.CANDIDATE):
            row = self.ledger.runs.get(version.run_id)
            if names.alias_of(version.specialty) == alias and row is not None and row.end is RunEnd.WAITING:
                return version, row
        return None

    def _present_origin(self, alias: str, context: StepContext) -> Destination:
        """What the alias may hold: what we moved it to last, even after the candidate's run, else what that run saw."""
        last = self.ledger.moves.last_done(alias)
        if last is not None and last.to_tag is not None and last.to_digest is not None:
            return Destination(tag=last.to_tag, digest=last.to_digest)
        prepared = context.result(Step.PREPARE, PrepareResult)
        return Destination(tag=prepared.undo_tag, digest=prepared.undo_digest)

    def specialties(self) -> tuple[SpecialtyState, ...]:
        """Every specialty with what serves it and what it waits for. Asks Ollama for the aliases."""
        digests = {entry.name: entry.digest for entry in self.ollama.tags()}
        return tuple(self._state(one, digests) for one in self.planner.specialties())

    def specialties_unseen(self) -> tuple[SpecialtyState, ...]:
        """The same while Ollama cannot be asked: by the ledger alone, what serves is not known."""
        return tuple(self._state(one, None) for one in self.planner.specialties())

    def problem(self, specialty: Specialty, reason: str = "") -> str | None:
        """Why nothing can be learned for a specialty at present, or None. Asks Ollama whether the base is there.

        `reason`: of the run that is to begin, where that makes a difference.
        """
        return self._problem(specialty, {entry.name: entry.digest for entry in self.ollama.tags()}, reason)

    def look_at_registry(self, now: datetime) -> tuple[str, ...]:
        """Compare Ollama's models with what was seen last, and follow every change. Returns a sentence for each deed.

        Called every minute and before every run.
        """
        known = self.ledger.bases.known()
        present = read_registry(self.ollama, known)
        return tuple(
            sentence
            for change, model in compare(known, present)
            for sentence in bases.follow(change, model, now, ledger=self.ledger, hooks=self.hooks, planner=self.planner)
        )

    def _state(self, specialty: Specialty, digests: dict[str, str] | None) -> SpecialtyState:
        alias = names.alias_of(specialty)
        statistics = self.planner.statistics(specialty)
        held = (digests or {}).get(alias)
        version = self.ledger.versions.by_digest(held) if held is not None else None
        problem = self._problem(specialty, digests) if digests is not None else None
        try:
            batch_size = self.hooks.choose_batch_size(specialty=specialty, statistics=statistics)
        except PluginFailed as error:
            batch_size, problem = 0, problem or str(error)
        last = self.ledger.runs.latest(1, specialty)
        return SpecialtyState(
            specialty=specialty,
            alias=alias,
            alias_exists=held is not None,
            serving=version.tag if version is not None else None,
            serving_lesson=version.lesson if version is not None else None,
            fresh=statistics.available,
            total=statistics.total_seen,
            batch_size=batch_size,
            wants_examples=self.planner.wants_examples(specialty),
            last_run=last[0] if last else None,
            problem=problem,
            unwatched=self.unwatched(specialty),
        )

    def _problem(self, specialty: Specialty, digests: Mapping[str, str], reason: str = "") -> str | None:
        base = specialty.base
        known = self.ledger.facts.get(problem_key(base)) or names.base_problem(base)
        if known is None and base not in digests:
            return bases.absent(base, reason)
        return known or self._foreign_alias(specialty, digests)

    def _foreign_alias(self, specialty: Specialty, digests: Mapping[str, str]) -> str | None:
        """A sentence where the alias holds neither a version of ours, nor the base, nor what we moved it to."""
        alias = names.alias_of(specialty)
        held = digests.get(alias)
        version = self.ledger.versions.by_digest(held) if held is not None else None
        last = self.ledger.moves.last_done(alias)
        is_ours = version is not None and version.specialty == specialty
        is_untouched = last.to_digest == held if last is not None else held == digests.get(specialty.base)
        if held is None or is_ours or is_untouched:
            return None
        return (
            f"{alias} was pointed at another model by hand, so it stays as it is and nothing is trained for it. "
            f"`ollama rm {alias}` gives it back to Night School."
        )

    def _context_of_waiting(self, version: VersionRow, row: RunRow) -> StepContext:
        """The run of a candidate that waits. Raises `UndoRefused` where somebody removed its directory."""
        context = None
        with contextlib.suppress(FileNotFoundError):
            context = self._context(row, SilentListener())
        if context is None or not context.directory.is_done(Step.PREPARE):
            raise UndoRefused(
                f"{version.tag} cannot be put into use, as the files of its run are gone. "
                "`nightschool run --now` makes a new version."
            )
        return context

    def _context(self, row: RunRow, listener: RunListener) -> StepContext:
        directory = RunDirectory(path=row.directory)
        return StepContext(
            info=self.info_of(row),
            directory=directory,
            settings=codec.from_json(directory.settings.read_bytes(), Settings),
            ledger=self.ledger,
            ollama=self.ollama,
            hooks=self.hooks,
            listener=listener,
            signals=self.signals,
            clock=self.clock,
        )

    def _alias(self, text: str) -> str:
        specialty = self.find(text)
        if specialty is not None:
            return names.alias_of(specialty)
        if self.ledger.moves.last_done(names.normalise(text)) is not None:
            return names.normalise(text)
        raise UndoRefused(f"{text} is no alias or specialty that Night School knows. `nightschool status` lists them.")

    def _remove_stray_directories(self) -> tuple[str, ...]:
        """A directory without a row in the ledger: the crash came between the two."""
        runs = self.settings.state_directory / "runs"
        strays = [one for one in runs.iterdir() if self.ledger.runs.get(one.name) is None] if runs.is_dir() else []
        for stray in strays:
            shutil.rmtree(stray)
        return tuple(f"The directory {stray} of a run that never began was removed." for stray in strays)
