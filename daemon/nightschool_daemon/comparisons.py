"""What a worker is asked and answers when two models are compared, outside of any run."""

from dataclasses import dataclass
from enum import StrEnum

from nightschool_hookspecs.records import Verdict


class Asked(StrEnum):
    """What two models are asked."""

    HELD_OUT = "held_out"
    """What a specialty holds out for exams."""
    UNLEARNED = "unlearned"
    """What neither has learned of a specialty that holds out too little yet."""
    ALL = "all"
    """All of such a specialty, of which neither ever learned."""
    FEEDBACK = "feedback"
    """The feedback of a file."""
    PROMPTS = "prompts"
    """The prompts of a file, of which nothing says what a good answer is."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model of Ollama as it was when the comparison began."""

    name: str
    digest: str
    base: str
    """The tag of what it was made from, the model itself where it is no version of ours."""


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """`request.json`: who is compared. The events lie in `prepare/events.jsonl`; those held out are asked."""

    first: Contestant
    second: Contestant
    what: Asked


@dataclass(frozen=True, kw_only=True)
class Marks:
    """How a model did on what it was asked."""

    score: float
    """Mean, 0..100; a failed answer has 0."""
    success_rate: float
    """Share of answers above `GOOD_SCORE`, 0..1."""
    answers: int
    failed: int
    latency_mean_s: float
    """From the question to the end of the answer; of the answers that came."""
    latency_median_s: float
    latency_p95_s: float
    tokens_per_s: float
    """Generated, over the whole time of answering."""


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """What both said to one prompt."""

    prompt: str
    wanted: str | None
    first: str
    first_score: float | None
    """None: nothing scored it."""
    second: str
    second_score: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The answer."""

    first: str
    second: str
    what: Asked
    prompts: int
    """That could have been asked."""
    asked: int
    """Of them; fewer where it was decided earlier. Where some count and others only guard, of those that count."""
    pairs: int
    """Of a better and a worse answer that were ranked; they count too."""
    first_marks: Marks
    second_marks: Marks
    verdict: Verdict | None
    """`second` takes the part of the candidate. None: nothing says which answers are better."""
    is_relative: bool
    """The scores say how an answer stands to the other model's, as a model that judges told."""
    not_ranked: str
    """Why pairs of answers were left out; empty where none was."""
    answers: tuple[AnswerPair, ...]
    """The prompts on which their scores differ most, largest difference first; without scores all, in order."""
