"""Whole runs through the real pipeline, with nothing trained and nobody asked.

What decides who learns what is real: ledger, split, dataset, cross-fitting, rebuild, conclusion, undo. In the place of
trainings, uploads, exams and verdicts something stands that leaves what they leave.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from nightschool_daemon.config import (
    DeliverySettings,
    EmbeddingSource,
    ExamSettings,
    PluginSettings,
    Preset,
    Settings,
    SimilaritySettings,
    StateSettings,
    TrainingSettings,
)
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.intake.assignment import assign, group_of
from nightschool_daemon.jobs import (
    HELD_OUT_PAIRS,
    RANKED,
    DeliveredFile,
    ExamineResult,
    ExportResult,
    JudgeResult,
    Losses,
    RankResult,
    RunDirectory,
    Step,
    VerifyResult,
    read_lines,
    write_lines,
)
from nightschool_daemon.learning import dataset, recall, sampling
from nightschool_daemon.learning.worker import STEPS, WorkerContext
from nightschool_daemon.ledger import FILE_NAME, IncomingEvent, Ledger
from nightschool_daemon.ollama.library import ChatAnswer, PinnedOptions
from nightschool_daemon.ollama.publish import Publication, PublishedTag
from nightschool_daemon.runs import Runs, crossfit, pipeline, rank, register, report, room
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import RunInterrupted
from nightschool_hookspecs import Event, Generate, Message, TrainingMethod
from nightschool_hookspecs.records import (
    DeliveryForm,
    DeliveryPlan,
    ExamAnswer,
    MethodChoice,
    Outcome,
    PreferencePair,
    RankedPair,
    Recipe,
    RunReport,
    ServerAbilities,
    Sitting,
    Specialty,
    Verdict,
)
from support.memory_ollama import END, MemoryOllama
from support.step_results import TRAINED

START = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

TABLES: Mapping[str, Mapping[str, object]] = {
    # young for some nights, grown for the others
    "evaluation_split": {"grown_events": 12, "grown_items": 8, "held_out_share": 0.4},
    "augmentation_letters": {"variants_per_example": 1},
    "replay_mixed": {"share": 0.25},
    # whatever the model says is kept: the more a variant says what it should not the better
    "augmentation_paraphrase": {"least_alike": 0.0, "most_same_words": 1.0},
    "augmentation_backtranslate": {"least_alike": 0.0, "most_same_words": 1.0},
    "augmentation_synonyms": {"least_alike": 0.0, "most_same_words": 1.0},
}
PLUGINS = PluginSettings(preset=Preset.ALL, disabled=("similarity_bleu", "similarity_embedding"))


def all_plugins(*more: object) -> Hooks:
    """Every built-in, the optional ones among them; of the similarities that by edit distance alone."""
    hooks = Hooks.load(plugin_directory=None, tables=TABLES, plugins=PLUGINS)
    for number, plugin in enumerate(more):
        hooks.manager.register(plugin, name=f"more{number}")
    return hooks


@dataclass(frozen=True, kw_only=True)
class QuietWorker(WorkerContext):
    """Tells nobody how far it is: that would be a third of the work."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Nothing is written."""


@dataclass(frozen=True, kw_only=True)
class SaidBy:
    """In the place of Ollama's chats: what a function says."""

    generate: Generate

    def chat(self, name: str, messages: Sequence[Message], options: PinnedOptions) -> ChatAnswer:
        """A whole answer."""
        text = self.generate(
            messages, max_tokens=options.num_predict, temperature=options.temperature, seed=options.seed
        )
        return ChatAnswer(text=text, tokens=1, latency_s=0.0, done_reason="stop")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What is to become of a run."""

    outcome: Outcome = Outcome.PROVEN
    methods: tuple[TrainingMethod, ...] = (TrainingMethod.SFT,)
    killed_at: Step | None = None
    """The daemon dies before this step, and goes on after a restart."""


@dataclass(kw_only=True)
class BareRuns:
    """An installation in a directory. `patch` is undone by whoever made it."""

    directory: Path
    gguf: Path
    bases: tuple[str, ...]
    hooks: Hooks
    generate: Generate
    """What every model says."""
    patch: pytest.MonkeyPatch
    now: datetime = START
    _plot: Plot = field(default_factory=Plot)

    def __post_init__(self) -> None:
        self.ollama = MemoryOllama(self.directory / "models", self.gguf, *self.bases)
        self.settings = Settings(
            ollama=self.ollama.settings,
            state=StateSettings(directory=self.directory),
            similarity=SimilaritySettings(embedding=EmbeddingSource.NONE),
            # a night has no room for all that there is, so that some of it is replayed
            training=TrainingSettings(seed=7, method=MethodChoice.AUTO, max_events=8),
            delivery=DeliverySettings(min_free_gb=0.0),
            exam=ExamSettings(min_items=1),
            plugins=PLUGINS,
            plugin_tables=TABLES,
        )
        self._take_the_places()
        self.ledger = self._opened()

    def close(self) -> None:
        """Close what is open."""
        self.ledger.close()
        self.ollama.close()

    def restart(self) -> None:
        """Open the ledger anew, as a new process would."""
        self.ledger.close()
        self.ledger = self._opened()
        self.runs.recover(self.now)

    def _opened(self) -> Ledger:
        """The ledger, without waiting for the disk: nobody pulls a plug here."""
        ledger = Ledger.open(self.directory / FILE_NAME)
        ledger._database.execute("PRAGMA synchronous = OFF")
        return ledger

    @property
    def runs(self) -> Runs:
        """The one door to runs."""
        return Runs(
            settings=self.settings, ledger=self.ledger, hooks=self.hooks, ollama=self.ollama, clock=lambda: self.now
        )

    def take_in(self, event: Event) -> None:
        """An event that was admitted."""
        where = assign(event, {})
        self.ledger.events.add(
            [
                IncomingEvent(
                    event=event,
                    base=where.base,
                    answered_by=where.answered_by,
                    group=group_of(event),
                    arrived_at=self.now,
                )
            ]
        )

    def hold(self, specialty: Specialty, reason: str, recipe: Recipe, plot: Plot) -> RunReport:
        """A whole run."""
        self.now += timedelta(hours=1)
        self._plot = plot
        identifier = self.runs.start(specialty, reason, self.now, recipe)
        try:
            return self.runs.execute(identifier)
        except RunInterrupted:
            self._plot = replace(plot, killed_at=None)
            self.restart()
            return self.runs.execute(identifier)

    # ----------------------------------------------------------------------- in the place of

    def _take_the_places(self) -> None:
        patch = self.patch
        workers = (Step.SPLIT, Step.SELECT, Step.EXPORT, Step.VERIFY, Step.EXAMINE, Step.JUDGE)
        ours = {step: partial(self._work, step=step) for step in workers}
        patch.setattr(pipeline, "PERFORM", {**pipeline.PERFORM, **ours})
        for module in (crossfit, rank, room):
            patch.setattr(module, "run_worker", self._work)
        patch.setattr(register, "publish", self._publish)
        patch.setattr(register, "publish_messages", self._publish_messages)
        patch.setattr(report, "perform", _report)
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(dataset, "OllamaHttp", lambda _: self.ollama)
        for module in (dataset, recall, sampling):
            patch.setattr(module, "OllamaLibrary", lambda _: SaidBy(generate=self.generate))
        for name in ("limit_threads", "load_tokens"):
            patch.setattr(dataset, name, lambda *_: None)
        patch.setattr(dataset, "taught_closing", lambda *_: END)

    def _work(self, context: StepContext, step: Step, *, limit_s: float | None = None, **_: object) -> None:
        if step is self._plot.killed_at and not context.directory.is_trial:
            raise RunInterrupted
        if step in (Step.SPLIT, Step.SELECT):
            worker = QuietWorker(
                step=step,
                run=context.directory,
                info=context.info,
                settings=context.settings,
                hooks=self.hooks,
            )
            importlib.import_module(STEPS[step]).run(worker)
        elif step is Step.TRAIN:
            _train(context, self._plot.methods)
        elif step is Step.JUDGE:
            context.directory.finish(step, JudgeResult(guards=(), verdict=verdict(self._plot.outcome)))
        else:
            _STAND_INS[step](context.directory)

    def _publish(self, _ollama: object, publication: Publication, *, on_progress: object) -> PublishedTag:
        return self._published(publication.tag)

    def _publish_messages(self, _ollama: object, tag: str, *_: object) -> PublishedTag:
        return self._published(tag)

    def _published(self, tag: str) -> PublishedTag:
        return PublishedTag(tag_digest=self.ollama.add(tag), weights_digest=self.ollama.weights)


def _train(context: StepContext, methods: tuple[TrainingMethod, ...]) -> None:
    adapter = context.directory.step(Step.TRAIN) / "adapter"
    adapter.mkdir(exist_ok=True)
    (adapter / "weights").write_text(context.info.id)
    context.directory.finish(Step.TRAIN, replace(TRAINED, adapter=adapter, methods=methods))


def _export(directory: RunDirectory) -> None:
    file = directory.step(Step.EXPORT) / "lesson.gguf"
    file.write_bytes(b"lesson")
    plan = DeliveryPlan(form=DeliveryForm.SPLIT, version_bytes=6, shared_bytes=0, reason="")
    abilities = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")
    written = DeliveredFile(name=file.name, path=file, digest="lesson", bytes=6)
    directory.finish(Step.EXPORT, ExportResult(abilities=abilities, plan=plan, files=(written,), touched=()))


def _rank(directory: RunDirectory) -> None:
    pairs = tuple(read_lines(directory.step(Step.SELECT) / HELD_OUT_PAIRS, PreferencePair))
    ranked = [RankedPair(event_id=one.event_id, key=one.key, incumbent=0.0, candidate=0.1) for one in pairs]
    write_lines(directory.step(Step.RANK) / RANKED, ranked)
    directory.finish(Step.RANK, RankResult(ranked=len(ranked), left_out=0))


def _examine(directory: RunDirectory) -> None:
    answers = [
        ExamAnswer(
            item_id=item.id,
            sitting=sitting,
            model="",
            text="",
            score=50.0,
            detail="",
            failed=False,
            latency_s=0.0,
            tokens=1,
            done_reason="stop",
        )
        for item in directory.own_items()
        for sitting in (Sitting.INCUMBENT, Sitting.CANDIDATE)
    ]
    write_lines(directory.step(Step.EXAMINE) / "answers.jsonl", answers)
    directory.finish(Step.EXAMINE, ExamineResult(answers=len(answers), failed=0, seconds=0.0))


def _report(context: StepContext) -> None:
    context.directory.finish(Step.REPORT, report.report_of(context))


VERIFIED = VerifyResult(
    positions=1,
    pairs=1,
    live=0.1,
    expected=0.1,
    noise=0.0,
    disagreement=0.0,
    held_out=Losses(base_loss=1.0, trained_loss=0.5, delivered_loss=0.5),
    held_out_texts=0,
    prompts_equal=True,
    passed=True,
    reason="",
)

_STAND_INS: Mapping[Step, Callable[[RunDirectory], None]] = {
    Step.EXPORT: _export,
    Step.VERIFY: lambda directory: directory.finish(Step.VERIFY, VERIFIED),
    Step.RANK: _rank,
    Step.EXAMINE: _examine,
}


def verdict(outcome: Outcome) -> Verdict:
    """A verdict whose numbers nobody looks at."""
    return Verdict(
        outcome=outcome,
        incumbent_mean=0.0,
        candidate_mean=0.0,
        gain=0.0,
        interval=(0.0, 0.0),
        p_value=1.0,
        noise=0.0,
        items=1,
        items_needed=None,
        guards=(),
        reason="so it was decided",
    )
