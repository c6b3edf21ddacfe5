"""Examples as token ids."""

from dataclasses import dataclass
from pathlib import Path

from nightschool_daemon.jobs import read_lines
from nightschool_daemon.learning.loading import Tokens
from nightschool_hookspecs.records import TrainingText
from nightschool_hookspecs.services import TrainingError


@dataclass(frozen=True, kw_only=True)
class Row:
    """An example as token ids. Loss is taken on the completion alone."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def read_rows(dataset: Path, tokens: Tokens, max_length: int) -> tuple[list[Row], int]:
    """Tokenise the dataset. Returns the rows that fit and how many did not. Raises `TrainingError` where none does."""
    rows = []
    for text in read_lines(dataset, TrainingText):
        prompt = tuple(tokens.prompt(text.prompt))
        rows.append(
            Row(prompt=prompt, completion=tuple(tokens.completion(text.prompt, text.completion)), weight=text.weight)
        )
    fitting = [row for row in rows if len(row) <= max_length and row.completion]
    if not fitting:
        raise TrainingError(f"No example fits into {max_length} tokens. Raise max_length in [plugins.tuning_fixed].")
    return fitting, len(rows) - len(fitting)
