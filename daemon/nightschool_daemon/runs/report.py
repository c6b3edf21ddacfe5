"""Step `report`: one page in plain words about what a run did."""

import math
from collections import Counter
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.jobs import (
    UNITS,
    ConcludeResult,
    ExportResult,
    Losses,
    PrepareResult,
    SelectResult,
    Step,
    VerifyResult,
    write_durably,
)
from nightschool_daemon.ollama import names
from nightschool_daemon.plans import cost_text
from nightschool_daemon.runs.conclude import verdict_of
from nightschool_daemon.runs.context import StepContext
from nightschool_hookspecs.records import (
    DeliveryPlan,
    ExamAnswer,
    ExamItem,
    ItemRole,
    RunEnd,
    RunReport,
    Sitting,
    TrainingMethod,
    TrainingResult,
    Verdict,
)

SHOWN_ANSWERS = 3

LEARNED_BY = {
    TrainingMethod.SFT: "wanted answers",
    TrainingMethod.DPO: "better answers over worse ones",
    TrainingMethod.KTO: "answers that were liked or disliked",
}

HEADLINES = {
    RunEnd.PROMOTED: "A better model is in use",
    RunEnd.WAITING: "A better model waits for your approval",
    RunEnd.NOT_ENOUGH: "Nothing changed: not enough to tell yet",
    RunEnd.DISCARDED: "Nothing changed: the new model was not better",
    RunEnd.ROLLED_BACK: "The previous model is in use again",
    RunEnd.CANCELLED: "Nothing changed: the run was cancelled",
    RunEnd.FAILED: "Nothing changed: the run failed",
}


def perform(context: StepContext) -> None:
    """Write `report.md` for people and `result.json` for programs."""
    text = "\n".join(_lines(context)) + "\n"
    write_durably(context.directory.step(Step.REPORT) / "report.md", text)
    context.directory.finish(Step.REPORT, report_of(context))


def report_of(context: StepContext) -> RunReport:
    """The run's end as observers and programs see it."""
    concluded = context.result(Step.CONCLUDE, ConcludeResult)
    return RunReport(
        run=context.info,
        end=concluded.end,
        reason=concluded.reason,
        verdict=verdict_of(context),
        alias=concluded.alias,
        version=concluded.version,
    )


def _lines(context: StepContext) -> list[str]:
    concluded = context.result(Step.CONCLUDE, ConcludeResult)
    lines = [f"# {HEADLINES[concluded.end]}", "", f"{context.info.specialty}, run {context.info.id}", ""]
    lines += [concluded.reason, ""]
    lines += _verdict_lines(verdict_of(context))
    lines += _learning_lines(context)
    lines += _delivery_lines(context)
    lines += _answer_lines(context)
    lines += _next_lines(context, concluded)
    return lines


def _verdict_lines(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return []
    low, high = verdict.interval
    lines = [
        "## The exam",
        "",
        f"- Score before {verdict.incumbent_mean:.1f}, after {verdict.candidate_mean:.1f} (0 to 100), "
        f"on {verdict.items} prompts that were not learned from",
        f"- Gain {verdict.gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, p = {verdict.p_value:.4f}",
        f"- The same model asked twice differs by {verdict.noise:.1f} points",
        f"- Evidence since the last promotion: {_e_value(verdict.log_e_value)}, and {_e_value(verdict.log_e_needed)} "
        f"is proof; {len(verdict.counted)} prompts were new to it",
    ]
    if verdict.items_needed is not None:
        lines.append(
            f"- For a gain like this about {verdict.items_needed} new held-out prompts are still needed to tell"
        )
    lines += [f"- {guard.guard}: {'held' if guard.held else 'broken'}. {guard.reason}" for guard in verdict.guards]
    return [*lines, ""]


def _e_value(logarithm: float) -> str:
    """An e-value in a few digits; a product of many nights may be too large or too small to print in full."""
    return f"{math.exp(logarithm):.3g}" if abs(logarithm) < math.log(1e6) else f"10^{logarithm / math.log(10):.0f}"


def _learning_lines(context: StepContext) -> list[str]:
    selected = context.result_if_done(Step.SELECT, SelectResult)
    if selected is None:
        return []
    lines = [
        "## What was learned",
        "",
        f"- {selected.items} events were held out for the exam, {selected.guard_items} that were liked or disliked "
        "guard against getting worse",
    ]
    trained = context.result_if_done(Step.TRAIN, TrainingResult)
    learned: frozenset[str] = frozenset()
    if trained is not None:
        learned = frozenset(selected.learned_from(trained.methods))
        *_, last = trained.methods
        unit = "nats per answer token" if last is TrainingMethod.SFT else f"by {last.upper()}"
        lines += [
            f"- From {len(learned)} events: {', then '.join(LEARNED_BY[one] for one in trained.methods)}",
            f"- {trained.steps} steps over {trained.tokens} tokens in {trained.seconds:.0f} s; "
            f"loss {trained.base_loss:.3f} before, {trained.trained_loss:.3f} after ({unit})",
        ]
        if trained.plan:
            lines.append(f"- Planned beforehand: {trained.plan}")
        if trained.warm_start:
            lines.append("- It went on from what the model in use had learned")
    reasons = Counter(one.reason for one in selected.left_out if one.event_id not in learned)
    lines += [f"- Left out: {count} ({reason})" for reason, count in reasons.most_common()]
    return [*lines, ""]


def _delivery_lines(context: StepContext) -> list[str]:
    export = context.result_if_done(Step.EXPORT, ExportResult)
    if export is None:
        return []
    lines = [
        "## How it was delivered",
        "",
        f"- {export.plan.form.value}: {_cost(export.plan)}. {export.why}",
        *(f"- {one.form.value} would have cost {_cost(one)}" for one in export.others),
    ]
    if export.attempts > 1:
        lines.append(f"- Enough of the lesson was left at attempt {export.attempts}, each in wider types")
    if export.held_in is not None:
        lines.append(
            f"- Of the lesson {export.held_in.kept:.1%} are left in the written file (loss on what was learned: "
            f"{_losses(export.held_in)})"
        )
    verified = context.result_if_done(Step.VERIFY, VerifyResult)
    if verified is not None:
        lines += [
            f"- Loss on {_measured_on(verified)}: {_losses(verified.held_out)}",
            f"- Served and trained network differ by {verified.disagreement:.4f} nats (median over {verified.pairs} "
            f"token probabilities), base and our own forward pass by {verified.noise:.4f}; "
            f"the lesson moved them by {verified.live:.4f}",
        ]
    return [*lines, ""]


def _cost(plan: DeliveryPlan) -> str:
    return cost_text(plan.version_bytes, plan.version_bytes, plan.shared_bytes)


def _losses(losses: Losses) -> str:
    three = f"base {losses.base_loss:.3f}, trained {losses.trained_loss:.3f}, delivered {losses.delivered_loss:.3f}"
    return f"{three} {UNITS[losses.kind]}"


def _measured_on(verified: VerifyResult) -> str:
    if verified.held_out_texts:
        return f"{verified.held_out_texts} held-out references"
    return "what was learned, as nothing was held out"


def _answer_lines(context: StepContext) -> list[str]:
    """The held-out prompts whose answers gained most, and one that lost, if any did."""
    if not context.directory.is_done(Step.EXAMINE):
        return []
    items = {item.id: item for item in context.ledger.exams.items(context.info.id)}
    before, after = _by_sitting(context, Sitting.INCUMBENT), _by_sitting(context, Sitting.CANDIDATE)
    held_out = {key for key, item in items.items() if item.role is not ItemRole.LEARNED}
    both = sorted(before.keys() & after.keys() & held_out, key=lambda one: before[one].score - after[one].score)
    if not both:
        return []
    shown = both[:SHOWN_ANSWERS]
    if after[both[-1]].score < before[both[-1]].score and both[-1] not in shown:
        shown = [*shown[: SHOWN_ANSWERS - 1], both[-1]]
    lines = ["## Before and after", ""]
    for identifier in shown:
        lines += _one_answer(items[identifier], before[identifier], after[identifier])
    return lines


def _by_sitting(context: StepContext, sitting: Sitting) -> dict[str, ExamAnswer]:
    answers = context.ledger.exams.answers(context.info.id)
    return {one.item_id: one for one in answers if one.sitting is sitting}


def _one_answer(item: ExamItem, before: ExamAnswer, after: ExamAnswer) -> list[str]:
    return [
        f"**{_one_line(item.messages[-1].content)}**",
        "",
        *_known_of(item),
        f"- before ({before.score:.0f}): `{_one_line(before.text)}`",
        f"- after ({after.score:.0f}): `{_one_line(after.text)}`",
        "",
    ]


def _known_of(item: ExamItem) -> list[str]:
    if item.reference is not None:
        return [f"- wanted: `{_one_line(item.reference)}`"]
    return [f"- not wanted: `{_one_line(item.disliked)}`"] if item.disliked is not None else []


def _one_line(text: str, limit: int = 160) -> str:
    joined = " ".join(text.split()).replace("`", "'")
    return joined if len(joined) <= limit else joined[: limit - 3] + "..."


def _next_lines(context: StepContext, concluded: ConcludeResult) -> list[str]:
    alias = names.alias_of(context.info.specialty)
    prepared = context.result_if_done(Step.PREPARE, PrepareResult)
    if concluded.end is RunEnd.PROMOTED and prepared is not None:
        return [
            "## What to do",
            "",
            f"- Call it: `ollama run {alias}`",
            f"- Undo it: `nightschool undo {alias}` puts {prepared.incumbent} back",
        ]
    if concluded.end is RunEnd.WAITING:
        return [
            "## What to do",
            "",
            f"- Try the candidate: `ollama run {concluded.version}`",
            f"- Put it into use: `nightschool approve {alias}`",
        ]
    return []


def read_text(run_directory: Path) -> str | None:
    """The report of a run as Markdown, or None where it did not get so far."""
    file = run_directory / Step.REPORT.value / "report.md"
    return file.read_text(encoding="utf-8") if file.is_file() else None


def read_report(run_directory: Path) -> RunReport | None:
    """The report of a run as a record, or None where it did not get so far."""
    file = run_directory / Step.REPORT.value / "result.json"
    return codec.from_json(file.read_bytes(), RunReport) if file.is_file() else None
