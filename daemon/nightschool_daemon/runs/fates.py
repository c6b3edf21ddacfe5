"""What a run made of each piece of feedback: one pass over the files that it left, then a look-up an event."""

import functools
from collections.abc import Iterable, Mapping

from nightschool_daemon.jobs import (
    FINDINGS,
    MARKS,
    EventMark,
    NoiseRow,
    RunDirectory,
    SelectResult,
    Step,
    StretchMark,
    read_lines,
)
from nightschool_daemon.reporting.sheet import Asked
from nightschool_daemon.reporting.words import LEARNED_BY, noise_in_words
from nightschool_daemon.runs.rebuild import reused_lesson
from nightschool_hookspecs.records import Event, ExamAnswer, ExamItem, ItemRole, TrainingMethod, TrainingResult

MOST_KIN, LEAST_ALIKE = 3, 0.5
"""Exam questions that are shown as kin of a prompt, and how alike in its words one must be, 0..1."""
COMPARED_LETTERS = 2000
"""Of a prompt and of a question: the time that comparing takes grows with the product of both."""

Answered = tuple[ExamItem, ExamAnswer, ExamAnswer]
"""A question of the exam, how the model in use answered it, and how the other did."""


class Fates:
    """What became of each event of a run whose step `select` is done."""

    def __init__(self, directory: RunDirectory, answered: Iterable[Answered], *, is_over: bool) -> None:
        selected = directory.result(Step.SELECT, SelectResult)
        self._directory = directory
        self._shown = frozenset(selected.shots)
        self._chosen = _methods_of(selected)
        self._replayed = frozenset(selected.replayed.events)
        self._reasons = {one.event_id: one.reason for one in reversed(selected.left_out)}
        self._trained = directory.result(Step.TRAIN, TrainingResult) if directory.is_done(Step.TRAIN) else None
        self._learned_from = frozenset(selected.learned_from(self._trained) if self._trained is not None else ())
        self._is_rebuilt = reused_lesson(directory) is not None
        self._is_over = is_over
        questions = tuple(answered)
        # a question of trial candidates stands before the one that checks the candidate itself
        self._own = {one[0].event_id: one for one in reversed(questions)}
        self._counting = tuple(one for one in questions if one[0].role is ItemRole.GAIN)
        self._texts = tuple(_compared(_question(item)) for item, _, _ in self._counting)

    @functools.cached_property
    def marks(self) -> Mapping[str, EventMark]:
        """What each event that may be learned from was worth, by its `source/id`."""
        file = self._directory.step(Step.SELECT) / MARKS
        return {one.event_id: one for one in read_lines(file, EventMark)} if file.exists() else {}

    @functools.cached_property
    def noise(self) -> Mapping[str, NoiseRow]:
        """What looked wrong, by its `source/id`; nothing where a run of an earlier release left no such file."""
        file = self._directory.step(Step.SELECT) / FINDINGS
        return {one.finding.event_id: one for one in read_lines(file, NoiseRow)} if file.exists() else {}

    def names(self) -> tuple[str, ...]:
        """`source/id` of every event that was learned from, or could have been, or was left out."""
        return tuple(dict.fromkeys((*self.marks, *self._shown, *self._chosen, *self._reasons)))

    def is_chosen(self, key: str) -> bool:
        """Whether the run chose it, to learn from it or to show it."""
        return key in self._shown or key in self._chosen

    def fate(self, key: str) -> str | None:
        """One sentence: learned, shown, or left out and why. None: the run had nothing to do with it, but to ask it."""
        if key in self._shown:
            return "It was shown to the model as an example."
        if key in self._chosen:
            return self._learned(key) + self._stage(key) + self._choice(key)
        if key in self._reasons:
            return f"It was left out: {self._reasons[key]}."
        if key not in self.marks:
            return None
        return "It was left out: others are shown." if self._shown else "It was left out: no example was made of it."

    def _learned(self, key: str) -> str:
        if self._trained is None:
            ended = "the run ended before it had learned" if self._is_over else "the run is under way"
            return f"It was chosen, and {ended}."
        ways = [LEARNED_BY[method] for method in self._trained.methods if method in self._chosen[key]]
        if not ways:
            return "This run learned from other kinds."
        if key in self._trained.watched_events:
            return "It was kept aside while the model learned, to see when to stop."
        if key not in self._learned_from:
            why = "this run delivered again what was learned before" if self._is_rebuilt else "it is too long"
            return f"It was left out: {why}."
        again = " again, so that it is not forgotten" if key in self._replayed else ""
        return f"It was learned from{again}: {', then '.join(ways)}."

    def _stage(self, key: str) -> str:
        """When a curriculum came to it, as a sentence behind another; empty where none did, or not yet."""
        first = self._first_seen.get(key) if self._trained is not None else None
        return "" if first is None else f" It was first seen in epoch {first.epoch}, in the stage `{first.stage}`."

    def _choice(self, key: str) -> str:
        """Where the selection had placed it, as a sentence behind others; empty for what was learned without one."""
        choice = self.marks[key].choice if key in self.marks else None
        if choice is None:
            return ""
        score = "" if choice.score is None else f", by a score of {choice.score:.2f}"
        return f" The selection had it in place {choice.place:,} of {choice.of:,}{score}."

    @functools.cached_property
    def _first_seen(self) -> Mapping[str, StretchMark]:
        return {key: one for one in reversed(self._directory.stretches()) for key in one.first_seen}

    def suspicion(self, key: str) -> str | None:
        """Why it looked wrong, and what that means for it. None: it did not."""
        row = self.noise.get(key)
        return None if row is None else noise_in_words(row.finding, row.side, self._learned_by(key))

    def doubt(self, key: str) -> str | None:
        """The same as a sentence behind its fate. None: it did not look wrong, or was left out for that."""
        row = self.noise.get(key)
        return None if row is None or row.finding.factor == 0 else f"It looks wrong: {self.suspicion(key)}"

    def _learned_by(self, key: str) -> frozenset[TrainingMethod]:
        """How it was learned from; while nothing is trained, how it may be."""
        chosen = self._chosen.get(key, frozenset())
        if self._trained is None:
            return chosen
        is_learned = key in self._learned_from and key not in self._trained.watched_events
        return chosen & frozenset(self._trained.methods) if is_learned else frozenset()

    def asked(self, event: Event) -> Asked | None:
        """The event's own question, where both answered it."""
        if event.key not in self._own:
            return None
        from rapidfuzz import fuzz

        one = self._own[event.key]
        alike = fuzz.token_sort_ratio(_compared(event.input_data), _compared(_question(one[0])))
        return _asked(one, alike)

    def kin(self, event: Event) -> tuple[Asked, ...]:
        """What counted in the exam and is most like the event's prompt."""
        from rapidfuzz import fuzz, process

        found = process.extract(
            _compared(event.input_data),
            self._texts,
            scorer=fuzz.token_sort_ratio,
            score_cutoff=100 * LEAST_ALIKE,
            limit=None,
        )
        others = ((self._counting[place], alike) for _, alike, place in found)
        return tuple(_asked(one, alike) for one, alike in others if one[0].event_id != event.key)[:MOST_KIN]


def _methods_of(selected: SelectResult) -> Mapping[str, frozenset[TrainingMethod]]:
    found: dict[str, frozenset[TrainingMethod]] = {}
    for method, keys in selected.sources.items():
        for key in keys:
            found[key] = found.get(key, frozenset()) | {method}
    return found


def _question(item: ExamItem) -> str:
    return item.messages[-1].content


def _compared(text: str) -> str:
    return text[:COMPARED_LETTERS]


def _asked(answered: Answered, alike: float) -> Asked:
    item, before, after = answered
    return Asked(question=_question(item), alike=alike / 100, before=before.score, after=after.score)
