"""Intake: from files in the feedback directory to events in the ledger."""

from nightschool_daemon.intake.scanning import Intake, ScanReport
from nightschool_daemon.intake.watching import DirectoryWatcher

__all__ = ["DirectoryWatcher", "Intake", "ScanReport"]
