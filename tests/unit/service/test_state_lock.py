"""One process a state directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nightschool_daemon.locking import LockedError, StateLock, is_locked

HOLD = """
import sys, time
from pathlib import Path
from nightschool_daemon.locking import StateLock
StateLock.take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""
LOOK = """
import sys
from pathlib import Path
from nightschool_daemon.locking import is_locked
print("looking", flush=True)
while True:
    is_locked(Path(sys.argv[1]))
"""


def test_second_taker_is_told_of_the_first(tmp_path: Path) -> None:
    lock = StateLock.take(tmp_path)
    with pytest.raises(LockedError, match=rf"in use by process {os.getpid()}\b"):
        StateLock.take(tmp_path)
    lock.release()
    StateLock.take(tmp_path).release()


def test_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=rf"process {holder.pid}\b"):
        StateLock.take(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    StateLock.take(tmp_path).release()


def test_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    lock = StateLock.take(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", "print(); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lock.release()
        StateLock.take(tmp_path).release()
        child.communicate(b"\n")


def test_state_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    StateLock.take(tmp_path / "state").release()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_who_looks_whether_it_is_held_is_in_nobodys_way(tmp_path: Path) -> None:
    StateLock.take(tmp_path).release()
    with subprocess.Popen([sys.executable, "-c", LOOK, str(tmp_path)], stdout=subprocess.PIPE, text=True) as looker:
        try:
            assert looker.stdout is not None
            assert looker.stdout.readline() == "looking\n"
            assert not any(is_locked(tmp_path) for _ in range(2000))
            for _ in range(500):
                StateLock.take(tmp_path).release()
        finally:
            looker.kill()
