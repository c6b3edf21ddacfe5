"""Files in the feedback directory, as applications write them and as they should not."""

import gzip
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightschool_daemon.config import FeedbackSettings
from nightschool_daemon.hooks.facade import Hooks
from nightschool_daemon.intake import DirectoryWatcher, Intake, ScanReport, watching
from nightschool_daemon.intake.scanning import MAX_REFUSALS, PART_BYTES
from nightschool_daemon.ledger import Ledger, LedgerError
from nightschool_hookspecs import Event, FeedbackFile, ParsedFeedback, Refusal, Specialty

BASE = "tiny:1b"
BUILT_IN = ("intake_native", "intake_quality", "intake_classify")


def record(identifier: str, answer: str = "ls -l", **changes: object) -> dict[str, object]:
    return {
        "id": identifier,
        "input_data": f"List the files of {identifier}",
        "ai_output": answer,
        "feedback_type": "success",
        "artifact_type": "shell",
        "model": BASE,
        **changes,
    }


def line(identifier: str, answer: str = "ls -l") -> str:
    return json.dumps(record(identifier, answer)) + "\n"


class Room:
    """A feedback directory, an intake with the real plugins, and a clock to set."""

    def __init__(self, directory: Path) -> None:
        self.feedback = directory / "feedback"
        self.feedback.mkdir()
        self.state = directory / "ledger.sqlite3"
        self.ledger = Ledger.open(self.state)
        self.hooks = Hooks.load(plugin_directory=None, tables={}, built_in=BUILT_IN)
        self.intake = self.new_intake()

    def new_intake(self, **settings: int) -> Intake:
        return Intake(
            settings=FeedbackSettings(directory=self.feedback, **settings),
            hooks=self.hooks,
            ledger=self.ledger,
            default_base={},
        )

    def scan(self, later_s: float = 0) -> ScanReport:
        return self.intake.scan(datetime.now(UTC) + timedelta(seconds=later_s))

    def drop(self, name: str, content: object) -> Path:
        path = self.feedback / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def answers(self) -> dict[str, str | None]:
        rows = self.ledger.events.of_specialty(Specialty(base=BASE, artifact_type="shell"), with_unassigned=False)
        return {row.event.id: row.event.ai_output for row in rows}

    def names(self, directory: str) -> list[str]:
        return sorted(path.name for path in (self.feedback / directory).iterdir())

    def reasons(self) -> dict[str, str]:
        return {
            path.name.removesuffix(".reason.txt"): path.read_text()
            for path in (self.feedback / "rejected").glob("*.reason.txt")
        }


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.ledger.close()


# --------------------------------------------------------------------------- ways in


def test_ways_in_that_bring_every_event_once(room: Room) -> None:
    for number in range(20):
        text = json.dumps(record(f"w{number}"))
        room.drop(f"w{number}.json", text)
        room.drop(f".r{number}.json", text.replace(f"w{number}", f"r{number}")).rename(
            room.feedback / f"r{number}.json"
        )
        hidden = room.drop(f".l{number}", text.replace(f"w{number}", f"l{number}"))
        (room.feedback / f"l{number}.json").hardlink_to(hidden)
        hidden.unlink()
    report = room.scan()
    assert (report.files, report.added, report.refused) == (60, 60, 0)
    assert room.ledger.events.total() == 60
    assert len(room.names("accepted")) == 60
    assert room.names(".claimed") == []
    assert [one for one in room.feedback.iterdir() if one.is_file()] == []
    assert room.scan().is_quiet


def test_an_array_and_a_file_that_comes_again_with_a_changed_event(room: Room) -> None:
    room.drop("a.json", [record("1"), record("2")])
    room.scan()
    room.drop("a.json", [record("1"), record("2", "ls -la")])
    report = room.scan()
    assert (report.added, report.replaced, report.unchanged) == (0, 1, 1)
    assert room.answers() == {"1": "ls -l", "2": "ls -la"}
    assert room.names("accepted") == ["a.2.json", "a.json"]


def test_appended_lines_are_read_and_the_others_are_not_read_again(room: Room) -> None:
    path = room.drop("log.jsonl", line("1") + line("2"))
    assert room.scan().added == 2
    with path.open("a") as stream:
        stream.write(line("3") + line("4")[:20])
    report = room.scan()
    assert (report.added, report.unchanged, report.waiting) == (1, 0, 1)
    with path.open("a") as stream:
        stream.write(line("4")[20:])
    assert room.scan().added == 1
    assert list(room.answers()) == ["1", "2", "3", "4"]
    assert path.exists()
    assert room.scan().files == 0


def test_a_restarted_intake_goes_on_where_the_last_one_was(room: Room) -> None:
    path = room.drop("log.jsonl", line("1"))
    room.scan()
    room.intake = room.new_intake()
    with path.open("a") as stream:
        stream.write(line("2"))
    report = room.scan()
    assert (report.added, report.unchanged) == (1, 0)


@pytest.mark.parametrize("known", [30, 3])
def test_a_rewritten_file_is_read_anew_and_a_line_that_vanished_stays(room: Room, known: int) -> None:
    lines = [line(str(number)) for number in range(known)]
    path = room.drop("log.jsonl", "".join(lines))
    room.scan()
    # as long as before, and it begins as before
    path.write_text("".join(lines[:-1]) + line(str(known - 1), "ls -a") + line("new"))
    report = room.scan()
    assert (report.added, report.replaced, report.unchanged) == (1, 1, known - 1)
    path.write_text(lines[0])
    report = room.scan()
    assert (report.added, report.unchanged, report.retracted) == (0, 1, 0)
    assert room.ledger.events.total() == known + 1


def test_a_long_log_is_read_in_parts_and_its_refusals_name_their_line(room: Room) -> None:
    padding = "x" * 4000
    count = 2 * PART_BYTES // len(line("00000", padding)) + 10
    lines = [line(f"{number:05}", padding) for number in range(count)]
    lines[-2] = "{broken\n"
    room.drop("long.jsonl", "".join(lines))
    report = room.scan()
    assert (report.added, report.refused) == (count - 1, 1)
    assert list(room.reasons()) == [f"long.jsonl.{count - 1}"]


def test_lines_that_no_plugin_reads_wait_for_one_that_does(room: Room) -> None:
    room.drop("log.jsonl", line("1"))
    reading, room.hooks = room.hooks, Hooks.load(plugin_directory=None, tables={}, built_in=BUILT_IN[1:])
    room.intake = room.new_intake()
    assert room.scan(60).added == 0
    assert room.ledger.events.file("log.jsonl") is None
    room.hooks = reading
    room.intake = room.new_intake()
    assert room.scan(60).added == 1


def test_an_old_file_is_kept_as_long_as_a_new_one(room: Room) -> None:
    file = room.drop("old.json", record("1"))
    os.utime(file, (1_000_000_000, 1_000_000_000))
    room.scan()
    room.scan()
    assert room.names("accepted") == ["old.json"]


def test_a_tombstone_in_a_file_retracts(room: Room) -> None:
    room.drop("a.json", record("1"))
    room.scan()
    room.drop("b.json", {"id": "1", "metadata": {"deleted": True}})
    assert room.scan().retracted == 1
    assert room.answers() == {}


def test_accepted_files_go_when_they_are_not_to_be_kept(room: Room) -> None:
    room.intake = room.new_intake(keep_accepted_days=0)
    room.drop("a.json", record("1"))
    room.scan()
    assert room.names("accepted") == []
    room.intake = room.new_intake(keep_accepted_days=1)
    room.drop("b.json", record("2"))
    room.scan()
    assert room.names("accepted") == ["b.json"]
    room.scan(later_s=2 * 86400)
    assert room.names("accepted") == []


# --------------------------------------------------------------------------- unfinished files


def test_a_half_written_file_waits_and_is_taken_when_it_is_whole(room: Room) -> None:
    text = json.dumps(record("1"))
    path = room.drop("a.json", text[:40])
    room.drop("good.json", record("good"))
    report = room.scan(later_s=30)
    assert (report.waiting, report.added) == (1, 1)
    path.write_text(text)
    assert room.scan().added == 1
    assert room.reasons() == {}


def test_a_file_that_stays_half_is_refused_as_incomplete(room: Room) -> None:
    room.drop("a.json", json.dumps(record("1"))[:40])
    room.drop("empty.json", "")
    room.drop("log.jsonl", line("2") + line("3")[:30])
    assert room.scan(later_s=30).waiting == 3
    report = room.scan(later_s=90)
    assert report.refused == 3
    reasons = room.reasons()
    assert "incomplete" in reasons["a.json"]
    assert "empty" in reasons["empty.json"]
    assert "incomplete" in reasons["log.jsonl.2"]
    assert room.scan(later_s=100).refused == 0


def test_last_line_without_its_end_is_taken_in_when_it_is_whole(room: Room) -> None:
    path = room.drop("log.jsonl", line("1") + line("2").rstrip("\n"))
    assert room.scan(later_s=30).added == 1
    report = room.scan(later_s=90)
    assert (report.added, report.refused) == (1, 0)
    with path.open("a") as stream:
        stream.write("\n" + line("3") + "{broken\n")
    report = room.scan(later_s=200)
    assert (report.added, report.refused) == (1, 1)
    assert list(room.reasons()) == ["log.jsonl.4"]
    assert sorted(room.answers()) == ["1", "2", "3"]


def test_half_a_line_is_refused_once_however_often_the_daemon_starts(room: Room) -> None:
    path = room.drop("log.jsonl", line("1") + line("2")[:30])
    assert room.scan(later_s=90).refused == 1
    room.intake = room.new_intake()
    assert room.scan(later_s=100).refused == 0
    assert room.names("rejected") == ["log.jsonl.2.reason.txt", "log.jsonl.2.record.txt"]
    with path.open("a") as stream:
        stream.write(line("2")[30:60])
    room.intake = room.new_intake()
    assert room.scan(later_s=200).refused == 1
    assert room.names("rejected") == [
        "log.jsonl.2.2.reason.txt",
        "log.jsonl.2.2.record.txt",
        "log.jsonl.2.reason.txt",
        "log.jsonl.2.record.txt",
    ]


def test_model_that_is_no_name_is_refused(room: Room) -> None:
    room.drop("a.json", [record("1"), record("2", model="x; rm -rf ~ #"), record("3", model="evil\x1b[31m:1m")])
    report = room.scan(later_s=30)
    assert (report.added, report.refused) == (1, 2)
    assert all("no name that Ollama takes" in reason for reason in room.reasons().values())
    assert all(reason.strip().isprintable() for reason in room.reasons().values())


@pytest.mark.parametrize(
    ("change", "told"),
    [({"corected_output": "x"}, "Did you mean corrected_output?"), ({"weight": 0.5}, "Move it into metadata.")],
)
def test_field_that_was_meant_to_be_one_of_ours_is_refused(room: Room, change: dict[str, object], told: str) -> None:
    room.drop("a.json", record("1") | change)
    assert room.scan(later_s=30).refused == 1
    assert told in room.reasons()["a.json"]


def test_file_that_may_not_be_read_is_said_once_and_no_plugin_is_blamed(
    room: Room, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.drop("mine.json", record("1"))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("nightschool_daemon.intake.files.require_readable", refuse)
    for later_s in (30, 40, 50):
        room.scan(later_s=later_s)
    (message,) = [one for one in caplog.messages if "mine.json" in one]
    assert "cannot be read (Permission denied)" in message
    assert "plugin" not in message


def test_blank_file_is_empty_and_not_incomplete(room: Room) -> None:
    room.drop("blank.json", "  \n\n")
    room.scan(later_s=90)
    assert "is empty" in room.reasons()["blank.json"]


def test_names_of_half_written_files_are_passed_over(room: Room) -> None:
    for name in (".hidden.json", "a.json.tmp", "b.json.part", "c.json~", ".d.json.swp"):
        room.drop(name, record(name))
    assert room.scan(later_s=999).added == 0
    assert room.names("rejected") == []


# --------------------------------------------------------------------------- hostile files


def test_what_is_no_ordinary_file_is_left_in_place_and_said_once(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(room.feedback / "pipe.json")
    (room.feedback / "zero.json").symlink_to("/dev/zero")
    (room.feedback / "shadow.json").symlink_to("/etc/shadow")
    (room.feedback / "loop").symlink_to(room.feedback)
    (room.feedback / "folder.json").mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(room.feedback / "s.json"))
    room.drop("good.json", record("good"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(room.scan().ignored) == 5
    assert len([one for one in caplog.messages if "left where it is" in one]) == 5
    assert list(room.answers()) == ["good"]
    assert room.names("rejected") == []


def test_hostile_contents_end_in_rejected_each_with_a_reason(room: Room) -> None:
    hostile: dict[str, tuple[bytes, str]] = {
        "deep": (b"[" * 100_000, "nested"),
        "nan": (b'{"validation_score": NaN}', "NaN"),
        "high": (json.dumps(record("1", validation_score=101)).encode(), "101"),
        "text": (json.dumps(record("1", validation_score="90")).encode(), "validation_score"),
        "twice": (b'{"id": "1", "id": "2"}', "twice"),
        "nul": (b'{"id": "\x00"}', "NUL"),
        "half": (json.dumps(record("\ud800")).encode(), "surrogate"),
        "bom": (b"\xef\xbb\xbf{}", "byte order mark"),
        "wide": (json.dumps(record("1")).encode("utf-16"), "UTF-16"),
        "zipped": (gzip.compress(json.dumps(record("1")).encode()), "gzip"),
        "digits": (b'{"validation_score": ' + b"9" * 5000 + b"}", "digits"),
        "slash": (json.dumps(record("1", source="a/b")).encode(), "slash"),
        "type": (json.dumps(record("1", artifact_type="../x")).encode(), "artifact_type"),
        "poor": (json.dumps(record("1", validation_score=10)).encode(), "validation_score"),
    }
    for name, (content, _) in hostile.items():
        room.drop(f"{name}.json", content)
        room.drop(f"{name}.jsonl", content + b"\n")
    room.drop("table.csv", "a,b\n")
    room.drop("good.json", record("good"))
    room.scan(later_s=10)
    reasons = room.reasons()
    for name, (_, says) in hostile.items():
        assert says in reasons[f"{name}.json"]
        assert reasons[f"{name}.json"].endswith(".\n")
        assert (room.feedback / "rejected" / f"{name}.json").read_bytes() == hostile[name][0]
        of_lines = [text for one, text in reasons.items() if one.startswith(f"{name}.jsonl")]
        assert of_lines, name
        # a line end cuts UTF-16 and gzip where they cannot be told any more
        assert name in ("wide", "zipped") or any(says in text for text in of_lines), (name, of_lines)
    assert "not a format" in reasons["table.csv"]
    assert list(room.answers()) == ["good"]
    assert room.scan(later_s=20).is_quiet


def test_hostile_names_neither_stop_the_scan_nor_reach_the_log_raw(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps(record("1")).encode()
    names = (b"x" * 250 + b".json", b"y" * 249 + b".jsonl", b"\xff\xfe.json", b"\xff.jsonl", b"new\nline.json")
    for number, name in enumerate(names):
        content = good.replace(b'"1"', f'"{number}"'.encode()) + b"\n"
        Path(os.fsdecode(os.fsencode(room.feedback) + b"/" + name)).write_bytes(content)
        Path(os.fsdecode(os.fsencode(room.feedback) + b"/bad" + name[3:])).write_bytes(b"{]\n")
    with caplog.at_level(logging.WARNING):
        report = room.scan(later_s=10)
    assert (report.added, report.refused) == (5, 5)
    assert all("\n" not in one for one in caplog.messages)
    assert room.scan(later_s=20).is_quiet


def test_a_line_of_a_gibibyte_and_a_file_of_one_cost_no_memory(tmp_path: Path) -> None:
    script = """
import resource, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_feedback_directory import Room, line, record

room = Room(Path(sys.argv[1]))
room.drop("good.json", record("first"))
room.scan()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = room.drop("line.jsonl", line("1"))
with path.open("ab") as stream:
    stream.truncate(stream.tell() + 2**30)
    stream.seek(0, 2)
    stream.write(b"\\n" + line("2").encode())
with room.drop("file.json", "").open("ab") as stream:
    stream.truncate(2**30)
with room.drop("open.jsonl", "").open("ab") as stream:
    stream.truncate(2**30)
room.drop("last.json", record("3"))
room.scan(later_s=90)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown, *room.answers(), *room.reasons())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    grown, *rest = done.stdout.split()
    assert int(grown) * 1024 <= 64 * 2**20
    assert sorted(rest) == ["1", "2", "3", "file.json", "first", "line.jsonl.2", "open.jsonl.1"]


def test_a_flood_of_bad_records_does_not_become_a_flood_of_files(room: Room) -> None:
    room.drop("array.json", [1] * 5000)
    room.drop("mixed.json", [record("1"), *[1] * 5000])
    room.drop("lines.jsonl", "5\n" * 5000)
    assert room.scan(later_s=10).refused == 15_000
    assert len(room.names("rejected")) <= 2 + 2 * 2 * (MAX_REFUSALS + 1)
    assert list(room.answers()) == ["1"]
    assert "4900 more" in room.reasons()["mixed.json.rest"]


# --------------------------------------------------------------------------- crashes and failures


class Failing:
    """A ledger's events that fail before, or after, they are durable; hooks that fail on a file."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def parse_feedback(self, *, file: FeedbackFile) -> ParsedFeedback | None:
        if file.name == "poison.json":
            raise RuntimeError("the plugin fell over")
        return self.room.hooks.parse_feedback(file=file)

    def classify_event(self, *, event: Event) -> str:
        return self.room.hooks.classify_event(event=event)

    def validate_event(self, *, event: Event) -> tuple[Refusal, ...]:
        return self.room.hooks.validate_event(event=event)

    def after_event_accepted(self, *, event: Event) -> None:
        if event.id == "fatal":
            raise KeyboardInterrupt


def intake_that_fails(room: Room) -> Intake:
    return Intake(
        settings=FeedbackSettings(directory=room.feedback), hooks=Failing(room), ledger=room.ledger, default_base={}
    )


def test_a_plugin_that_fails_on_a_file_keeps_no_other_waiting(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    room.drop("poison.json", record("1"))
    room.drop("zgood.json", record("2"))
    intake = intake_that_fails(room)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            intake.scan(datetime.now(UTC))
    assert list(room.answers()) == ["2"]
    assert (room.feedback / "poison.json").exists()
    assert len([one for one in caplog.messages if "the plugin fell over" in one]) == 1


def test_what_was_durable_but_not_put_away_is_not_doubled(room: Room) -> None:
    room.drop("a.json", [record("1"), record("fatal")])
    with pytest.raises(KeyboardInterrupt):
        intake_that_fails(room).scan(datetime.now(UTC))
    assert room.names(".claimed") == ["a.json"]
    report = room.scan()
    assert (report.added, report.unchanged) == (0, 2)
    assert (room.names(".claimed"), room.names("accepted")) == ([], ["a.json"])


def test_nothing_is_put_away_before_it_is_durable(room: Room) -> None:
    room.drop("a.json", record("1"))
    path = room.drop("b.jsonl", line("2"))
    reader = Ledger.open_read_only(room.state)
    intake = Intake(
        settings=FeedbackSettings(directory=room.feedback), hooks=room.hooks, ledger=reader, default_base={}
    )
    with pytest.raises(LedgerError):
        intake.scan(datetime.now(UTC))
    reader.close()
    assert (room.names(".claimed"), room.names("accepted")) == (["a.json"], [])
    assert room.scan().added == 2
    assert path.exists()


# --------------------------------------------------------------------------- watching


def test_a_dropped_file_wakes_the_intake(room: Room) -> None:
    wake = threading.Event()
    watcher = DirectoryWatcher(room.feedback, wake)
    watcher.start()
    room.drop("a.json", record("1"))
    assert wake.wait(10)
    watcher.stop()


@pytest.mark.parametrize(("number", "name"), sorted(watching.SILENT_FILE_SYSTEMS.items()))
def test_a_silent_file_system_is_polled_and_named_once(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, name: str
) -> None:
    monkeypatch.setattr(watching, "file_system_type", lambda _path: number)
    wake = threading.Event()
    watcher = DirectoryWatcher(room.feedback, wake)
    with caplog.at_level(logging.WARNING):
        watcher.start()
    assert [name in one and "polling" in one for one in caplog.messages] == [True]
    room.drop("a.json", record("1"))
    assert room.scan().added == 1
    watcher.stop()


def test_the_type_of_a_file_system_is_read_from_the_kernel() -> None:
    assert watching.file_system_type(Path("/proc")) == 0x9FA0
    assert watching.file_system_type(Path("/does/not/exist")) == 0
