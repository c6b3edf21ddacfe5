"""The page of a run: a worker adds the nights before and the plots. A run is none the worse for a page that failed."""

import logging
import shutil

from nightschool_daemon import codec
from nightschool_daemon.jobs import Job, Step
from nightschool_daemon.ledger import LedgerError
from nightschool_daemon.reporting.records import ExamPaper, PageRequest, PageResult
from nightschool_daemon.reporting.sheet import Sheet
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import RunCancelled, RunInterrupted
from nightschool_daemon.runs.sheets import questions_of
from nightschool_daemon.runs.tracks import TIME_LIMIT_S, material_of, peers_of
from nightschool_daemon.runs.worker_process import run_job

logger = logging.getLogger(__name__)

PAGE = "report.html"
PAPERS = 20
"""Exams whose marks are worked out at once: tonight's, and those of nights whose page failed."""


def with_page(context: StepContext, sheet: Sheet) -> Sheet:
    """The sheet with what a worker adds, after leaving `report.html`; as it is where no page can be made."""
    try:
        return _with_page(context, sheet)
    except (RunCancelled, RunInterrupted, LedgerError):
        raise
    except Exception as error:
        # a page is for convenience: matplotlib that is missing, a full disk or a broken file costs no promotion
        context.note(f"report: the page could not be made, the report in words stands. {error}")
        logger.warning("The page of run %s could not be made", context.info.id, exc_info=error)
        return sheet


def _with_page(context: StepContext, sheet: Sheet) -> Sheet:
    desk = context.directory.step(Job.PAGE)
    shutil.rmtree(desk, ignore_errors=True)
    desk.mkdir()
    request = _request(context, sheet)
    (desk / "request.json").write_text(codec.to_json(request), encoding="utf-8")
    run_job(context.directory, Job.PAGE, limit_s=TIME_LIMIT_S)
    result = context.directory.result(Job.PAGE, PageResult)
    context.ledger.exams.store_marks(result.marks)
    (desk / PAGE).replace(context.directory.step(Step.REPORT) / PAGE)
    if result.problem is not None:
        context.note(f"report: {result.problem}")
    shutil.rmtree(desk)
    return result.sheet or sheet


def _request(context: StepContext, sheet: Sheet) -> PageRequest:
    exams, specialty = context.ledger.exams, context.info.specialty
    material = material_of(context.ledger, specialty)
    peers = peers_of(context.ledger, specialty)
    unmarked = [one for one in material.exams if one.marks is None][-PAPERS:]
    return PageRequest(
        material=material,
        papers=tuple(
            ExamPaper(
                run_id=one.run_id,
                at=one.at,
                items=exams.items(one.run_id),
                answers=exams.answers(one.run_id),
                peers=peers,
            )
            for one in unmarked
        ),
        sheet=sheet,
        questions=questions_of(context),
    )
