"""Records that cross the boundary between the daemon and its plugins.

All are frozen, keyword-only dataclasses of plain values, so that each can be written to a job file
and read back in a worker. Collections are tuples. Times are aware datetimes in UTC. Scores run from
0 to 100, shares and weights from 0 to 1, log-probabilities are natural logarithms.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

# --------------------------------------------------------------------------- feedback


class FeedbackType(StrEnum):
    """What happened to an answer."""

    SUCCESS = "success"
    EXPLICIT_POSITIVE = "explicit_positive"
    USER_CORRECTION = "user_correction"
    VALIDATION_FAILURE = "validation_failure"
    EXPLICIT_NEGATIVE = "explicit_negative"

    @property
    def is_like(self) -> bool:
        """It says that an answer was good."""
        return self in (FeedbackType.SUCCESS, FeedbackType.EXPLICIT_POSITIVE)

    @property
    def is_dislike(self) -> bool:
        """It says that an answer was bad."""
        return self in (FeedbackType.VALIDATION_FAILURE, FeedbackType.EXPLICIT_NEGATIVE)


class Role(StrEnum):
    """Who speaks in a message, as Ollama's chat endpoint names it."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of text that an application retrieved for a prompt."""

    text: str
    source: str | None = None
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the model was given besides `input_data`: what came before it, and what was retrieved."""

    system: str | None = None
    messages: tuple[Message, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    extra_json: str | None = None
    """Keys that the native format does not know, as canonical JSON: kept, never put into a prompt."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The reserved metadata keys of the native format."""

    weak: bool = False
    """A half-hearted signal: never a training target or a preference by itself."""
    weight: float = 1.0
    preference: bool = False
    demonstration: bool = False
    deleted: bool = False
    source_id: str | None = None
    source_version: str | None = None
    user: str | None = None
    reason: str | None = None
    comment: str | None = None
    tags: tuple[str, ...] = ()
    fim_suffix: str | None = None
    tests: str | None = None
    """Tests that an answer of this event must pass, as Python text."""
    schema: str | None = None
    """A JSON Schema as JSON text, or `CREATE` statements of SQL."""
    clock_flag: bool = False
    """The timestamp lay outside 2000-01-01 .. now + 1 day: order by arrival instead."""
    extra_json: str | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """One piece of feedback, in the native format.

    `(source, id)` is its identity. `artifact_type` is None until a `classify_event` hook has spoken;
    `model` is the Ollama name that answered, or None.
    """

    id: str
    timestamp: datetime
    feedback_type: FeedbackType
    input_data: str
    artifact_type: str | None = None
    model: str | None = None
    context: Context = field(default_factory=Context)
    ai_output: str | None = None
    corrected_output: str | None = None
    validation_score: float | None = None
    """0..100, the quality of `ai_output`."""
    retries: int = 0
    source: str = "dropdir"
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def key(self) -> str:
        """Its identity as one text: `source/id`."""
        return f"{self.source}/{self.id}"

    @property
    def is_correction(self) -> bool:
        """Whether a better text came with it, whatever its type says."""
        return self.corrected_output is not None

    @property
    def conversation(self) -> tuple[Message, ...]:
        """All that the model saw: the system text, earlier turns, the prompt."""
        system = (Message(role=Role.SYSTEM, content=self.context.system),) if self.context.system else ()
        return (*system, *self.context.messages, Message(role=Role.USER, content=self.input_data))

    @property
    def target(self) -> str | None:
        """The text worth learning: the correction, else an answer that was liked; None for the others."""
        if self.corrected_output is not None:
            return self.corrected_output
        if self.feedback_type.is_like:
            return self.ai_output
        return None

    def with_chunks(self, chunks: tuple[Chunk, ...]) -> "Event":
        """The same for whose prompt these texts were retrieved, in the place of those that it brought along."""
        if chunks == self.context.chunks:
            # as nearly always; copies of a hundred thousand would take a second
            return self
        return replace(self, context=replace(self.context, chunks=chunks))

    def shows(self, chunk: Chunk) -> bool:
        """Whether the application itself put a retrieved text into the conversation."""
        return any(chunk.text.strip() in message.content for message in self.conversation)

    @property
    def context_characters(self) -> int:
        """Length of what stands beside the prompt: system text, earlier turns, and retrieved texts, each once."""
        before = sum(len(message.content) for message in self.conversation[:-1])
        return before + sum(len(chunk.text) for chunk in self.context.chunks if not self.shows(chunk))

    @property
    def characters(self) -> int:
        """Length of all that a training reads of it: the prompt, what came before it and was retrieved, the target."""
        return len(self.input_data) + self.context_characters + len(self.target or "")


@dataclass(frozen=True, kw_only=True)
class FeedbackFile:
    """A file that was claimed from the feedback directory."""

    path: Path
    """Where its bytes can be read now."""
    name: str
    """What it was called when it was dropped."""
    modified_at: datetime
    settled: bool
    """Nothing was written to it for the settle time. An unsettled file may still be in the writing."""


@dataclass(frozen=True, kw_only=True)
class RefusedRecord:
    """A record that is not taken in, with a sentence that says why and what to do."""

    reason: str
    text: str
    """The record as it was found, cut to a readable length."""
    position: int | None = None
    """Its line (JSONL) or index (JSON array), counted from 1."""
    code: str = "invalid"
    """A short word for statistics: invalid, incomplete, too_large, encoding, quality, ..."""


@dataclass(frozen=True, kw_only=True)
class ParsedFeedback:
    """What a parser read from a file."""

    events: tuple[Event, ...] = ()
    refused: tuple[RefusedRecord, ...] = ()
    incomplete: bool = False
    """The file ends in the middle of a record. What was complete is in `events`."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why an admission plugin does not let an event in."""

    reason: str
    code: str = "quality"


# --------------------------------------------------------------------------- specialties and scores


@dataclass(frozen=True, kw_only=True)
class Specialty:
    """A pair that learns by itself: an Ollama base model and an artifact type."""

    base: str
    """Full Ollama name with its tag, `llama3.2:3b`."""
    artifact_type: str

    def __str__(self) -> str:
        return f"{self.base} / {self.artifact_type}"


@dataclass(frozen=True, kw_only=True)
class Peers:
    """What a reward needs to know of the events beside the one that is scored."""

    count_of_type: int
    """Events of the same artifact type in the ledger."""
    mean_count: float
    """Mean number of events of an artifact type."""
    count_of_group: int = 1
    """Near-duplicates of its prompt on its side of the split from which something can be learned, itself among them."""
    mean_count_of_group: float = 1.0
    """Mean number of such events of a group of near-duplicates; 0 where there are none."""
    difficulties: tuple[float, ...] = ()
    """How hard the events of its side are from which something can be learned, ascending."""


@dataclass(frozen=True, kw_only=True)
class RewardScore:
    """`priority` orders and weighs and has no bounds; `reward` is the same clipped to -1..1, for people."""

    priority: float
    reward: float


@dataclass(frozen=True, kw_only=True)
class ScoredEvent:
    """An event of a specialty with what the scoring hooks said of it."""

    event: Event
    priority: float
    reward: float
    difficulty: float
    """0 (easy) .. 1 (hard)."""
    group: str
    """Shared by all near-duplicates of its prompt: one side for all."""
    trained_on: bool
    """A version of the specialty was trained on it."""
    is_fresh: bool = True
    """No run has chosen it yet, or found that it has no use for it: its turn comes first."""
    chunks: tuple[Chunk, ...] = ()
    """Texts that were retrieved for its prompt. Those that it brought along are `event.context.chunks`."""
    correction_score: float | None = None
    """0..100, what a validator makes of the corrected text by itself; None: nothing was corrected, or nobody has
    looked."""

    @property
    def characters(self) -> int:
        """Length of all that a training reads of it, as `Event.characters`, with the texts that were retrieved."""
        return self.event.with_chunks(self.chunks).characters


@dataclass(frozen=True, kw_only=True)
class LossPoint:
    """The loss of an event's wanted answer, before a step in which a training learned from it."""

    stretch: int
    """Of the training, counted from 1: from one evaluation to the next, an epoch where no curriculum arranges any."""
    seen: int
    """How often the training had learned from the event before, in its own words or in a variant's."""
    loss: float
    """Nats an answer token."""


@dataclass(frozen=True, kw_only=True)
class LossTrajectory:
    """How a training learned the wanted answer of an event that was new to its network."""

    event_id: str
    training: str
    """The run that trained. Losses of one training can be compared, those of two cannot."""
    points: tuple[LossPoint, ...]
    """In order; of the event's own example, never of a variant. A curriculum has some learned later, or more often,
    than others: comparable are losses of one stretch that were taken when as much of each event had been seen."""


@dataclass(frozen=True, kw_only=True)
class NoiseFinding:
    """A piece of feedback that looks wrong, or that was overtaken."""

    event_id: str
    factor: float
    """0..1. Multiplies the weight of its example; up to 0.5 it makes no pair and no label; 0: nothing is learned from
    it; 1: it is shown, and counts as ever."""
    reason: str
    """What speaks against it, for its owner: a clause of a sentence, `you corrected it otherwise later`."""
    contradicts: str | None = None
    """`source/id` of the event that says otherwise, where there is one."""


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """What is known of a specialty when its batch size is chosen."""

    available: int
    """Fresh events: no run has looked at them yet."""
    corrections: int
    """How many of the fresh ones carry a correction."""
    average_quality: float
    """Mean of what there is to learn in everything seen, 0..1: validation scores, and 1 for each correction, whatever
    the answer scored that it corrects; 0.5 where nothing was scored or corrected."""
    total_seen: int
    batches_made: int


# --------------------------------------------------------------------------- learning material


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """Near-duplicate prompts of a type, and their side if it was decided."""

    key: str
    events: int
    side: "Side | None" = None
    trained_on: bool = False
    """A version of the specialty has seen one of its events."""
    in_use: bool = False
    """So has a version that is or was in use, if only an earlier form of them."""
    goes_on: bool = False
    """Conversations that are not held out go on from one of its prompts. Were it, nobody could learn from them."""


class Side(StrEnum):
    """Which side of the split a group of prompts is on, for good."""

    TRAINING = "training"
    HELD_OUT = "held_out"


@dataclass(frozen=True, kw_only=True)
class SideChoice:
    """A group and the side chosen for it."""

    key: str
    side: Side


@dataclass(frozen=True, kw_only=True)
class TrainingExample:
    """A conversation and the answer to be learned."""

    event_id: str
    """`source/id` of the event it comes from; empty for what comes from none, as a starter example."""
    messages: tuple[Message, ...]
    """Everything up to the answer, in order."""
    target: str
    weight: float = 1.0
    """Multiplies the example's loss. Above 0."""
    difficulty: float = 0.5
    group: str = ""
    parent: str | None = None
    """For an augmented variant: the `event_id` of its original."""
    prompt: str = ""
    """Set by the host: what was asked, without the retrieved texts that the last message may have around it."""
    chunks: tuple[Chunk, ...] = ()
    """Set by the host: what was retrieved for it."""
    score: float | None = None
    """Set by the host: 0..100, of the answer that the model itself gave; None: it gave none, or none was scored."""
    hardness: float = 1.0
    """Set by the host: the factor by which it weighs more because the model fails near it; 1: it does not."""
    artifact_type: str = ""
    """Set by the host, as the two below: by what an answer to it is scored."""
    tests: str | None = None
    schema: str | None = None


@dataclass(frozen=True, kw_only=True)
class StarterExample:
    """A question of an artifact type with a good answer, for a specialty that has too little feedback of its own."""

    prompt: str
    answer: str
    """The artifact itself, in no fence."""
    language: str = ""
    """What a fence around it is called, such as `mermaid`, where it stands in one; empty: it never does."""
    weight: float = 1.0
    """Above 0, at most 1: what it counts in the loss at most, as a share of the mean one of the specialty's own."""


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two answers to one conversation, one better."""

    event_id: str
    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: float = 0.0
    """Score gap / 100; 0 where a side has no score, and where a correction was scored no better than its answer."""
    worse_event_id: str = ""
    """Of the worse answer, where that is another event's."""
    group: str = ""
    """Set by the host: that of its event."""
    sampled: bool = False
    """Set by the host: its answers are among those that the incumbent was asked for."""

    @property
    def key(self) -> str:
        """What tells it from others over the nights: its group of prompts."""
        return self.group or self.event_id


@dataclass(frozen=True, kw_only=True)
class LabelledAnswer:
    """An answer that was liked or disliked by itself, with no other one beside it."""

    event_id: str
    messages: tuple[Message, ...]
    answer: str
    liked: bool
    group: str = ""
    """Set by the host: that of its event."""


@dataclass(frozen=True, kw_only=True)
class OwnAnswer:
    """What the base itself answered to a prompt that no feedback is about."""

    prompt: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a run learns again beside its lesson, so that it is not forgotten."""

    events: tuple[str, ...] = ()
    """`source/id` of earlier events, of those that were offered."""
    answers: tuple[OwnAnswer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a run may learn from."""

    events: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A dense row-major matrix, shape (rows, columns), as a memoryview of 32-bit floats. Raises `ValueError`."""

    values: memoryview
    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.values.format != "f" or self.values.nbytes != 4 * self.rows * self.columns:
            raise ValueError(f"a matrix of {self.rows} rows and {self.columns} columns has as many 32-bit floats")


@dataclass(frozen=True, kw_only=True)
class SimilarityMatrix:
    """One metric's view of how alike texts are, in 0..1, with its weight in the combination."""

    metric: str
    weight: float
    matrix: Matrix

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError("the weight of a metric must be 0 or more")


# --------------------------------------------------------------------------- training and delivery


class TrainedForm(StrEnum):
    """What is trained beside the frozen base."""

    AUTO = "auto"
    """Added neurons where the packed engine trains and the server takes shards, else LoRA."""
    LORA = "lora"
    """LoRA on all linear layers."""
    GROUPED = "grouped_lora"
    """LoRA whose delta is constant within 32 inputs, so that quantised blocks keep it exactly."""
    NEURONS = "neurons"
    """Added feed-forward units."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Settings of one training, in PEFT's and transformers' names. Raises `ValueError`."""

    learning_rate: float = 0.0
    """0: what was found best for the form, by the base's architecture and width."""
    batch_size: int = 16
    """Examples an optimiser step."""
    num_epochs: int = 3
    warmup_ratio: float = 0.05
    form: TrainedForm = TrainedForm.AUTO
    neurons: int = 0
    """Feed-forward units added to each layer; 0: an eighth of those it has, fewer beside a large base."""
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_layers: tuple[str, ...] = ()
    """Which linear layers of each block, by their names in the GGUF (`attn_q`, `ffn_down`); empty: all."""
    beta: float = 0.1
    """How strongly a preference holds the model to the one that it began from (DPO and KTO)."""
    max_length: int = 2048
    """Tokens of an example; longer ones are left out and counted, never cut."""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.num_epochs, self.lora_r, self.lora_alpha, self.max_length) < 1:
            raise ValueError("batch_size, num_epochs, lora_r, lora_alpha and max_length must be 1 or more")
        if not (0 <= self.learning_rate < math.inf and 0 < self.beta < math.inf and self.neurons >= 0):
            raise ValueError("learning_rate and neurons must be 0 or more, and beta above 0")
        if not (0 <= self.warmup_ratio <= 1 and 0 <= self.lora_dropout < 1):
            raise ValueError("warmup_ratio must be within 0..1, and lora_dropout from 0 to below 1")


class TrainingMethod(StrEnum):
    """How a model learns."""

    SFT = "sft"
    """Wanted answers."""
    DPO = "dpo"
    """Better answers over worse ones."""
    KTO = "kto"
    """Answers that were liked, or disliked, by themselves."""


class MethodChoice(StrEnum):
    """What a user asks for."""

    AUTO = "auto"
    """SFT while there are wanted answers, DPO on top where there are enough pairs, KTO where there are thumbs alone."""
    SFT = "sft"
    DPO = "dpo"
    KTO = "kto"


@dataclass(frozen=True, kw_only=True)
class Material:
    """How much there is to learn from. A trial candidate's job tells what the candidate has: the method is the same."""

    examples: int
    """Wanted answers: corrections, demonstrations, liked answers, variants of them; nothing that stands beside them."""
    better_known: int
    """Those of them that come from a correction, a demonstration or a preference."""
    pairs: int
    liked: int
    """Lone answers that were liked."""
    disliked: int
    learnable: int = 0
    """Events with an answer that could be learned, whatever of them this night's budget takes."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that one training needs, self-contained: it can be handed to any process."""

    base_gguf: Path
    """The very file that Ollama serves."""
    base_digest: str
    """SHA-256 of that file, hex."""
    architecture: str
    dataset: Path
    """Directory of what is learned from, frozen and rendered: `examples.jsonl` (a `TrainingText` a line), `pairs.jsonl`
    (`PairText`), `labels.jsonl` (`LabelledText`)."""
    output: Path
    """Directory to fill: PEFT adapter, `metrics.jsonl`, `trajectories.jsonl`, checkpoints."""
    material: Material
    method: MethodChoice
    hyperparameters: Hyperparameters
    suggested: Hyperparameters | None = None
    """What was suggested, where a search among trainings on wanted answers found better; None: these were."""
    seed: int
    context: int = 4096
    """Tokens that the engine is run with (`num_ctx`): some architectures turn positions otherwise in a long context."""
    warm_start: Path | None = None
    """What an earlier training left, to begin from."""
    requires_start: bool = False
    """Whether a start that does not fit ends the training, instead of having it begin from the base."""
    spared_bytes: int = 0
    """What the training leaves free of the disk of `output`: for the delivery, and as the settings ask."""
    time_left_s: float = math.inf
    """Set by the host: after so long it comes to its end with what it has learned."""
    is_rehearsal: bool = False
    """Nothing is to be trained: what `train` is asked for is planned."""


@dataclass(frozen=True, kw_only=True)
class TrainingText:
    """An example after Ollama rendered its prompt: the text as the model will see it."""

    event_id: str
    """Empty for what comes from no event: an answer of the base's own, a starter example."""
    prompt: str
    completion: str
    """The answer with its closing token's text."""
    weight: float = 1.0
    group: str = ""
    """Of near-duplicate prompts, which are watched or learned from together."""
    difficulty: float | None = None
    """0 (easy) .. 1 (hard), of its event; None: not told."""
    score: float | None = None
    """0..100, of the answer that the model itself gave; None: it gave none, or none was scored."""
    variant: bool = False
    """Its prompt is an augmented one: the person that its event is of asked in other words."""
    beside: bool = False
    """It is no part of the lesson, but learned beside it: replayed, or a starter example. What is measured of the
    lesson is measured without it."""
    artifact_type: str = ""
    """By what an answer to it is scored, as the three below."""
    messages: tuple[Message, ...] = ()
    """What the prompt says, without the template."""
    tests: str | None = None
    schema: str | None = None


@dataclass(frozen=True, kw_only=True)
class PairText:
    """A preference pair after Ollama rendered its prompt; both answers with their closing token's text."""

    event_id: str
    prompt: str
    chosen: str
    rejected: str
    margin: float = 0.0
    worse_event_id: str = ""
    group: str = ""
    sampled: bool = False


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """A labelled answer after Ollama rendered its prompt."""

    event_id: str
    prompt: str
    completion: str
    """The answer with its closing token's text."""
    liked: bool
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """What is known of a training whose hyperparameters may be searched for."""

    specialty: Specialty
    base_digest: str
    """SHA-256 of the base's weights, hex."""
    events: int
    """Of the specialty, with an answer that could be learned: more or fewer than the examples, as a night has a budget
    and events may have variants."""
    examples: int
    """That it learns from."""
    tried_on: int
    """That each training learns from which is tried out: less what is measured on, with what is learned beside the
    lesson. What is too long for it is counted too."""
    given: Hyperparameters
    """With what it trains where nobody answers: form, learning rate and added neurons are decided."""
    neuron_step: int
    """Feed-forward units are added in multiples of it; 0: the form adds none."""
    fixed: tuple[str, ...]
    """Names of hyperparameters that stay as they are given, since the training begins from what has them."""
    directory: Path
    """Of the search's own. What lies there survives a kill, and is there again when the run goes on."""
    is_rehearsal: bool = False
    """Nothing is to be tried out: a training is only planned."""


@dataclass(frozen=True, kw_only=True)
class TrainingTrial:
    """A training that is to be tried out, and how far."""

    hyperparameters: Hyperparameters
    title: str
    """What is shown meanwhile."""
    marks: tuple[float, ...] = ()
    """Epochs after which the loss is measured and the judge is asked; one at its end or behind it is passed over."""
    seconds: float = math.inf
    """After which it ends, wherever it is, and so do its answers."""
    answers: int = 0
    """So many of its own it is asked for when it came to its end, and they are scored."""


class TrialEnd(StrEnum):
    """In which way a training ended that was tried out."""

    COMPLETE = "complete"
    """It came to its end, and so did the answers that it was asked for."""
    STOPPED = "stopped"
    """By the judge."""
    LATE = "late"
    """Its time was over before."""
    UNFIT = "unfit"
    """By these hyperparameters it cannot be trained here; others may do better."""


@dataclass(frozen=True, kw_only=True)
class TriedOut:
    """What came of a training that was tried out. Of it nothing is left but this."""

    end: TrialEnd
    loss: float | None
    """At its end, on the examples kept apart, in nats an answer token; None where it did not come so far."""
    score: float | None = None
    """Mean of the validators, 0..100, over its own answers to some of them; None where it was not asked for, or where
    the time was over before."""
    tokens: int
    """Learned from, prompts included, an example as often as it was seen."""
    measured_tokens: int
    """That went through the network to be measured."""
    seconds: float
    problem: str = ""
    """A sentence where it could not go on: the loss became no number, memory was short, there was no time to answer."""


@dataclass(frozen=True, kw_only=True)
class HyperparameterSearch:
    """With what a training is to be done, and how that was found."""

    hyperparameters: Hyperparameters
    reason: str
    """One sentence for the report; of a rehearsal: what a run would search for, and within which bounds."""
    trials: int = 0
    """Trainings that were tried out; of a rehearsal, that may be at most; 0: it was found earlier."""
    stopped: int = 0
    """Of them, those that were not taken to their end."""
    tokens: int = 0
    """Learned from in all of them, prompts included."""
    measured_tokens: int = 0
    """That went through the network to be measured."""
    seconds: float = 0.0
    """That the search took; of a rehearsal, that it may take."""
    loss: float | None = None
    """Of these hyperparameters on examples that were kept apart, in nats an answer token; None: not known."""
    given_loss: float | None = None
    """The same of the given ones."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training left behind."""

    adapter: Path
    """The directory of what was trained; for LoRA one that `PeftModel.from_pretrained` loads."""
    methods: tuple[TrainingMethod, ...]
    """What it learned by, in order."""
    steps: int
    tokens: int
    """Tokens seen, prompts included."""
    examples: int
    left_out: int
    """Examples longer than `max_length`."""
    base_loss: float
    """On the watched slice before training: nats per answer token for SFT, else the loss of the last method."""
    trained_loss: float
    """The same after it."""
    seconds: float
    epoch_losses: tuple[float, ...] = ()
    """The same after each epoch; the last method's. Empty: the trainer does not tell."""
    warm_start: bool = False
    """Whether it began from `TrainingJob.warm_start`."""
    plan: str = ""
    """How it was cut to fit into memory, and what was expected of it, as decided before it began."""
    not_learned: str = ""
    """What was to come on top and did not, and why, in a sentence; empty: nothing."""
    learned_events: tuple[str, ...] | None = None
    """`source/id` of every event whose examples moved the model; None: the trainer does not tell."""
    watched_events: tuple[str, ...] = ()
    """Of every one whose examples only told when to stop."""
    hyperparameters: Hyperparameters | None = None
    """With what it was done, the last method; None: the trainer does not tell."""
    search: HyperparameterSearch | None = None
    """Set by the host: how these were found; None where nobody searched for them."""

    @property
    def taken_epoch(self) -> int | None:
        """The epoch that was taken, counted from 1; None: the trainer does not tell, or took none of them."""
        last = max((at for at, loss in enumerate(self.epoch_losses, start=1) if loss == self.trained_loss), default=0)
        return last or None


@dataclass(frozen=True, kw_only=True)
class LearnedExample:
    """An example of a training that is under way, without its text."""

    event_id: str
    """`source/id` of the event that it comes from, as others may; empty: not told."""
    group: str
    """Of near-duplicate prompts; empty: the prompt by itself."""
    tokens: int
    weight: float
    difficulty: float | None
    """0 (easy) .. 1 (hard), of its event; None: not told, as of pairs and of answers that were liked or disliked."""
    score: float | None
    """0..100, of the answer that the model itself gave to its prompt; None: it gave none, or none was scored."""
    seen: int
    """How often this training has learned from it."""
    beside: bool = False
    """It is no part of the lesson, but learned beside it, replayed or as a starter example: what arranges the lesson
    has it go along."""


@dataclass(frozen=True, kw_only=True)
class TrainingSoFar:
    """How far a training is when it is decided what it learns from next."""

    method: TrainingMethod
    epochs: int
    epoch: int
    """The one under way, counted from 1."""
    left: int
    """Examples that this epoch has still to learn from; at its beginning as many as there are."""
    batch_size: int
    """Examples an optimiser step."""
    losses: tuple[float, ...]
    """Of the same examples all along: before the training, and after each stretch."""
    goes_on: bool
    """Whether it began from what an earlier training of the specialty had learned."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What a training learns from until it is evaluated again: an epoch or a part of one."""

    places: tuple[int, ...]
    """Of the examples, counted from 0, in the order in which they are learned from; one may come several times."""
    stage: str
    """A word for reports and for `nightschool explain`."""
    reason: str = ""
    """Why it has come to this stage, as a clause for reports: `the stage before was learned`; empty: none is told."""


class DeliveryForm(StrEnum):
    """How a lesson gets into Ollama."""

    SPLIT = "split"
    FUSED = "fused"
    ADAPTER = "adapter"


@dataclass(frozen=True, kw_only=True)
class ServerAbilities:
    """What the running Ollama takes, as found by probing it, not by its version."""

    version: str
    split: bool
    fused: bool
    adapter: bool
    architecture: str
    refusals: Mapping[DeliveryForm, str] = field(default_factory=dict)
    """Why each of the others is not taken, in a sentence: what the server answered, or what was seen."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """A tensor of the base GGUF."""

    name: str
    shape: tuple[int, ...]
    """Rows first: (out_features, in_features)."""
    type: str
    """ggml's name: Q4_K, Q8_0, F16, ..."""
    bytes: int
    touched: bool
    """The lesson changes it."""
    delivered_bytes: int
    """Its size with the lesson in it, in the type in which the lesson is kept; as `bytes` where it is untouched."""


@dataclass(frozen=True, kw_only=True)
class DeliveryTarget:
    """What a delivery plugin decides on."""

    server: ServerAbilities
    tensors: tuple[TensorInfo, ...]
    adapter_bytes: int | None
    """Size of the lesson as a LoRA adapter file; None: it is no LoRA."""
    needs_one_file: bool = False
    """Ollama cannot load this base in shards; `server.split` is false then."""
    header_bytes: int = 0
    """What the base's file has beside its tensors, mostly its tokenizer. A version has it anew, unless it is an
    adapter."""


@dataclass(frozen=True, kw_only=True)
class DeliveryPlan:
    """A way to deliver a lesson, with its cost."""

    form: DeliveryForm
    version_bytes: int
    """Disk that this version adds to Ollama's store."""
    shared_bytes: int
    """Disk that is added once for a base, however many versions share it."""
    reason: str
    """One sentence for the report."""


# --------------------------------------------------------------------------- exams


class ItemRole(StrEnum):
    """What an exam item can show."""

    GAIN = "gain"
    """Counts for or against the candidate."""
    GUARD = "guard"
    """Must not get worse; never counts as gain."""
    LEARNED = "learned"
    """A correction that the incumbent, or a version it came from, has learned: must not be forgotten."""
    LESSON = "lesson"
    """A correction that the candidate learned tonight, and trial candidates were asked: it says whether the candidate
    itself is sound."""

    @property
    def is_held_out(self) -> bool:
        """Whoever answers did not learn it: the candidate, or a trial candidate in its place.

        What was learned sits once against the incumbent, not twice.
        """
        return self in (ItemRole.GAIN, ItemRole.GUARD)


@dataclass(frozen=True, kw_only=True)
class ExamItem:
    """A held-out prompt, or one that was learned before, with the reference an answer is scored against."""

    id: str
    event_id: str
    artifact_type: str
    role: ItemRole
    messages: tuple[Message, ...]
    reference: str | None = None
    """None: an answer can only be checked, by parsing it and by `tests` or `schema`."""
    group: str = ""
    tests: str | None = None
    """Tests of a program in its own language, run in a locked-down child alone."""
    schema: str | None = None
    """What an answer must fit: a JSON Schema, or the tables a query is asked of as `CREATE` statements."""
    disliked: str | None = None
    """An answer that was disliked, where no better one is known: the score says how far an answer is from it."""

    @property
    def key(self) -> str:
        """What tells it from others over the nights: its group of prompts, whichever event speaks for it."""
        return self.group or self.id


@dataclass(frozen=True, kw_only=True)
class AnswerScore:
    """A validator's verdict on one answer."""

    score: float
    """0..100."""
    validator: str
    detail: str = ""
    """What was found wrong, in words; empty where nothing was."""
    is_relative: bool = False
    """It says how the answer stands to the one that it was compared with: half is as good."""
    is_out_of_time: bool = False
    """The clock ended its tests: on a machine that has less to do they may pass, so no later night counts on it."""


class Sitting(StrEnum):
    """One block of an exam: who answers. The incumbent sits twice, its difference is the noise floor."""

    INCUMBENT = "incumbent"
    CANDIDATE = "candidate"
    INCUMBENT_AGAIN = "incumbent_again"


@dataclass(frozen=True, kw_only=True)
class ExamAnswer:
    """What a model said to an item, and what it cost."""

    item_id: str
    sitting: Sitting
    model: str
    text: str
    score: float
    """0..100; 0 for a failed answer."""
    detail: str
    failed: bool
    """The server gave no whole answer: an error line, or a stream without its end."""
    latency_s: float
    tokens: int
    """Tokens generated."""
    done_reason: str | None
    generation_s: float = 0.0
    """Seconds that these tokens took by the server's own clock, without loading and reading the prompt; 0: not told."""
    reading_s: float = 0.0
    """Seconds that reading the prompt took by the same clock, without what was read before and kept; 0: not told."""
    is_relative: bool = False
    """As in `AnswerScore`."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that a model may call."""

    name: str
    description: str
    parameters: Mapping[str, str]
    """Name of each parameter -> its JSON type: `string`, `integer`, `number` or `boolean`. All are required."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that a model asked for, as the server read it."""

    name: str
    arguments: Mapping[str, object]
    """JSON values by the name of their parameter."""


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """What a model said to a question of a guard."""

    text: str
    thinking: str = ""
    """What it thought before; empty where it was not asked to think, or did not."""
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: int = 0
    """Tokens generated, those of thinking and calls included."""
    generation_s: float = 0.0
    """Seconds that these tokens took by the server's own clock, without loading and reading the prompt; 0: not told."""
    reading_s: float = 0.0
    """Seconds that reading the prompt took by the same clock, without what was read before and kept; 0: not told."""


@dataclass(frozen=True, kw_only=True)
class ModelMemory:
    """What a loaded model takes, as the server says."""

    total_bytes: int
    gpu_bytes: int
    """The part of `total_bytes` that lies in the memory of graphics cards."""
    context_tokens: int | None
    """The context it is loaded with; None: not told."""


@dataclass(frozen=True, kw_only=True)
class CountedItem:
    """An item that counted as evidence, and what the candidate of its night gained on it."""

    key: str
    """`ExamItem.key`."""
    gain: float
    """Points, -100..100."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What earlier exams of a specialty against the same incumbent have shown."""

    log_e_value: float = 0.0
    """Natural logarithm of the product of their e-values since the last promotion."""
    counted: tuple[CountedItem, ...] = ()
    """The items behind it, in the order in which they counted."""
    used: tuple[str, ...] = ()
    """`ExamItem.key` of every item that was asked against this incumbent, whenever: none counts a second time."""


@dataclass(frozen=True, kw_only=True)
class FirstScore:
    """How the first version in the incumbent's line that was asked a correction, after it was learned, did at it."""

    event_id: str
    reference: str | None
    """The wanted answer of then: of another one the score says nothing."""
    score: float
    """0..100."""
    is_relative: bool = False
    """As in `AnswerScore`."""


@dataclass(frozen=True, kw_only=True)
class RankedPair:
    """A better and a worse answer to a held-out prompt, and how much likelier each model finds the better one.

    Nobody is asked: likelihoods are those of our own forward pass over the weights that Ollama serves. A margin is the
    mean log-probability of the better answer's tokens less that of the worse one's, in nats a token.
    """

    event_id: str
    key: str
    """What tells it from others over the nights: its group of prompts."""
    incumbent: float
    """The incumbent's margin: above 0 where it ranks them right."""
    candidate: float

    @property
    def gain(self) -> float:
        """By how much the candidate prefers the better answer more, in points of -100..100.

        It is the change that counts, not which side of 0 a margin is on: where the incumbent ranks most pairs wrong,
        whatever disturbs it ranks more of them right.
        """
        return 100 * math.tanh(self.candidate - self.incumbent)


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A whole exam: items in order, every answer, and the pairs that were ranked."""

    specialty: Specialty
    incumbent: str
    candidate: str
    items: tuple[ExamItem, ...]
    answers: tuple[ExamAnswer, ...]
    ranked: tuple[RankedPair, ...] = ()
    """They count like items, for prompts of which only the feedback says which of two answers is better."""
    evidence: Evidence = field(default_factory=Evidence)
    """What was known before it."""
    judged_together: int = 1
    """Specialties and recipes that gather evidence side by side, this one among them: any may be deceived."""
    to_come: int = 0
    """Items that count and were not asked yet, of those that may be asked tonight."""
    base: str | None = None
    """The base as it was before anything was learned; None where two models are compared by hand."""
    first_scores: tuple[FirstScore, ...] = ()
    """Of corrections that were learned before and are asked; of those that were never asked before none."""

    @property
    def base_apart(self) -> str | None:
        """The base, where it is another model than the incumbent."""
        return None if self.base == self.incumbent else self.base


@dataclass(frozen=True, kw_only=True)
class GuardResult:
    """Whether one thing that must not get worse held."""

    guard: str
    held: bool
    reason: str
    """One sentence with the figures."""
    looked: bool = True
    """False: it could not look, as where there was no time. Then it broke nothing, and vouches for nothing: a candidate
    that is good enough otherwise waits for approval."""
    dispensable: bool = False
    """The candidate does not wait for what could not be looked at, as where nobody could ever look."""


class Outcome(StrEnum):
    """What a judge finds."""

    PROVEN = "proven"
    PROVISIONAL = "provisional"
    NOT_ENOUGH = "not_enough_to_tell"
    WORSE = "worse"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judge's finding, with its numbers. Scores and gains in points of 0..100."""

    outcome: Outcome
    incumbent_mean: float
    candidate_mean: float
    gain: float
    interval: tuple[float, float]
    """95 % interval of the mean gain, however early the exam ended, where differences are symmetric around it."""
    p_value: float
    """One-sided: how often equal models would show this gain or more."""
    noise: float
    """Mean absolute difference between the incumbent's two sittings."""
    items: int
    """That counted and could be compared, pairs among them."""
    items_needed: int | None
    """For 'not enough to tell': new items still needed for the effect seen; None: none was seen, or see `obstacle`."""
    guards: tuple[GuardResult, ...]
    reason: str
    """One sentence for the report."""
    log_e_value: float = 0.0
    """Natural logarithm of the product of the e-values so far, this exam's included."""
    log_e_needed: float = 0.0
    """What it must reach for proof."""
    counted: tuple[CountedItem, ...] = ()
    """The items of this exam that counted, none of which counted before."""
    pairs: int = 0
    """Of the items, the pairs that were ranked."""
    decided: bool = False
    """More items of this exam would hardly change the outcome: the rest need not be asked."""
    obstacle: str = ""
    """What stands in the way of proof where it is not the number of items, in a sentence for the report."""

    @property
    def tells_levels(self) -> bool:
        """Whether the means say where the models stand: of pairs the change alone is known."""
        return self.items == 0 or self.items > self.pairs


@dataclass(frozen=True, kw_only=True)
class LiveAnswer:
    """What was said of one answer that was given in use."""

    by_candidate: bool
    """The candidate gave it, else the incumbent."""
    negative: bool
    """It was disliked, corrected or found invalid, else liked or used as it was."""
    source: str
    """Where the feedback came from: applications differ in what they report."""


@dataclass(frozen=True, kw_only=True)
class LiveFeedback:
    """Feedback on the answers that two versions gave in use, one a conversation and version, in order of arrival."""

    alias: str
    incumbent: str
    """What served before, as Ollama calls it."""
    candidate: str
    """What is on probation, or gets a share of the use."""
    answers: tuple[LiveAnswer, ...]


@dataclass(frozen=True, kw_only=True)
class LiveVerdict:
    """What feedback in use says of a candidate: proven better, worse, or not enough to tell."""

    outcome: Outcome
    evidence_worse: float
    """E-value against "the candidate is not worse": 40 or more comes by chance once in 40 promotions at most."""
    evidence_better: float
    """The same against "the candidate is not better"."""
    reason: str
    """One sentence with the figures."""
    liked_missing: int = 0
    """So many liked answers of the incumbent are missing before anything said of the candidate could show it worse."""


# --------------------------------------------------------------------------- models, versions, runs


@dataclass(frozen=True, kw_only=True)
class InstalledModel:
    """A tag in Ollama's registry, as the watcher saw it."""

    name: str
    digest: str
    """SHA-256 of its manifest, hex."""
    weights_digest: str
    """SHA-256 of its (first) GGUF, hex."""
    architecture: str
    capabilities: tuple[str, ...] = ()
    trainable: bool = True
    """False for cloud models, embedding-only models and what has no GGUF."""


class BaseChange(StrEnum):
    """What happened to a watched base between two polls."""

    APPEARED = "appeared"
    CONFIGURATION_CHANGED = "configuration_changed"
    """Same weights; template, parameters, system text or licence differ: rebuild and examine again."""
    WEIGHTS_CHANGED = "weights_changed"
    """New weights: train the specialty anew."""
    VANISHED = "vanished"


class Recipe(StrEnum):
    """How a run makes its candidate."""

    TRAINING = "training"
    """It trains."""
    EXAMPLES = "examples"
    """The base, with a few corrections as messages that precede every conversation: made in a second."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run as observers see it."""

    id: str
    specialty: Specialty
    seed: int
    started_at: datetime
    reason: str
    directory: Path
    recipe: Recipe = Recipe.TRAINING


class RunEnd(StrEnum):
    """In which way a run ended; each run ends in exactly one."""

    PROMOTED = "promoted"
    WAITING = "waiting_for_approval"
    NOT_ENOUGH = "not_enough_to_tell"
    DISCARDED = "discarded"
    OVERTAKEN = "overtaken"
    """It waited for approval, and a newer version of its specialty came first."""
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """How a run went, for the observers of its end."""

    run: RunInfo
    end: RunEnd
    reason: str
    """One sentence: what happened, and what to do next where something is to be done."""
    verdict: Verdict | None = None
    alias: str | None = None
    version: str | None = None


class MoveKind(StrEnum):
    """Why an alias points somewhere else."""

    PROMOTE = "promote"
    UNDO = "undo"
    ROLL_BACK = "roll_back"

    @property
    def is_back(self) -> bool:
        """It takes a promotion back, whoever asked for it."""
        return self is not MoveKind.PROMOTE


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """An alias that was moved from one manifest to another."""

    kind: MoveKind
    alias: str
    from_digest: str | None
    to_digest: str | None
    """None: the alias was removed, because nothing stood there before the first promotion."""
    reason: str
    from_tag: str | None = None
    """The version that served before; for a base the pin that keeps it as it was."""
    to_tag: str | None = None
