"""What is told of a run: its sheet, in plain words first, with the technical figures at the end."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator

from nightschool_daemon.jobs import (
    UNITS,
    ConcludeResult,
    CrossfitResult,
    ExportResult,
    JudgeResult,
    Losses,
    PrepareResult,
    RunDirectory,
    SelectResult,
    Step,
    StretchMark,
    VerifyResult,
)
from nightschool_daemon.ollama import names
from nightschool_daemon.plans import cost_text, counted, duration
from nightschool_daemon.reporting.records import Question
from nightschool_daemon.reporting.sheet import Section, Sheet, Shown, one_line
from nightschool_daemon.reporting.words import (
    EXAM,
    LEARNED_BY,
    LEFT_OUT,
    NOISE,
    guard_word,
    points_in_words,
    replayed_in_words,
    starters_in_words,
    unproven_in_words,
    verdict_sentences,
)
from nightschool_daemon.runs.conclude import verdict_of
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.fates import Fates
from nightschool_daemon.runs.pieces import pieces_section
from nightschool_daemon.runs.prepare import frozen_events
from nightschool_daemon.runs.probation import Probation
from nightschool_hookspecs.records import (
    DeliveryPlan,
    ExamAnswer,
    ExamItem,
    HyperparameterSearch,
    ItemRole,
    RunEnd,
    TrainingMethod,
    TrainingResult,
    Verdict,
)

Answered = tuple[tuple[ExamItem, ExamAnswer, ExamAnswer], ...]
"""The questions of an exam, each with what the model in use and the new one answered."""

SHOWN_ANSWERS = 3
SHOWN_NOISE = 5
TO_DO = "What to do"
TRIED = "To what the new model has learned, a trial model gave the later answer (see the exam)."

HEADLINES = {
    RunEnd.PROMOTED: "A better model is in use",
    RunEnd.WAITING: "A better model waits for your approval",
    RunEnd.NOT_ENOUGH: "Nothing changed: not enough to tell yet",
    RunEnd.DISCARDED: "Nothing changed: the new model was not better",
    RunEnd.OVERTAKEN: "Nothing changed: a newer model overtook this one",
    RunEnd.ROLLED_BACK: "The previous model is in use again",
    RunEnd.CANCELLED: "Nothing changed: the run was cancelled",
    RunEnd.FAILED: "Nothing changed: the run failed",
}


def sheet_of(context: StepContext) -> Sheet:
    """The sheet of a run that is concluded, without the nights before it."""
    concluded = context.result(Step.CONCLUDE, ConcludeResult)
    verdict = verdict_of(context)
    answered = _answered(context)
    technical = (
        _verdict_figures(verdict, concluded),
        _training_figures(context),
        _delivery_figures(context),
    )
    return Sheet(
        headline=HEADLINES[RunEnd.ROLLED_BACK if concluded.in_use_again else concluded.end],
        subject=f"{context.info.specialty}, run {context.info.id}",
        at=context.info.started_at,
        summary=tuple(_summary(verdict, concluded)),
        sections=(
            *_learned(context),
            *_shown(context, answered),
            *_exam(context, verdict),
            *_feedback(context, answered),
            *_next(context),
        ),
        technical=tuple(one for one in technical if one is not None),
    )


def questions_of(context: StepContext) -> tuple[Question, ...]:
    """Every question that counted in the exam, with both scores."""
    return tuple(
        Question(text=item.messages[-1].content, before=before.score, after=after.score)
        for item, before, after in _held_out(context, _answered(context))
        if item.role is ItemRole.GAIN
    )


# --------------------------------------------------------------------------- in plain words


def _summary(verdict: Verdict | None, concluded: ConcludeResult) -> Iterator[str]:
    """What a person in a hurry reads; with what the run's end says beyond the verdict."""
    if verdict is None:
        yield concluded.reason
        return
    yield points_in_words(verdict)
    more = concluded.reason.removeprefix(verdict.reason).strip()
    if more:
        yield more


def _learned(context: StepContext) -> Iterator[Section]:
    selected = context.result_if_done(Step.SELECT, SelectResult)
    if selected is None:
        return
    trained = context.result_if_done(Step.TRAIN, TrainingResult)
    sentences = []
    if selected.shots:
        shown = counted(len(selected.shots), "correction")
        sentences.append(f"The model was shown {shown} of yours as examples, before every conversation.")
    elif trained is None:
        sentences.append("Nothing was learned this time.")
    else:
        ways = ", then ".join(LEARNED_BY[one] for one in trained.methods)
        learned = selected.learned_from(trained)
        sentences.append(f"The model learned from {counted(len(learned), 'piece')} of your feedback: {ways}.")
        if trained.watched_events:
            kept = counted(len(trained.watched_events), "more piece")
            sentences.append(f"{kept} of it told when the model had learned enough.")
        if selected.replayed.count and TrainingMethod.SFT in trained.methods:
            replayed = selected.replayed
            sentences.append(replayed_in_words(len(replayed.events), replayed.answers, selected.replayed_share))
        if selected.starters and TrainingMethod.SFT in trained.methods:
            sentences.append(starters_in_words(selected.starters))
        if trained.warm_start:
            sentences.append("It went on from what the model in use had learned before.")
    held_out = selected.items + selected.pairs
    if held_out or not _folds(context):
        was = "was" if held_out == 1 else "were"
        kept = f"{counted(held_out, 'prompt')} of yours {was} kept for the exam"
        sentences.append(f"{kept} and not learned from, so that what is learned by heart does not count.")
    export = context.result_if_done(Step.EXPORT, ExportResult)
    if export is not None and export.held_in is not None:
        is_there = context.result(Step.CONCLUDE, ConcludeResult).version is not None
        where = "is in the model that Ollama has" if is_there else "was in the new model, which was not kept"
        sentences.append(f"Of what was learned, {min(1.0, export.held_in.kept):.1%} {where}.")
    yield Section(title="What was learned", sentences=tuple(sentences))


def _shown(context: StepContext, answered: Answered) -> Iterator[Section]:
    """The questions whose answers gained most, and one that lost, if any did."""
    both = sorted(_held_out(context, answered), key=lambda one: one[1].score - one[2].score)
    if not both:
        return
    chosen = both[:SHOWN_ANSWERS]
    _, before, after = both[-1]
    if after.score < before.score and both[-1] not in chosen:
        chosen = [*chosen[: SHOWN_ANSWERS - 1], both[-1]]
    yield Section(
        title="Before and after",
        # the new model itself has learned these questions, so that its own answers to them would show nothing
        sentences=(TRIED,) if _folds(context) else (),
        shown=tuple(_one_answer(*one) for one in chosen),
    )


def _one_answer(item: ExamItem, before: ExamAnswer, after: ExamAnswer) -> Shown:
    return Shown(
        prompt=item.messages[-1].content,
        wanted=item.reference,
        unwanted=item.disliked,
        before=before.text,
        before_score=before.score,
        after=after.text,
        after_score=after.score,
    )


def _answered(context: StepContext) -> Answered:
    return context.ledger.exams.answered_by_both(context.info.id)


def _held_out(context: StepContext, answered: Answered) -> list[tuple[ExamItem, ExamAnswer, ExamAnswer]]:
    """The held-out questions that both answered, in the order of the exam."""
    return [one for one in answered if one[0].role.is_held_out] if context.directory.is_done(Step.EXAMINE) else []


def _exam(context: StepContext, verdict: Verdict | None) -> Iterator[Section]:
    if verdict is not None:
        sentences = (*verdict_sentences(verdict, _folds(context)), *_ranked(context), *_of_incumbent(context))
        yield Section(title=EXAM, sentences=sentences)


def _ranked(context: StepContext) -> Iterator[str]:
    pairs = context.directory.ranked_pairs()
    if pairs:
        before = sum(one.incumbent > 0 for one in pairs)
        after = sum(one.candidate > 0 for one in pairs)
        new = "the trial models" if _folds(context) else "the new one"
        yield (
            "Nobody was asked about pairs: it was computed which answer is the likelier one. Of "
            f"{len(pairs)} the model in use finds the better answer likelier in {before}, {new} in {after}."
        )


def _of_incumbent(context: StepContext) -> Iterator[str]:
    found = context.result(Step.JUDGE, JudgeResult).of_incumbent
    if found is not None:
        yield unproven_in_words(context.result(Step.PREPARE, PrepareResult).incumbent, found)


def _folds(context: StepContext) -> int:
    """Of cross-fitting; 0: what was held out alone was asked."""
    crossfitted = context.result_if_done(Step.CROSSFIT, CrossfitResult)
    return crossfitted.folds if crossfitted is not None else 0


def _feedback(context: StepContext, answered: Answered) -> Iterator[Section]:
    """What became of it; nothing before anything was chosen."""
    selected = context.result_if_done(Step.SELECT, SelectResult)
    if selected is None:
        return
    fates = Fates(context.directory, answered, is_over=True)
    yield from noise_sections(context.directory, fates)
    yield _left_out(selected, context.result_if_done(Step.TRAIN, TrainingResult))
    yield from pieces_section(context.directory, fates)


def noise_sections(directory: RunDirectory, fates: Fates) -> Iterator[Section]:
    """The feedback that looks wrong, gravest first, and what to do about it; nothing where none does."""
    found = sorted(fates.noise, key=lambda key: fates.noise[key].finding.factor)
    if not found:
        return
    shown = found[:SHOWN_NOISE]
    prompts = {event.key: event.input_data for event in frozen_events(directory) if event.key in shown}
    more = f", of which these {SHOWN_NOISE} look worst" if len(found) > SHOWN_NOISE else ""
    yield Section(
        title=NOISE,
        sentences=(
            f"{counted(len(found), 'piece')} of your feedback may be wrong or overtaken{more}.",
            "`nightschool explain EVENT` tells more of each. Withdraw what is wrong (`deleted` in its metadata); what "
            "is right counts in full again with the tag `confirmed` in its metadata.",
        ),
        points=tuple(f"`{one_line(key)}` (`{one_line(prompts[key], 80)}`): {fates.suspicion(key)}" for key in shown),
    )


def _left_out(selected: SelectResult, trained: TrainingResult | None) -> Section:
    learned = frozenset(selected.learned_from(trained) if trained is not None else ())
    reasons = Counter(one.reason for one in selected.left_out if one.event_id not in learned)
    return Section(
        title=LEFT_OUT,
        sentences=() if reasons else ("Nothing was left out.",),
        points=tuple(f"{counted(count, 'piece')} of feedback: {reason}" for reason, count in reasons.most_common()),
    )


def _next(context: StepContext) -> Iterator[Section]:
    concluded = context.result(Step.CONCLUDE, ConcludeResult)
    alias = names.alias_of(context.info.specialty)
    prepared = context.result_if_done(Step.PREPARE, PrepareResult)
    if concluded.end is RunEnd.PROMOTED and prepared is not None:
        probation = Probation(settings=context.settings, ledger=context.ledger, hooks=context.hooks)
        unwatched = probation.unwatched(context.info.specialty, context.clock())
        yield in_use_section(alias, prepared.undo_tag, unwatched)
    elif concluded.end is RunEnd.WAITING:
        yield Section(
            title=TO_DO,
            points=(
                f"Try the candidate: `ollama run {concluded.version}`",
                f"Put it into use: `nightschool approve {alias}`",
            ),
        )
    elif concluded.in_use_again is not None:
        yield Section(title=TO_DO, sentences=(f"Nothing: {alias} answers as {concluded.in_use_again} again.",))
    elif concluded.end is not RunEnd.ROLLED_BACK:
        yield Section(
            title=TO_DO, sentences=("Nothing needs to be undone: what was in use before the night still is.",)
        )


def in_use_section(alias: str, before: str, unwatched: str | None) -> Section:
    """How to use what an alias holds, what an undo puts back, and why that is not done by itself where it is not."""
    return Section(
        title="How to use it, and how to undo it",
        points=(
            f"Call it: `ollama run {alias}`",
            f"Undo it: `nightschool undo {alias}` puts {before} back within a second",
            *([unwatched] if unwatched is not None else []),
        ),
    )


# --------------------------------------------------------------------------- technical figures


def _verdict_figures(verdict: Verdict | None, concluded: ConcludeResult) -> Section | None:
    if verdict is None:
        return None
    low, high = verdict.interval
    levels = f"Score before {verdict.incumbent_mean:.1f}, after {verdict.candidate_mean:.1f} (0 to 100), on "
    points = [
        f"{concluded.reason}",
        f"{levels if verdict.tells_levels else 'By '}{verdict.items} prompts that were not learned from",
        f"Gain {verdict.gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, p = {verdict.p_value:.4f}",
        f"The same model asked twice differs by {verdict.noise:.1f} points",
        f"Evidence since the last promotion: {_e_value(verdict.log_e_value)}, and {_e_value(verdict.log_e_needed)} "
        f"is proof; {len(verdict.counted)} prompts were new to it",
        *(f"{guard.guard}: {guard_word(guard)}. {guard.reason}" for guard in verdict.guards),
    ]
    return Section(title="Judgement", points=tuple(points))


def _e_value(logarithm: float) -> str:
    """An e-value in a few digits; a product of many nights may be too large or too small to print in full."""
    return f"{math.exp(logarithm):.3g}" if abs(logarithm) < math.log(1e6) else f"10^{logarithm / math.log(10):.0f}"


def _training_figures(context: StepContext) -> Section | None:
    selected = context.result_if_done(Step.SELECT, SelectResult)
    if selected is None:
        return None
    points = [
        f"{selected.items} events were held out for the exam, and {selected.pairs} pairs of answers; "
        f"{selected.guard_items} that were liked or disliked guard against getting worse"
    ]
    crossfitted = context.result_if_done(Step.CROSSFIT, CrossfitResult)
    if crossfitted is not None and crossfitted.folds:
        points.append(
            f"Cross-fitting: {selected.folded} more, and {selected.folded_pairs} pairs, in {crossfitted.folds} folds, "
            f"of which {crossfitted.examined} were examined before the exam was decided; their trial candidates "
            f"trained for {crossfitted.seconds:.0f} s"
        )
    trained = context.result_if_done(Step.TRAIN, TrainingResult)
    if trained is not None:
        *_, last = trained.methods
        unit = "nats per answer token" if last is TrainingMethod.SFT else f"by {last.upper()}"
        events = len(selected.learned_from(trained))
        points += [
            f"From {events} events: {', then '.join(LEARNED_BY[one] for one in trained.methods)}",
            *_replayed_figures(selected, trained),
            *_starters_figure(selected, trained),
            f"{trained.steps} steps over {trained.tokens} tokens in {trained.seconds:.0f} s; "
            f"loss {trained.base_loss:.3f} before, {trained.trained_loss:.3f} after ({unit})",
        ]
        if selected.sampled and TrainingMethod.DPO in trained.methods:
            points.append(
                f"{selected.material.pairs} pairs, of which {selected.sampled} are among answers that the model in use "
                "was asked for"
            )
        if trained.epoch_losses:
            losses = ", ".join(f"{one:.3f}" for one in trained.epoch_losses)
            epoch = f", of epoch {trained.taken_epoch}" if trained.taken_epoch is not None else ""
            points.append(f"Loss after each epoch: {losses}; the one that was taken: {trained.trained_loss:.3f}{epoch}")
        stretches = context.directory.stretches()
        if stretches:
            points.append(f"Curriculum: {'; '.join(_stages(stretches))}")
        if trained.plan:
            points.append(f"Planned beforehand: {trained.plan}")
        if trained.not_learned:
            points.append(trained.not_learned)
        if trained.search is not None:
            points.append(_search_figure(trained.search))
    return Section(title="Training", points=tuple(points))


def _search_figure(search: HyperparameterSearch) -> str:
    """What a search for hyperparameters found and took; of one in an earlier run, what it found."""
    took = f" It learned from {search.tokens} tokens in {duration(search.seconds)}." if search.trials else ""
    return f"{search.reason}{took}"


def _stages(stretches: Iterable[StretchMark]) -> Iterator[str]:
    """Each stage of a curriculum: why it began, what it saw for the first time, and the loss behind it."""
    for stage, marks in itertools.groupby(stretches, key=lambda one: one.stage):
        found = list(marks)
        first, last = found[0], found[-1]
        epochs = f"epoch {first.epoch}" if first.epoch == last.epoch else f"epochs {first.epoch} to {last.epoch}"
        new = sum(len(one.first_seen) for one in found)
        reason = f" (as {first.reason})" if first.reason else ""
        yield (
            f"`{stage}`{reason} in {epochs}, {sum(one.examples for one in found)} examples, new events: {new}, "
            f"loss {last.watched_loss:.3f}"
        )


def _replayed_figures(selected: SelectResult, trained: TrainingResult) -> Iterator[str]:
    replayed = selected.replayed
    if replayed.count and TrainingMethod.SFT in trained.methods:
        yield (
            f"Replayed: {counted(len(replayed.events), 'earlier correction')} and "
            f"{counted(replayed.answers, 'answer')} of the base's own, {selected.replayed_share:.1%} "
            "of all examples; they are in none of the losses"
        )


def _starters_figure(selected: SelectResult, trained: TrainingResult) -> Iterator[str]:
    if selected.starters and TrainingMethod.SFT in trained.methods:
        yield f"Beside them {counted(selected.starters, 'starter example')}, in none of the losses"


def _delivery_figures(context: StepContext) -> Section | None:
    export = context.result_if_done(Step.EXPORT, ExportResult)
    if export is None:
        return None
    points = [
        f"{export.plan.form.value}: {_cost(export.plan)}. {export.why}",
        *(f"{one.form.value} would have cost {_cost(one)}" for one in export.others),
    ]
    if export.attempts > 1:
        points.append(f"Of {export.attempts} attempts in narrower and wider types the smallest that keeps enough")
    if export.held_in is not None:
        points.append(
            f"Of the lesson {export.held_in.kept:.1%} are left in the written file (loss on what was learned: "
            f"{_losses(export.held_in)})"
        )
    verified = context.result_if_done(Step.VERIFY, VerifyResult)
    if verified is not None:
        points += [
            f"Loss on {_measured_on(verified)}: {_losses(verified.held_out)}",
            f"Served and trained network differ by {verified.disagreement:.4f} nats (median over {verified.pairs} "
            f"token probabilities at {verified.positions} places), base and our own forward pass by "
            f"{verified.noise:.4f}; the lesson moved them by {verified.live:.4f}",
        ]
    return Section(title="Delivery", points=tuple(points))


def _cost(plan: DeliveryPlan) -> str:
    return cost_text(plan.version_bytes, plan.version_bytes, plan.shared_bytes)


def _losses(losses: Losses) -> str:
    three = f"base {losses.base_loss:.3f}, trained {losses.trained_loss:.3f}, delivered {losses.delivered_loss:.3f}"
    return f"{three} {UNITS[losses.kind]}"


def _measured_on(verified: VerifyResult) -> str:
    if verified.held_out_texts:
        return f"{verified.held_out_texts} held-out references"
    return "what was learned, as nothing was held out"
