"""What the daemon and its workers say to each other: a run's directory, and the result of each step.

A run is a directory. Each step owns a sub-directory of it, reads the results of earlier steps, and as
its last act renames `result.json` into place. A directory without `result.json` is a half-made step:
it is removed before the step is repeated.
"""

import hashlib
import logging
import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from nightschool_daemon import codec
from nightschool_daemon.disk import sync
from nightschool_hookspecs.records import (
    DeliveryPlan,
    Event,
    Evidence,
    ExamAnswer,
    ExamItem,
    FirstScore,
    GuardResult,
    Hyperparameters,
    Material,
    MethodChoice,
    NoiseFinding,
    RankedPair,
    Recipe,
    RunEnd,
    RunInfo,
    ServerAbilities,
    Side,
    SideChoice,
    TrainingMethod,
    TrainingResult,
    Verdict,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")


NOTES = "notes.txt"
"""What a worker has to say to whoever looks on, a sentence a line."""
MARKS = "marks.jsonl"
"""Of step `select` (EventMark)."""
FINDINGS = "noise.jsonl"
"""Of step `select` (NoiseRow)."""
TRAJECTORIES = "trajectories.jsonl"
"""In a training's output, where wanted answers were learned (TrajectoryPoint); of step `prepare` what earlier trainings
tell of the events (LossTrajectory)."""
WORDINGS = "wordings.jsonl"
"""Of step `select` (Wording)."""
STRETCHES = "curriculum.jsonl"
"""In a training's output, where a plugin arranged what it learned from (StretchMark)."""
HELD_OUT_PAIRS = "held_out_pairs.jsonl"
"""Of step `select` (PreferencePair)."""
RANKED = "ranked.jsonl"
"""The same of step `rank` (RankedPair)."""
PROMOTED_ITEMS = "promoted_items.jsonl"
PROMOTED_ANSWERS = "promoted_answers.jsonl"
PROMOTED_PAIRS = "promoted_pairs.jsonl"
"""Of step `prepare` (ExamItem, ExamAnswer, RankedPair): what counted in the exam that let the incumbent in unproven."""
PREDECESSOR_ANSWERS = "predecessor.jsonl"
"""Of step `examine` (ExamAnswer): what stood there before that incumbent."""
TRIALS = "[0-9][0-9]"
"""How the directories of trial candidates are called, within that of the step `crossfit`."""
PASSING = frozenset({"worker.log", "progress.json", "failure.json", "checkpoints", "best.safetensors", NOTES})
"""What a step leaves beside its output."""


class Job(StrEnum):
    """What a worker does that is no step of a run."""

    PLAN = "plan"
    COMPARE = "compare"
    PAGE = "page"


class Step(StrEnum):
    """The steps of a run, in order."""

    PREPARE = "prepare"
    SPLIT = "split"
    SELECT = "select"
    TRAIN = "train"
    EXPORT = "export"
    REGISTER = "register"
    VERIFY = "verify"
    CROSSFIT = "crossfit"
    RANK = "rank"
    EXAMINE = "examine"
    JUDGE = "judge"
    CONCLUDE = "conclude"
    REPORT = "report"


OF_TERMINALS = frozenset({signal.SIGINT, signal.SIGHUP})
"""What a terminal sends to all of its group, by Ctrl-C and where it closes. A worker begins with these blocked and then
leaves them alone: whoever started it ends it."""
KEEPS_ITS_WORK: frozenset[Step] = frozenset({Step.TRAIN, Step.CROSSFIT, Step.RANK, Step.EXAMINE})
"""Steps that go on from their own checkpoints instead of starting over."""


@dataclass(frozen=True, kw_only=True)
class BaseSnapshot:
    """The base of a run as it was when the run began. A pin keeps it alive."""

    name: str
    tag_digest: str
    weights_digest: str
    architecture: str
    capabilities: tuple[str, ...]
    pin: str
    gguf: Path
    """The blob on disk, whose SHA-256 was compared with `weights_digest`."""


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """A line of `prepare/events.jsonl`: an event of the specialty as the ledger has it."""

    event: Event
    group: str | None
    """Its group of near-duplicate prompts; before its prompt was placed, the prompt's own key. None: its prompt is
    close to both sides, and the event goes to neither."""
    side: Side | None
    trained_on: bool
    """A version of the specialty has seen it."""
    looked_at: bool = False
    """A run of the specialty has chosen it, or found that it has no use for it: it is not fresh."""
    in_use: bool = False
    """A version that is or was in use has seen its group."""
    inherited: bool = False
    """The incumbent, or a version that it came from, has learned it."""
    arrival: int
    """Order of arrival in the ledger."""


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A line of `prepare/prompts.jsonl`: a prompt of the artifact type, whatever base it was put to."""

    key: str
    text: str | None
    """None: it was learned or asked once, its events were withdrawn or changed since, and nobody asks it any more."""
    placed: bool
    """Its group is decided, for good."""
    group: str | None
    side: Side | None
    fingerprint: str | None = None
    """In the place of its text."""
    in_use: bool = False
    """A version of the specialty that is or was in use has seen its group."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """A line of `select/wordings.jsonl`: what a training reads as a prompt, and is not its event's own."""

    event_id: str
    """Empty: of none."""
    group: str
    """Which a new prompt like it joins. Empty: one of its own."""
    text: str
    method: TrainingMethod
    """That reads it."""


@dataclass(frozen=True, kw_only=True)
class Unproven:
    """What a version that was put into use unproven is compared with anew. Files of its exam stand beside it."""

    predecessor: str
    """Tag that the alias held before, and goes back to."""
    evidence: Evidence
    """What was known before that exam."""
    judged_together: int


@dataclass(frozen=True, kw_only=True)
class PrepareResult:
    """`prepare`: the base is pinned, the specialty's events are frozen."""

    base: BaseSnapshot
    incumbent: str
    """Tag that sits the exam as incumbent: the alias's version, else the pin of the base."""
    undo_tag: str
    """Where an undo of this run's promotion leads: a tag with what the alias held, else the base's pin."""
    undo_digest: str
    events: int
    incumbent_digest: str = ""
    """Of its manifest, hex; empty: not known."""
    incumbent_base: Path | None = None
    """The GGUF that the incumbent was made from, or is; None: it is gone."""
    warm_start: Path | None = None
    """What the incumbent learned, where the training may begin from it."""
    evidence: Evidence = field(default_factory=Evidence)
    """What earlier exams against this incumbent have shown."""
    judged_together: int = 1
    """Specialties and recipes that gather evidence side by side, this one among them."""
    asks_all_learned: bool = False
    """Every correction that was learned before is asked, not a sample."""
    first_scores: tuple[FirstScore, ...] = ()
    """Of corrections that versions in the incumbent's line were asked."""
    unproven: Unproven | None = None
    """Where the incumbent was put into use unproven."""


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """`split`: groups of the prompts that had none, and sides of the groups that had none."""

    choices: tuple[SideChoice, ...]
    training_events: int
    held_out_events: int
    groups: Mapping[str, str | None] = field(default_factory=dict)
    """Prompt's key -> its group; None: it goes to neither side."""
    sides: Mapping[str, Side] = field(default_factory=dict)
    """Every group of this run that has a side."""
    folds: tuple[tuple[str, ...], ...] = ()
    """Groups that are learned from, divided for cross-fitting; none: only held-out prompts are asked."""
    counted: int = 0
    """Of a trial candidate's: what may count in the whole exam, that of the other folds among it."""
    closing: str = ""
    """Of a trial candidate's: how the candidate that it stands for ends its answers."""
    material: Material | None = None
    """Of a trial candidate's: how much the candidate that it stands for has to learn from."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An event that the run does not learn from, and why."""

    event_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where the selection placed an event that a run learns from."""

    place: int
    """Counted from 1, the best first."""
    of: int
    """Events that there were to choose from."""
    score: float | None
    """By which it was placed; None where the plugin that chose does not tell."""


@dataclass(frozen=True, kw_only=True)
class EventMark:
    """A line of `select/marks.jsonl`: what an event that may be learned from was worth."""

    event_id: str
    priority: float
    reward: float
    difficulty: float
    weight: float | None
    """Of its example; None where none was made of it."""
    noise_factor: float = 1.0
    """What is in this weight because it looks wrong (`NoiseFinding.factor`)."""
    choice: Choice | None = None
    """None where it was not chosen."""


@dataclass(frozen=True, kw_only=True)
class NoiseRow:
    """A line of `select/noise.jsonl`: feedback that looks wrong."""

    finding: NoiseFinding
    side: Side
    """On the held-out side it was looked at and nothing else."""


@dataclass(frozen=True, kw_only=True)
class StretchMark:
    """A line of `curriculum.jsonl`: what a training learned from between two evaluations."""

    number: int
    """Of the stretch in its training, counted from 1."""
    epoch: int
    """Counted from 1."""
    stage: str
    """As the plugin calls it."""
    examples: int
    tokens: int
    watched_loss: float
    """Behind it, of the same examples all along."""
    first_seen: tuple[str, ...]
    """`source/id` of the events that were learned from for the first time."""
    reason: str = ""
    """Why the training had come to this stage, as the plugin says; empty: it does not."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryPoint:
    """A line of `trajectories.jsonl`: the loss of a wanted answer of the lesson as it was learned from."""

    event_id: str
    variant: bool
    """It was learned behind another prompt than that of the event, whose answer it is."""
    epoch: int
    """Counted from 1."""
    stretch: int
    """Between two evaluations, counted from 1 over all epochs: where nobody arranges any, each epoch is one."""
    step: int
    """Of the optimiser, counted from 1 over all epochs."""
    loss: float
    """Nats an answer token, before the step. Its weight is left out."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What is learned again beside the lesson, so that it is not forgotten."""

    events: tuple[str, ...] = ()
    """`source/id` of corrections that were learned before and of which tonight's lesson has nothing."""
    answers: int = 0
    """Of the base's own, to general prompts."""

    @property
    def count(self) -> int:
        """Examples."""
        return len(self.events) + self.answers


@dataclass(frozen=True, kw_only=True)
class SelectResult:
    """`select`: what is learned from (`TrainingJob.dataset`), `items.jsonl` (ExamItem, held out),
    `held_out_pairs.jsonl` (PreferencePair, held out) and `regression.jsonl` (ExamItem, learned before)."""

    material: Material
    variants: int
    """Examples that are variants of another."""
    items: int
    """Held out, and counting for or against a candidate."""
    guard_items: int
    folded: int = 0
    """Items that would count, of the groups in folds: trial candidates are asked them."""
    pairs: int = 0
    """Held-out pairs of answers, which are ranked and count too."""
    folded_pairs: int = 0
    sampled: int = 0
    """Of the pairs that are learned from, those among answers that the incumbent was asked for."""
    hyperparameters: Hyperparameters
    closing: str
    """Text of the token that ends an answer."""
    sources: Mapping[TrainingMethod, tuple[str, ...]]
    """`source/id` of every event that a method would learn from, those that are replayed among them."""
    left_out: tuple[LeftOut, ...]
    shots: tuple[str, ...] = ()
    """`source/id` of the corrections that the candidate shows, in the recipe `examples`; as texts in `shots.jsonl`
    (Message)."""
    replayed: Replayed = field(default_factory=Replayed)
    starters: int = 0
    """Starter examples, which are learned beside wanted answers and come from no event."""

    @property
    def counting(self) -> int:
        """All that may count for or against a candidate."""
        return self.items + self.folded + self.pairs + self.folded_pairs

    def is_learnable(self, recipe: Recipe, method: MethodChoice) -> bool:
        """Whether there is what a candidate is made of; what a method needs beyond that is its plugin's to say."""
        if recipe is Recipe.EXAMPLES:
            return bool(self.shots)
        there = self.material
        others = there.pairs or there.liked or there.disliked
        return bool(there.examples or (method is not MethodChoice.SFT and others))

    @property
    def replayed_share(self) -> float:
        """Of all examples, 0..1, starter examples among them."""
        return self.replayed.count / max(1, self.replayed.count + self.material.examples + self.starters)

    def learned_from(self, trained: TrainingResult) -> tuple[str, ...]:
        """The events that a training learned from; where it does not tell, all that its methods would learn from."""
        told = None if trained.learned_events is None else frozenset(trained.learned_events)
        offered = dict.fromkeys(key for method in trained.methods for key in self.sources.get(method, ()))
        return tuple(key for key in offered if told is None or key in told)


@dataclass(frozen=True, kw_only=True)
class DeliveredFile:
    """A GGUF to upload."""

    name: str
    """As it goes into `files` or `adapters` of Ollama's create."""
    path: Path
    digest: str
    bytes: int


SMALLEST_LESSON = 1e-3
"""Nats in the unit of a loss; one that moved by less was not changed by what was learned."""


class LossKind(StrEnum):
    """What a loss is taken on. Less is better for each."""

    ANSWERS = "answers"
    """Wanted answers, every token counted alike."""
    PAIRS = "pairs"
    """By how much the worse answer of a pair is likelier than the better one."""
    THUMBS = "thumbs"
    """How unlikely liked answers are, less how unlikely disliked ones are."""


UNITS: Mapping[LossKind, str] = {
    LossKind.ANSWERS: "nats an answer token",
    LossKind.PAIRS: "nats a pair by which the worse answer is likelier",
    LossKind.THUMBS: "nats an answer, those of disliked ones taken off",
}
"""In words."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of three networks on the same texts, by our own forward pass, in the unit of their kind."""

    base_loss: float
    trained_loss: float
    """With what was trained in full precision."""
    delivered_loss: float
    """Over the blocks read back from the written file."""
    kind: LossKind = LossKind.ANSWERS

    @property
    def kept(self) -> float:
        """The share of what was learned that is still there.

        Where nothing was learned that could be lost it is 1, or 0 where the delivered network is worse for all that.
        """
        if abs(self.gain) < SMALLEST_LESSON:
            return float(self.lost <= SMALLEST_LESSON)
        return (self.base_loss - self.delivered_loss) / self.gain

    @property
    def gain(self) -> float:
        """By how much the trained network is better than the base."""
        return self.base_loss - self.trained_loss

    @property
    def lost(self) -> float:
        """By how much the delivered network is worse than the trained one."""
        return self.delivered_loss - self.trained_loss

    def share(self) -> str:
        """`99.8%`; of pairs and of thumbs it says so: `99.8% of pairs`."""
        return f"{self.kept:.1%}" if self.kind is LossKind.ANSWERS else f"{self.kept:.1%} of {self.kind.value}"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What told when a training was to stop, and which epoch was taken of it."""

    loss: float
    """Of what was taken: nats per answer token for wanted answers, else the loss of the last method."""
    epoch: int
    """Counted from 1."""
    epochs: int
    """Gone through in all."""
    is_apart: bool
    """Taken on examples that were kept aside from what was learned, so that it chose the epoch; else it is the last."""

    @classmethod
    def of(cls, trained: TrainingResult | None) -> "Watched | None":
        """Of a training; None where nothing was trained, or the trainer tells no losses of epochs."""
        if trained is None or trained.taken_epoch is None:
            return None
        return cls(
            loss=trained.trained_loss,
            epoch=trained.taken_epoch,
            epochs=len(trained.epoch_losses),
            is_apart=bool(trained.watched_events),
        )

    def __str__(self) -> str:
        where = "" if self.is_apart else ", on what was learned"
        return f"{self.loss:.3f} ({self.epoch} of {self.epochs}{where})"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """`export`: the lesson as GGUF files, the one that identifies the version first."""

    abilities: ServerAbilities
    plan: DeliveryPlan
    files: tuple[DeliveredFile, ...]
    touched: tuple[str, ...]
    """Names of the tensors that the lesson changes."""
    others: tuple[DeliveryPlan, ...] = ()
    """What else was possible, and what it would have cost."""
    why: str = ""
    """One sentence: why this form was taken."""
    attempts: int = 1
    """So often it was written: in wider types until enough of the lesson was left, then in fewer bytes."""
    held_in: Losses | None = None
    """On what was learned, as the method means it; where two methods trained, by the one of which less is left."""
    held_out: Losses | None = None
    """On references of held-out prompts, in nats an answer token; None: there are none."""
    held_out_texts: int = 0


@dataclass(frozen=True, kw_only=True)
class RegisterResult:
    """`register`: the candidate is a tag in Ollama, and its digests were read back."""

    tag: str
    number: int
    """Of the version; 0 for a trial candidate."""
    tag_digest: str
    weights_digest: str


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """`verify`: the served candidate is live and equals the trained network.

    All figures in nats, over ids that are in both top-20 lists.
    """

    positions: int
    """That could be compared."""
    pairs: int
    """Compared (position, id) pairs."""
    live: float
    """Median |candidate - base| by the engine."""
    expected: float
    """Median |candidate - base| by our own forward pass."""
    noise: float
    """Median |base by engine - base by us|."""
    disagreement: float
    """Median |(candidate - base) by engine - (candidate - base) by us|."""
    held_out: Losses
    held_out_texts: int
    """References of held-out prompts that the losses were taken on; 0: none were held out, so on texts learned from."""
    prompts_equal: bool
    """Base and candidate render the same prompts."""
    passed: bool
    reason: str
    is_last_word: bool = False
    """It did not pass for what was learned: neither another server nor another delivery would change that."""


@dataclass(frozen=True, kw_only=True)
class CrossfitResult:
    """`crossfit`: a directory for each trial candidate, with the steps that it took as in a run."""

    folds: int
    """0: held-out prompts alone are asked."""
    examined: int
    """Fewer than `folds` where the exam was decided before, or no time was left."""
    seconds: float
    """Of the trial candidates' trainings."""


@dataclass(frozen=True, kw_only=True)
class ExamineResult:
    """`examine`: `answers.jsonl` (ExamAnswer)."""

    answers: int
    failed: int
    seconds: float
    decided: bool = False
    """The judge has seen enough."""


@dataclass(frozen=True, kw_only=True)
class JudgeResult:
    """`judge`"""

    guards: tuple[GuardResult, ...]
    verdict: Verdict
    of_incumbent: Verdict | None = None
    """What its own exam and this one say together of a version in use that was put there unproven; None: it was not, or
    nothing new was asked."""


@dataclass(frozen=True, kw_only=True)
class ConcludeResult:
    """`conclude`: how the run ended, and what it left in Ollama."""

    end: RunEnd
    reason: str
    alias: str | None
    version: str | None
    """The promoted version's tag, or the candidate's that waits for approval."""
    in_use_again: str | None = None
    """What the alias was moved back to, where the version in use was taken back."""


@dataclass(frozen=True, kw_only=True)
class PluginAtFault:
    """The plugin that ended a step, in the content that the worker had loaded."""

    name: str
    content_digest: str


@dataclass(frozen=True, kw_only=True)
class WorkerFailure:
    """`failure.json`: why a worker gave up."""

    reason: str
    """One sentence for the person, with what to do next."""
    plugin: PluginAtFault | None = None
    """Whose strike it is."""
    server_unreachable: bool = False
    """Ollama went away: the step is repeated when it is back."""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`progress.json`: how far a step is, overwritten as it goes on."""

    step: Step | Job
    done: int
    total: int
    text: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """Paths of a run, and how a step's result is written and read."""

    path: Path

    @property
    def settings(self) -> Path:
        """The configuration, frozen when the run began."""
        return self.path / "settings.json"

    @property
    def info(self) -> Path:
        """`RunInfo`."""
        return self.path / "run.json"

    def step(self, step: Step | Job) -> Path:
        """The sub-directory of a step."""
        return self.path / step.value

    def read_info(self) -> RunInfo:
        """Read `run.json`."""
        return codec.from_json(self.info.read_bytes(), RunInfo)

    def result(self, step: Step | Job, kind: type[T]) -> T:
        """Read the result of a finished step."""
        return codec.from_json((self.step(step) / "result.json").read_bytes(), kind)

    def begin(self, step: Step) -> None:
        """Make the directory of a step, and clear away what a half-made one left, unless it goes on from that."""
        directory = self.step(step)
        if step not in KEEPS_ITS_WORK:
            shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "failure.json").unlink(missing_ok=True)

    @property
    def is_trial(self) -> bool:
        """Whether it is that of a trial candidate, within a run's."""
        return self.path.parent.name == Step.CROSSFIT.value

    def trials(self) -> "tuple[RunDirectory, ...]":
        """The trial candidates that were examined, in order: of a run all, of a trial candidate those before it."""
        place = self.path.parent if self.is_trial else self.step(Step.CROSSFIT)
        others = (RunDirectory(path=path) for path in sorted(place.glob(TRIALS)))
        return tuple(
            one for one in others if one.is_done(Step.EXAMINE) and not (self.is_trial and one.path >= self.path)
        )

    def own_items(self) -> tuple[ExamItem, ...]:
        """What its candidate may be asked: what is held out, then, but of a trial candidate, what was learned."""
        names = ("items.jsonl",) if self.is_trial else ("items.jsonl", "regression.jsonl")
        return tuple(item for name in names for item in read_lines(self.step(Step.SELECT) / name, ExamItem))

    def exam_items(self) -> tuple[ExamItem, ...]:
        """What may be asked in the whole exam: first what trial candidates were asked."""
        return tuple(item for one in (*self.trials(), self) for item in one.own_items())

    def trial_answers(self) -> tuple[ExamAnswer, ...]:
        """What trial candidates, and the incumbent beside them, answered."""
        return tuple(answer for one in self.trials() for answer in one._own_answers())

    def exam_answers(self) -> tuple[ExamAnswer, ...]:
        """Every answer of the exam, those of trial candidates first."""
        return (*self.trial_answers(), *self._own_answers())

    def _own_answers(self) -> tuple[ExamAnswer, ...]:
        return tuple(read_lines(self.step(Step.EXAMINE) / "answers.jsonl", ExamAnswer))

    def ranked_pairs(self) -> tuple[RankedPair, ...]:
        """The pairs of the whole exam that were ranked, those of trial candidates first."""
        ranked = (one for one in (*self.trials(), self) if one.is_done(Step.RANK))
        return tuple(pair for one in ranked for pair in read_lines(one.step(Step.RANK) / RANKED, RankedPair))

    def stretches(self) -> tuple[StretchMark, ...]:
        """What the training's curriculum did, in order; of two trainings, that of the first. Empty: there was none."""
        directory = self.step(Step.TRAIN)
        files = (*sorted(directory.glob(f"*/{STRETCHES}")), *directory.glob(STRETCHES))
        return tuple(read_lines(files[0], StretchMark)) if files else ()

    def is_done(self, step: Step | Job) -> bool:
        """Whether the step's last act took place."""
        return (self.step(step) / "result.json").is_file()

    def output_digest(self, step: Step) -> str:
        """SHA-256 over the result of a finished step and the files beside it, hex.

        Left out is what does not last: logs, progress, checkpoints. GGUF files have their digests in the result.
        """
        digest = hashlib.sha256()
        directory = self.step(step)
        for file in sorted(one for one in directory.rglob("*") if one.is_file()):
            name = file.relative_to(directory)
            if not PASSING.isdisjoint(name.parts) or name.name.startswith(".") or file.suffix == ".gguf":
                continue
            with file.open("rb") as stream:
                digest.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    def finish(self, step: Step | Job, result: object) -> None:
        """Write the result of a step, durably and as its last act."""
        write_durably(self.step(step) / "result.json", codec.to_json(result))


@dataclass(frozen=True, kw_only=True)
class RankResult:
    """`rank`: held-out pairs of answers, ranked by both models, in `ranked.jsonl` (RankedPair)."""

    ranked: int
    left_out: int
    """Pairs that do not fit into the context, or of which nothing could be told."""


@dataclass(frozen=True, kw_only=True)
class StoreWrite:
    """A line of the journal of what plugins stored during a step. `value` None: the key was deleted."""

    key: str
    value: str | None


def write_lines(file: Path, records: Iterable[object]) -> None:
    """Write records as a JSONL file: whole and on disk, or not there."""
    write_durably(file, "".join(codec.to_json(record) + "\n" for record in records))


def append_line(file: Path, record: object) -> None:
    """Put a record behind those of a JSONL file, on disk when this returns."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(codec.to_json(record) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def whole_lines(file: Path, kind: type[T]) -> tuple[T, ...]:
    """The records that were appended; a line that a kill left in its middle is cut off. None where there is no file."""
    content = file.read_bytes() if file.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    return tuple(codec.from_json(line, kind) for line in whole.splitlines())


def remembered_lines(file: Path, kind: type[T]) -> tuple[T, ...]:
    """The same of a file that can be made anew: one that the disk tore, or that another release wrote, is removed."""
    try:
        return whole_lines(file, kind)
    except codec.CodecError as error:
        logger.warning("%s cannot be read, so it is begun anew: %s", file, error)
        file.unlink()
        return ()


def read_lines(file: Path, kind: type[T]) -> Iterator[T]:
    """Read the records of a JSONL file that we wrote, one by one."""
    with file.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield codec.from_json(line, kind)


def write_durably(path: Path, text: str) -> None:
    """Write a file so that after a crash it is whole or not there: write, fsync, rename, fsync directory."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync(path.parent)
