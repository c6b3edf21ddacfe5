"""Step `report`: one page in plain words about what a run did."""

from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.jobs import ConcludeResult, Step, write_durably
from nightschool_daemon.reporting.sheet import Sheet, markdown_of
from nightschool_daemon.runs.conclude import verdict_of
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.pages import with_page
from nightschool_daemon.runs.sheets import sheet_of
from nightschool_hookspecs.records import RunReport

SHEET = "sheet.json"


def perform(context: StepContext) -> None:
    """Write `report.md` and `report.html` for people, `sheet.json` and `result.json` for programs."""
    directory = context.directory.step(Step.REPORT)
    sheet = with_page(context, sheet_of(context))
    write_durably(directory / SHEET, codec.to_json(sheet))
    write_durably(directory / "report.md", markdown_of(sheet))
    context.directory.finish(Step.REPORT, report_of(context))


def report_of(context: StepContext) -> RunReport:
    """The run's end as observers and programs see it."""
    concluded = context.result(Step.CONCLUDE, ConcludeResult)
    return RunReport(
        run=context.info,
        end=concluded.end,
        reason=concluded.reason,
        verdict=verdict_of(context),
        alias=concluded.alias,
        version=concluded.version,
    )


def read_sheet(run_directory: Path) -> Sheet | None:
    """What is told of a run, or None where it did not get so far."""
    file = run_directory / Step.REPORT.value / SHEET
    return codec.from_json(file.read_bytes(), Sheet) if file.is_file() else None


def read_report(run_directory: Path) -> RunReport | None:
    """The report of a run as a record, or None where it did not get so far."""
    file = run_directory / Step.REPORT.value / "result.json"
    return codec.from_json(file.read_bytes(), RunReport) if file.is_file() else None
