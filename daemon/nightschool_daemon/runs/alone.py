"""Training by hand: a file of feedback in, a model under a name of the user's choice out. No ledger, no exam.

It takes the same steps as a run, in a state directory of its own that is gone when it ended well; else the same call
goes on there. What a night leaves for later nights has no later here: all of the file is learned from, but for what
losses are taken on, for as long as it takes.
"""

import contextlib
import dataclasses
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.config import Settings, require_state_directory
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.intake.assignment import group_of
from nightschool_daemon.jobs import (
    EventRow,
    ExportResult,
    RunDirectory,
    Step,
    VerifyResult,
    write_durably,
)
from nightschool_daemon.ledger import FILE_NAME, IncomingEvent, Ledger, LedgerError
from nightschool_daemon.locking import StateLock
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.plans import TrainingPlan
from nightschool_daemon.reasons import BY_HAND
from nightschool_daemon.runs import going_on, pipeline, retention
from nightschool_daemon.runs.account import Account, account_of
from nightschool_daemon.runs.aside import Feedback
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import RunRefused, TrainingInterrupted
from nightschool_daemon.runs.listener import RunListener
from nightschool_daemon.runs.plan import plan
from nightschool_daemon.runs.register import version_of_run
from nightschool_daemon.runs.service import Runs
from nightschool_hookspecs.records import (
    Event,
    MethodChoice,
    ParsedFeedback,
    ScoredEvent,
    Specialty,
    TrainingMethod,
    TrainingResult,
)

MANUAL_TYPE = "manual"
"""Of a plan's events; those of a training have one of its own that begins so."""
NAME = "name"
"""In the directory of a training: what its result is to be called."""
KEPT_PREFIX = "adapter-"
"""Of a directory beside that of a training, with what it learned, where that could not be handed over."""
NO_PAIRS = (
    "--method dpo: there is no pair of a better and a worse answer in the file. A `corrected_output` beside the "
    "`ai_output` that it corrects makes one, and so do a liked and a disliked answer to one prompt."
)
NO_THUMBS = (
    "--method kto: there is no answer that was liked or disliked by itself in the file. `success`, "
    "`explicit_positive`, `validation_failure` and `explicit_negative` with an `ai_output` say so."
)
PAIRS_HOOK, LABELS_HOOK = "nightschool_build_preference_pairs", "nightschool_label_answers"
STOPPED_EARLY = "Ended: no model was made, and nothing was learned yet."
STOPPED = "Ended: no model was made. Call it again to go on from the last step that was kept; --anew begins anew."
KEPT = (
    "What was learned so far is kept: once what stood in its way is mended, the same call goes on from there; --anew "
    "begins anew."
)
OTHER_METHOD = "--method sft learns wanted answers, and auto what the file has."
PIECE_BYTES = 1024 * 1024
"""Of files that are compared."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How the loss of a training went."""

    method: TrainingMethod
    losses: tuple[tuple[int, float], ...]
    """Step, counted from 1, and the loss of its batch."""
    watched: tuple[tuple[int, float], ...]
    """Step at an epoch's end, and the loss on the watched slice."""
    is_held: bool
    """Whether that slice was kept out of the updates; else it is some of what was learned from."""


@dataclass(frozen=True, kw_only=True)
class TrainedAlone:
    """What a training by hand made."""

    name: str
    account: Account
    trained: TrainingResult
    curves: tuple[Curve, ...]
    """One for each method."""
    export: ExportResult
    verified: VerifyResult


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a person wants trained by hand."""

    model: str
    feedback: ParsedFeedback
    data_digest: str
    """SHA-256, hex, of the file that it was read from."""
    name: str
    """Of the result."""
    adapter: Path | None = None
    """Where to put what was trained: a new directory."""
    anew: bool = False
    """Remove what an unfinished training of the same left, in place of going on with it."""


def train_alone(
    settings: Settings, order: Order, *, hooks: Hooks, listener: RunListener, now: datetime
) -> TrainedAlone:
    """Train a model on a file and register the result. What was trained is handed over whatever becomes of the model.

    Goes on with what was left of a training on the same base and data, if it was interrupted. What of the settings acts
    behind a training alone may be set otherwise then.
    Raises `RunRefused`, of which `TrainingInterrupted` stands for a `KeyboardInterrupt`, and `OllamaError`.
    """
    ollama = OllamaHttp(settings.ollama)
    base, target = names.normalise(order.model), names.normalise(order.name)
    for sentence in retention.sweep_trainings(settings.state_directory, ollama, now):
        listener.note(target, sentence)
    before = {entry.name: entry.digest for entry in ollama.tags()}
    if target in before:
        # nobody is told how to remove the base
        removal = "" if target == base else f", or remove it with `ollama rm {target}`"
        raise RunRefused(f"{target} is in Ollama already. Choose another --name{removal}.")
    _require_lesson(settings, order.feedback.events, hooks)
    if order.adapter is not None and order.anew:
        # before what was left is removed
        _require_free(order.adapter, None)
    require_state_directory(settings)
    made_of = going_on.made_of(settings, base, before.get(base, ""), order.data_digest)
    note = partial(listener.note, target)
    end = End()
    with _directory(settings.state_directory, made_of, end, anew=order.anew, note=note) as directory:
        _claim(directory, target)
        if order.adapter is not None:
            _require_free(order.adapter, going_on.trained_in(directory))
            _make(order.adapter)
        retention.note_pins(directory, base, before)
        state = dataclasses.replace(settings.state, directory=directory)
        own = dataclasses.replace(of_all(settings, order.feedback.events), state=state)
        ledger = Ledger.open(directory / FILE_NAME)
        specialty = _specialty(base, directory)
        try:
            runs = Runs(settings=own, ledger=ledger, hooks=hooks, ollama=ollama, clock=lambda: now)
            begun = _gone_on_with(runs) or _begin(runs, specialty, order.feedback, now)
            context = runs.context_of(begun, listener)
            made, problem = _learn(context, target, order, end)
        except BaseException:
            # why it ended is what is told; the next sweep does what is left to do
            with contextlib.suppress(LedgerError, OllamaError):
                retention.give_pins_free(directory, base, ollama)
            raise
        else:
            with contextlib.suppress(LedgerError):
                # a ledger that cannot be read may need any pin
                retention.give_pins_free(directory, base, ollama)
        finally:
            ledger.close()
            if order.adapter is not None:
                with contextlib.suppress(OSError):
                    # where nothing was trained it is empty
                    order.adapter.rmdir()
    if problem:
        raise RunRefused(f"{made.name} is made.{problem}")
    return made


def _require_lesson(settings: Settings, events: Sequence[Event], hooks: Hooks) -> None:
    """Raise `RunRefused` where the method finds nothing to learn from, before anything is loaded for it.

    Nobody has scored the events yet, so plugins of others, which may go by that, are not asked. Nor are pairs foreseen
    of what a plugin would have a model answer.
    """
    scored = tuple(
        ScoredEvent(event=event, priority=0.0, reward=0.0, difficulty=0.0, group=group_of(event), trained_on=False)
        for event in events
    )
    method = settings.training.method
    if method is MethodChoice.DPO and hooks.is_built_in(PAIRS_HOOK) and not hooks.samples_answers():
        if not any(hooks.build_preference_pairs(events=scored)):
            raise RunRefused(f"{NO_PAIRS} {OTHER_METHOD}")
    elif method is MethodChoice.KTO and hooks.is_built_in(LABELS_HOOK) and not any(hooks.label_answers(events=scored)):
        raise RunRefused(f"{NO_THUMBS} {OTHER_METHOD}")


@dataclass(kw_only=True)
class End:
    """How far a training by hand came."""

    made: str = ""
    """The name that its result has in Ollama."""

    def interrupted(self, *, is_kept: bool) -> TrainingInterrupted:
        """What Ctrl-C and SIGTERM have it say."""
        if self.made:
            return TrainingInterrupted(f"Ended, but {self.made} is made. What else is left goes with the next call.")
        return TrainingInterrupted(STOPPED if is_kept else STOPPED_EARLY)


@contextlib.contextmanager
def _directory(
    state_directory: Path, made_of: str, end: End, *, anew: bool, note: Callable[[str], None]
) -> Iterator[Path]:
    """Where a training works, locked as long: what one that was made of the same left, else a new one.

    `note` hears which it is, and why not the former where one was left on the same base and data. It is gone when the
    training ended well. Whoever finds one without its lock knows that it did not: retention.sweep_trainings.
    """
    with going_on.comings_and_goings(state_directory):
        found = _left(state_directory, made_of, anew=anew)
        if found is None and not anew:
            for sentence in going_on.why_not(retention.trainings_in(state_directory), made_of):
                note(sentence)
        directory, lock = found or _new(state_directory, made_of)
    if found is not None:
        note(f"It goes on with what was left in {directory}; --anew begins anew.")
    try:
        yield directory
    except BaseException as error:
        with going_on.comings_and_goings(state_directory):
            is_kept = going_on.leave(directory, is_owing=retention.is_owing(directory))
        if isinstance(error, KeyboardInterrupt):
            raise end.interrupted(is_kept=is_kept) from None
        if is_kept:
            note(KEPT)
        raise
    else:
        try:
            with going_on.comings_and_goings(state_directory):
                going_on.remove(directory)
        except KeyboardInterrupt:
            raise end.interrupted(is_kept=False) from None
    finally:
        lock.release()


def _left(state_directory: Path, made_of: str, *, anew: bool) -> tuple[Path, StateLock] | None:
    """What a training that was made of the same left; where it is to begin anew nothing of it stays."""
    while found := going_on.taken_up(retention.trainings_in(state_directory), made_of):
        if not anew:
            return found
        directory, lock = found
        going_on.remove(directory)
        lock.release()
    return None


def _new(state_directory: Path, made_of: str) -> tuple[Path, StateLock]:
    directory = Path(tempfile.mkdtemp(prefix=retention.MANUAL_PREFIX, dir=state_directory))
    lock = StateLock.take(directory)
    (directory / going_on.MADE_OF).write_text(made_of, encoding="utf-8")
    # the caches stay where they are: only the ledger and the run are this training's
    (directory / "cache").symlink_to(_cache(state_directory), target_is_directory=True)
    return directory, lock


def _begin(runs: Runs, specialty: Specialty, feedback: ParsedFeedback, now: datetime) -> str:
    runs.ledger.events.add([_incoming(event, specialty, now) for event in feedback.events])
    return runs.start(specialty, BY_HAND, now)


def _gone_on_with(runs: Runs) -> str | None:
    """The run that was left, by the settings of now: of those that act behind the training some may be others."""
    begun = next(iter(runs.unfinished()), None)
    row = runs.ledger.runs.get(begun) if begun is not None else None
    if row is not None:
        write_durably(RunDirectory(path=row.directory).settings, codec.to_json(runs.settings))
    return begun


def _specialty(base: str, directory: Path) -> Specialty:
    """Nobody else's: two trainings on one base would give their candidates the same tag, until both are in Ollama."""
    return Specialty(base=base, artifact_type=f"{MANUAL_TYPE}-{directory.name.removeprefix(retention.MANUAL_PREFIX)}")


def _claim(directory: Path, target: str) -> None:
    """Write down what a training in this locked directory makes. Raises `RunRefused` where another one makes it.

    Of two that begin at the same time at least one sees what the other wrote.
    """
    (directory / NAME).write_text(target, encoding="utf-8")
    if any(_made_in(other) == target for other in retention.trainings_beside(directory)):
        raise RunRefused(
            f"Another `nightschool train` makes {target} at present. Choose another --name, or wait for its end."
        )


def _made_in(directory: Path) -> str | None:
    """What a training makes; None where it has not begun, or ended a moment ago."""
    with contextlib.suppress(FileNotFoundError):
        return (directory / NAME).read_text(encoding="utf-8")
    return None


def plan_alone(settings: Settings, *, model: str, events: Sequence[Event] | None, now: datetime) -> TrainingPlan:
    """Say what `train_alone` would take on these events; without events, by assumption.

    Raises `RunRefused` and `OllamaError`.
    """
    base = names.normalise(model)
    specialty = Specialty(base=base, artifact_type=MANUAL_TYPE)
    feedback = None if events is None else Feedback(rows=_rows(events, specialty), store={})
    ollama = OllamaHttp(settings.ollama)
    try:
        return plan(of_all(settings, events or ()), ollama, specialty, base, feedback, now, BY_HAND)
    finally:
        ollama.close()


def of_all(settings: Settings, events: Sequence[Event]) -> Settings:
    """Settings by which no night's budget leaves any of the events out, and no night's end stops the training."""
    count = max(1, len(events))
    return dataclasses.replace(
        settings,
        training=dataclasses.replace(
            settings.training, max_events=count, max_tokens=sys.maxsize, time_limit_minutes=float(sys.maxsize)
        ),
        similarity=dataclasses.replace(settings.similarity, max_near_duplicates=count),
    )


def _rows(events: Sequence[Event], specialty: Specialty) -> list[EventRow]:
    """Events as a new ledger would have them."""
    typed = [_typed(event, specialty) for event in events]
    return [
        EventRow(event=event, group=group_of(event), side=None, trained_on=False, arrival=number)
        for number, event in enumerate(typed)
    ]


def _require_free(adapter: Path, trained: Path | None) -> None:
    """Raise `RunRefused` where something is there but what was trained, as far as it was handed over before."""
    is_empty = not adapter.exists() or (adapter.is_dir() and not any(adapter.iterdir()))
    if not (is_empty or (trained is not None and adapter.is_dir() and _is_copy(adapter, trained))):
        raise RunRefused(f"--adapter: {adapter} is there already. Choose another directory.")


def _is_copy(directory: Path, original: Path) -> bool:
    """Whether all that a directory holds is in the original too; whoever copied it may not have come to the end."""
    return all(_begins(one, original / one.name) for one in directory.iterdir())


def _begins(file: Path, original: Path) -> bool:
    """Whether a file is the other one, or its beginning."""
    if not (file.is_file() and original.is_file()):
        return False
    with file.open("rb") as copied, original.open("rb") as whole:
        return all(piece == whole.read(len(piece)) for piece in iter(partial(copied.read, PIECE_BYTES), b""))


def _make(adapter: Path) -> None:
    """Before hours of training, not behind them."""
    try:
        adapter.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunRefused(f"--adapter: {adapter} cannot be made: {error.strerror}. Choose another directory.") from error


def _learn(context: StepContext, target: str, order: Order, end: End) -> tuple[TrainedAlone, str]:
    """What was made, and what went wrong though it was made."""
    problem = where = ""
    try:
        try:
            ending = pipeline.learn_only(context)
        finally:
            if order.adapter is not None:
                where, problem = _handed_over(context, order.adapter)
        if ending is not None:
            raise RunRefused(f"{ending.reason}{where}{problem}")
        version = version_of_run(context)
        if version is None:
            raise RunRefused("The training left no version. Run it again.")
        made = end.made = _named(context.ollama, version.tag, target)
        if problem:
            problem += f" It is in {_kept(context)}."
        if made != target:
            problem = f" {target} came into Ollama while it was trained, and was left as it is.{problem}"
        trained = context.result(Step.TRAIN, TrainingResult)
        result = TrainedAlone(
            name=made,
            account=account_of(context.directory, order.feedback),
            trained=trained,
            curves=curves_of(context.directory.step(Step.TRAIN), trained.methods),
            export=context.result(Step.EXPORT, ExportResult),
            verified=context.result(Step.VERIFY, VerifyResult),
        )
        return result, problem
    finally:
        version = version_of_run(context)
        if version is not None:
            retention.delete_if_ours(context.ollama, version)


def _named(ollama: OllamaHttp, tag: str, target: str) -> str:
    """Call a version as was asked for, or where that became somebody's name meanwhile, as much like it as is free."""
    taken = {entry.name for entry in ollama.tags()}
    names_like_it = itertools.chain([target], (f"{target}-{number}" for number in itertools.count(2)))
    free = next(name for name in names_like_it if name not in taken)
    ollama.copy(tag, free)
    return free


def _kept(context: StepContext) -> Path:
    """Take what was trained out of this training's directory, which goes away, and put it beside that."""
    own = context.settings.state_directory
    place = own.with_name(f"{KEPT_PREFIX}{own.name.removeprefix(retention.MANUAL_PREFIX)}")
    return context.result(Step.TRAIN, TrainingResult).adapter.rename(place)


def _handed_over(context: StepContext, adapter: Path) -> tuple[str, str]:
    """Copy what was trained to its place. Says where it is, or why it is not; neither where nothing was trained."""
    trained = context.result_if_done(Step.TRAIN, TrainingResult)
    if trained is None:
        return "", ""
    try:
        # contents alone: safetensors writes files that nobody else may read, and the directory is a person's
        adapter.mkdir(exist_ok=True)
        for file in trained.adapter.iterdir():
            shutil.copyfile(file, adapter / file.name)
    except OSError as error:
        return "", f" What was trained could not be copied to {adapter}: {error}."
    return f" What was trained is in {adapter}.", ""


def curves_of(directory: Path, methods: Sequence[TrainingMethod]) -> tuple[Curve, ...]:
    """Read `metrics.jsonl` of a training, and of one that it went on from in a directory within."""
    files = (*sorted(directory.glob("*/metrics.jsonl")), *directory.glob("metrics.jsonl"))
    return tuple(_curve(method, file) for method, file in zip(methods, files, strict=False))


def _curve(method: TrainingMethod, file: Path) -> Curve:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return Curve(
        method=method,
        losses=tuple((one["step"], one["loss"]) for one in lines if "loss" in one),
        watched=tuple((one["step"], one["watched_loss"]) for one in lines if "watched_loss" in one),
        is_held=any(one.get("held", False) for one in lines),
    )


def _cache(state_directory: Path) -> Path:
    cache = state_directory / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _incoming(event: Event, specialty: Specialty, now: datetime) -> IncomingEvent:
    typed = _typed(event, specialty)
    return IncomingEvent(event=typed, base=specialty.base, answered_by=None, group=group_of(typed), arrived_at=now)


def _typed(event: Event, specialty: Specialty) -> Event:
    return dataclasses.replace(event, artifact_type=specialty.artifact_type, model=specialty.base)
