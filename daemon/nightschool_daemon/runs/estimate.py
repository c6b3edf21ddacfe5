"""What a run would learn, how long it would take and what it would need: `run --dry-run`."""

from dataclasses import dataclass
from datetime import datetime

from nightschool_daemon.config import Settings
from nightschool_daemon.evaluation.decision import items_needed
from nightschool_daemon.jobs import RunDirectory, SelectResult, Step
from nightschool_daemon.ledger import Ledger
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.plans import TrainingPlan
from nightschool_daemon.reasons import ASKED
from nightschool_daemon.runs.aside import Feedback
from nightschool_daemon.runs.bases import pure_base
from nightschool_daemon.runs.errors import RunRefused
from nightschool_daemon.runs.plan import plan
from nightschool_daemon.runs.prepare import serving_version, warm_start
from nightschool_hookspecs.records import Recipe, Specialty, TrainingResult

EXAM_TOKENS_PER_SECOND = 20.0
TOKENS_AN_ANSWER = 128
SITTINGS = 3
OTHER_STEPS_S = 60.0
"""Rules of thumb for what is not training, until a run was measured."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would do."""

    specialty: Specialty
    fresh: int
    problem: str | None
    """Why a run would end before it trains; None where it would go on."""
    minutes: float
    measured: bool
    """The time follows from an earlier run of the specialty, not from the plan and rules of thumb."""
    work_bytes: int
    """Disk in the state directory while the run goes on, at most."""
    plan: TrainingPlan


def estimate(
    specialty: Specialty, *, settings: Settings, ledger: Ledger, ollama: OllamaHttp, now: datetime
) -> Estimate:
    """Say what a run would do, without doing any of it. Raises `RunRefused`, `OllamaError`."""
    held = {entry.name: entry.digest for entry in ollama.tags()}
    serving = serving_version(ledger, specialty, held.get(names.alias_of(specialty), ""))
    lineage = () if serving is None else ledger.versions.lineage(serving.tag)
    rows = ledger.events.of_specialty(specialty, with_unassigned=True, lineage=lineage)
    if not rows:
        raise RunRefused(f"{specialty} has no feedback yet.")
    feedback = Feedback(rows=rows, store=ledger.plugins.store(str(specialty)))
    base = pure_base(specialty.base, held, ledger, ASKED, RunRefused)
    learned = None if serving is None else warm_start(settings, ledger, serving.tag, ollama.show(base).weights_digest)
    planned = plan(settings, ollama, specialty, base, feedback, now, learned=learned)
    minutes, measured = _minutes(specialty, ledger, planned, settings)
    delivery = planned.delivery
    return Estimate(
        specialty=specialty,
        fresh=ledger.events.statistics(specialty, with_unassigned=True).available,
        problem=planned.problem or planned.delivery_problem or _problem(planned, settings),
        minutes=minutes,
        measured=measured,
        work_bytes=0 if delivery is None else delivery.most_bytes + delivery.shared_bytes,
        plan=planned,
    )


def _problem(planned: TrainingPlan, settings: Settings) -> str | None:
    needed = items_needed(settings)
    if planned.asked >= needed:
        return None
    return f"it would end before it trains: of {planned.asked} prompts nothing could be proven, {needed} are needed"


def _minutes(specialty: Specialty, ledger: Ledger, planned: TrainingPlan, settings: Settings) -> tuple[float, bool]:
    examples = sum(one.examples for one in planned.trainings)
    search_s = planned.search.seconds if planned.search is not None else 0.0
    for run in ledger.runs.latest(20, specialty, Recipe.TRAINING):
        directory = RunDirectory(path=run.directory)
        if run.finished_at is not None and directory.is_done(Step.JUDGE):
            trained = directory.result(Step.TRAIN, TrainingResult)
            learned = max(1, trained.examples)
            selected = directory.result(Step.SELECT, SelectResult)
            items = max(1, selected.items + selected.folded)
            searched_s = trained.search.seconds if trained.search is not None else 0.0
            # the run itself counts as finished when it was approved, or overtaken
            ends = [one.finished_at for one in ledger.runs.steps(run.id) if one.finished_at is not None]
            took_s = (max(ends, default=run.finished_at) - run.started_at).total_seconds() - searched_s
            return (took_s * max(examples / learned, planned.asked / items) + search_s) / 60, True
    items = min(planned.asked, settings.exam.max_items)
    exam_s = SITTINGS * items * TOKENS_AN_ANSWER / EXAM_TOKENS_PER_SECOND
    # a trial candidate learns from less, and may go through it more often
    trainings = 1 + planned.folds
    return (search_s + trainings * planned.seconds + exam_s + OTHER_STEPS_S) / 60, False
