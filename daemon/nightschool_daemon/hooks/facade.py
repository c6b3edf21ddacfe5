"""The typed face of the plugins: one method a hook, named without the prefix."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import pluggy

from nightschool_daemon import codec
from nightschool_daemon.config import ConfigurationError
from nightschool_daemon.hooks import failures, loading
from nightschool_daemon.hooks.built_in import BUILT_IN
from nightschool_daemon.hooks.failures import STRIKES, StrikeBook
from nightschool_daemon.hooks.loading import Found, PluginKind, PluginRefused, PluginState, PluginStatus
from nightschool_hookspecs import (
    PROJECT,
    AliasMove,
    AnswerScore,
    BaseChange,
    BatchStatistics,
    Budget,
    Chunk,
    DeliveryPlan,
    DeliveryTarget,
    Embed,
    Event,
    Exam,
    ExamItem,
    FeedbackFile,
    Generate,
    GuardResult,
    Hyperparameters,
    InstalledModel,
    Measure,
    ParsedFeedback,
    Peers,
    PreferencePair,
    PromptGroup,
    Refusal,
    Retrieve,
    RewardScore,
    RunInfo,
    RunReport,
    ScoredEvent,
    Side,
    SideChoice,
    SimilarityMatrix,
    Specialty,
    Store,
    Train,
    TrainingExample,
    TrainingJob,
    TrainingResult,
    Verdict,
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

log = logging.getLogger(__name__)

STAGES = (
    lifecycle,
    intake,
    reward,
    curriculum,
    similarity,
    batching,
    selection,
    augmentation,
    preference,
    tuning,
    training,
    delivery,
    evaluation,
)

OTHER_TYPE = "other"
MEDIUM_DIFFICULTY = 0.5
NO_REWARD = RewardScore(priority=0.0, reward=0.0)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def specified() -> pluggy.PluginManager:
    """A plugin manager that knows every hook of the contract and no plugin."""
    manager = pluggy.PluginManager(PROJECT)
    for stage in STAGES:
        manager.add_hookspecs(stage)
    return manager


@dataclass(kw_only=True)
class _Entry:
    """What is known of one plugin."""

    found: Found
    state: PluginState
    reason: str = ""
    hooks: tuple[str, ...] = ()
    settings: object | None = None


class Hooks:
    """The loaded plugins. Build it with `Hooks.load`."""

    def __init__(self, *, strikes: StrikeBook | None, clock: Callable[[], datetime]) -> None:
        self.manager = specified()
        """pluggy's own manager, for call monitoring and tracing."""
        self._strikes = strikes
        self._clock = clock
        self._entries: list[_Entry] = []

    @classmethod
    def load(
        cls,
        *,
        plugin_directory: Path | None,
        tables: Mapping[str, Mapping[str, object]],
        disabled: Collection[str] = (),
        strikes: StrikeBook | None = None,
        safe_mode: bool = False,
        built_in: Collection[str] = BUILT_IN,
        clock: Callable[[], datetime] = _utc_now,
    ) -> "Hooks":
        """Register the built-ins, then installed plugins, then the files of `plugin_directory`.

        `tables` are the `[plugins.<name>]` of the configuration. An outside plugin that cannot be loaded is
        refused and named in `status`. Raises `ConfigurationError` for an unknown table, key or name in
        `disabled`, and `PluginRefused` where a built-in cannot be loaded.
        """
        hooks = cls(strikes=strikes, clock=clock)
        outside = chain(loading.find_installed(), loading.find_files(plugin_directory))
        for found in chain(loading.find_built_in(built_in), outside):
            hooks._take(found, tables.get(found.name), disabled=disabled, safe_mode=safe_mode)
        hooks._refuse_unknown(tables, "plugins.{}")
        hooks._refuse_unknown(disabled, "plugins.disabled: {}")
        return hooks

    def _take(
        self, found: Found, table: Mapping[str, object] | None, *, disabled: Collection[str], safe_mode: bool
    ) -> None:
        entry = _Entry(found=found, state=PluginState.ACTIVE)
        entry.state, entry.reason = self._verdict_before_import(found, disabled, safe_mode)
        if entry.state is PluginState.ACTIVE:
            try:
                self._register(entry, table)
            except PluginRefused as refused:
                if found.kind is PluginKind.BUILT_IN:
                    raise PluginRefused(f"The built-in plugin {found.name} cannot be loaded: {refused}.") from refused
                entry.state, entry.reason = PluginState.REFUSED, str(refused)
        if entry.state in (PluginState.REFUSED, PluginState.STRUCK_OUT):
            log.warning("The plugin %s is %s: %s.", found.name, entry.state, entry.reason)
        self._entries.append(entry)

    def _verdict_before_import(
        self, found: Found, disabled: Collection[str], safe_mode: bool
    ) -> tuple[PluginState, str]:
        outside = found.kind is not PluginKind.BUILT_IN
        taken = next((one.found.kind for one in self._entries if one.found.name == found.name), None)
        if taken is not None:
            return PluginState.REFUSED, f"there is already a plugin of this name ({taken}); rename one of the two"
        if found.name in disabled:
            self.manager.set_blocked(found.name)
            return PluginState.DISABLED, "switched off in the configuration"
        if outside and safe_mode:
            return PluginState.SKIPPED, "safe mode loads the built-ins only"
        count = self._strike_count(found)
        if outside and count >= STRIKES:
            return PluginState.STRUCK_OUT, f"it failed {count} times; repair it, a changed plugin is tried again"
        return PluginState.ACTIVE, f"failed {count} times" if count else ""

    def _register(self, entry: _Entry, table: Mapping[str, object] | None) -> None:
        name = entry.found.name
        plugin = loading.with_settings(loading.import_plugin(entry.found), name, table)
        loading.register(self.manager, plugin, name)
        failures.install(self.manager, plugin, name, self.record_failure)
        entry.hooks = loading.hook_names(self.manager, plugin)
        entry.settings = plugin

    def _refuse_unknown(self, names: Collection[str], path: str) -> None:
        known = [entry.found.name for entry in self._entries]
        for name in names:
            if name not in known:
                message = codec.unknown_key(name, sorted(known)).replace("unknown key", "no plugin has this name")
                raise ConfigurationError(f"configuration: {path.format(name)}: {message}")

    def _strike_count(self, found: Found) -> int:
        return self._strikes.strikes(found.name, found.digest) if self._strikes is not None else 0

    def record_failure(self, plugin: str, reason: str) -> None:
        """Count a strike against a plugin, here or on behalf of a worker.

        At the third one an outside plugin is taken out until its content changes. A built-in stays: without
        it a stage would silently do nothing.
        """
        entry = next((one for one in self._entries if one.found.name == plugin), None)
        if entry is None or self._strikes is None:
            return
        count = self._strikes.strike(plugin, entry.found.digest, reason, self._clock())
        entry.reason = f"failed {count} times, last: {reason}"
        if count >= STRIKES and entry.found.kind is not PluginKind.BUILT_IN and entry.state is PluginState.ACTIVE:
            self.manager.unregister(name=plugin)
            entry.state = PluginState.STRUCK_OUT
            log.error("The plugin %s is switched off until it changes: it %s.", plugin, entry.reason)

    def status(self) -> tuple[PluginStatus, ...]:
        """Every plugin that was found, in the order of registration."""
        return tuple(
            PluginStatus(name=one.found.name, kind=one.found.kind, state=one.state, reason=one.reason, hooks=one.hooks)
            for one in self._entries
        )

    def settings(self) -> Iterator[tuple[str, object]]:
        """Name and filled settings record of every active plugin that has settings."""
        for one in self._entries:
            if one.state is PluginState.ACTIVE and hasattr(one.settings, "__dataclass_fields__"):
                yield one.found.name, one.settings

    def parse_feedback(self, *, file: FeedbackFile) -> ParsedFeedback | None:
        """Read a feedback file into events; None where no plugin says."""
        answer: ParsedFeedback | None = self.manager.hook.nightschool_parse_feedback(file=file)
        return answer

    def classify_event(self, *, event: Event) -> str:
        """Name the artifact type of an event that came without one; `OTHER_TYPE` where no plugin says."""
        answer: str | None = self.manager.hook.nightschool_classify_event(event=event)
        return OTHER_TYPE if answer is None else answer

    def validate_event(self, *, event: Event) -> tuple[Refusal, ...]:
        """Refuse an event, or let it in; the answers of all plugins."""
        answers: Sequence[Refusal] = self.manager.hook.nightschool_validate_event(event=event)
        return tuple(answers)

    def retrieve_context(self, *, event: Event, query: str, retrieve: Retrieve) -> tuple[Chunk, ...]:
        """Fetch the chunks that go into the prompt of an event; its own where no plugin says."""
        answer: tuple[Chunk, ...] | None = self.manager.hook.nightschool_retrieve_context(
            event=event, query=query, retrieve=retrieve
        )
        return event.context.chunks if answer is None else answer

    def after_event_accepted(self, *, event: Event) -> None:
        """Observe an event that is now durable in the ledger."""
        self.manager.hook.nightschool_after_event_accepted(event=event)

    def score_reward(self, *, event: Event, difficulty: float, peers: Peers, now: datetime) -> RewardScore:
        """Score what an event is worth for learning; `NO_REWARD` where no plugin says."""
        answer: RewardScore | None = self.manager.hook.nightschool_score_reward(
            event=event, difficulty=difficulty, peers=peers, now=now
        )
        return NO_REWARD if answer is None else answer

    def score_difficulty(self, *, event: Event) -> float:
        """Score how hard an event is, from 0 (easy) to 1 (hard); `MEDIUM_DIFFICULTY` where no plugin says."""
        answer: float | None = self.manager.hook.nightschool_score_difficulty(event=event)
        return MEDIUM_DIFFICULTY if answer is None else answer

    def arrange_examples(
        self, *, examples: tuple[TrainingExample, ...], store: Store, seed: int
    ) -> tuple[TrainingExample, ...]:
        """Put the examples of a run into the order in which an epoch sees them; unchanged where no plugin says."""
        answer: tuple[TrainingExample, ...] | None = self.manager.hook.nightschool_arrange_examples(
            examples=examples, store=store, seed=seed
        )
        return examples if answer is None else answer

    def measure_similarity(
        self, *, left: Sequence[str], right: Sequence[str], embed: Embed
    ) -> tuple[SimilarityMatrix, ...]:
        """Measure every text of `left` against every text of `right` by one metric; the answers of all plugins."""
        answers: Sequence[SimilarityMatrix] = self.manager.hook.nightschool_measure_similarity(
            left=left, right=right, embed=embed
        )
        return tuple(answers)

    def choose_batch_size(self, *, specialty: Specialty, statistics: BatchStatistics) -> int:
        """Choose how many fresh events the next run of a specialty takes as its batch; `0` where no plugin says."""
        answer: int | None = self.manager.hook.nightschool_choose_batch_size(specialty=specialty, statistics=statistics)
        return 0 if answer is None else answer

    def select_events(
        self, *, events: tuple[ScoredEvent, ...], budget: Budget, measure: Measure, seed: int
    ) -> tuple[str, ...]:
        """Choose the events of the training side that a run learns from; `()` where no plugin says."""
        answer: tuple[str, ...] | None = self.manager.hook.nightschool_select_events(
            events=events, budget=budget, measure=measure, seed=seed
        )
        return () if answer is None else answer

    def select_negatives(
        self, *, events: tuple[ScoredEvent, ...], measure: Measure, seed: int
    ) -> tuple[tuple[str, float], ...]:
        """Find the hard negatives: events near to what the incumbent fails at; `()` where no plugin says."""
        answer: tuple[tuple[str, float], ...] | None = self.manager.hook.nightschool_select_negatives(
            events=events, measure=measure, seed=seed
        )
        return () if answer is None else answer

    def augment_examples(
        self, *, examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
    ) -> tuple[tuple[TrainingExample, ...], ...]:
        """Make variants of training examples; the answers of all plugins."""
        answers: Sequence[tuple[TrainingExample, ...]] = self.manager.hook.nightschool_augment_examples(
            examples=examples, generate=generate, measure=measure, seed=seed
        )
        return tuple(answers)

    def build_preference_pairs(self, *, events: tuple[ScoredEvent, ...]) -> tuple[tuple[PreferencePair, ...], ...]:
        """Build preference pairs from the selected events; the answers of all plugins."""
        answers: Sequence[tuple[PreferencePair, ...]] = self.manager.hook.nightschool_build_preference_pairs(
            events=events
        )
        return tuple(answers)

    def suggest_hyperparameters(
        self, *, specialty: Specialty, examples: int, store: Store, seed: int
    ) -> Hyperparameters:
        """Suggest the hyperparameters of a training; `Hyperparameters()` where no plugin says."""
        answer: Hyperparameters | None = self.manager.hook.nightschool_suggest_hyperparameters(
            specialty=specialty, examples=examples, store=store, seed=seed
        )
        return Hyperparameters() if answer is None else answer

    def build_example(self, *, event: ScoredEvent, chunks: tuple[Chunk, ...]) -> TrainingExample | None:
        """Turn an event into a conversation and the answer to be learned; None where no plugin says."""
        answer: TrainingExample | None = self.manager.hook.nightschool_build_example(event=event, chunks=chunks)
        return answer

    def train_adapter(self, *, job: TrainingJob, train: Train) -> TrainingResult | None:
        """Train an adapter; None where no plugin says."""
        answer: TrainingResult | None = self.manager.hook.nightschool_train_adapter(job=job, train=train)
        return answer

    def choose_delivery(self, *, target: DeliveryTarget) -> tuple[DeliveryPlan, ...]:
        """Say how this plugin would deliver a lesson, and what it costs; the answers of all plugins."""
        answers: Sequence[DeliveryPlan] = self.manager.hook.nightschool_choose_delivery(target=target)
        return tuple(answers)

    def select_held_out(self, *, groups: tuple[PromptGroup, ...], seed: int) -> tuple[SideChoice, ...]:
        """Choose the side of every group of prompts that has none yet; training where no plugin says."""
        answer: tuple[SideChoice, ...] | None = self.manager.hook.nightschool_select_held_out(groups=groups, seed=seed)
        return _all_to_training(groups) if answer is None else answer

    def validate_answer(self, *, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        """Score an answer to an exam item from 0 to 100; None where no plugin says."""
        score: AnswerScore | None = self.manager.hook.nightschool_validate_answer(
            item=item, answer=answer, measure=measure
        )
        return score

    def guard_promotion(self, *, exam: Exam) -> tuple[GuardResult, ...]:
        """Look at one thing that must not get worse; the answers of all plugins."""
        answers: Sequence[GuardResult] = self.manager.hook.nightschool_guard_promotion(exam=exam)
        return tuple(answers)

    def judge_exam(self, *, exam: Exam, guards: tuple[GuardResult, ...], seed: int) -> Verdict | None:
        """Judge whether the candidate is better; None where no plugin says."""
        answer: Verdict | None = self.manager.hook.nightschool_judge_exam(exam=exam, guards=guards, seed=seed)
        return answer

    def before_run(self, *, run: RunInfo) -> None:
        """Observe a run that begins, or goes on after the daemon was restarted."""
        self.manager.hook.nightschool_before_run(run=run)

    def before_step(self, *, run: RunInfo, step: str) -> None:
        """Observe a step that is about to begin: split, select, train, export, register, verify, ..."""
        self.manager.hook.nightschool_before_step(run=run, step=step)

    def after_step(self, *, run: RunInfo, step: str) -> None:
        """Observe a step whose result is in the ledger."""
        self.manager.hook.nightschool_after_step(run=run, step=step)

    def after_run(self, *, report: RunReport) -> None:
        """Observe a run that ended, in whatever way."""
        self.manager.hook.nightschool_after_run(report=report)

    def after_move(self, *, move: AliasMove) -> None:
        """Observe an alias that was moved: promotion, undo or roll-back."""
        self.manager.hook.nightschool_after_move(move=move)

    def after_base_change(self, *, change: BaseChange, model: InstalledModel) -> None:
        """Observe a base model that appeared, changed or vanished in Ollama's registry."""
        self.manager.hook.nightschool_after_base_change(change=change, model=model)


def _all_to_training(groups: tuple[PromptGroup, ...]) -> tuple[SideChoice, ...]:
    return tuple(SideChoice(key=one.key, side=Side.TRAINING) for one in groups if one.side is None)
