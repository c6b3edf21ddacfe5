"""What a version takes of the disks that it is written to, and what is told where one of them refuses."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from nightschool_daemon import cli
from nightschool_daemon.disk import delivered_bytes, told
from nightschool_daemon.ledger import Ledger, LedgerError

ELSEWHERE = Path("/proc")
"""A file system of its own."""


def test_a_version_takes_its_size_in_the_run_and_in_the_store(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.touch()
    assert delivered_bytes(tmp_path, tmp_path, base, 1000) == 2000
    assert delivered_bytes(tmp_path, ELSEWHERE, base, 1000) == 1000
    assert delivered_bytes(ELSEWHERE, ELSEWHERE, base, 1000) == 1000
    assert delivered_bytes(ELSEWHERE, tmp_path, base, 1000) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_its_place_and_what_helps_there(number: int) -> None:
    error = OSError(number, "No space left")
    assert told(error, Path("/runs/one")).endswith("Free some space on the disk of /runs/one.")
    assert told(error, Path("/runs/one"), ", or lower lora_r").endswith("on the disk of /runs/one, or lower lora_r.")
    named = OSError(number, "No space left", "/tmp/file")
    assert told(named, Path("/runs/one")).endswith("Free some space on the disk of /tmp/file.")


def test_a_disk_that_is_mounted_for_reading_is_told() -> None:
    error = OSError(errno.EROFS, "Read-only file system", "/state/train-a")
    sentence = "/state/train-a is on a disk that is mounted for reading alone. Mount it for writing."
    assert told(error, Path("/")) == sentence
    assert cli._sentence(error) == sentence


def test_a_ledger_on_such_a_disk_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: Path, *_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(LedgerError, match="Read-only file system") as caught:
        Ledger.open(tmp_path / "ledger.sqlite3")
    assert str(caught.value).startswith(f"{tmp_path / 'ledger.sqlite3'} cannot be opened")


def test_a_ledger_on_a_full_disk_says_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger.open(path)
    with pytest.raises(LedgerError, match="database or disk is full") as caught, ledger._database.transaction():
        raise sqlite3.OperationalError("database or disk is full")
    assert f"the disk of {tmp_path} has room" in str(caught.value)
    ledger.close()
