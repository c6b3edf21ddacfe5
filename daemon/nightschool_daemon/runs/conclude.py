"""Step `conclude`: the alias moves to the candidate, or the candidate goes. Otherwise nothing changes."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nightschool_daemon.config import PromotionMode
from nightschool_daemon.evaluation.decision import is_good_enough, unseen
from nightschool_daemon.jobs import (
    WORDINGS,
    ConcludeResult,
    JudgeResult,
    PrepareResult,
    RunDirectory,
    SelectResult,
    SplitResult,
    Step,
    Wording,
    read_lines,
)
from nightschool_daemon.ledger import VersionRow, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import ModelMissing, OllamaInterrupted, OllamaRefused
from nightschool_daemon.reasons import OVER_BUDGET, REBUILD, RETRAIN
from nightschool_daemon.runs import crossfit, prepare, rebuild, retention, unproven
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import MoveFailed, UndoRefused
from nightschool_daemon.runs.moves import Destination
from nightschool_daemon.runs.planner import Planner, due_key
from nightschool_daemon.runs.register import version_of_run
from nightschool_hookspecs.records import Event, GuardResult, MoveKind, Outcome, Recipe, RunEnd, TrainingResult, Verdict


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run is to end, decided before anything is moved."""

    end: RunEnd
    reason: str
    takes_back: str | None = None
    """Why the version in use goes, which was put there unproven."""


def decide(verdict: Verdict, mode: PromotionMode, run_reason: str, of_incumbent: Verdict | None = None) -> Ending:
    """Turn a verdict into the run's end; `of_incumbent` as in `JudgeResult`.

    A version in use that was put there unproven goes where by now it would not have been. A candidate that is proven
    takes its place, unless that is surely worse than what stood there before: the candidate may be, too. Then it does
    not wait for approval either.
    """
    ending = _of_candidate(verdict, mode, run_reason)
    if of_incumbent is None or of_incumbent.outcome in (Outcome.PROVEN, Outcome.PROVISIONAL):
        return ending
    stands = verdict.outcome is Outcome.PROVEN and of_incumbent.outcome is not Outcome.WORSE
    if stands and ending.end is RunEnd.PROMOTED:
        return ending
    falls = not stands and ending.end in (RunEnd.PROMOTED, RunEnd.WAITING)
    return Ending(
        end=RunEnd.NOT_ENOUGH if falls else ending.end,
        reason=f"{verdict.reason} But what it was compared with is taken back." if falls else ending.reason,
        takes_back=f"it was put into use unproven, and its next exam does not bear it out. {of_incumbent.reason}",
    )


def _of_candidate(verdict: Verdict, mode: PromotionMode, run_reason: str) -> Ending:
    if verdict.outcome is Outcome.WORSE:
        return Ending(end=RunEnd.DISCARDED, reason=verdict.reason)
    if not is_good_enough(verdict.outcome, mode, run_reason):
        return Ending(end=RunEnd.NOT_ENOUGH, reason=verdict.reason)
    if mode is PromotionMode.ASK:
        return Ending(end=RunEnd.WAITING, reason=verdict.reason)
    if missing := unseen(verdict.guards):
        return Ending(end=RunEnd.WAITING, reason=f"{verdict.reason} {_unseen(missing)}")
    return Ending(end=RunEnd.PROMOTED, reason=verdict.reason)


def _unseen(guards: Sequence[GuardResult]) -> str:
    """That nobody knows whether something got worse, and who is to decide."""
    checks = "one check" if len(guards) == 1 else f"{len(guards)} checks"
    reasons = " ".join(one.reason for one in guards)
    return f"But it is not put into use by itself, as {checks} could not be made: `nightschool approve` does. {reasons}"


def perform(context: StepContext, ending: Ending) -> None:
    """Promote or discard as `ending` says, and clear away what only the run needed."""
    version = version_of_run(context)
    _remember_what_was_learned(context, version)
    in_use_again = None
    if ending.takes_back is not None:
        ending, in_use_again = _taken_back(context, ending, ending.takes_back)
    elif _is_borne_out(context):
        unproven.bear_out(context)
    if version is not None:
        ending = _settle(context, version, ending)
    for sentence in crossfit.clear(context):
        context.note(sentence)
    _remove_work_files(context)
    _settle_what_was_due(context, ending)
    kept = version is not None and ending.end in (RunEnd.PROMOTED, RunEnd.WAITING)
    context.directory.finish(
        Step.CONCLUDE,
        ConcludeResult(
            end=ending.end,
            reason=ending.reason,
            alias=names.alias_of(context.info.specialty) if ending.end is RunEnd.PROMOTED else None,
            version=version.tag if version is not None and kept else None,
            in_use_again=in_use_again,
        ),
    )


def _taken_back(context: StepContext, ending: Ending, why: str) -> tuple[Ending, str | None]:
    """Take the version in use back. Returns what is in use again, with the reason; None: it stays, and why."""
    incumbent = context.result(Step.PREPARE, PrepareResult).incumbent
    try:
        tag = unproven.take_back(context, why)
    except UndoRefused as refusal:
        return replace(ending, reason=f"{ending.reason} {incumbent} was to be taken back, but {refusal}"), None
    return replace(ending, reason=f"{ending.reason} {incumbent} was taken back and {tag} is in use again: {why}"), tag


def _is_borne_out(context: StepContext) -> bool:
    judged = context.result_if_done(Step.JUDGE, JudgeResult)
    return judged is not None and judged.of_incumbent is not None and judged.of_incumbent.outcome is Outcome.PROVEN


def _settle(context: StepContext, version: VersionRow, ending: Ending) -> Ending:
    """Promote, keep waiting or discard. A proven candidate that cannot be put into use is kept: it waits."""
    if ending.end is RunEnd.PROMOTED:
        ending = _promoted_or_waiting(context, version, ending)
    try:
        if ending.end is RunEnd.PROMOTED:
            retention.retire_old_versions(context.ledger, context.ollama, context.settings, context.info.specialty)
        if ending.end in (RunEnd.PROMOTED, RunEnd.WAITING):
            retention.discard_superseded(context.ledger, context.ollama, version, context.clock())
        else:
            retention.discard(context.ledger, context.ollama, version)
    except (OllamaRefused, OllamaInterrupted, ModelMissing) as error:
        # what stays behind is swept at the next start
        context.note(str(error))
    return ending


def _promoted_or_waiting(context: StepContext, version: VersionRow, ending: Ending) -> Ending:
    prepared = context.result(Step.PREPARE, PrepareResult)
    origin = Destination(tag=prepared.undo_tag, digest=prepared.undo_digest)
    try:
        notes = promote(context, version, ending.reason, origin)
    except MoveFailed as error:
        approval = f"`nightschool approve {names.alias_of(context.info.specialty)}` puts {version.tag} there."
        return Ending(end=RunEnd.WAITING, reason=f"{ending.reason} But it is not in use: {error} {approval}")
    return Ending(end=RunEnd.PROMOTED, reason=" ".join((ending.reason, *notes)))


def promote(context: StepContext, version: VersionRow, reason: str, origin: Destination) -> tuple[str, ...]:
    """Move the alias, and the user's own tag where the configuration says so.

    `origin` is what the alias may hold now, and where an undo leads. Returns a sentence for what could not be done
    beside it. Raises `MoveFailed` where the alias was not moved.
    """
    destination = Destination(tag=version.tag, digest=version.tag_digest)
    context.mover.move(
        kind=MoveKind.PROMOTE,
        alias=names.alias_of(context.info.specialty),
        origin=origin,
        destination=destination,
        reason=reason,
        run_id=context.info.id,
    )
    unproven.note_promotion(context, version.tag, verdict_of(context))
    context.ledger.versions.set_state(version.tag, VersionState.PROMOTED)
    context.ledger.evidence.settle(context.info.specialty)
    if not context.settings.promotion.replace_base:
        return ()
    planner = Planner(settings=context.settings, ledger=context.ledger, hooks=context.hooks)
    if (problem := planner.replacement_problem(context.info.specialty.base)) is not None:
        return (problem,)
    try:
        _replace_base(context, destination, reason)
    except MoveFailed as error:
        return (str(error),)
    return ()


def _replace_base(context: StepContext, destination: Destination, reason: str) -> None:
    """Put the version under the user's own name, after saving what stands there.

    Raises `MoveFailed` where somebody changed the tag while the run went on: what the user put there stays.
    """
    prepared = context.result(Step.PREPARE, PrepareResult)
    mover, base = context.mover, context.info.specialty.base
    present = mover.digest_of(base)
    if present == destination.digest:
        return
    ours = context.ledger.versions.by_digest(present) if present is not None else None
    if present is None or (ours is None and present != prepared.base.tag_digest):
        raise MoveFailed(f"{base} was changed during the run, so it stays as it is; the next run takes the new one.")
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


def _settle_what_was_due(context: StepContext, ending: Ending) -> None:
    """A run that came to a verdict did what was asked for; one that failed or was cancelled is tried again."""
    if context.info.recipe is Recipe.EXAMPLES:
        # what is due is a training
        return
    due = due_key(context.info.specialty)
    if context.info.reason == REBUILD and ending.end is RunEnd.DISCARDED:
        # the old lesson does not fit the new prompts: learn it anew
        context.ledger.facts.put(due, RETRAIN)
    elif ending.end not in (RunEnd.FAILED, RunEnd.CANCELLED) and context.ledger.facts.get(due) == context.info.reason:
        context.ledger.facts.delete(due)


def _remember_what_was_learned(context: StepContext, version: VersionRow | None) -> None:
    """These events are no longer fresh, whatever the verdict: the next run waits for new ones.

    A rebuild learned nothing: what is fresh stays so, and its version knows what the earlier lesson was made of. Nor
    did a candidate of examples.
    """
    if not context.directory.is_done(Step.JUDGE):
        return
    events, specialty = context.ledger.events, context.info.specialty
    if context.info.recipe is Recipe.EXAMPLES:
        if version is not None:
            _mark_learned(context, version, context.directory, context.result(Step.SELECT, SelectResult).shots)
        return
    reused = rebuild.reused_lesson(context.directory)
    lesson = context.directory if reused is None else reused
    if reused is None:
        events.mark_batched(specialty, context.info.id, _looked_at(context))
    if version is not None and lesson.is_done(Step.SELECT):
        trained = lesson.result(Step.TRAIN, TrainingResult)
        # what told when to stop has a part in the version too, so it proves nothing of it
        seen = (*lesson.result(Step.SELECT, SelectResult).learned_from(trained), *trained.watched_events)
        _mark_learned(context, version, lesson, seen)
        wordings = [one for one in _wordings_of(lesson) if one.method in trained.methods]
        events.remember(specialty, wordings, prepare.frozen_events(lesson), version.tag)


def _looked_at(context: StepContext) -> list[Event]:
    """What a run was prepared with, but for fresh feedback that has its turn another night.

    Where nothing fresh was chosen, what is left does not fit into any night, and none waits for it.
    """
    rows = prepare.frozen_rows(context.directory)
    selected = context.result(Step.SELECT, SelectResult)
    chosen = {key for keys in selected.sources.values() for key in keys}
    waiting = {one.event_id for one in selected.left_out if one.reason == OVER_BUDGET}
    if not any(row.event.key in chosen and not row.looked_at for row in rows):
        waiting = set()
    return [row.event for row in rows if row.event.key not in waiting]


def _mark_learned(context: StepContext, version: VersionRow, lesson: RunDirectory, keys: Sequence[str]) -> None:
    """Note the events of a lesson with the version that has it, and their groups."""
    learned, placed = frozenset(keys), lesson.result(Step.SPLIT, SplitResult).groups
    rows = [row for row in prepare.frozen_rows(lesson) if row.event.key in learned]
    groups = {placed.get(row.group, row.group) for row in rows if row.group is not None}
    events, specialty = context.ledger.events, context.info.specialty
    events.mark_trained(specialty, context.info.id, [row.event for row in rows], version.tag)
    events.mark_known(specialty, [group for group in groups if group is not None], version.tag)


def _wordings_of(lesson: RunDirectory) -> tuple[Wording, ...]:
    """What a lesson has beside the prompts of its events; nothing where an earlier release made it."""
    file = lesson.step(Step.SELECT) / WORDINGS
    return tuple(read_lines(file, Wording)) if file.is_file() else ()


WEIGHTS = frozenset({".gguf", ".safetensors", ".tmp"})
"""How the names of large files end, of those too that were not written to their end."""


def _remove_work_files(context: StepContext) -> None:
    """Delivered files live in Ollama now, or are not wanted: the adapter alone is kept, to build on.

    Checkpoints go, and so do the best epoch, of each training of a run, and what an export did not bring to its end.
    """
    trained = context.result_if_done(Step.TRAIN, TrainingResult)
    for step in (Step.TRAIN, Step.EXPORT):
        directory = context.directory.step(step)
        for checkpoints in list(directory.rglob("checkpoints")):
            shutil.rmtree(checkpoints)
        for file in list(directory.rglob("*")):
            if file.suffix in WEIGHTS and (trained is None or trained.adapter not in file.parents):
                file.unlink()


def verdict_of(context: StepContext) -> Verdict | None:
    """The verdict of the run, if it came so far."""
    judged = context.result_if_done(Step.JUDGE, JudgeResult)
    return judged.verdict if judged is not None else None
