"""What a worker is asked and answers when two models are compared, outside of any run."""

from dataclasses import dataclass

from nightschool_hookspecs.records import Verdict


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model of Ollama as it was when the comparison began."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """`request.json`: who is compared. The events lie in `prepare/events.jsonl`; those held out are asked."""

    first: Contestant
    second: Contestant


@dataclass(frozen=True, kw_only=True)
class Marks:
    """How a model did on what it was asked."""

    score: float
    """Mean, 0..100; a failed answer has 0."""
    success_rate: float
    """Share of answers above 70, 0..1."""
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
    first_score: float
    second: str
    second_score: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The answer."""

    first: str
    second: str
    prompts: int
    """That could have been asked and count."""
    asked: int
    """Of them; fewer where it was decided earlier."""
    first_marks: Marks
    second_marks: Marks
    verdict: Verdict
    """`second` takes the part of the candidate."""
    furthest_apart: tuple[AnswerPair, ...]
    """The prompts on which their scores differ most, largest difference first."""
