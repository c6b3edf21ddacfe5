"""What `report` and `history` show, whether the daemon answers or the command line looks for itself."""

from dataclasses import dataclass, replace

from nightschool_daemon.installation import Installation
from nightschool_daemon.ledger import MoveRow, RunRow, VersionRow
from nightschool_daemon.ollama import names
from nightschool_daemon.reporting.sheet import Section, Sheet, markdown_of
from nightschool_daemon.runs import RunRefused
from nightschool_daemon.runs import report as reports
from nightschool_daemon.runs.comparing import Matching, Pairing
from nightschool_daemon.runs.sheets import HEADLINES, TO_DO, in_use_section
from nightschool_hookspecs.records import RunEnd, RunReport

MOVES = 1000


@dataclass(frozen=True, kw_only=True)
class Page:
    """A run's report, for programs and for people."""

    report: RunReport
    sheet: Sheet

    @property
    def text(self) -> str:
        """The page in Markdown."""
        return markdown_of(self.sheet)


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
    found, sheet = reports.read_report(row.directory), reports.read_sheet(row.directory)
    if row.end is not None and (found is None or sheet is None):
        return _page_of_broken(installation, row, row.end)
    if found is None or sheet is None:
        raise RunRefused(f"The run {row.id} is not over yet. `nightschool status` says how far it is.")
    return Page(report=found, sheet=_with_what_followed(installation, row, found, sheet))


def _with_what_followed(installation: Installation, row: RunRow, found: RunReport, sheet: Sheet) -> Sheet:
    """A run's page, and what became of its version since: approved, given up, or a promotion that was taken back."""
    if found.version is None:
        return sheet
    moves = _moves_since(installation, row, found, found.version)
    points = [_told(one) for one in moves]
    waited = found.end is RunEnd.WAITING
    if waited and row.end in (RunEnd.DISCARDED, RunEnd.OVERTAKEN) and row.finished_at is not None:
        points.append(f"{row.finished_at:%Y-%m-%d %H:%M}: {found.version} was given up. {row.outcome_reason}")
    if not points:
        return sheet
    if row.end is not None and row.end is not found.end:
        sheet = replace(sheet, headline=HEADLINES[row.end])
    if waited:
        sheet = sheet.without_section(TO_DO)
    sheet = sheet.with_section(Section(title="Since then", points=tuple(points)))
    last = moves[-1] if moves else None
    if last is None or last.kind.is_back:
        return sheet
    before = last.from_tag or "what stood there before"
    return sheet.with_section(in_use_section(last.alias, before, installation.runs.unwatched(row.specialty)))


def _moves_since(installation: Installation, row: RunRow, found: RunReport, version: str) -> tuple[MoveRow, ...]:
    """The moves of its alias to a version that waited, and back from a version, oldest first."""
    moves = installation.ledger.moves.history(names.alias_of(row.specialty), MOVES)
    waited = found.end is RunEnd.WAITING
    return tuple(
        one
        for one in reversed(moves)
        if one.done_at is not None
        and (one.from_tag == version if one.kind.is_back else waited and one.to_tag == version)
    )


def _told(move: MoveRow) -> str:
    way = "moved back" if move.kind.is_back else "moved"
    return f"{move.done_at:%Y-%m-%d %H:%M}: {move.alias} was {way} to {move.to_tag}. {move.reason}"


def _page_of_broken(installation: Installation, row: RunRow, end: RunEnd) -> Page:
    """A run that broke before it could write its page."""
    info = installation.runs.info_of(row)
    report = RunReport(run=info, end=end, reason=row.outcome_reason, verdict=None, alias=None, version=None)
    sheet = Sheet(
        headline=HEADLINES[end],
        subject=f"{row.specialty}, run {row.id}",
        at=row.started_at,
        summary=(row.outcome_reason,),
    )
    return Page(report=report, sheet=sheet)


def pairing_of(installation: Installation, first: str | None, second: str | None, on: str | None) -> Pairing:
    """Who is compared on a specialty, and what they are asked. Raises `RunRefused`, `OllamaError`."""
    digests = {entry.name: entry.digest for entry in installation.ollama.tags()}
    matching = Matching(planner=installation.runs.planner, ledger=installation.ledger, digests=digests)
    return matching.pair_up(first, second, on)


def history_of(installation: Installation, limit: int) -> History:
    """The latest `limit` runs, and as many versions and moves."""
    ledger = installation.ledger
    return History(
        runs=ledger.runs.latest(limit), versions=ledger.versions.latest(limit), moves=ledger.moves.latest(limit)
    )
