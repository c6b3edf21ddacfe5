"""Wakes the intake when something happens in the feedback directory.

inotify is a hint: it overflows in a burst and is silent on network file systems. There a poll takes its
place; everywhere the rescan decides.
"""

import ctypes
import logging
import os
import threading
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

logger = logging.getLogger(__name__)

SILENT_FILE_SYSTEMS = {
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x01021997: "9p",
}
"""`statfs` types whose changes from elsewhere inotify does not report."""


class DirectoryWatcher:
    """Sets an event whenever files come into a directory."""

    def __init__(self, directory: Path, wake: threading.Event) -> None:
        self._directory = directory
        self._wake = wake
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        """Begin to watch. On a file system that reports nothing, only the rescan finds files."""
        name = SILENT_FILE_SYSTEMS.get(file_system_type(self._directory))
        if name is not None:
            logger.warning("%s is on %s, which does not report changes: polling.", self._directory, name)
            return
        observer = Observer()
        observer.schedule(_Waker(self._wake), str(self._directory), recursive=False)
        try:
            observer.start()
        except OSError as error:
            logger.warning("%s cannot be watched (%s): polling.", self._directory, error)
            return
        self._observer = observer

    def stop(self) -> None:
        """Stop watching."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None


class _Waker(FileSystemEventHandler):
    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "modified", "moved", "closed"):
            self._wake.set()


class _StatFs(ctypes.Structure):
    """The head of Linux's `struct statfs`; the rest is room."""

    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_char * 248))


def file_system_type(path: Path) -> int:
    """`f_type` of the file system that a path is on; 0 where it cannot be told."""
    status = _StatFs()
    done = ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), ctypes.byref(status))
    return status.f_type & 0xFFFFFFFF if done == 0 else 0
