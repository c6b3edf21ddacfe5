"""What a power cut would leave: a file's content counts from its fsync on, its name from that of its directory."""

import os
from pathlib import Path

import pytest


class Disk:
    """Watches what gets onto the disk. Files and directories are told apart by their numbers, whatever their names."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.too_early = list[Path]()
        """What got its name before all of it was on the disk."""
        self._synced = dict[int, object]()
        fsync, rename, replace = os.fsync, os.rename, os.replace

        def noted(descriptor: int) -> None:
            fsync(descriptor)
            place = Path(f"/proc/self/fd/{descriptor}").resolve()
            self._synced[place.stat().st_ino] = _state(place)

        def renamed(source: Path, target: Path) -> None:
            self._look(source)
            rename(source, target)

        def replaced(source: Path, target: Path) -> None:
            self._look(source)
            replace(source, target)

        patch.setattr(os, "fsync", noted)
        patch.setattr(os, "rename", renamed)
        patch.setattr(os, "replace", replaced)

    def has(self, path: Path) -> bool:
        """Whether a file or a directory is there after a power cut, with all that is in it, under its name."""
        return self._is_whole(path) and self._synced.get(path.parent.stat().st_ino) == _state(path.parent)

    def _look(self, source: Path) -> None:
        if not self._is_whole(source):
            self.too_early.append(source)

    def _is_whole(self, path: Path) -> bool:
        return all(self._synced.get(one.stat().st_ino) == _state(one) for one in (path, *path.rglob("*")))


def _state(path: Path) -> object:
    """The names in a directory, or how much is in a file and since when."""
    if path.is_dir():
        return {one.name: one.stat().st_ino for one in path.iterdir()}
    found = path.stat()
    return found.st_size, found.st_mtime_ns
