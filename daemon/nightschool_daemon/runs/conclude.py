"""Step `conclude`: the alias moves to the candidate, or the candidate goes. Otherwise nothing changes."""

import shutil
from dataclasses import dataclass

from nightschool_daemon.config import PromotionMode
from nightschool_daemon.jobs import ConcludeResult, JudgeResult, PrepareResult, SelectResult, Step
from nightschool_daemon.ledger import VersionRow, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.runs import prepare, retention
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import MoveFailed
from nightschool_daemon.runs.moves import AliasMover, Destination
from nightschool_daemon.runs.planner import due_key
from nightschool_daemon.runs.reasons import REBUILD, RETRAIN
from nightschool_daemon.runs.register import version_of_run
from nightschool_hookspecs.records import MoveKind, Outcome, RunEnd, Verdict


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run is to end, decided before anything is moved."""

    end: RunEnd
    reason: str


def decide(verdict: Verdict, mode: PromotionMode, run_reason: str) -> Ending:
    """Turn a verdict into the run's end.

    A rebuild, which the user's own change of the base asked for, is promoted unless it is worse.
    """
    if verdict.outcome is Outcome.WORSE:
        return Ending(end=RunEnd.DISCARDED, reason=verdict.reason)
    good_enough = (
        verdict.outcome is Outcome.PROVEN
        or (verdict.outcome is Outcome.PROVISIONAL and mode is PromotionMode.PROVISIONAL)
        or run_reason == REBUILD
    )
    if not good_enough:
        return Ending(end=RunEnd.NOT_ENOUGH, reason=verdict.reason)
    if mode is PromotionMode.ASK:
        return Ending(end=RunEnd.WAITING, reason=verdict.reason)
    return Ending(end=RunEnd.PROMOTED, reason=verdict.reason)


def perform(context: StepContext, ending: Ending) -> None:
    """Promote or discard as `ending` says, and clear away what only the run needed."""
    version = version_of_run(context)
    _remember_what_was_learned(context, version)
    if version is not None:
        ending = _settle(context, version, ending)
    _remove_work_files(context)
    if context.info.reason == REBUILD and ending.end is RunEnd.DISCARDED:
        # the old lesson does not fit the new prompts: learn it anew
        context.ledger.facts.put(due_key(context.info.specialty), RETRAIN)
    kept = version is not None and ending.end in (RunEnd.PROMOTED, RunEnd.WAITING)
    context.directory.finish(
        Step.CONCLUDE,
        ConcludeResult(
            end=ending.end,
            reason=ending.reason,
            alias=names.alias_of(context.info.specialty) if ending.end is RunEnd.PROMOTED else None,
            version=version.tag if version is not None and kept else None,
        ),
    )


def _settle(context: StepContext, version: VersionRow, ending: Ending) -> Ending:
    if ending.end is RunEnd.WAITING:
        return ending
    if ending.end is RunEnd.PROMOTED:
        try:
            promote(context, version, ending.reason)
        except MoveFailed as error:
            ending = Ending(end=RunEnd.FAILED, reason=str(error))
        else:
            retention.retire_old_versions(context.ledger, context.ollama, context.settings, context.info.specialty)
            return ending
    retention.discard(context.ledger, context.ollama, version)
    return ending


def promote(context: StepContext, version: VersionRow, reason: str) -> None:
    """Move the alias, and the user's own tag where the configuration says so. Raises `MoveFailed`."""
    prepared = context.result(Step.PREPARE, PrepareResult)
    mover = AliasMover(ledger=context.ledger, ollama=context.ollama, hooks=context.hooks, clock=context.clock)
    destination = Destination(tag=version.tag, digest=version.tag_digest)
    mover.move(
        kind=MoveKind.PROMOTE,
        alias=names.alias_of(context.info.specialty),
        origin=incumbent_destination(mover, prepared),
        destination=destination,
        reason=reason,
        run_id=context.info.id,
    )
    if context.settings.promotion.replace_base:
        _replace_base(context, mover, destination, reason)
    context.ledger.versions.set_state(version.tag, VersionState.PROMOTED)


def incumbent_destination(mover: AliasMover, prepared: PrepareResult) -> Destination | None:
    """What the alias held before: the incumbent's tag. Undo goes back there, to the pinned base at first."""
    digest = mover.digest_of(prepared.incumbent)
    return Destination(tag=prepared.incumbent, digest=digest) if digest is not None else None


def _replace_base(context: StepContext, mover: AliasMover, destination: Destination, reason: str) -> None:
    """Put the version under the user's own name, after saving what stands there."""
    base = context.info.specialty.base
    present = mover.digest_of(base)
    if present is None or present == destination.digest:
        return
    ours = context.ledger.versions.by_digest(present)
    saved = ours.tag if ours is not None else names.saved_of(base, present)
    if ours is None and mover.digest_of(saved) != present:
        context.ollama.copy(base, saved)
    mover.move(
        kind=MoveKind.PROMOTE,
        alias=base,
        origin=Destination(tag=saved, digest=present),
        destination=destination,
        reason=reason,
        run_id=context.info.id,
    )


def _remember_what_was_learned(context: StepContext, version: VersionRow | None) -> None:
    """These events are no longer fresh, whatever the verdict: the next run waits for new ones."""
    if not context.directory.is_done(Step.JUDGE):
        return
    events, specialty = context.ledger.events, context.info.specialty
    events.mark_batched(specialty, context.info.id, prepare.frozen_keys(context))
    selected = context.result_if_done(Step.SELECT, SelectResult)
    if version is not None and selected is not None:
        events.mark_trained(specialty, context.info.id, selected.learned_from, version.tag)


def _remove_work_files(context: StepContext) -> None:
    """Delivered files live in Ollama now, or are not wanted: the adapter alone is kept, to build on."""
    for file in context.directory.step(Step.EXPORT).glob("*.gguf"):
        file.unlink()
    shutil.rmtree(context.directory.step(Step.TRAIN) / "checkpoints", ignore_errors=True)


def verdict_of(context: StepContext) -> Verdict | None:
    """The verdict of the run, if it came so far."""
    judged = context.result_if_done(Step.JUDGE, JudgeResult)
    return judged.verdict if judged is not None else None
