"""Versions that were put into use unproven: the next exam of their specialty bears them out or takes them back."""

from nightschool_daemon.jobs import (
    PROMOTED_ANSWERS,
    PROMOTED_ITEMS,
    PROMOTED_PAIRS,
    PrepareResult,
    RunDirectory,
    Step,
    Unproven,
    write_lines,
)
from nightschool_daemon.ledger import MoveRow
from nightschool_daemon.ollama import names
from nightschool_daemon.reasons import REBUILD
from nightschool_daemon.runs import undo
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import UndoRefused
from nightschool_daemon.runs.probation import Probation
from nightschool_daemon.runs.shares import Shares
from nightschool_hookspecs.records import Evidence, ItemRole, MoveKind, Outcome, Verdict


def unproven_key(tag: str) -> str:
    """The fact that says that a version was put into use unproven, and was neither borne out since nor taken back.

    It outlives what comes into use after it: that may be taken back, too.
    """
    return f"unproven:{tag}"


def note_promotion(context: StepContext, tag: str, verdict: Verdict | None) -> None:
    """Remember how sure it was. A rebuild was not put into use for what an exam said."""
    if verdict is not None and verdict.outcome is Outcome.PROVISIONAL and context.info.reason != REBUILD:
        context.ledger.facts.put(unproven_key(tag), context.info.id)


def freeze(context: StepContext, incumbent: str) -> Unproven | None:
    """What the exam needs of the one by which the incumbent was promoted. None: it was proven, or cannot go back.

    A rebuild needs its incumbent, which it makes anew: it does not ask about that.
    """
    ledger = context.ledger
    promotion, version = _promotion_to(context, incumbent), ledger.versions.get(incumbent)
    run = ledger.runs.get(version.run_id) if version is not None else None
    is_proven = ledger.facts.get(unproven_key(incumbent)) is None
    if is_proven or context.info.reason == REBUILD or promotion is None or run is None:
        return None
    tag = promotion.from_tag
    if tag is None or context.mover.digest_of(tag) != promotion.from_digest:
        return None
    directory = RunDirectory(path=run.directory)
    if not directory.is_done(Step.PREPARE):
        return None
    prepared = directory.result(Step.PREPARE, PrepareResult)
    # it may have waited until the alias held something else, of which its exam says nothing
    is_of_predecessor = prepared.undo_digest == promotion.from_digest
    items = [one for one in ledger.exams.items(run.id) if one.role is ItemRole.GAIN] if is_of_predecessor else []
    asked = {item.id for item in items}
    place = context.directory.step(Step.PREPARE)
    write_lines(place / PROMOTED_ITEMS, items)
    write_lines(place / PROMOTED_ANSWERS, [one for one in ledger.exams.answers(run.id) if one.item_id in asked])
    write_lines(place / PROMOTED_PAIRS, directory.ranked_pairs() if is_of_predecessor else ())
    evidence = prepared.evidence if is_of_predecessor else Evidence()
    return Unproven(predecessor=tag, evidence=evidence, judged_together=prepared.judged_together)


def bear_out(context: StepContext) -> None:
    """The version in use is proven by now."""
    context.ledger.facts.delete(unproven_key(context.result(Step.PREPARE, PrepareResult).incumbent))


def take_back(context: StepContext, reason: str) -> str:
    """Move the alias back to what it held before, and return the tag of that. Raises `UndoRefused`.

    A share of its use ends. Done again, it changes nothing.
    """
    alias, incumbent = names.alias_of(context.info.specialty), context.result(Step.PREPARE, PrepareResult).incumbent
    last = context.ledger.moves.last_done(alias)
    if last is None or last.kind is not MoveKind.ROLL_BACK or last.from_tag != incumbent:
        if last is None or last.to_tag != incumbent:
            raise UndoRefused(f"{alias} was moved since, so it stays as it is.")
        mover = context.mover
        undo.take_back(mover, undo.promotion_to_undo(mover, alias), kind=MoveKind.ROLL_BACK, reason=reason)
        last = context.ledger.moves.last_done(alias)
    context.ledger.facts.delete(unproven_key(incumbent))
    _shares(context).end(alias)
    probation = Probation(settings=context.settings, ledger=context.ledger, hooks=context.hooks)
    probation.settle_the_run(context.info.specialty, context.clock())
    return last.to_tag if last is not None and last.to_tag is not None else alias


def _promotion_to(context: StepContext, tag: str) -> MoveRow | None:
    """The last promotion that brought the alias to a version."""
    promotions = undo.promotions(context.ledger, names.alias_of(context.info.specialty))
    return next((one for one in promotions if one.to_tag == tag), None)


def _shares(context: StepContext) -> Shares:
    return Shares(
        settings=context.settings,
        ledger=context.ledger,
        hooks=context.hooks,
        digests=lambda: {entry.name: entry.digest for entry in context.ollama.tags()},
    )
