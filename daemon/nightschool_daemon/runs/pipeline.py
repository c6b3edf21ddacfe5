"""Takes a run through its steps, and through them again after a crash.

A step counts as done when the ledger says so and its output has the recorded digest. A step that was
half made is cleared away and repeated; a step whose result was written but not yet recorded is only
recorded. The last two steps are always taken, whatever happened before.
"""

import hashlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.evaluation.decision import items_needed
from nightschool_daemon.hooks import PluginFailed
from nightschool_daemon.jobs import (
    JudgeResult,
    PrepareResult,
    SelectResult,
    SplitResult,
    Step,
    VerifyResult,
    write_durably,
)
from nightschool_daemon.ledger import LedgerError, StepState
from nightschool_daemon.ollama.errors import OllamaError, OllamaUnreachable
from nightschool_daemon.reasons import REBUILD
from nightschool_daemon.runs import (
    conclude,
    crossfit,
    examine,
    going_on,
    prepare,
    rank,
    rebuild,
    register,
    report,
    retention,
    split,
    store,
)
from nightschool_daemon.runs.conclude import Ending, decide
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import RunCancelled, RunInterrupted, StepFailed
from nightschool_daemon.runs.room import run_with_room
from nightschool_daemon.runs.worker_process import run_worker
from nightschool_hookspecs.records import Recipe, RunEnd, RunReport

logger = logging.getLogger(__name__)

ENDING = "ending.json"
"""In the directory of a run, once it is decided how it ends."""
SERVER_WAIT_S = 600.0
"""How long a run waits for an Ollama that went away. A service manager brings it back within seconds."""
SERVER_POLL_S = 1.0

WORK: tuple[Step, ...] = tuple(step for step in Step if step not in (Step.CONCLUDE, Step.REPORT))
WORK_OF: Mapping[Recipe, tuple[Step, ...]] = {
    Recipe.TRAINING: WORK,
    # nothing is trained, so there is nothing to write, and no network of ours to compare with what is served
    Recipe.EXAMPLES: tuple(step for step in WORK if step not in (Step.TRAIN, Step.EXPORT, Step.VERIFY)),
}


UP_TO_TRAINING = frozenset({Step.PREPARE, Step.SPLIT, Step.SELECT, Step.TRAIN})

PERFORM: Mapping[Step, Callable[[StepContext], None]] = {
    Step.PREPARE: prepare.perform,
    Step.SPLIT: partial(run_worker, step=Step.SPLIT),
    Step.SELECT: partial(run_worker, step=Step.SELECT),
    Step.TRAIN: rebuild.train_or_reuse,
    Step.EXPORT: partial(run_with_room, step=Step.EXPORT),
    Step.REGISTER: register.perform,
    Step.VERIFY: partial(run_with_room, step=Step.VERIFY),
    Step.CROSSFIT: crossfit.perform,
    Step.RANK: rank.perform,
    Step.EXAMINE: partial(run_worker, step=Step.EXAMINE),
    Step.JUDGE: partial(run_worker, step=Step.JUDGE),
}

ACCEPT: Mapping[Step, Callable[[StepContext], None]] = {
    Step.SPLIT: split.accept,
    Step.SELECT: partial(store.accept, step=Step.SELECT),
    Step.TRAIN: partial(store.accept, step=Step.TRAIN),
    Step.VERIFY: register.accept_verified,
    Step.EXAMINE: examine.accept,
    Step.JUDGE: examine.accept_verdict,
}
"""What the daemon does with a finished step's result before it is recorded as done. Idempotent."""


def execute(context: StepContext) -> RunReport:
    """Take the run to its end and return how it ended.

    Raises `RunInterrupted` where the service stops: the run goes on at the next start.
    """
    context.hooks.before_run(run=context.info)
    ending = _recorded_ending(context)
    if ending is None:
        ending = _work(context)
        _record_ending(context, ending)
    _finish(context, Step.CONCLUDE, partial(conclude.perform, context, ending))
    _finish(context, Step.REPORT, partial(report.perform, context))
    result = report.report_of(context)
    context.ledger.runs.finish(context.info.id, result.end, result.reason, context.clock())
    context.hooks.after_run(report=result)
    return result


def learn_only(context: StepContext) -> Ending | None:
    """Take the steps up to the verification, without an exam. None: all went well."""
    return _take_all(context, WORK[: WORK.index(Step.VERIFY) + 1], examined=False)


def _work(context: StepContext) -> Ending:
    """Take the steps up to the verdict. Their failures are endings."""
    early = _take_all(context, WORK_OF[context.info.recipe], examined=True)
    if early is not None:
        return early
    judged = context.result(Step.JUDGE, JudgeResult)
    return decide(judged.verdict, context.settings.promotion.promote, context.info.reason, judged.of_incumbent)


def _take_all(context: StepContext, steps: tuple[Step, ...], *, examined: bool) -> Ending | None:
    for step in steps:
        try:
            _take(context, step, partial(_perform, context, step))
        except RunCancelled:
            context.ledger.runs.fail_step(context.info.id, step, "cancelled", context.clock())
            return Ending(end=RunEnd.CANCELLED, reason=f"The run was cancelled at the step '{step}'.")
        except (RunInterrupted, LedgerError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke, it is this run that ends
            reason = _sentence(context, step, error)
            context.ledger.runs.fail_step(context.info.id, step, reason, context.clock())
            return Ending(end=RunEnd.FAILED, reason=reason)
        if (early := _early_ending(context, step, examined=examined)) is not None:
            return early
    return None


def _perform(context: StepContext, step: Step) -> None:
    if step is not Step.PREPARE:
        # a training takes hours, and others may have pins removed meanwhile
        retention.keep_pinned(context)
    PERFORM[step](context)


def _sentence(context: StepContext, step: Step, error: Exception) -> str:
    if isinstance(error, StepFailed) and error.plugin is not None:
        context.hooks.record_failure(error.plugin.name, error.plugin.content_digest, str(error))
    if isinstance(error, StepFailed | OllamaError | PluginFailed | OSError):
        return f"{step}: {error}"
    logger.error("The step %s of run %s broke", step, context.info.id, exc_info=error)
    return f"{step}: {type(error).__name__}: {error}. This is a fault of Night School's; its log has more."


def _early_ending(context: StepContext, step: Step, *, examined: bool) -> Ending | None:
    """Where it would be a waste to go on."""
    if step is Step.PREPARE and context.result(step, PrepareResult).events == 0:
        return Ending(end=RunEnd.NOT_ENOUGH, reason="There is no feedback to learn from yet.")
    if step is Step.SELECT:
        selected = context.result(step, SelectResult)
        if not selected.is_learnable(context.info.recipe, context.settings.training.method):
            return Ending(end=RunEnd.NOT_ENOUGH, reason=_why_nothing_is_learned(context, selected))
        if examined and (reason := _too_few_items(context, selected)) is not None:
            return Ending(end=RunEnd.NOT_ENOUGH, reason=reason)
    if step is Step.VERIFY and not (verified := context.result(step, VerifyResult)).passed:
        return Ending(end=RunEnd.FAILED, reason=f"verify: {verified.reason}")
    return None


def _why_nothing_is_learned(context: StepContext, selected: SelectResult) -> str:
    if context.info.recipe is Recipe.EXAMPLES:
        return "No correction is short enough to be shown as an example."
    return (
        f"None of the feedback can be learned from yet ({_why_left_out(selected)}). Corrections and liked answers of "
        "different prompts are what a model learns from."
    )


def _why_left_out(selected: SelectResult) -> str:
    """The reasons with how many events each, the most frequent first."""
    reasons = Counter(one.reason for one in selected.left_out)
    return "; ".join(f"{count} left out: {reason}" for reason, count in reasons.most_common()) or "there is none"


def _too_few_items(context: StepContext, selected: SelectResult) -> str | None:
    """Why an exam is not worth its while. A rebuild is asked what its lesson was, and that is enough."""
    missing = items_needed(context.settings) - selected.counting
    if context.info.reason == REBUILD or missing <= 0:
        return None
    folds = context.result(Step.SPLIT, SplitResult).folds
    return (
        f"Of {selected.counting} prompts nothing could be proven: {items_needed(context.settings)} that "
        "no version in use has learned are needed. About "
        # where there are folds every new prompt is asked, else every second one
        f"{missing if folds else 2 * missing} more corrections of different prompts bring them."
    )


def _take(context: StepContext, step: Step, perform: Callable[[], None]) -> None:
    """Perform a step unless it is done, and record it."""
    identifier = context.info.id
    recorded = _recorded(context, step)
    if recorded is not None:
        if recorded == (input_digest(context, step), context.directory.output_digest(step)):
            return
        context.note(f"{step}: its files, or those it was made from, are not what they were, so it is taken again.")
        shutil.rmtree(context.directory.step(step))
    context.signals.check()
    context.ledger.runs.begin_step(identifier, step, input_digest(context, step), context.clock())
    context.listener.step_began(identifier, step)
    context.hooks.before_step(run=context.info, step=step.value)
    if not context.directory.is_done(step):
        _repeat_while_server_is_away(context, step, perform)
    if step in ACCEPT:
        ACCEPT[step](context)
    context.ledger.runs.finish_step(identifier, step, context.directory.output_digest(step), context.clock())
    context.listener.step_ended(identifier, step)
    context.hooks.after_step(run=context.info, step=step.value)


def _repeat_while_server_is_away(context: StepContext, step: Step, perform: Callable[[], None]) -> None:
    """Perform a step; where Ollama goes away under it, wait until it is back and start the step again."""
    while True:
        context.directory.begin(step)
        try:
            perform()
        except OllamaUnreachable as error:
            context.note(f"{step}: {error} Waiting for it to come back.")
            if not _comes_back(context):
                raise
        else:
            return


def _comes_back(context: StepContext) -> bool:
    """Wait for a server that went away. False: it stayed away for too long."""
    deadline = time.monotonic() + SERVER_WAIT_S
    while time.monotonic() < deadline:
        context.signals.wait(SERVER_POLL_S)
        try:
            context.ollama.version()
        except OllamaUnreachable:
            continue
        return True
    return False


def _finish(context: StepContext, step: Step, perform: Callable[[], None]) -> None:
    """Take one of the last two steps. A cancellation comes too late for them."""
    context.signals.cancelled.clear()
    _take(context, step, perform)


def _recorded(context: StepContext, step: Step) -> tuple[str | None, str | None] | None:
    """Input and output digest with which a finished step is in the ledger; None where it is not over."""
    row = next((one for one in context.ledger.runs.steps(context.info.id) if one.step is step), None)
    if row is None or row.state is not StepState.DONE or not context.directory.is_done(step):
        return None
    return row.input_digest, row.output_digest


def input_digest(context: StepContext, step: Step) -> str:
    """SHA-256 over the settings and the outputs of all earlier steps, hex.

    Up to the training only settings that decide of it count: who goes on by hand may have changed others.
    """
    settings = context.settings
    if step in UP_TO_TRAINING:
        settings = going_on.deciding(settings)
    digest = hashlib.sha256(codec.to_json(settings).encode())
    for earlier in Step:
        if earlier is step:
            break
        if context.directory.is_done(earlier):
            digest.update(context.directory.output_digest(earlier).encode())
    return digest.hexdigest()


def is_decided(run: Path) -> bool:
    """Whether the run in a directory has an ending, and only its last steps are left."""
    return (run / ENDING).is_file()


def _recorded_ending(context: StepContext) -> Ending | None:
    file = context.directory.path / ENDING
    return codec.from_json(file.read_bytes(), Ending) if file.is_file() else None


def _record_ending(context: StepContext, ending: Ending) -> None:
    """From here on the run only ever ends this way, however often it is killed."""
    write_durably(context.directory.path / ENDING, codec.to_json(ending))
