"""What is learned from, as token ids."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.jobs import read_lines
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import Tokens
from nightschool_hookspecs.records import (
    Hyperparameters,
    LabelledText,
    PairText,
    TrainingJob,
    TrainingMethod,
    TrainingText,
)
from nightschool_hookspecs.services import TrainingError

FILES: Mapping[TrainingMethod, str] = {
    TrainingMethod.SFT: "examples.jsonl",
    TrainingMethod.DPO: "pairs.jsonl",
    TrainingMethod.KTO: "labels.jsonl",
}
"""What each method learns from, in the directory of a dataset."""
LESSON_FILES = (".json", ".safetensors")
"""Endings of what a training begins from."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An example as token ids. Loss is taken on the completion alone."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float
    group: str = ""
    """Of near-duplicate prompts."""
    event_id: str = ""
    """As `LearnedExample` has it, and so difficulty and score."""
    difficulty: float | None = None
    score: float | None = None
    variant: bool = False
    beside: bool = False
    """It is no part of the lesson, and learned beside it."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def events(self) -> tuple[str, ...]:
        """The one that its answer is of."""
        return (self.event_id,) if self.event_id else ()


def read_rows(dataset: Path, tokens: Tokens, max_length: int) -> tuple[list[Row], int]:
    """The wanted answers that fit, and how many did not. Raises `TrainingError` where none does."""
    return fitting(rows_of(read_lines(dataset / FILES[TrainingMethod.SFT], TrainingText), tokens), max_length)


def rows_of(texts: Iterable[TrainingText], tokens: Tokens) -> list[Row]:
    """Texts as token ids."""
    return [
        Row(
            prompt=tuple(tokens.prompt(text.prompt)),
            completion=tuple(tokens.completion(text.prompt, text.completion)),
            weight=text.weight,
            group=text.group,
            event_id=text.event_id,
            difficulty=text.difficulty,
            score=text.score,
            variant=text.variant,
            beside=text.beside,
        )
        for text in texts
    ]


def fitting(rows: list[Row], max_length: int) -> tuple[list[Row], int]:
    """The rows of at most `max_length` tokens, and how many are longer. Raises `TrainingError` where none is left."""
    found = within(rows, max_length)
    require_some(sum(not one.beside for one in found), max_length)
    return found, len(rows) - len(found)


def within(rows: Sequence[Row], max_length: int) -> list[Row]:
    """The rows of at most `max_length` tokens that have an answer."""
    return [row for row in rows if len(row) <= max_length and row.completion]


def require_some(count: int, max_length: int) -> None:
    """Raise where nothing of a lesson is left to learn from."""
    if not count:
        raise TrainingError(f"No example fits into {max_length} tokens. Raise max_length in [plugins.tuning_fixed].")


def context_of(file: GgufFile, wanted: int) -> int:
    """Tokens that the engine gives a base: fewer than are wanted where it was made for fewer."""
    return min(wanted, file.number("context_length") or wanted)


def require_asked(prompts: Iterable[int], file: GgufFile, wanted: int) -> None:
    """Raise `TrainingError` where Ollama would not take the whole of any prompt, by its tokens.

    What was trained on such could never be compared with what is served.
    """
    context = context_of(file, wanted)
    if all(one >= context for one in prompts):
        bound = "exam.context_tokens, which can be raised" if context == wanted else "the base's context"
        raise TrainingError(
            f"No example has a prompt of less than {context} tokens ({bound}), so Ollama would cut each of them. Give "
            "it shorter ones, or choose a base with a longer context."
        )


def told_of_lengths(lengths: Iterable[int], left_out: int, max_length: int, context: int | None) -> Iterator[str]:
    """Sentences about examples that are left out as too long, and about those that the base was not made for.

    `lengths`: tokens of those that are learned from; `context`: of the base, as far as it tells.
    """
    if left_out:
        yield f"{_counted(left_out)} longer than {max_length} tokens (max_length) and left out."
    if context is not None and (beyond := sum(one > context for one in lengths)):
        yield (
            f"{_counted(beyond)} longer than the base's context of {context} tokens. They are learned whole, but "
            "Ollama gives the base no more at a time than its context."
        )


def _counted(examples: int) -> str:
    """`1 example is`, `2 examples are`."""
    return "1 example is" if examples == 1 else f"{examples} examples are"


def learned_texts(dataset: Path, methods: Iterable[TrainingMethod]) -> list[TrainingText]:
    """Answers that a training was about, to be measured on: the first method's wanted, better or labelled ones."""
    first = next(iter(methods))
    if first is TrainingMethod.SFT:
        return [one for one in read_lines(dataset / FILES[first], TrainingText) if not one.beside]
    if first is TrainingMethod.DPO:
        pairs = read_lines(dataset / FILES[first], PairText)
        return [TrainingText(event_id=one.event_id, prompt=one.prompt, completion=one.chosen) for one in pairs]
    labels = read_lines(dataset / FILES[first], LabelledText)
    return [TrainingText(event_id=one.event_id, prompt=one.prompt, completion=one.completion) for one in labels]


def signature(job: TrainingJob, method: TrainingMethod, settings: Hyperparameters) -> str:
    """What a checkpoint must have been made from to be gone on with."""
    digest = hashlib.sha256((job.dataset / FILES[method]).read_bytes())
    if job.warm_start is not None and job.warm_start.is_dir():
        # an adapter that was brought along may lie among a trainer's other files
        for file in sorted(one for one in job.warm_start.iterdir() if one.suffix in LESSON_FILES and one.is_file()):
            digest.update(file.read_bytes())
    digest.update(f"{job.base_digest} {job.seed} {method} {codec.to_json(settings)}".encode())
    return digest.hexdigest()
