"""Runs: from a specialty that is due to an alias that moved, or to nothing changed."""

from nightschool_daemon.runs.errors import MoveFailed, RunInterrupted, RunRefused, UndoRefused
from nightschool_daemon.runs.estimate import Estimate
from nightschool_daemon.runs.listener import RunListener, SilentListener
from nightschool_daemon.runs.planner import Due, SpecialtyState
from nightschool_daemon.runs.service import Runs
from nightschool_daemon.runs.shares import Share, ShareRefused, ShareState

__all__ = [
    "Due",
    "Estimate",
    "MoveFailed",
    "RunInterrupted",
    "RunListener",
    "RunRefused",
    "Runs",
    "Share",
    "ShareRefused",
    "ShareState",
    "SilentListener",
    "SpecialtyState",
    "UndoRefused",
]
