"""What a training by hand made of a file: from how many of its records it learned, and why not from the others."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nightschool_daemon.jobs import MARKS, EventMark, RunDirectory, SelectResult, Step, read_lines
from nightschool_daemon.reasons import OTHER_KIND
from nightschool_daemon.runs.prepare import frozen_events
from nightschool_hookspecs.records import ParsedFeedback, TrainingResult

REFUSED = "it cannot be read as an event"
REPLACED = "it was withdrawn, or another record says the same or takes its place"
WATCHED = "it only told when to stop"
APART = "it was kept apart, to measure on it"


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of the records of a file."""

    records: int
    learned: int
    left_out: Mapping[str, int]
    """Reason -> records, the most frequent first."""


def account_of(directory: RunDirectory, feedback: ParsedFeedback) -> Account:
    """Of a file whose training is done."""
    keys = [event.key for event in frozen_events(directory)]
    found = Counter(map(_fates(directory), keys))
    found[REPLACED] += len(feedback.events) - len(keys)
    found[REFUSED] += len(feedback.refused)
    return Account(
        records=found.total(),
        learned=found.pop(None, 0),
        left_out={reason: count for reason, count in found.most_common() if reason is not None and count},
    )


def _fates(directory: RunDirectory) -> Callable[[str], str | None]:
    """Tells of an event why it was not learned from; None: it was."""
    selected = directory.result(Step.SELECT, SelectResult)
    trained = directory.result(Step.TRAIN, TrainingResult)
    watched = frozenset(trained.watched_events)
    learned = frozenset(selected.learned_from(trained)) - watched
    offered = {key for method in trained.methods for key in selected.sources.get(method, ())}
    reasons = {one.event_id: one.reason for one in reversed(selected.left_out)}
    candidates = {one.event_id for one in read_lines(directory.step(Step.SELECT) / MARKS, EventMark)}
    max_length = (trained.hyperparameters or selected.hyperparameters).max_length

    def fate(key: str) -> str | None:
        if key in learned:
            return None
        if key in watched:
            return WATCHED
        if key in offered:
            return f"it has more than {max_length} tokens (max_length in [plugins.tuning_fixed])"
        return reasons.get(key) or (OTHER_KIND if key in candidates else APART)

    return fate
