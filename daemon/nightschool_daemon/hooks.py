"""The plugin host: loads plugins, guards them, and gives the daemon one typed method a hook.

Built-ins are registered first, then installed distributions (entry-point group `nightschool`), then
the `*.py` files of the plugin directory: pluggy asks the last registered first, so a user's plugin
overrides a built-in's first result.

The failure policy is here and nowhere else. Each implementation is guarded when it is registered, and
hooks are then called the plain pluggy way, so that order, wrappers and first results stay pluggy's.
An observer (`before_`, `after_`) that raises is logged and the others still run. A decider that raises
ends the call with `PluginFailed`, which fails the job it was asked for and nothing else. Three strikes
disable a plugin of the user's until its file changes; a built-in is never disabled, since without it
the loop would not be whole.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import stat
import subprocess
import sys
import types
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol, cast

import pluggy

from nightschool_daemon import codec
from nightschool_daemon.config import ConfigurationError
from nightschool_hookspecs import (
    augmentation,
    batching,
    curriculum,
    delivery,
    evaluation,
    intake,
    lifecycle,
    preference,
    reward,
    selection,
    similarity,
    training,
    tuning,
)
from nightschool_hookspecs.answers import answer_type, fits
from nightschool_hookspecs.markers import PROJECT
from nightschool_hookspecs.records import (
    AliasMove,
    AnswerScore,
    BaseChange,
    BatchStatistics,
    Budget,
    Chunk,
    DeliveryPlan,
    DeliveryTarget,
    Event,
    Exam,
    ExamItem,
    FeedbackFile,
    GuardResult,
    Hyperparameters,
    InstalledModel,
    ParsedFeedback,
    Peers,
    PreferencePair,
    PromptGroup,
    Refusal,
    RewardScore,
    RunInfo,
    RunReport,
    ScoredEvent,
    SideChoice,
    SimilarityMatrix,
    Specialty,
    TrainingExample,
    TrainingJob,
    TrainingResult,
    Verdict,
)
from nightschool_hookspecs.services import (
    Embed,
    Generate,
    GenerationError,
    Measure,
    Retrieve,
    Store,
    Train,
    TrainingError,
)

logger = logging.getLogger(__name__)

STAGES: tuple[types.ModuleType, ...] = (
    intake,
    reward,
    similarity,
    batching,
    selection,
    curriculum,
    augmentation,
    preference,
    tuning,
    training,
    delivery,
    evaluation,
    lifecycle,
)

BUILT_IN: tuple[str, ...] = (
    "intake_native",
    "intake_quality",
    "intake_classify",
    "context_event",
    "reward_plain",
    "difficulty_length",
    "similarity_edit",
    "batching_threshold",
    "selection_priority",
    "negatives_plain",
    "curriculum_shuffle",
    "augmentation_letters",
    "preference_corrections",
    "tuning_fixed",
    "training_sft",
    "delivery_split",
    "delivery_fused",
    "delivery_adapter",
    "evaluation_split",
    "evaluation_text",
    "evaluation_shell",
    "guard_answers",
    "guard_length",
    "guard_liked",
    "judge_paired",
)
"""Of two that answer the same first-result hook the later is asked first: shell before text."""

BUILT_IN_PACKAGE = "nightschool_plugins"
SETTINGS_HOOK = "nightschool_register_settings"
MAX_STRIKES = 3
ANYTHING: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What a plugin may raise. KeyboardInterrupt and the like are not its own."""
SHOWN = 80
"""Characters of a wrong answer that are shown."""
IMPORT_LIMIT_S = 20.0
IMPORT_MEMORY_BYTES = 4 * 1024**3


Steps = Generator[None, object, object]
"""A wrapper in progress."""


class PluginFailed(Exception):
    """A deciding plugin raised or gave a wrong answer; the job it was asked for has failed."""

    def __init__(self, plugin: str, hook: str, cause: BaseException | str) -> None:
        self.plugin = plugin
        self.hook = hook
        what = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(
            f"the plugin {plugin} failed in {hook} ({what}). Mend it, or add '{plugin}' to plugins.disabled."
        )


NOT_ITS_FAULT: tuple[type[BaseException], ...] = (PluginFailed, GenerationError, TrainingError)
"""Raised by what the daemon handed to the plugin: another plugin, a model, the training engine."""


class WrongAnswer(TypeError):
    """An answer is not what the hook documents."""


class StrikeBook(Protocol):
    """Remembers how often a plugin failed. A changed file starts anew."""

    def strikes(self, name: str, content_digest: str) -> int: ...

    def strike(self, name: str, content_digest: str, reason: str, at: datetime) -> int: ...


class PluginKind(StrEnum):
    """Where a plugin comes from."""

    BUILT_IN = "built-in"
    INSTALLED = "installed"
    FILE = "file"


class PluginState(StrEnum):
    """Whether a plugin is asked."""

    ACTIVE = "active"
    DISABLED = "disabled"
    BROKEN = "broken"


@dataclass(frozen=True, kw_only=True)
class PluginStatus:
    """A plugin as `nightschool plugins` shows it."""

    name: str
    kind: PluginKind
    state: PluginState
    reason: str
    """Why it is disabled or broken; empty where it is active."""
    hooks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A plugin before it is loaded."""

    name: str
    kind: PluginKind
    load: Callable[[], object]
    digest: str
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class _Declared:
    """What a hook's declaration says of its answers."""

    kind: object
    first_result: bool


class Hooks:
    """One method a hook. Keyword arguments are those of the hook's declaration."""

    def __init__(self, manager: pluggy.PluginManager, guard: "_Guard", statuses: dict[str, PluginStatus]) -> None:
        self._manager = manager
        self._hook = manager.hook
        self._guard = guard
        self._statuses = statuses

    @classmethod
    def load(
        cls,
        *,
        plugin_directory: Path | None,
        tables: Mapping[str, Mapping[str, object]],
        disabled: Collection[str] = (),
        strikes: StrikeBook | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        safe_mode: bool = False,
        check_files: bool = True,
        built_in: Sequence[str] = BUILT_IN,
    ) -> "Hooks":
        """Load every plugin and fill its settings from `tables`.

        `safe_mode` leaves out all but the built-ins. `check_files` imports the user's plugins in a
        child process first; a worker leaves that to the daemon. A broken plugin of the user's is reported by
        `status`, the others still work. Raises `ConfigurationError` for a table or key that is unknown,
        and where a built-in cannot be loaded.
        """
        loader = _Loader(tables=tables, disabled=frozenset(disabled), strikes=strikes, clock=clock)
        loader.add([_built_in_source(name) for name in built_in])
        if not safe_mode:
            loader.add(_installed_sources(check=check_files))
            loader.add(_file_sources(plugin_directory, check=check_files))
        loader.refuse_unknown_names(safe_mode=safe_mode)
        return cls(loader.manager, loader.guard, loader.statuses)

    @property
    def manager(self) -> pluggy.PluginManager:
        """The pluggy manager, for call monitoring and tests."""
        return self._manager

    def status(self) -> tuple[PluginStatus, ...]:
        """Every plugin with its state, in the order of loading."""
        return tuple(self._with_strikes(one) for one in self._statuses.values())

    def record_failure(self, plugin: str, reason: str) -> None:
        """Count a strike for a failure that a worker reported."""
        self._guard.strike(plugin, reason)

    def _with_strikes(self, status: PluginStatus) -> PluginStatus:
        reason = self._guard.struck_out.get(status.name)
        if reason is None:
            return status
        return PluginStatus(
            name=status.name, kind=status.kind, state=PluginState.DISABLED, reason=reason, hooks=status.hooks
        )

    # ----------------------------------------------------------------------- intake

    def parse_feedback(self, *, file: FeedbackFile) -> ParsedFeedback | None:
        return cast(ParsedFeedback | None, self._hook.nightschool_parse_feedback(file=file))

    def classify_event(self, *, event: Event) -> str:
        return cast(str | None, self._hook.nightschool_classify_event(event=event)) or "other"

    def validate_event(self, *, event: Event) -> tuple[Refusal, ...]:
        return tuple(self._hook.nightschool_validate_event(event=event))

    def retrieve_context(self, *, event: Event, query: str, retrieve: Retrieve) -> tuple[Chunk, ...]:
        answer = self._hook.nightschool_retrieve_context(event=event, query=query, retrieve=retrieve)
        return event.context.chunks if answer is None else cast(tuple[Chunk, ...], answer)

    def after_event_accepted(self, *, event: Event) -> None:
        self._hook.nightschool_after_event_accepted(event=event)

    # ----------------------------------------------------------------------- what to learn

    def score_reward(self, *, event: Event, difficulty: float, peers: Peers, now: datetime) -> RewardScore:
        answer = self._hook.nightschool_score_reward(event=event, difficulty=difficulty, peers=peers, now=now)
        return RewardScore(priority=0.0, reward=0.0) if answer is None else cast(RewardScore, answer)

    def measure_similarity(
        self, *, left: Sequence[str], right: Sequence[str], embed: Embed
    ) -> tuple[SimilarityMatrix, ...]:
        return tuple(self._hook.nightschool_measure_similarity(left=left, right=right, embed=embed))

    def choose_batch_size(self, *, specialty: Specialty, statistics: BatchStatistics) -> int:
        answer = self._hook.nightschool_choose_batch_size(specialty=specialty, statistics=statistics)
        return cast(int | None, answer) or 0

    def select_events(
        self, *, events: tuple[ScoredEvent, ...], budget: Budget, measure: Measure, seed: int
    ) -> tuple[str, ...]:
        answer = self._hook.nightschool_select_events(events=events, budget=budget, measure=measure, seed=seed)
        return cast(tuple[str, ...] | None, answer) or ()

    def select_negatives(
        self, *, events: tuple[ScoredEvent, ...], measure: Measure, seed: int
    ) -> tuple[tuple[str, float], ...]:
        answer = self._hook.nightschool_select_negatives(events=events, measure=measure, seed=seed)
        return cast(tuple[tuple[str, float], ...] | None, answer) or ()

    def score_difficulty(self, *, event: Event) -> float:
        answer = cast(float | None, self._hook.nightschool_score_difficulty(event=event))
        return 0.5 if answer is None else answer

    def arrange_examples(
        self, *, examples: tuple[TrainingExample, ...], store: Store, seed: int
    ) -> tuple[TrainingExample, ...]:
        answer = self._hook.nightschool_arrange_examples(examples=examples, store=store, seed=seed)
        return examples if answer is None else cast(tuple[TrainingExample, ...], answer)

    def augment_examples(
        self, *, examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
    ) -> tuple[tuple[TrainingExample, ...], ...]:
        return tuple(
            self._hook.nightschool_augment_examples(examples=examples, generate=generate, measure=measure, seed=seed)
        )

    def build_preference_pairs(self, *, events: tuple[ScoredEvent, ...]) -> tuple[tuple[PreferencePair, ...], ...]:
        return tuple(self._hook.nightschool_build_preference_pairs(events=events))

    def suggest_hyperparameters(
        self, *, specialty: Specialty, examples: int, store: Store, seed: int
    ) -> Hyperparameters:
        answer = self._hook.nightschool_suggest_hyperparameters(
            specialty=specialty, examples=examples, store=store, seed=seed
        )
        return cast(Hyperparameters | None, answer) or Hyperparameters()

    # ----------------------------------------------------------------------- training and delivery

    def build_example(self, *, event: ScoredEvent, chunks: tuple[Chunk, ...]) -> TrainingExample | None:
        return cast(TrainingExample | None, self._hook.nightschool_build_example(event=event, chunks=chunks))

    def train_adapter(self, *, job: TrainingJob, train: Train) -> TrainingResult | None:
        return cast(TrainingResult | None, self._hook.nightschool_train_adapter(job=job, train=train))

    def choose_delivery(self, *, target: DeliveryTarget) -> tuple[DeliveryPlan, ...]:
        return tuple(self._hook.nightschool_choose_delivery(target=target))

    # ----------------------------------------------------------------------- exams

    def select_held_out(self, *, groups: tuple[PromptGroup, ...], seed: int) -> tuple[SideChoice, ...]:
        answer = self._hook.nightschool_select_held_out(groups=groups, seed=seed)
        return cast(tuple[SideChoice, ...] | None, answer) or ()

    def validate_answer(self, *, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        score = self._hook.nightschool_validate_answer(item=item, answer=answer, measure=measure)
        return cast(AnswerScore | None, score)

    def guard_promotion(self, *, exam: Exam) -> tuple[GuardResult, ...]:
        return tuple(self._hook.nightschool_guard_promotion(exam=exam))

    def judge_exam(self, *, exam: Exam, guards: tuple[GuardResult, ...], seed: int) -> Verdict | None:
        return cast(Verdict | None, self._hook.nightschool_judge_exam(exam=exam, guards=guards, seed=seed))

    # ----------------------------------------------------------------------- observers

    def before_run(self, *, run: RunInfo) -> None:
        self._hook.nightschool_before_run(run=run)

    def before_step(self, *, run: RunInfo, step: str) -> None:
        self._hook.nightschool_before_step(run=run, step=step)

    def after_step(self, *, run: RunInfo, step: str) -> None:
        self._hook.nightschool_after_step(run=run, step=step)

    def after_run(self, *, report: RunReport) -> None:
        self._hook.nightschool_after_run(report=report)

    def after_move(self, *, move: AliasMove) -> None:
        self._hook.nightschool_after_move(move=move)

    def after_base_change(self, *, change: BaseChange, model: InstalledModel) -> None:
        self._hook.nightschool_after_base_change(change=change, model=model)


class _Loader:
    """Turns sources into registered, guarded plugins."""

    def __init__(
        self,
        *,
        tables: Mapping[str, Mapping[str, object]],
        disabled: frozenset[str],
        strikes: StrikeBook | None,
        clock: Callable[[], datetime],
    ) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        for stage in STAGES:
            self.manager.add_hookspecs(stage)
        self.guard = _Guard(self.manager, strikes, clock)
        self.statuses: dict[str, PluginStatus] = {}
        self._tables = tables
        self._disabled = disabled

    def add(self, sources: Sequence[_Source]) -> None:
        """Load sources in order. A built-in that breaks is our fault and raises."""
        for source in sources:
            self._add_one(source)

    def refuse_unknown_names(self, *, safe_mode: bool) -> None:
        """Raise for a `[plugins.<name>]` or a disabled name that is nobody's. In safe mode the user's are not known."""
        if safe_mode:
            return
        for path, names in (("plugins.{}", self._tables), ("plugins.disabled: {}", sorted(self._disabled))):
            for name in names:
                if name not in self.statuses:
                    hint = codec.unknown_key(name, list(self.statuses)).removeprefix("unknown key; ")
                    raise ConfigurationError(f"{path.format(name)}: no plugin has this name; {hint}")

    def _add_one(self, source: _Source) -> None:
        if source.name in self.statuses:
            self._note(source, PluginState.BROKEN, "another plugin has this name; rename one of them", suffix=True)
            return
        if source.name in self._disabled:
            self.manager.set_blocked(source.name)
            self._note(source, PluginState.DISABLED, "switched off by plugins.disabled")
            return
        self.guard.digests[source.name] = source.digest
        if source.kind is not PluginKind.BUILT_IN and self.guard.is_struck_out(source.name):
            self._note(source, PluginState.DISABLED, f"failed {MAX_STRIKES} times; it is asked again when it changes")
            return
        if source.kind is PluginKind.BUILT_IN:
            self.guard.built_in.add(source.name)
            self._register(source)
            return
        try:
            self._register(source)
        except ConfigurationError:
            raise
        except ANYTHING as error:
            logger.warning("The plugin %s cannot be loaded: %s", source.name, error)
            self._note(source, PluginState.BROKEN, f"{type(error).__name__}: {error}")

    def _register(self, source: _Source) -> None:
        module = source.load()
        _refuse_unmarked(module)
        plugin = _with_settings(self.manager, module, self._tables.get(source.name), source.name)
        self.manager.register(plugin, name=source.name)
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError:
            self.manager.unregister(plugin)
            raise
        self.guard.protect(plugin, source.name)
        self._note(source, PluginState.ACTIVE, "")

    def _note(self, source: _Source, state: PluginState, reason: str, *, suffix: bool = False) -> None:
        plugin = self.manager.get_plugin(source.name) if state is PluginState.ACTIVE else None
        callers = (self.manager.get_hookcallers(plugin) or []) if plugin is not None else []
        key = f"{source.name} ({source.file or source.kind})" if suffix else source.name
        self.statuses[key] = PluginStatus(
            name=key, kind=source.kind, state=state, reason=reason, hooks=tuple(sorted(one.name for one in callers))
        )


class _Guard:
    """Wraps implementations so that one plugin's failure stays its own."""

    def __init__(self, manager: pluggy.PluginManager, book: StrikeBook | None, clock: Callable[[], datetime]) -> None:
        self._manager = manager
        self._book = book
        self._clock = clock
        self.digests: dict[str, str] = {}
        self.built_in: set[str] = set()
        self.struck_out: dict[str, str] = {}

    def protect(self, plugin: object, name: str) -> None:
        """Guard every implementation of a plugin that was just registered."""
        for caller in self._manager.get_hookcallers(plugin) or []:
            returns = _declared(caller)
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    guarded = self._guarded(implementation, name, caller.name, returns)
                    # pluggy declares the attribute final for type checkers; it is read anew at each call
                    object.__setattr__(implementation, "function", guarded)

    def is_struck_out(self, name: str) -> bool:
        """Whether a plugin failed too often since it was last changed."""
        return self._book is not None and self._book.strikes(name, self.digests.get(name, "")) >= MAX_STRIKES

    def strike(self, name: str, reason: str) -> None:
        """Count a failure; the third takes the plugin out."""
        if self._book is None or name in self.built_in:
            return
        count = self._book.strike(name, self.digests.get(name, ""), reason, self._clock())
        if count >= MAX_STRIKES and name not in self.struck_out:
            self.struck_out[name] = f"failed {count} times, last: {reason}; it is asked again when it changes"
            logger.error("The plugin %s is disabled until it changes: it failed %d times.", name, count)
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)

    def _guarded(
        self, implementation: pluggy.HookImpl, name: str, hook: str, returns: _Declared
    ) -> Callable[..., object]:
        function = implementation.function
        if implementation.hookwrapper:
            return self._guarded_old_wrapper(cast(Callable[..., Steps], function), name, hook, returns)
        if implementation.wrapper:
            return self._guarded_wrapper(cast(Callable[..., Steps], function), name, hook, returns)

        def call(*arguments: object, **named: object) -> object:
            try:
                answer = function(*arguments, **named)
                _check(hook, answer, returns)
            except ANYTHING as error:
                self._fail(name, hook, error)
                return None
            return answer

        return call

    def _guarded_wrapper(
        self, function: Callable[..., Steps], name: str, hook: str, returns: _Declared
    ) -> Callable[..., Steps]:
        def call(*arguments: object, **named: object) -> Steps:
            steps = self._begun(function, arguments, named, name, hook)
            if steps is None:
                return (yield)
            try:
                result = yield
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as inner:  # noqa: BLE001 - handed on to the wrapper, which may answer instead
                return self._thrown(steps, inner, name, hook, returns)
            try:
                answer = _ended(lambda: steps.send(result))
                _check_result(hook, answer, returns)
            except ANYTHING as error:
                self._fail(name, hook, error)
                return result
            return answer

        return call

    def _guarded_old_wrapper(
        self, function: Callable[..., Steps], name: str, hook: str, returns: _Declared
    ) -> Callable[..., Steps]:
        def call(*arguments: object, **named: object) -> Steps:
            steps = self._begun(function, arguments, named, name, hook)
            outcome = yield
            if steps is None:
                return None
            try:
                _ended(lambda: steps.send(outcome))
                if isinstance(outcome, pluggy.Result) and outcome.exception is None:
                    _check_result(hook, outcome.get_result(), returns)
            except ANYTHING as error:
                self._fail(name, hook, error)
            return None

        return call

    def _begun(
        self,
        function: Callable[..., Steps],
        arguments: tuple[object, ...],
        named: dict[str, object],
        name: str,
        hook: str,
    ) -> Steps | None:
        """Run a wrapper up to its yield; None where an observing one failed before it."""
        try:
            steps = function(*arguments, **named)
            next(steps)
        except StopIteration:
            self._fail(name, hook, "the wrapper did not yield")
            return None
        except ANYTHING as error:
            self._fail(name, hook, error)
            return None
        return steps

    def _thrown(self, steps: Steps, inner: BaseException, name: str, hook: str, returns: _Declared) -> object:
        """Let a wrapper see what was raised inside it, as pluggy does: it may replace it by an answer."""
        try:
            answer = _ended(lambda: steps.throw(inner))
            _check_result(hook, answer, returns)
        except ANYTHING as error:
            if error is inner:
                raise
            self._fail(name, hook, error)
            raise inner from error
        return answer

    def _fail(self, name: str, hook: str, cause: BaseException | str) -> None:
        """Apply the policy: an observer's failure is logged, a decider's ends the call."""
        if isinstance(cause, NOT_ITS_FAULT):
            raise cause
        failure = PluginFailed(name, hook, cause)
        error = cause if isinstance(cause, BaseException) else None
        logger.error("%s", failure, exc_info=error)
        self.strike(name, str(failure))
        if not is_observer(hook):
            raise failure from error


def is_observer(hook: str) -> bool:
    """Whether a hook observes, by its verb."""
    return hook.startswith(("nightschool_before_", "nightschool_after_"))


def _ended(advance: Callable[[], object]) -> object:
    """Run a wrapper to its end and return what it makes of the result."""
    try:
        advance()
    except StopIteration as end:
        return end.value
    raise WrongAnswer("the wrapper yielded twice")


def _declared(caller: pluggy.HookCaller) -> _Declared:
    if caller.spec is None:
        return _Declared(kind=object, first_result=False)
    return _Declared(kind=answer_type(caller.spec.function), first_result=bool(caller.spec.opts["firstresult"]))


def _check(hook: str, answer: object, returns: _Declared) -> None:
    """Raise `WrongAnswer` for what the hook's declaration does not allow."""
    if answer is not None and not is_observer(hook) and not fits(answer, returns.kind):
        shown = repr(answer) if isinstance(answer, str | int | float) else type(answer).__name__
        raise WrongAnswer(f"it answered {shown[:SHOWN]}, the hook documents {_shown_type(returns.kind)}")


def _check_result(hook: str, result: object, returns: _Declared) -> None:
    """The same for what a wrapper makes of a whole call: one answer, or the list of all."""
    if returns.first_result or not isinstance(result, list):
        _check(hook, result, returns)
        return
    for answer in result:
        _check(hook, answer, returns)


def _shown_type(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("nightschool_hookspecs.records.", "")


def _refuse_unmarked(plugin: object) -> None:
    """Raise for a function that is named like a hook and would silently never be called."""
    for name, value in vars(plugin).items():
        own = inspect.isfunction(value) and value.__module__ == getattr(plugin, "__name__", None)
        if own and name.startswith(f"{PROJECT}_") and not hasattr(value, f"{PROJECT}_impl"):
            raise TypeError(f"{name} lacks its marker; put @hookimpl above it")


def _with_settings(
    manager: pluggy.PluginManager, plugin: object, table: Mapping[str, object] | None, name: str
) -> object:
    """Fill the plugin's settings dataclass and return its instance; the plugin itself where it has none."""
    contribute = getattr(plugin, SETTINGS_HOOK, None)
    if contribute is None or manager.parse_hookimpl_opts(plugin, SETTINGS_HOOK) is None:
        if table:
            raise ConfigurationError(f"plugins.{name}: the plugin {name} has no settings, remove its table")
        return plugin
    kind = contribute()
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise TypeError(f"{SETTINGS_HOOK} must return a dataclass type")
    stray = [
        attribute
        for attribute in dir(plugin)
        if attribute.startswith(f"{PROJECT}_")
        and attribute != SETTINGS_HOOK
        and manager.parse_hookimpl_opts(plugin, attribute) is not None
    ]
    if stray:
        raise TypeError(f"{stray[0]} stands beside the settings class; make it a method of {kind.__name__}")
    try:
        return codec.build(kind, dict(table or {}))
    except codec.CodecError as error:
        raise ConfigurationError(f"{codec.join(f'plugins.{name}', error.path)}: {error.reason}") from error


def _built_in_source(name: str) -> _Source:
    return _Source(
        name=name,
        kind=PluginKind.BUILT_IN,
        load=lambda: importlib.import_module(f"{BUILT_IN_PACKAGE}.{name}"),
        digest="",
    )


def _installed_sources(*, check: bool) -> list[_Source]:
    found = importlib.metadata.entry_points(group=PROJECT)
    return [
        _Source(
            name=one.name,
            kind=PluginKind.INSTALLED,
            load=functools.partial(_load_installed, one, check=check),
            digest=f"{one.value} {one.dist.version if one.dist else ''}",
        )
        for one in sorted(found, key=lambda one: one.name)
    ]


def _load_installed(entry_point: importlib.metadata.EntryPoint, *, check: bool) -> object:
    if check:
        _import_in_child("module", entry_point.module)
    return entry_point.load()


def _file_sources(directory: Path | None, *, check: bool) -> list[_Source]:
    if directory is None or not directory.is_dir():
        return []
    files = sorted(one for one in directory.glob("*.py") if not one.name.startswith(("_", ".")))
    return [_file_source(one, check=check) for one in files]


def _file_source(file: Path, *, check: bool) -> _Source:
    return _Source(
        name=file.stem,
        kind=PluginKind.FILE,
        load=lambda: _load_file(file, check=check),
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
        file=file,
    )


def _load_file(file: Path, *, check: bool) -> types.ModuleType:
    mode = file.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{file} can be written by others than its owner; `chmod go-w {file}`")
    if check:
        _import_in_child("file", str(file))
    return _import_file(file)


def _import_file(file: Path) -> types.ModuleType:
    name = f"{PROJECT}_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up while the class body runs
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


_CHILD = """
import importlib, importlib.util, json, logging, os, pathlib, re, resource, sys, types, typing
import nightschool_hookspecs

def load(kind, name):
    if kind == "module":
        importlib.import_module(name)
        return
    spec = importlib.util.spec_from_file_location("checked", name)
    module = importlib.util.module_from_spec(spec)
    sys.modules["checked"] = module
    spec.loader.exec_module(module)

def replaced(before):
    found = (f"{module}.{key}" for (module, key), value in before.items()
             if getattr(sys.modules.get(module), key, None) is not value)
    return ", ".join(list(found)[:3])

kind, name, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
report, nowhere, write, leave = os.dup(1), os.open(os.devnull, os.O_WRONLY), os.write, os._exit
os.dup2(nowhere, 1)
os.dup2(nowhere, 2)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = {(module, key): value for module, loaded in list(sys.modules.items())
          for key, value in list(vars(loaded).items()) if isinstance(value, (types.FunctionType, type))}
try:
    load(kind, name)
    names = replaced(before)
    text = f"it replaces {names}, which others use too" if names else "imported"
except BaseException as error:
    text = f"{type(error).__name__}: {error}"
write(report, text.encode("utf-8", "replace")[:2000])
leave(0)
"""


def _import_in_child(kind: str, name: str) -> None:
    """Import a file or a module in a process of its own first.

    One that hangs, exits, eats memory or patches the standard library must not take us along. Whatever it
    prints is dropped.
    """
    command = [sys.executable, "-c", _CHILD, kind, name, str(IMPORT_MEMORY_BYTES)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_LIMIT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise ImportError(f"importing it took longer than {IMPORT_LIMIT_S:g} s") from None
    if done.stdout != "imported":
        raise ImportError(done.stdout or f"importing it ended the process with code {done.returncode}")


def signature_of(hook: str) -> inspect.Signature:
    """The declared signature of a hook, for documentation and its tests."""
    for stage in STAGES:
        if hasattr(stage, hook):
            return inspect.signature(getattr(stage, hook))
    raise KeyError(hook)
