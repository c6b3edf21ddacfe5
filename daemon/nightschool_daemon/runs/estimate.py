"""What a run would learn, how long it would take and how much disk it would need: `run --dry-run`."""

import os
from dataclasses import dataclass

from nightschool_daemon.config import PromotionMode, Settings
from nightschool_daemon.jobs import RunDirectory, SelectResult, Step
from nightschool_daemon.ledger import Ledger
from nightschool_daemon.ollama import storage
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs.errors import RunRefused
from nightschool_hookspecs.records import Side, Specialty, TrainingResult

FLOPS_PER_CORE = 8e9
"""Float32 multiply-adds that one core of an ordinary machine sustains in training; a rough guess."""
EXAM_TOKENS_PER_SECOND = 20.0
Q8_0_BYTES_PER_WEIGHT = 34 / 32


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would do. Times in minutes, sizes in bytes."""

    specialty: Specialty
    fresh: int
    training_events: int
    held_out_events: int
    problem: str | None
    """Why a run would end before it trains; None where it would go on."""
    without_target: int
    """Events that have no answer worth learning."""
    minutes: float
    measured: bool
    """The time follows from an earlier run of the specialty, not from a rule of thumb."""
    version_bytes: int
    shared_bytes: int
    work_bytes: int
    """Disk in the state directory while the run goes on."""
    memory_bytes: int


def items_needed(settings: Settings) -> int:
    """How many held-out prompts an exam needs to be worth a training."""
    return 1 if settings.promotion.promote is PromotionMode.PROVISIONAL else max(1, settings.exam.min_items)


def estimate(specialty: Specialty, *, settings: Settings, ledger: Ledger, ollama: OllamaHttp) -> Estimate:
    """Say what a run would do, without doing any of it. Raises `RunRefused`."""
    rows = ledger.events.of_specialty(specialty, with_unassigned=True)
    if not rows:
        raise RunRefused(f"{specialty} has no feedback yet.")
    with_target = [row for row in rows if row.event.target is not None]
    undecided = sum(row.side is None for row in with_target)
    # as evaluation_split does it: a fifth, at first half of the first twelve
    held_out = sum(row.side is Side.HELD_OUT for row in with_target) + max(undecided // 5, min(6, undecided // 2))
    training = min(len(with_target) - held_out, settings.training.max_events)
    shown = ollama.show(specialty.base)
    blob_bytes = storage.locate_blob(settings.ollama, shown).stat().st_size
    weights = shown.parameter_count
    linear = max(0, weights - shown.embedding_parameters)
    touched_now = int(blob_bytes * linear / weights) if weights else blob_bytes
    minutes, measured = _minutes(specialty, ledger, training, held_out, weights, settings)
    version_bytes = int(linear * Q8_0_BYTES_PER_WEIGHT)
    return Estimate(
        specialty=specialty,
        fresh=ledger.events.statistics(specialty, with_unassigned=True).available,
        training_events=training,
        held_out_events=held_out,
        problem=_problem(held_out, settings),
        without_target=len(rows) - len(with_target),
        minutes=minutes,
        measured=measured,
        version_bytes=version_bytes,
        shared_bytes=blob_bytes - touched_now,
        work_bytes=version_bytes + blob_bytes,
        memory_bytes=weights * 4 + 2 * 10**9,
    )


def _problem(held_out: int, settings: Settings) -> str | None:
    needed = items_needed(settings)
    if held_out >= needed:
        return None
    return f"it would end before it trains: of {held_out} held-out prompts nothing could be proven, {needed} are needed"


def _minutes(
    specialty: Specialty, ledger: Ledger, training: int, held_out: int, weights: int, settings: Settings
) -> tuple[float, bool]:
    for run in ledger.runs.latest(20, specialty):
        directory = RunDirectory(path=run.directory)
        if run.finished_at is not None and directory.is_done(Step.JUDGE):
            learned = max(1, directory.result(Step.TRAIN, TrainingResult).examples)
            items = max(1, directory.result(Step.SELECT, SelectResult).items)
            minutes = (run.finished_at - run.started_at).total_seconds() / 60
            return minutes * max(training / learned, held_out / items), True
    tokens_per_example = 128
    epochs = 3
    training_s = 6 * weights * training * tokens_per_example * epochs / (FLOPS_PER_CORE * 2 * (os.cpu_count() or 1))
    items = min(held_out, settings.exam.max_items)
    exam_s = 3 * items * tokens_per_example / EXAM_TOKENS_PER_SECOND
    return (training_s + exam_s + 60) / 60, False
