"""What was acknowledged survives a kill in mid-burst and a full disk."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from nightschool_daemon.ledger import Ledger
from nightschool_hookspecs import Specialty

SHELL = Specialty(base="tiny:1b", artifact_type="shell")

BURST = """
import sys
from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.ledger import IncomingEvent, Ledger, LedgerError
from nightschool_hookspecs import Event, FeedbackType

NOW = datetime(2026, 1, 2, tzinfo=UTC)
first, size = int(sys.argv[2]), int(sys.argv[3])
ledger = Ledger.open(Path(sys.argv[1]))
for start in range(first, 1_000_000, size):
    batch = [
        IncomingEvent(
            event=Event(
                id=str(number), timestamp=NOW, feedback_type=FeedbackType.SUCCESS, input_data=f"question {number}",
                artifact_type="shell", ai_output=f"answer {number} " + "x" * 400,
            ),
            base="tiny:1b", answered_by=None, group=str(number), arrived_at=NOW,
        )
        for number in range(start, start + size)
    ]
    try:
        ledger.events.add(batch)
    except LedgerError as error:
        print(f"error {error}", flush=True)
        break
    print(start + size, flush=True)
"""


def start_burst(path: Path, first: int, size: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", BURST, str(path), str(first), str(size)], stdout=subprocess.PIPE, text=True
    )


def read_numbers(path: Path) -> list[int]:
    ledger = Ledger.open(path)
    found = [int(row.event.id) for row in ledger.events.of_specialty(SHELL, with_unassigned=False)]
    assert ledger.events.total() == len(found)
    ledger.close()
    return found


def test_a_kill_in_mid_burst_loses_nothing_acknowledged_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    first = 0
    for size in (1, 7, 50):
        with start_burst(path, first, size) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(20)][-1]
            process.send_signal(signal.SIGKILL)
            # what it still said before the signal came was acknowledged too
            acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))])
        assert process.returncode == -signal.SIGKILL
        found = read_numbers(path)
        assert found == list(range(len(found)))
        assert len(found) >= acknowledged
        # at most the batch that was under way is there without having been acknowledged
        assert len(found) <= acknowledged + size
        first = len(found) - size if len(found) > size else 0


def test_a_full_disk_is_said_and_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    assert unshare is not None, "unshare is part of util-linux: install it"
    mount = tmp_path / "mount"
    mount.mkdir()
    kept = tmp_path / "kept"
    kept.mkdir()
    script = (
        'mount -t tmpfs -o size=1m none "$1" && "$2" -c "$3" "$1/ledger.sqlite3" 0 5; code=$?; '
        'cp "$1"/ledger.sqlite3* "$4"; exit $code'
    )
    done = subprocess.run(
        [unshare, "-Urm", "sh", "-c", script, "sh", str(mount), sys.executable, BURST, str(kept)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *acknowledged, error = done.stdout.splitlines()
    assert error.startswith("error the ledger could not be written")
    assert error.endswith(f"See to it that the disk of {mount} has room and can be written to.")
    assert acknowledged
    assert read_numbers(kept / "ledger.sqlite3") == list(range(int(acknowledged[-1])))
