"""The ledger's rows as the rest of the daemon sees them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from nightschool_daemon.jobs import Losses, Step, Watched
from nightschool_hookspecs.records import DeliveryForm, Event, FeedbackType, MoveKind, Recipe, RunEnd, Specialty


class LedgerError(Exception):
    """The ledger cannot be used, or refuses what it was asked; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class IncomingEvent:
    """An admitted event on its way into the ledger. Its artifact type is set."""

    event: Event
    base: str | None
    """The base model it counts to; None: every base trained for its type."""
    answered_by: str | None
    """The version of ours that gave the answer, if one did."""
    group: str
    arrived_at: datetime


@dataclass(frozen=True, kw_only=True)
class AddResult:
    """What became of a batch of events."""

    added: tuple[Event, ...] = ()
    replaced: tuple[Event, ...] = ()
    unchanged: int = 0
    retracted: int = 0
    conflicts: int = 0
    """Events whose key was known with other content: the newer one stays."""


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """What was said of an answer, without its texts."""

    key: str
    """`source/id` of the event."""
    at: datetime
    """When the answer was given, as the record tells; when that arrived where its time cannot be true."""
    base: str | None
    answered_by: str | None
    """The alias or version of ours that the record names."""
    feedback_type: FeedbackType
    source: str
    opening: str
    """Digest of the prompt that its conversation began with."""


@dataclass(frozen=True, kw_only=True)
class SpecialtyCount:
    """Events of an artifact type that count to a base; `base` None: to none in particular."""

    base: str | None
    artifact_type: str
    count: int


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run."""

    id: str
    specialty: Specialty
    seed: int
    reason: str
    started_at: datetime
    finished_at: datetime | None
    end: RunEnd | None
    outcome_reason: str
    directory: Path
    recipe: Recipe = Recipe.TRAINING


class StepState(StrEnum):
    """How far a step of a run is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A step of a run. Digests are SHA-256, hex."""

    step: Step
    state: StepState
    attempt: int
    input_digest: str
    output_digest: str | None
    started_at: datetime
    finished_at: datetime | None
    reason: str


class VersionState(StrEnum):
    """What became of a version."""

    CANDIDATE = "candidate"
    PROMOTED = "promoted"
    RETIRED = "retired"
    """It was promoted once, and its tag was deleted since."""
    DISCARDED = "discarded"


WAS_IN_USE = (VersionState.PROMOTED, VersionState.RETIRED)
"""States of a version that an alias holds, or held once."""


@dataclass(frozen=True, kw_only=True)
class DeliveredFileRow:
    """A GGUF that belongs to a version."""

    name: str
    path: Path
    digest: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a served version was from the trained network, in nats, over token probabilities."""

    disagreement: float
    noise: float
    """How far the engine is from our own forward pass over the base."""
    live: float
    """How far the version moved them."""
    pairs: int


@dataclass(frozen=True, kw_only=True)
class KeptLesson:
    """How much of what was learned is in a version. None where it was not measured."""

    held_in: Losses | None = None
    """On what it learned."""
    held_out: Losses | None = None
    """On references of held-out prompts."""
    served: Agreement | None = None
    watched: Watched | None = None
    """What told when its training was to stop."""

    def sentence(self) -> str:
        """`99.8 % kept, held-out loss 3.210 to 2.104`; empty where nothing was measured."""
        parts = [] if self.held_in is None else [f"{self.held_in.share()} kept"]
        if self.held_out is not None:
            parts.append(f"held-out loss {self.held_out.base_loss:.3f} to {self.held_out.delivered_loss:.3f}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """A version of a specialty. Digests are empty until its tag was read back."""

    tag: str
    specialty: Specialty
    number: int
    run_id: str
    form: DeliveryForm | None
    tag_digest: str
    weights_digest: str
    base_tag_digest: str
    base_weights_digest: str
    state: VersionState
    created_at: datetime
    files: tuple[DeliveredFileRow, ...] = ()
    lesson: KeptLesson = KeptLesson()


class MoveState(StrEnum):
    """How far the move of an alias is."""

    INTENDED = "intended"
    DONE = "done"
    ABANDONED = "abandoned"


@dataclass(frozen=True, kw_only=True)
class MoveRow:
    """A move of an alias. `id` is 0 until the ledger gave it one."""

    id: int
    kind: MoveKind
    alias: str
    from_digest: str | None
    to_digest: str | None
    from_tag: str | None
    to_tag: str | None
    reason: str
    run_id: str | None
    intended_at: datetime
    done_at: datetime | None
    state: MoveState


@dataclass(frozen=True, kw_only=True)
class DisabledPlugin:
    """A plugin that failed too often."""

    name: str
    strikes: int
    reason: str
