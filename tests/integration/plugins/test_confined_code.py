"""Tests that come with feedback run in a real locked-down child, or not at all."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nightschool_daemon.hooks import Hooks
from nightschool_hookspecs import AnswerScore, ExamItem, ItemRole, confined
from nightschool_hookspecs.confined import ConfinementUnavailable, Limits, run_confined, why_unavailable
from nightschool_hookspecs.testing import FakeGenerate, FakeMeasure
from nightschool_plugins.evaluation_code import EvaluationCode

TESTS = """
import unittest
assert add(1, 2) == 3
def test_zero():
    import answer
    assert answer.add(0, 0) == 0
class More(unittest.TestCase):
    def test_negative(self):
        self.assertEqual(add(-1, 1), 0)
"""
RIGHT, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"
SHORT = Limits(seconds=1)


def program(reference: str | None = None, tests: str = TESTS) -> ExamItem:
    return ExamItem(
        id="i", event_id="i", artifact_type="code_prototype", role=ItemRole.GAIN, messages=(),
        reference=reference, tests=tests,
    )  # fmt: skip


def score(answer: str, *, reference: str | None = None, tests: str = TESTS) -> AnswerScore:
    item = program(reference, tests)
    found = EvaluationCode(test_seconds=1).nightschool_validate_answer(item, answer, FakeMeasure())
    assert found is not None
    return found


def test_the_share_of_passed_tests_is_the_score() -> None:
    assert score(RIGHT).score == 100
    assert score(f"Here:\n```python\n{RIGHT}\n```").score == 100
    assert score(WRONG).score == pytest.approx(100 / 3)
    assert "1 of 3 tests passed" in score(WRONG).detail


@pytest.mark.parametrize(
    ("tests", "right"),
    [
        ("async def test_sum():\n    assert add(1, 2) == 3", True),
        ("async def test_sum():\n    assert add(1, 2) == 4", False),
        ("import asyncio\nasync def test_sum():\n    await asyncio.sleep(1)", False),
    ],
)
def test_an_asynchronous_test_is_run_and_one_that_waits_is_no_pass(tests: str, right: bool) -> None:
    assert score(RIGHT, tests=tests).score == (100 if right else 0)


@pytest.mark.parametrize(
    "answer",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "def add(a, b):\n    while True: pass",
        "x = [0] * 10 ** 10",
        "import os\nwhile True: os.fork()",
        "import threading\nthreading.Thread(target=print).start()",
        "import ctypes\nctypes.string_at(0)",
        "import re\nre.match('(a+)+$', 'a' * 50 + 'b')",
        'print(\'{"passed": 3, "total": 3, "key": ""}\')\nimport os\nos._exit(0)',
        "def add(a, b):\n    raise SystemExit",
        "y = 1",
    ],
)
def test_what_does_not_pass_scores_nothing_and_ends(answer: str) -> None:
    assert score(answer).score == 0


@pytest.mark.parametrize(
    ("body", "waited_s", "is_out_of_time"),
    [("time.sleep(60)", 0.0, False), ("time.sleep(60)", 4.0, True), ("pass", 60.0, False)],
)
def test_a_busy_machine_is_told_from_the_time_that_the_answer_itself_takes(
    monkeypatch: pytest.MonkeyPatch, body: str, waited_s: float, is_out_of_time: bool
) -> None:
    """What uses up its processor time is ended by that, however long it waited before."""
    monkeypatch.setattr(confined, "_waited_s", lambda _process: waited_s)
    if body == "pass":
        monkeypatch.setattr(confined, "START_S", 60.0)
    found = score(f"import time\ndef add(a, b):\n    while True: {body}")
    assert (found.score, found.is_out_of_time) == (0, is_out_of_time)


def test_a_process_that_shares_a_core_with_another_waits() -> None:
    spinning = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(flush=True)\nwhile True: pass"
    both = [subprocess.Popen([sys.executable, "-c", spinning], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for one in both:
            assert one.stdout is not None
            one.stdout.readline()
        while (waited_s := confined._waited_s(both[0].pid)) < 0.1:
            time.sleep(0.05)
    finally:
        for one in both:
            one.kill()
            one.communicate()
    assert waited_s < math.inf
    assert confined._waited_s(both[0].pid) == math.inf


def test_code_that_equals_the_reference_needs_no_tests() -> None:
    assert score(RIGHT + "  # the sum", reference=RIGHT, tests="assert False").score == 100


def test_a_flood_of_output_does_not_hide_the_report() -> None:
    assert score("print('x' * 10 ** 7)\n" + RIGHT).score == 100


@pytest.mark.parametrize(
    "text",
    [
        "import socket; socket.socket()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['ls'])",
        "import os; os.execv('/bin/sh', ['sh'])",
        "open('/etc/passwd')",
        "import os; os.listdir('/')",
        "open('/proc/self/environ')",
        "open('{outside}/made', 'w')",
        "import os; os.chmod('{outside}', 0)",
        "import os; os.truncate('{outside}/kept', 0)",
        "import os; os.unlink('{outside}/kept')",
        "import os; os.rename('{outside}/kept', '{outside}/moved')",
        "import os; os.kill({parent}, 9)",
        "import numpy",
    ],
)
def test_the_child_reaches_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept", encoding="utf-8")
    mode = tmp_path.stat().st_mode
    filled = text.replace("{outside}", str(tmp_path)).replace("{parent}", str(os.getpid()))
    done = run_confined(f"{filled}\nprint('reached')", limits=SHORT)
    assert "Error" in done.output
    assert "reached" not in done.output
    assert [(one.name, one.read_text(encoding="utf-8")) for one in tmp_path.iterdir()] == [("kept", "kept")]
    assert tmp_path.stat().st_mode == mode


def test_the_environment_is_empty_and_the_standard_library_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    done = run_confined("import os, json, decimal, sqlite3\nprint(sorted(os.environ), PAYLOAD)", payload="given")
    assert done.output.split()[-1] == "given"
    assert "TOKEN" not in done.output
    assert done.problem == ""


def test_memory_files_and_time_are_bounded() -> None:
    assert "MemoryError" in run_confined("x = bytearray(10 ** 9)").output
    assert (
        "Error" in run_confined("open('a', 'wb').write(bytes(10 ** 7)); open('a', 'ab').write(bytes(10 ** 7))").output
    )
    assert run_confined("while True: pass", limits=SHORT).problem


def test_where_the_child_cannot_be_locked_the_tests_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ConfinementUnavailable):
        run_confined("print('ran')")
    assert why_unavailable() is not None
    found = score(WRONG, reference=RIGHT)
    assert found.score < 100
    assert "were not run" in found.detail


@pytest.mark.parametrize("answer", [RIGHT, WRONG, "def add(a, b) return"])
def test_what_only_tests_could_score_has_no_score_where_they_are_not_run(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    hooks = Hooks.load(plugin_directory=None, tables={})
    asked = program()
    assert hooks.validate_answer(item=asked, answer=answer, measure=FakeMeasure(), generate=FakeGenerate()) is not None
    off = Hooks.load(plugin_directory=None, tables={"evaluation_code": {"run_tests": False}})
    assert off.validate_answer(item=asked, answer=answer, measure=FakeMeasure(), generate=FakeGenerate()) is None
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert hooks.validate_answer(item=asked, answer=answer, measure=FakeMeasure(), generate=FakeGenerate()) is None


def test_it_is_locked_without_namespaces_too() -> None:
    """As under a unit with RestrictNamespaces: the lock holds, and the working directory may not be written to."""
    program = (
        "from nightschool_hookspecs.confined import run_confined\n"
        "print(run_confined('print(6 * 7); import socket; socket.socket()').output)\n"
        'print(run_confined(\'open("a", "w")\').output)\n'
    )
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, program],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert "42" in done.stdout, done.stderr
    assert done.stdout.count("PermissionError") == 2
