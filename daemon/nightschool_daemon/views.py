"""What `report` and `history` show, whether the daemon answers or the command line looks for itself."""

from dataclasses import dataclass

from nightschool_daemon.installation import Installation
from nightschool_daemon.ledger import MoveRow, RunRow, VersionRow
from nightschool_daemon.runs import RunRefused
from nightschool_daemon.runs import report as reports
from nightschool_hookspecs.records import RunEnd, RunReport


@dataclass(frozen=True, kw_only=True)
class Page:
    """A run's report, for programs and for people."""

    report: RunReport
    text: str
    """Markdown."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Runs, versions and moves of aliases, newest first."""

    runs: tuple[RunRow, ...]
    versions: tuple[VersionRow, ...]
    moves: tuple[MoveRow, ...]


def page_of(installation: Installation, run_id: str | None) -> Page:
    """The report of a run; of the last one where none is named. Raises `RunRefused` where there is none."""
    runs = installation.ledger.runs
    row = runs.get(run_id) if run_id else next(iter(runs.latest(1)), None)
    if row is None:
        raise RunRefused(
            f"There is no run {run_id}. `nightschool history` lists them."
            if run_id
            else "There was no run yet. `nightschool run --now` starts one."
        )
    found, text = reports.read_report(row.directory), reports.read_text(row.directory)
    if row.end is not None and (found is None or text is None):
        return _page_of_broken(installation, row, row.end)
    if found is None or text is None:
        raise RunRefused(f"The run {row.id} is not over yet. `nightschool status` says how far it is.")
    return Page(report=found, text=text)


def _page_of_broken(installation: Installation, row: RunRow, end: RunEnd) -> Page:
    """A run that broke before it could write its page."""
    info = installation.runs.info_of(row)
    report = RunReport(run=info, end=end, reason=row.outcome_reason, verdict=None, alias=None, version=None)
    text = f"# {reports.HEADLINES[end]}\n\n{row.specialty}, run {row.id}\n\n{row.outcome_reason}\n"
    return Page(report=report, text=text)


def history_of(installation: Installation, limit: int) -> History:
    """The latest `limit` runs, and as many versions and moves."""
    ledger = installation.ledger
    return History(
        runs=ledger.runs.latest(limit), versions=ledger.versions.latest(limit), moves=ledger.moves.latest(limit)
    )
