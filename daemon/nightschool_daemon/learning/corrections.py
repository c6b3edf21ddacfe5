"""How good corrected texts are, by the validators of their types: each is looked at once, whatever the nights.

Nothing says what a correction should have been, so that a validator tells only what it is by itself: whether it parses,
fits its schema, passes the tests that came with it. What was found is kept in the state directory while the validators
are the same, under a digest of all that they were shown. The file may be deleted.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from nightschool_daemon import __version__, codec
from nightschool_daemon.config import Settings
from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.questions import bare_question
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import write_durably
from nightschool_daemon.learning.worth import objection_to
from nightschool_daemon.reasons import is_by_hand
from nightschool_hookspecs.records import AnswerScore, Event, ExamItem
from nightschool_hookspecs.services import Generate, GenerationError, Measure, Validate

MOST_KEPT = 200_000
"""Corrections of which it is kept what was found, some 10 MB; those that were not asked for the longest time go
first."""
TOLD_EVERY = 100
"""Corrections from one word of how far it is to the next."""


class ScoreCorrections(Protocol):
    """Scores the corrected texts of events."""

    def __call__(self, events: Sequence[Event]) -> list[float | None]:
        """0..100 for each event; None where nothing was corrected, or nobody has looked."""
        ...


def nobody_looks(events: Sequence[Event]) -> list[float | None]:
    """`ScoreCorrections` where no reward hangs on it."""
    return [None] * len(events)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the file holds."""

    validators: str
    """Digest of those that looked."""
    scores: Mapping[str, float]
    """By the digest of what was looked at."""


class KeptScores:
    """`ScoreCorrections` with a file of what was found before; None: nothing is kept."""

    def __init__(
        self,
        file: Path | None,
        *,
        validators: str,
        validate: Validate,
        artifact_type: str,
        progress: Callable[[int, int, str], None],
    ) -> None:
        self._file, self._validators, self._validate = file, validators, validate
        self._artifact_type, self._progress = artifact_type, progress

    def __call__(self, events: Sequence[Event]) -> list[float | None]:
        """Look at what is new. Where a model was to judge and did not, or time ran out, nobody has looked yet."""
        items = [bare_question(event, self._artifact_type) if _is_looked_at(event) else None for event in events]
        answers = [event.corrected_output or "" for event in events]
        digests = [None if item is None else _digest(item, answer) for item, answer in zip(items, answers, strict=True)]
        for digest in [one for one in digests if one is not None and one in self._known]:
            # what was asked for last stands last
            self._known[digest] = self._known.pop(digest)
        new = {
            digest: (item, answer)
            for digest, item, answer in zip(digests, items, answers, strict=True)
            if digest is not None and item is not None and digest not in self._known
        }
        try:
            for number, (digest, (item, answer)) in enumerate(new.items()):
                if number % TOLD_EVERY == 0:
                    self._progress(number, len(new), "see whether corrections are sound")
                with contextlib.suppress(GenerationError):
                    found = self._validate(item, answer)
                    self._known[digest] = None if found is None or found.is_out_of_time else found.score
        finally:
            # also when one of them breaks a validator: the others need not be looked at again
            if new:
                self._write()
        return [None if digest is None else self._known.get(digest) for digest in digests]

    @cached_property
    def _known(self) -> dict[str, float | None]:
        if self._file is None:
            return {}
        try:
            kept = codec.from_json(self._file.read_bytes(), Kept)
        except (OSError, codec.CodecError):
            # there is none yet, or another release wrote it
            return {}
        return dict(kept.scores) if kept.validators == self._validators else {}

    def _write(self) -> None:
        """Write down what got a score: a validator that could say nothing today may do so on another machine or day."""
        if self._file is None:
            return
        scored = [(digest, score) for digest, score in self._known.items() if score is not None]
        scores = dict(scored[-MOST_KEPT:])
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._file, codec.to_json(Kept(validators=self._validators, scores=scores)))


def kept_scores(context: WorkContext, measure: Measure, judge: Generate) -> KeptScores:
    """Those of an installation. `judge`: the model that a validator may ask.

    A training by hand has a type of artifacts of its own, so that no other one would find what was kept of it.
    """
    file = context.settings.state_directory / "cache" / "corrections.json"

    def validate(item: ExamItem, answer: str) -> AnswerScore | None:
        return context.hooks.validate_answer(item=item, answer=answer, measure=measure, generate=judge)

    return KeptScores(
        None if is_by_hand(context.info) else file,
        validators=_validators(context.settings, context.hooks),
        validate=validate,
        artifact_type=context.info.specialty.artifact_type,
        progress=context.progress,
    )


def _validators(settings: Settings, hooks: Hooks) -> str:
    """Digest of who looks, in order, and by which settings."""
    asked = [one.name for one in hooks.status() if "nightschool_validate_answer" in one.hooks]
    told = [(name, hooks.digest_of(name), codec.to_plain(settings.plugin_tables.get(name))) for name in asked]
    return _hashed([__version__, settings.exam.judge_model, told])


def _is_looked_at(event: Event) -> bool:
    return event.is_correction and objection_to(event) is None


def _digest(item: ExamItem, answer: str) -> str:
    conversation = [[one.role.value, one.content] for one in item.messages]
    return _hashed([item.artifact_type, item.tests, item.schema, conversation, answer])


def _hashed(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:32]
