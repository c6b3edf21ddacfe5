"""Steps `examine` and `judge`: items, answers and the verdict go into the ledger."""

from nightschool_daemon.evaluation.decision import unseen
from nightschool_daemon.jobs import JudgeResult, PrepareResult, Step
from nightschool_daemon.runs.context import StepContext
from nightschool_hookspecs.records import ItemRole, Outcome, Specialty


def accept(context: StepContext) -> None:
    """Store the exam's items and answers, and when all that was learned before was asked."""
    answers = context.directory.exam_answers()
    asked = {answer.item_id for answer in answers}
    items = tuple(item for item in context.directory.exam_items() if item.id in asked)
    context.ledger.exams.store(context.info.id, items, answers)
    if context.result(Step.PREPARE, PrepareResult).asks_all_learned:
        context.ledger.facts.put(regression_key(context.info.specialty), context.info.started_at.isoformat())


def regression_key(specialty: Specialty) -> str:
    """The fact that says when all that a specialty has learned was asked for the last time."""
    return f"regression:{specialty.base}/{specialty.artifact_type}"


def accept_verdict(context: StepContext) -> None:
    """Store the verdict, and what the exam adds to the evidence of the nights to come.

    What a candidate gained that a guard turned down, or could not look at, speaks for no later one: that would be
    promoted on the strength of answers for which this one could not be. What such a candidate lost counts as ever:
    evidence that is dropped only where it is unwelcome would prove anything in the end.

    What was asked is used up, also where what it showed is dropped: it is dropped where the incumbent did badly, and on
    the same questions it would do badly again. With one exception, a proof that a guard could not look at. Its
    candidate waits for approval, and a young specialty without it would wait for as many new prompts again: what was
    asked stays new. The bound holds all the same, as it is one on the first proof since a promotion, whoever is
    promoted by it: whatever is proven later by the same questions comes after a proof that itself was wrong in 1 of 40
    seasons at most.
    """
    run_id, verdict = context.info.id, context.result(Step.JUDGE, JudgeResult).verdict
    asked = [item.key for item in context.ledger.exams.items(run_id) if item.role is ItemRole.GAIN]
    ranked = [pair.key for pair in context.directory.ranked_pairs()]
    prepared = context.result(Step.PREPARE, PrepareResult)
    before = prepared.evidence.log_e_value
    is_broken, is_unseen = any(not guard.held for guard in verdict.guards), bool(unseen(verdict.guards))
    is_dropped = verdict.log_e_value > before and (is_broken or is_unseen)
    is_asked_anew = is_dropped and not is_broken and verdict.outcome is Outcome.PROVEN
    context.ledger.exams.store_verdict(run_id, verdict)
    context.ledger.evidence.store(
        run_id,
        context.info.specialty,
        prepared.incumbent,
        log_e_value=before if is_dropped else verdict.log_e_value,
        asked=[] if is_asked_anew else [*asked, *ranked],
        counted=() if is_dropped else verdict.counted,
    )
