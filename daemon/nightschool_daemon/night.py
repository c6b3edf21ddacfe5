"""Which runs are carried out, one after the other: by schedule, or because somebody asks."""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime

from nightschool_daemon.installation import Installation
from nightschool_daemon.ledger import LedgerError
from nightschool_daemon.ollama.errors import OllamaUnreachable
from nightschool_daemon.reasons import ASKED, FIRST_CORRECTIONS
from nightschool_daemon.runs import RunListener, RunRefused
from nightschool_daemon.runs.planner import Due, due_key
from nightschool_hookspecs.records import Recipe, RunReport, Specialty

logger = logging.getLogger(__name__)


class NothingToLearn(Exception):
    """No specialty has anything fresh; the message says what to do."""


def finish_what_was_begun(installation: Installation, listener: RunListener) -> tuple[RunReport, ...]:
    """Take runs that a crash or a stop left in the middle to their end. One that cannot go on waits."""
    reports = (_carried_out(installation, one, listener) for one in installation.runs.unfinished())
    return tuple(report for report in reports if report is not None)


def _carried_out(installation: Installation, run_id: str, listener: RunListener) -> RunReport | None:
    try:
        report = installation.runs.execute(run_id, listener)
    except (OllamaUnreachable, LedgerError) as error:
        logger.error("The run %s waits: %s", run_id, error)  # noqa: TRY400 - a sentence for the person
        return None
    logger.info("The run %s of %s ended: %s. %s", run_id, report.run.specialty, report.end, report.reason)
    return report


def asked_for(installation: Installation, text: str | None) -> tuple[Specialty, ...]:
    """The specialties that `run --now` means: the named one, else every one with fresh feedback or due examples.

    Raises `RunRefused` for a name that nobody knows and where no base can learn, `NothingToLearn` where nothing is
    fresh.
    """
    planner = installation.runs.planner
    if text is not None:
        found = planner.find(text)
        if found is None:
            known = ", ".join(f"{one.base}/{one.artifact_type}" for one in planner.specialties()) or "none yet"
            raise RunRefused(f"No specialty is called {text}. There is feedback for: {known}.")
        return (found,)
    fresh = tuple(one for one in planner.specialties() if _is_fresh(installation, one) or planner.wants_examples(one))
    if not fresh:
        raise NothingToLearn(
            f"There is no fresh feedback to learn from. Drop some into {installation.settings.feedback_directory}."
        )
    problems = {one: installation.runs.problem(one) for one in fresh}
    told = sorted({text for text in problems.values() if text is not None})
    ready = tuple(one for one in fresh if problems[one] is None)
    if not ready:
        raise RunRefused(" ".join(told))
    for problem in told:
        logger.warning("%s", problem)
    return ready


def _is_fresh(installation: Installation, specialty: Specialty) -> bool:
    """Whether there is something to train for."""
    is_asked = installation.ledger.facts.get(due_key(specialty)) is not None
    return is_asked or installation.runs.planner.statistics(specialty).available > 0


def require_known(installation: Installation, text: str | None) -> None:
    """Raise `RunRefused` for a name that nobody knows, before anything is begun for it."""
    if text is not None:
        asked_for(installation, text)


def run_now(
    installation: Installation, specialty: Specialty, listener: RunListener, now: datetime
) -> tuple[RunReport, ...]:
    """Take the runs of a specialty to their end, because somebody asked."""
    reason = installation.ledger.facts.get(due_key(specialty)) or ASKED
    begun = _begun(installation, specialty, reason, lambda: now)
    return tuple(installation.runs.execute(run, listener) for run in begun)


def _begun(
    installation: Installation, specialty: Specialty, reason: str, clock: Callable[[], datetime]
) -> Iterator[str]:
    """The runs of a specialty, each started when the one before it is over.

    While it is so young, a candidate of examples sits its exam before anything is trained. Raises `RunRefused`.
    """
    if installation.runs.planner.wants_examples(specialty):
        yield _begun_with_examples(installation, specialty, clock)
    yield installation.runs.start(specialty, reason, clock())


def _begun_with_examples(installation: Installation, specialty: Specialty, clock: Callable[[], datetime]) -> str:
    return installation.runs.start(specialty, FIRST_CORRECTIONS, clock(), Recipe.EXAMPLES)


def _due_now(installation: Installation, due: Due, clock: Callable[[], datetime]) -> Iterator[str]:
    """The runs of a night's specialty, each started when the one before it is over. Raises `RunRefused`."""
    if due.recipe is Recipe.EXAMPLES:
        yield _begun_with_examples(installation, due.specialty, clock)
    else:
        yield from _begun(installation, due.specialty, due.reason, clock)


def run_if_fresh(
    installation: Installation, specialty: Specialty, listener: RunListener, now: datetime
) -> tuple[RunReport, ...]:
    """The same, as far as there is something for it: a run in between may have used the feedback up.

    Where that was tried in a training already, and as examples it was not, examples alone are tried.
    """
    if _is_fresh(installation, specialty):
        return run_now(installation, specialty, listener, now)
    if not installation.runs.planner.wants_examples(specialty):
        return ()
    return (installation.runs.execute(_begun_with_examples(installation, specialty, lambda: now), listener),)


def run_due(
    installation: Installation,
    listener: RunListener,
    *,
    clock: Callable[[], datetime],
    may_go_on: Callable[[], bool],
) -> tuple[RunReport, ...]:
    """One night: the runs that are due, up to the cap. `may_go_on` is asked before each."""
    for sentence in installation.runs.look_at_registry(clock()):
        logger.warning("%s", sentence)
    reports = list(finish_what_was_begun(installation, listener))
    for due in installation.runs.due(clock())[: installation.settings.schedule.max_runs_per_night]:
        if not may_go_on():
            break
        try:
            for run in _due_now(installation, due, clock):
                if (report := _carried_out(installation, run, listener)) is not None:
                    reports.append(report)
        except RunRefused as refusal:
            logger.warning("%s", refusal)
    return tuple(reports)
