"""Two models compared by hand: they sit the exam that a night's candidate sits, and nothing is changed by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nightschool_daemon.comparisons import Comparison, ComparisonRequest, Contestant
from nightschool_daemon.config import Settings
from nightschool_daemon.jobs import EventRow, Job
from nightschool_daemon.ledger import Ledger
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs.aside import Feedback, desk
from nightschool_daemon.runs.errors import RunRefused, StepFailed
from nightschool_daemon.runs.planner import Planner
from nightschool_daemon.runs.worker_process import Report, run_job
from nightschool_hookspecs.records import Event, Side, Specialty


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Who is compared, and on what."""

    first: str
    second: str
    specialty: Specialty
    rows: tuple[EventRow, ...]
    """Those held out are asked; texts that belong to the others may stand in the prompts."""


def pair_up(planner: Planner, ledger: Ledger, first: str | None, second: str | None) -> Pairing:
    """Two models on the held-out prompts of the specialty that one of them names.

    With one name the base is compared with it, with the base's own name or none with the alias. Raises `RunRefused`
    where no specialty is meant, or nothing of it is held out.
    """
    specialty = _specialty_of(planner, [one for one in (first, second) if one is not None])
    alias = names.alias_of(specialty)

    def model(name: str) -> str:
        # a specialty may be named by what is no model
        return alias if planner.find(name) == specialty and names.model_problem(name) is not None else name

    rows = ledger.events.of_specialty(specialty, with_unassigned=True)
    if not any(row.side is Side.HELD_OUT for row in rows):
        raise RunRefused(
            f"Nothing of {specialty} is held out for exams yet: a run does that, once there is more feedback. Name a "
            "file of prompts with --data."
        )
    if second is None:
        named = first if first is not None and names.normalise(first) != specialty.base else alias
        first, second = specialty.base, named
    return Pairing(
        first=model(first or specialty.base),
        second=model(second),
        specialty=specialty,
        rows=tuple(row for row in rows if row.side is Side.HELD_OUT or row.event.context.chunks),
    )


def _specialty_of(planner: Planner, given: Sequence[str]) -> Specialty:
    known = planner.specialties()
    found = next(filter(None, map(planner.find, given)), None)
    if found is None and not given and len(known) == 1:
        return known[0]
    if found is None:
        why = f"{' and '.join(given)}: no specialty has that name" if given else f"There are {len(known)} specialties"
        raise RunRefused(
            f"{why}. Name an alias, whose held-out prompts are asked (`nightschool status` lists them), or a file of "
            "prompts with --data."
        )
    return found


def pair_by_file(events: Sequence[Event], first: str, second: str) -> Pairing:
    """Two models on the prompts of a file."""
    base = names.normalise(first)
    return Pairing(
        first=first,
        second=second,
        specialty=Specialty(base=base, artifact_type=events[0].artifact_type or "other"),
        rows=tuple(
            EventRow(event=event, group=event.key, side=Side.HELD_OUT, trained_on=False, arrival=number)
            for number, event in enumerate(events)
        ),
    )


def compare(settings: Settings, pairing: Pairing, report: Report, now: datetime) -> Comparison:
    """Hold the exam. Raises `RunRefused` with the reason where it cannot be held, and `OllamaError`."""
    ollama = OllamaHttp(settings.ollama)
    try:
        digests = {entry.name: entry.digest for entry in ollama.tags()}
    finally:
        ollama.close()
    request = ComparisonRequest(first=_contestant(pairing.first, digests), second=_contestant(pairing.second, digests))
    if request.first.digest == request.second.digest:
        raise RunRefused(f"{request.first.name} and {request.second.name} are the same model.")
    feedback = Feedback(rows=pairing.rows)
    with desk(settings, pairing.specialty, Job.COMPARE, request, feedback, now) as directory:
        try:
            run_job(directory, Job.COMPARE, report)
        except StepFailed as error:
            raise RunRefused(str(error)) from error
        return directory.result(Job.COMPARE, Comparison)


def _contestant(name: str, digests: dict[str, str]) -> Contestant:
    full = names.normalise(name)
    if full not in digests:
        raise RunRefused(f"{full} is not in Ollama. `ollama list` shows what is.")
    return Contestant(name=full, digest=digests[full])
