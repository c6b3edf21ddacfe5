"""One typed method a hook, so that call sites keep their types."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pluggy

from nightschool_daemon.config import PluginSettings, Preset
from nightschool_daemon.hooks.guarding import Guard, PluginFailed, StrikeBook
from nightschool_daemon.hooks.loading import Loader, PluginState, PluginStatus
from nightschool_daemon.hooks.sources import (
    BUILT_IN,
    OPTIONAL,
    PluginKind,
    built_in_source,
    file_sources,
    installed_sources,
)
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
    HyperparameterSearch,
    InstalledModel,
    LabelledAnswer,
    LearnedExample,
    LiveFeedback,
    LiveVerdict,
    LossTrajectory,
    NoiseFinding,
    ParsedFeedback,
    Peers,
    PreferencePair,
    PromptGroup,
    Refusal,
    Replay,
    RewardScore,
    RunInfo,
    RunReport,
    ScoredEvent,
    SearchTask,
    SideChoice,
    SimilarityMatrix,
    Specialty,
    StarterExample,
    Stretch,
    TrainingExample,
    TrainingJob,
    TrainingResult,
    TrainingSoFar,
    Verdict,
)
from nightschool_hookspecs.services import (
    Embed,
    Generate,
    Measure,
    Models,
    Recall,
    Retrieve,
    Sample,
    Store,
    Train,
    TryOut,
    Validate,
)


class Hooks:
    """One method a hook. Keyword arguments are those of the hook's declaration."""

    def __init__(self, manager: pluggy.PluginManager, guard: Guard, statuses: dict[str, PluginStatus]) -> None:
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
        plugins: PluginSettings | None = None,
        strikes: StrikeBook | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        safe_mode: bool = False,
        check_files: bool = True,
        built_in: Sequence[str] = BUILT_IN,
    ) -> "Hooks":
        """Load every plugin and fill its settings from `tables`.

        `plugins` says which built-ins are asked; None: those that need not be switched on. `safe_mode` leaves
        out all but the built-ins. `check_files` imports the user's plugins in a child process first; a worker leaves
        that to the daemon. A broken plugin of the user's is reported by `status`, the others still work. Raises
        `ConfigurationError` for a table, key or name that is unknown, and where a built-in cannot be loaded.
        """
        plugins = plugins or PluginSettings()
        own = (*installed_sources(check=check_files), *file_sources(plugin_directory, check=check_files))
        waiting = OPTIONAL.difference(plugins.enabled) if plugins.preset is Preset.MEASURED else frozenset()
        # a built-in that nobody switched on leaves its name, and its table, to a plugin of the user's
        taken = waiting.intersection(one.name for one in own)
        disabled = frozenset(plugins.disabled)
        loader = Loader(tables=tables, disabled=disabled, waiting=waiting - taken, strikes=strikes, clock=clock)
        loader.add([built_in_source(name) for name in built_in if name not in taken])
        if not safe_mode:
            loader.add(own)
            loader.refuse_unknown_names(plugins.enabled)
        loader.refuse_needless_names(plugins.enabled, OPTIONAL)
        return cls(loader.manager, loader.guard, loader.statuses)

    @property
    def manager(self) -> pluggy.PluginManager:
        """The pluggy manager, for call monitoring and tests."""
        return self._manager

    def implements(self, hook: str) -> bool:
        """Whether anybody is asked by a hook, named in full."""
        caller: pluggy.HookCaller = getattr(self._hook, hook)
        return bool(caller.get_hookimpls())

    def status(self) -> tuple[PluginStatus, ...]:
        """Every plugin with its state, in the order of loading."""
        return tuple(self._with_strikes(one) for one in self._statuses.values())

    def digest_of(self, plugin: str) -> str:
        """The digest of a plugin's content as it was loaded; empty for a built-in."""
        return self._guard.digests.get(plugin, "")

    def is_built_in(self, hook: str) -> bool:
        """Whether no plugin but those that came with Night School implements a hook."""
        found = getattr(self._hook, hook).get_hookimpls()
        return all(self._statuses[one.plugin_name].kind is PluginKind.BUILT_IN for one in found)

    def record_failure(self, plugin: str, content_digest: str, reason: str) -> None:
        """Count a strike for a failure that a worker reported, of the content that the worker had loaded."""
        self._guard.strike(plugin, reason, content_digest)

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
        self._guard.require_open("nightschool_validate_event")
        return tuple(self._hook.nightschool_validate_event(event=event))

    def retrieve_context(self, *, event: Event, query: str, retrieve: Retrieve) -> tuple[Chunk, ...]:
        answer = self._hook.nightschool_retrieve_context(event=event, query=query, retrieve=retrieve)
        return event.context.chunks if answer is None else cast(tuple[Chunk, ...], answer)

    def after_event_accepted(self, *, event: Event) -> None:
        self._hook.nightschool_after_event_accepted(event=event)

    # ----------------------------------------------------------------------- what to learn

    def score_reward(
        self,
        *,
        event: Event,
        difficulty: float,
        peers: Peers,
        now: datetime,
        correction_score: float | None = None,
    ) -> RewardScore:
        answer = self._hook.nightschool_score_reward(
            event=event, difficulty=difficulty, peers=peers, now=now, correction_score=correction_score
        )
        return RewardScore(priority=0.0, reward=0.0) if answer is None else cast(RewardScore, answer)

    def measure_similarity(
        self, *, left: Sequence[str], right: Sequence[str], embed: Embed
    ) -> tuple[SimilarityMatrix, ...]:
        import numpy

        found = tuple(self._hook.nightschool_measure_similarity(left=left, right=right, embed=embed))
        for one in found:
            rows, columns = one.matrix.rows, one.matrix.columns
            problem = f"of {len(left)} and {len(right)} texts it answered {rows} rows of {columns}"
            if (rows, columns) == (len(left), len(right)):
                numbers = numpy.frombuffer(one.matrix.values, dtype=numpy.float32)
                problem = "" if numpy.isfinite(numbers).all() else "it answered what is no number"
            if problem:
                raise PluginFailed(one.metric, "nightschool_measure_similarity", problem)
        return found

    def choose_batch_size(self, *, specialty: Specialty, statistics: BatchStatistics) -> int:
        answer = self._hook.nightschool_choose_batch_size(specialty=specialty, statistics=statistics)
        return cast(int | None, answer) or 0

    def find_noise(
        self,
        *,
        events: tuple[ScoredEvent, ...],
        trajectories: tuple[LossTrajectory, ...],
        measure: Measure,
        embed: Embed,
    ) -> tuple[tuple[NoiseFinding, ...], ...]:
        return tuple(
            self._hook.nightschool_find_noise(events=events, trajectories=trajectories, measure=measure, embed=embed)
        )

    def select_events(
        self,
        *,
        events: tuple[ScoredEvent, ...],
        others: tuple[ScoredEvent, ...],
        budget: Budget,
        embed: Embed,
        seed: int,
    ) -> tuple[tuple[str, float | None], ...]:
        answer = self._hook.nightschool_select_events(
            events=events, others=others, budget=budget, embed=embed, seed=seed
        )
        chosen = cast(tuple[str | tuple[str, float], ...] | None, answer) or ()
        return tuple((one, None) if isinstance(one, str) else one for one in chosen)

    def choose_shots(self, *, events: tuple[ScoredEvent, ...], budget: Budget, seed: int) -> tuple[str, ...]:
        answer = self._hook.nightschool_choose_shots(events=events, budget=budget, seed=seed)
        return cast(tuple[str, ...] | None, answer) or ()

    def select_negatives(
        self,
        *,
        events: tuple[ScoredEvent, ...],
        others: tuple[ScoredEvent, ...],
        measure: Measure,
        embed: Embed,
        seed: int,
    ) -> tuple[tuple[str, float], ...]:
        answer = self._hook.nightschool_select_negatives(
            events=events, others=others, measure=measure, embed=embed, seed=seed
        )
        return cast(tuple[tuple[str, float], ...] | None, answer) or ()

    def score_difficulty(self, *, event: Event) -> float:
        answer = cast(float | None, self._hook.nightschool_score_difficulty(event=event))
        return 0.5 if answer is None else answer

    def arrange_examples(
        self, *, examples: tuple[TrainingExample, ...], store: Store, seed: int
    ) -> tuple[TrainingExample, ...]:
        answer = self._hook.nightschool_arrange_examples(examples=examples, store=store, seed=seed)
        return examples if answer is None else cast(tuple[TrainingExample, ...], answer)

    def arrange_stretch(
        self, *, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int
    ) -> Stretch | None:
        answer = self._hook.nightschool_arrange_stretch(examples=examples, training=training, seed=seed)
        return cast(Stretch | None, answer)

    def augment_examples(
        self, *, examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
    ) -> tuple[tuple[TrainingExample, ...], ...]:
        return tuple(
            self._hook.nightschool_augment_examples(examples=examples, generate=generate, measure=measure, seed=seed)
        )

    def vary_context(
        self, *, example: TrainingExample, retrieve: Retrieve, measure: Measure, seed: int
    ) -> tuple[tuple[Chunk, ...], ...]:
        answers = self._hook.nightschool_vary_context(example=example, retrieve=retrieve, measure=measure, seed=seed)
        return tuple(chunks for of_plugin in answers for chunks in of_plugin)

    def replay_examples(
        self,
        *,
        examples: tuple[TrainingExample, ...],
        earlier: tuple[ScoredEvent, ...],
        recall: Recall,
        seed: int,
    ) -> Replay:
        answer = self._hook.nightschool_replay_examples(examples=examples, earlier=earlier, recall=recall, seed=seed)
        return cast(Replay | None, answer) or Replay()

    def build_preference_pairs(self, *, events: tuple[ScoredEvent, ...]) -> tuple[tuple[PreferencePair, ...], ...]:
        return tuple(self._hook.nightschool_build_preference_pairs(events=events))

    def samples_answers(self) -> bool:
        """Whether any plugin would have the incumbent asked for answers."""
        return bool(self._hook.nightschool_build_sampled_pairs.get_hookimpls())

    def build_sampled_pairs(
        self, *, items: tuple[ExamItem, ...], sample: Sample, validate: Validate, seed: int
    ) -> tuple[tuple[PreferencePair, ...], ...]:
        return tuple(
            self._hook.nightschool_build_sampled_pairs(items=items, sample=sample, validate=validate, seed=seed)
        )

    def label_answers(self, *, events: tuple[ScoredEvent, ...]) -> tuple[tuple[LabelledAnswer, ...], ...]:
        return tuple(self._hook.nightschool_label_answers(events=events))

    def suggest_hyperparameters(
        self, *, specialty: Specialty, examples: int, store: Store, seed: int
    ) -> Hyperparameters:
        answer = self._hook.nightschool_suggest_hyperparameters(
            specialty=specialty, examples=examples, store=store, seed=seed
        )
        return cast(Hyperparameters | None, answer) or Hyperparameters()

    def search_hyperparameters(
        self, *, task: SearchTask, try_out: TryOut, store: Store, seed: int
    ) -> HyperparameterSearch | None:
        answer = self._hook.nightschool_search_hyperparameters(task=task, try_out=try_out, store=store, seed=seed)
        return cast(HyperparameterSearch | None, answer)

    # ----------------------------------------------------------------------- training and delivery

    def build_example(self, *, event: ScoredEvent, chunks: tuple[Chunk, ...]) -> TrainingExample | None:
        return cast(TrainingExample | None, self._hook.nightschool_build_example(event=event, chunks=chunks))

    def offer_examples(self, *, artifact_type: str, accepted: int) -> tuple[StarterExample, ...]:
        offered = self._hook.nightschool_offer_examples(artifact_type=artifact_type, accepted=accepted)
        return tuple(example for of_plugin in offered for example in of_plugin)

    def train_adapter(self, *, job: TrainingJob, train: Train) -> TrainingResult | None:
        return cast(TrainingResult | None, self._hook.nightschool_train_adapter(job=job, train=train))

    def choose_delivery(self, *, target: DeliveryTarget) -> tuple[DeliveryPlan, ...]:
        return tuple(self._hook.nightschool_choose_delivery(target=target))

    # ----------------------------------------------------------------------- exams

    def select_held_out(self, *, groups: tuple[PromptGroup, ...], seed: int) -> tuple[SideChoice, ...]:
        answer = self._hook.nightschool_select_held_out(groups=groups, seed=seed)
        return cast(tuple[SideChoice, ...] | None, answer) or ()

    def select_folds(self, *, groups: tuple[PromptGroup, ...]) -> tuple[tuple[str, ...], ...]:
        answer = self._hook.nightschool_select_folds(groups=groups)
        return cast(tuple[tuple[str, ...], ...] | None, answer) or ()

    def validate_answer(
        self, *, item: ExamItem, answer: str, measure: Measure, generate: Generate
    ) -> AnswerScore | None:
        score = self._hook.nightschool_validate_answer(item=item, answer=answer, measure=measure, generate=generate)
        return cast(AnswerScore | None, score)

    def guard_promotion(
        self, *, exam: Exam, seed: int, measure: Measure, models: Models | None
    ) -> tuple[GuardResult, ...]:
        self._guard.require_open("nightschool_guard_promotion")
        return tuple(self._hook.nightschool_guard_promotion(exam=exam, seed=seed, measure=measure, models=models))

    def judge_exam(self, *, exam: Exam, guards: tuple[GuardResult, ...], seed: int) -> Verdict | None:
        return cast(Verdict | None, self._hook.nightschool_judge_exam(exam=exam, guards=guards, seed=seed))

    def judge_feedback(self, *, live: LiveFeedback) -> LiveVerdict | None:
        return cast(LiveVerdict | None, self._hook.nightschool_judge_feedback(live=live))

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
