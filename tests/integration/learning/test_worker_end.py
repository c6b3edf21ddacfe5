"""A worker ends with the process that started it, whatever number that process has; and what it is started with."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nightschool_daemon.jobs import RunDirectory, Step
from nightschool_daemon.runs import worker_process

WORKER = [sys.executable, "-m", "nightschool_daemon.learning", "split"]

PARENT = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True);"
    "from nightschool_daemon.learning.worker import die_with_parent; die_with_parent(int(os.environ['PARENT']));"
    "print('ready', flush=True); time.sleep(600)"], env={**os.environ, "PARENT": str(os.getpid())})
time.sleep(600)
"""


def test_worker_whose_parent_is_gone_ends_at_once(tmp_path: Path) -> None:
    done = subprocess.run([*WORKER, str(tmp_path), "--parent", "1"], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_worker_of_this_parent_works(tmp_path: Path) -> None:
    """It finds no run there, and says so: it was not killed."""
    command = [*WORKER, str(tmp_path), "--parent", str(os.getpid())]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert (tmp_path / "split" / "failure.json").is_file()


def test_killed_parent_takes_its_worker_along() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait()
    # the worker held the other end of the pipe: it closes when the worker is gone
    assert parent.stdout.read() == ""
    parent.stdout.close()
    assert not Path(f"/proc/{worker}/exe").exists()


@pytest.mark.parametrize(
    ("given", "count"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_a_worker_leaves_the_cores_to_others(
    given: dict[str, str], count: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the environment says otherwise."""
    for name in worker_process.SAYS_HOW:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (tmp_path / Step.SPLIT).mkdir()
    telling = tmp_path / "python"
    telling.write_text("#!/bin/sh\nexec env\n")
    telling.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(telling))
    with worker_process._started(RunDirectory(path=tmp_path), Step.SPLIT) as process:
        process.wait(60)
    told = dict(
        line.split("=", 1) for line in (tmp_path / Step.SPLIT / "worker.log").read_text().splitlines() if "=" in line
    )
    assert told.get("GOMP_SPINCOUNT") == count
