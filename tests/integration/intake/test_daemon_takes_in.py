"""The running daemon and its feedback directory: killed, stopped and deprived of it in mid-burst."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from support.night import Night, wait_until

NOBODY = "http://127.0.0.1:9"
"""No Ollama is needed to take feedback in."""


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """An installation without a server."""
    return Night(tmp_path / "night", NOBODY, tmp_path / "models")


@contextmanager
def serving(night: Night) -> Iterator["subprocess.Popen[str]"]:
    """The running daemon, ended at the end of the block if it still runs."""
    process = night.start("serve")
    try:
        wait_until((night.directory / "run" / "control.sock").exists, 30)
        yield process
    finally:
        process.kill()
        process.wait(30)


def drop(night: Night, first: int, last: int) -> None:
    """One event a file, written aside and renamed in."""
    for number in range(first, last):
        event = {
            "id": str(number),
            "artifact_type": "shell",
            "model": "tiny:1b",
            "input_data": f"question {number}",
            "ai_output": f"answer {number} {'x' * 300}",
            "feedback_type": "success",
        }
        aside = night.feedback / f".{number}.json"
        aside.write_text(json.dumps(event))
        aside.rename(night.feedback / f"{number}.json")


def total(night: Night) -> int:
    """Events in the ledger."""
    return night.ledger().events.total()


def has_more_than(night: Night, count: int) -> bool:
    """Whether the daemon has begun with what was dropped."""
    return total(night) > count


def left(night: Night) -> list[Path]:
    """Files that were not put away."""
    return [*night.feedback.glob("*.json"), *(night.feedback / ".claimed").glob("*.json")]


def test_a_kill_in_mid_burst_costs_and_doubles_no_event(night: Night) -> None:
    taken = 0
    for round_number in range(3):
        with serving(night) as daemon:
            drop(night, round_number * 1500, (round_number + 1) * 1500)
            wait_until(partial(has_more_than, night, taken), 30)
            daemon.send_signal(signal.SIGKILL)
            daemon.wait(30)
            taken = total(night)
    with serving(night):
        wait_until(lambda: total(night) == 4500 and not left(night), 60)
    assert len(list((night.feedback / "accepted").glob("*.json"))) == 4500
    assert not list((night.feedback / "rejected").iterdir())


def test_a_burst_while_the_daemon_stands_still_is_found_afterwards(night: Night) -> None:
    with serving(night) as daemon:
        daemon.send_signal(signal.SIGSTOP)
        drop(night, 0, 3000)
        daemon.send_signal(signal.SIGCONT)
        wait_until(lambda: total(night) == 3000 and not left(night), 60)


def test_a_directory_that_went_away_is_waited_for(night: Night) -> None:
    with serving(night) as daemon:
        drop(night, 0, 1)
        wait_until(lambda: total(night) == 1 and not left(night), 30)
        aside = night.feedback.rename(night.directory / "aside")
        night.feedback.write_text("in the way")
        assert daemon.stdout is not None
        assert any("Feedback waits" in line for line in daemon.stdout)
        night.feedback.unlink()
        aside.rename(night.feedback)
        drop(night, 1, 2)
        wait_until(lambda: total(night) == 2, 30)
        assert daemon.poll() is None
