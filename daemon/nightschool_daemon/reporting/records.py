"""What a worker is asked and answers when a night is told: exams of the past, feedback in use, prompts; and figures."""

from dataclasses import dataclass
from datetime import datetime

from nightschool_daemon.comparisons import Marks
from nightschool_daemon.jobs import Watched
from nightschool_daemon.reporting.sheet import Sheet
from nightschool_hookspecs.records import ExamAnswer, ExamItem, Peers, Specialty

# --------------------------------------------------------------------------- what is known


@dataclass(frozen=True, kw_only=True)
class ExamMarks:
    """How both did in the exam of a run, over the questions that count."""

    run_id: str
    incumbent: Marks
    candidate: Marks
    incumbent_reward: float | None
    """Mean reward of its own answers, -1..1, by the reward plugin; None where there is none."""
    candidate_reward: float | None


@dataclass(frozen=True, kw_only=True)
class NightExam:
    """An exam that a specialty sat, as the ledger has it."""

    run_id: str
    at: datetime
    incumbent: str
    """The tag that the candidate was compared with."""
    version: str
    """The candidate's tag."""
    promoted: bool
    """It was put into use, whatever came later."""
    taken_back: bool
    """An undo or bad feedback took it out of use again."""
    questions: int
    incumbent_mean: float
    """0..100."""
    gain: float
    interval: tuple[float, float]
    """95 % interval of the gain."""
    marks: ExamMarks | None = None
    """None: not worked out yet."""
    watched: Watched | None = None
    """What told when the candidate's training was to stop; None: nothing was trained, or it is not told."""


@dataclass(frozen=True, kw_only=True)
class ExamPaper:
    """An exam whose marks are to be worked out."""

    run_id: str
    at: datetime
    items: tuple[ExamItem, ...]
    answers: tuple[ExamAnswer, ...]
    peers: Peers
    """For the reward of the answers."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What was said of an answer in use."""

    at: datetime
    negative: bool


@dataclass(frozen=True, kw_only=True)
class IncomingPrompts:
    """Different prompts of a specialty, by when each came for the first time; a sample where there are many."""

    recent: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CorrectedAnswer:
    """An answer in use that was corrected: an exam that a version sat before anything was learned from it."""

    version: str
    """Who gave it: a version's tag, or the base."""
    item: ExamItem
    """The prompt, with the correction as reference."""
    text: str


@dataclass(frozen=True, kw_only=True)
class TrackMaterial:
    """What a track record is made of."""

    specialty: Specialty
    exams: tuple[NightExam, ...]
    """Oldest first."""
    said: tuple[Said, ...]
    """Oldest first; each prompt, version and source is heard once."""
    prompts: IncomingPrompts
    corrected: tuple[CorrectedAnswer, ...] = ()
    """Newest first."""


# --------------------------------------------------------------------------- what was found


@dataclass(frozen=True, kw_only=True)
class Level:
    """Where a model stands, in points that can be compared over nights: scores of different nights are over different
    questions, so a level is the base's mean score plus the gains that led to the model."""

    points: float
    low: float
    high: float
    """95 % interval; as if the gains of the nights were independent, and the base's own mean were known."""


@dataclass(frozen=True, kw_only=True)
class TrackedExam:
    """An exam with the level that its candidate has by it."""

    exam: NightExam
    level: Level
    incumbent_level: float


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Whether the share of negative feedback changed at some time."""

    answers: int
    changed_at: datetime
    """The first answer after the likeliest change."""
    before: float
    """Share of negative feedback, 0..1."""
    after: float
    p_value: float
    """How often feedback in random order would show a change as large."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Whether the prompts that come in are of another kind than those before."""

    recent: int
    earlier: int
    distance: float
    """Energy distance of their embeddings; 0 where both are of one kind, at most 4."""
    p_value: float
    """How often a random division of the same prompts would lie as far apart."""
    examples: tuple[str, ...]
    """The recent prompts that are least like the earlier ones."""


@dataclass(frozen=True, kw_only=True)
class InUse:
    """How far a version's answers in use were from their corrections."""

    version: str
    answers: int
    """That were corrected, of different prompts; those that nobody corrected are not known here."""
    score: float
    """Mean, 0..100, each answer beside its correction."""


@dataclass(frozen=True, kw_only=True)
class TrackRecord:
    """The history of a specialty over its exams."""

    base_level: float | None
    """Mean score of the base, 0..100; None where there was no exam yet."""
    exams: tuple[TrackedExam, ...]
    """Oldest first."""
    best: str | None
    """The version with the highest level among those that were promoted and not taken back; None: the base."""
    trend: Trend | None
    """None: too little feedback in use."""
    drift: Drift | None
    """None: too few prompts, or no embedding model."""
    in_use: tuple[InUse, ...] = ()
    """By version, whose last correction is the newest first."""


# --------------------------------------------------------------------------- the job


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of tonight's exam and how both did on it, 0..100."""

    text: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """`request.json`. `sheet` None: the track record alone is wanted."""

    material: TrackMaterial
    papers: tuple[ExamPaper, ...] = ()
    sheet: Sheet | None = None
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PageResult:
    """The answer; the page itself lies beside it as `report.html`."""

    track: TrackRecord
    marks: tuple[ExamMarks, ...] = ()
    """Of the papers."""
    sheet: Sheet | None = None
    """With the track record and its plots."""
    problem: str | None = None
    """Why there are no plots."""
