"""An oracle of leaks, which shares nothing with what it judges.

It reads the files that a training reads and those that an exam asks from, and compares prompts pair by pair.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from nightschool_daemon.jobs import (
    HELD_OUT_PAIRS,
    PrepareResult,
    RunDirectory,
    SelectResult,
    SplitResult,
    Step,
    read_lines,
)
from nightschool_daemon.runs.rebuild import reused_lesson
from nightschool_hookspecs import Message, Role, Side, TrainingMethod
from nightschool_hookspecs.records import ExamItem, LabelledText, PairText, PreferencePair, TrainingText
from support.memory_ollama import END, TURN

NEAR = 0.85
"""`similarity.near_duplicate`, where edits alone are counted."""
SURELY_NEAR = 0.92
"""The same where only a fingerprint is left of a prompt."""
FILES = {
    TrainingMethod.SFT: ("examples.jsonl", TrainingText),
    TrainingMethod.DPO: ("pairs.jsonl", PairText),
    TrainingMethod.KTO: ("labels.jsonl", LabelledText),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What sat an exam, or would have, and what it was made of. Prompts are given with their events."""

    name: str
    is_trial: bool
    incumbent: str
    """What it was compared with, and may have begun from."""
    shown: Mapping[str, str] = field(repr=False)
    """Every prompt in the files that a training reads."""
    learned: Mapping[str, str] = field(repr=False)
    """Those that its methods read; none where no version came of it, or one that has the lesson of its incumbent."""
    asked: Mapping[str, str] = field(repr=False)
    """Every prompt that it may be asked because it is held out from it."""
    groups: frozenset[str] = field(repr=False)
    """Of what is in the files."""
    held_out: frozenset[str] = field(repr=False)
    """Groups that it is asked."""


def plain(prompt: str) -> str:
    """A prompt as it is compared: whoever shouts, or ends with a mark, asks the same."""
    return re.sub(r"\s+", " ", prompt.lower()).strip(" .!?:;,")


def near(left: Iterable[str], right: Iterable[str]) -> Iterator[tuple[str, str, float]]:
    """Every pair of near-duplicates of one from each side, and how alike they are."""
    rows, columns = sorted(left), sorted(right)
    table = cdist(rows, columns, scorer=Levenshtein.normalized_similarity, score_cutoff=NEAR, dtype=np.float64)
    yield from ((rows[row], columns[column], float(table[row, column])) for row, column in np.argwhere(table >= NEAR))


def candidates_of(directory: RunDirectory, name: str, methods: Iterable[TrainingMethod]) -> Iterator[Candidate]:
    """The candidate of a run, and its trial candidates; none where the run ended before."""
    if not directory.is_done(Step.SELECT):
        return
    incumbent = directory.result(Step.PREPARE, PrepareResult).incumbent
    is_learned = directory.is_done(Step.JUDGE) and reused_lesson(directory) is None
    trials = sorted(directory.step(Step.CROSSFIT).glob("[0-9][0-9]"))
    for place in (directory, *map(_run_directory, trials)):
        if place.is_done(Step.SELECT):
            select, is_trial = place.step(Step.SELECT), place is not directory
            sides = place.result(Step.SPLIT, SplitResult).sides
            yield Candidate(
                name=f"{name}, trial {place.path.name}" if is_trial else name,
                is_trial=is_trial,
                incumbent=incumbent,
                shown=_read_by(place, FILES),
                learned=_read_by(place, methods) if is_learned else {},
                asked=_asked_in(select),
                groups=frozenset(text.group for method in FILES for text in _texts(select, method)),
                held_out=frozenset(key for key, side in sides.items() if side is Side.HELD_OUT),
            )


def _run_directory(path: Path) -> RunDirectory:
    return RunDirectory(path=path)


def _read_by(directory: RunDirectory, methods: Iterable[TrainingMethod]) -> dict[str, str]:
    select = directory.step(Step.SELECT)
    texts = (text for method in methods for text in _texts(select, method))
    found = {prompt: text.event_id for text in texts for prompt in _said_by_the_user(text.prompt)}
    keys = directory.result(Step.SELECT, SelectResult).shots
    shown = [one for one in read_lines(select / "shots.jsonl", Message) if one.role is Role.USER]
    return found | {_prompt([one]): key for one, key in zip(shown, keys, strict=True)}


def _texts(select: Path, method: TrainingMethod) -> list[TrainingText | PairText | LabelledText]:
    name, kind = FILES[method]
    return list(read_lines(select / name, kind))


def _asked_in(select: Path) -> dict[str, str]:
    items: list[ExamItem | PreferencePair] = list(read_lines(select / "items.jsonl", ExamItem))
    items += read_lines(select / HELD_OUT_PAIRS, PreferencePair)
    return {_prompt(one.messages): one.event_id for one in items}


def _said_by_the_user(rendered: str) -> list[str]:
    """All turns of a rendered conversation, each without the retrieved texts before it."""
    turns = re.findall(rf"{re.escape(TURN)}user\n(.*?){re.escape(END)}", rendered, re.DOTALL)
    return [_without_texts(turn) for turn in turns]


def _prompt(messages: Sequence[Message]) -> str:
    return _without_texts(messages[-1].content)


def _without_texts(shown: str) -> str:
    return plain(shown.rpartition("\n\n")[2])
