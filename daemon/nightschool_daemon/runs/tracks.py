"""The track record of a specialty: what the ledger knows of its past, and the worker that makes figures of it."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from nightschool_daemon.config import Settings
from nightschool_daemon.evaluation.questions import bare_question
from nightschool_daemon.jobs import Job
from nightschool_daemon.ledger import Ledger
from nightschool_daemon.reporting.records import CorrectedAnswer, PageRequest, PageResult, TrackMaterial, TrackRecord
from nightschool_daemon.runs.aside import desk
from nightschool_daemon.runs.errors import RunRefused, StepFailed
from nightschool_daemon.runs.live import Holders
from nightschool_daemon.runs.planner import Planner
from nightschool_daemon.runs.worker_process import run_job
from nightschool_hookspecs.records import ItemRole, Peers, Specialty

EXAMS = 500
ANSWERS = 1000
"""Newest verdicts on answers in use."""
PROMPTS = 200
"""On each side of the comparison."""
CORRECTIONS = 200
"""Newest corrected answers in use."""
TIME_LIMIT_S = 120.0
"""Of the worker; it takes seconds, and a service that is to stop waits for it."""


def material_of(ledger: Ledger, specialty: Specialty) -> TrackMaterial:
    """What the ledger knows, bounded so that figures take seconds however long the history is."""
    return TrackMaterial(
        specialty=specialty,
        exams=ledger.exams.of_specialty(specialty, EXAMS),
        said=ledger.events.said(specialty, ANSWERS),
        prompts=ledger.events.incoming_prompts(specialty, PROMPTS),
        corrected=tuple(_corrected(ledger, specialty)),
    )


def _corrected(ledger: Ledger, specialty: Specialty) -> Iterator[CorrectedAnswer]:
    holders = Holders(ledger=ledger)
    for row, event in ledger.events.corrected_answers(specialty, CORRECTIONS):
        version = holders.answered(row)
        if version is not None and event.ai_output is not None:
            asked = bare_question(event, specialty.artifact_type)
            item = replace(asked, role=ItemRole.GAIN, reference=event.corrected_output)
            yield CorrectedAnswer(version=version, item=item, text=event.ai_output)


def material_by_name(planner: Planner, ledger: Ledger, name: str) -> TrackMaterial:
    """The same of the specialty that a person means. Raises `RunRefused` where there is none of that name."""
    specialty = planner.find(name)
    if specialty is None:
        raise RunRefused(f"No specialty is called {name}. `nightschool status` lists them.")
    return material_of(ledger, specialty)


def peers_of(ledger: Ledger, specialty: Specialty) -> Peers:
    """How much feedback there is of the specialty's type beside the other types of its base."""
    counts: dict[str, int] = defaultdict(int)
    for one in ledger.events.count_by_specialty():
        if one.base in (specialty.base, None):
            counts[one.artifact_type] += one.count
    own = counts.get(specialty.artifact_type, sum(counts.values()))
    return Peers(count_of_type=own, mean_count=sum(counts.values()) / len(counts) if counts else 0.0)


def track(settings: Settings, material: TrackMaterial, now: datetime) -> TrackRecord:
    """Have a worker make figures of it. Raises `RunRefused` with the reason where it cannot."""
    request = PageRequest(material=material)
    with desk(settings, material.specialty, Job.PAGE, request, None, now) as directory:
        try:
            run_job(directory, Job.PAGE, limit_s=TIME_LIMIT_S)
        except StepFailed as error:
            raise RunRefused(str(error)) from error
        return directory.result(Job.PAGE, PageResult).track
