"""What goes wrong ends in one clear sentence, and nothing is lost or half-moved."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import RunEnd
from support.night import TINY, TINY_ALIAS, Night, greetings, import_tiny, wait_until
from support.ollama_server import OllamaServer
from support.tiny_gguf import write_tiny_gguf

PAUSER = '''
"""Holds a run before some steps until a file says that it may go on."""

import time
from dataclasses import dataclass
from pathlib import Path

from nightschool_hookspecs import RunInfo, hookimpl


@dataclass(frozen=True, kw_only=True)
class Pauser:
    steps: tuple[str, ...] = ()
    directory: Path = Path("/nonexistent")

    @hookimpl
    def nightschool_before_step(self, run: RunInfo, step: str) -> None:
        go_on = self.directory / f"go-on-{step}"
        if step in self.steps and not go_on.exists():
            (self.directory / f"reached-{step}").touch()
            while not go_on.exists():
                time.sleep(0.05)


@hookimpl
def nightschool_register_settings() -> type[Pauser]:
    return Pauser
'''


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    """An installation with the tiny base."""
    import_tiny(fresh_ollama, tiny_gguf)
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)


@contextmanager
def held_before(night: Night, *steps: str) -> Iterator[Callable[[str], None]]:
    """A run that waits before some steps, and has come to the first, while the block runs; then it goes on to its end.

    What is yielded waits until it has come to a step.
    """
    night.add_plugin("pauser", PAUSER)
    text = night.configuration.read_text()
    table = f'[plugins.pauser]\nsteps = {list(steps)}\ndirectory = "{night.directory}"\n'
    night.configuration.write_text(f"{text}\n{table}")
    process = night.start("run", "--now")

    def await_step(step: str) -> None:
        wait_until(lambda: (night.directory / f"reached-{step}").exists() or process.poll() is not None, 120)
        assert process.poll() is None, process.communicate()[0]

    try:
        await_step(steps[0])
        yield await_step
    finally:
        for step in steps:
            go_on(night, step)
        process.wait(300)


def go_on(night: Night, step: str) -> None:
    """Let a run that waits before a step go on."""
    (night.directory / f"go-on-{step}").touch()


def last_run(night: Night) -> tuple[RunEnd | None, str]:
    """How the last run ended."""
    row = night.ledger().runs.latest(1)[0]
    return row.end, row.outcome_reason


def assert_no_stray_tags(server: OllamaServer, expected: set[str]) -> None:
    """Nothing but the expected tags, and pins, is left."""
    assert {name for name in server.tags() if ".base-" not in name} == expected


def test_rejected_files_a_model_that_is_missing_and_a_raising_observer_do_not_stop_the_others(night: Night) -> None:
    (night.feedback / "broken.json").write_text('{"feedback_type": "success",, }')
    (night.feedback / "types.json").write_text(json.dumps({**greetings(1)[0], "validation_score": "90"}))
    night.add_plugin("bad_observer", RAISING_OBSERVER)
    night.drop(greetings(60))
    night.drop(greetings(20, model="absent:1b", first=900))
    done = night.learn()
    assert done.returncode == 0, done.stdout + done.stderr
    assert last_run(night)[0] is RunEnd.PROMOTED
    assert "`ollama pull absent:1b`" in done.stderr
    assert night.ledger().events.total() == 80
    look_at_what_was_rejected(night)


RAISING_OBSERVER = """
from nightschool_hookspecs import hookimpl

@hookimpl
def nightschool_after_step(run, step):
    raise ValueError("look away")
"""


def look_at_what_was_rejected(night: Night) -> None:
    """Broken JSON and wrong types lie in a directory of their own, with a reason each."""
    reasons = [one.read_text() for one in (night.feedback / "rejected").glob("*.reason.txt")]
    assert len(reasons) == 2
    assert any("validation_score" in one for one in reasons)
    assert all(one.strip().endswith(".") for one in reasons)


def test_missing_model_says_how_to_get_it(night: Night) -> None:
    night.drop(greetings(60, model="absent:1b"))
    done = night.run("run", "--now", "absent:1b/greeting")
    assert done.returncode != 0
    assert "ollama pull absent:1b" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert night.ledger().events.total() == 60


def test_unknown_configuration_key_is_named_with_its_path(night: Night) -> None:
    night.configuration.write_text(night.configuration.read_text().replace("max_answer_tokens", "max_answr_tokens"))
    done = night.run("status")
    assert done.returncode == 78
    assert "exam.max_answr_tokens" in done.stderr
    assert "max_answer_tokens" in done.stderr


def test_raising_decider_fails_the_run_and_names_itself(night: Night, fresh_ollama: OllamaServer) -> None:
    source = """
from nightschool_hookspecs import hookimpl

@hookimpl
def nightschool_choose_delivery(target):
    raise ValueError("no way")
"""
    night.add_plugin("bad_delivery", source)
    night.drop(greetings(60))
    done = night.learn()
    assert done.returncode != 0
    end, reason = last_run(night)
    assert end is RunEnd.FAILED
    assert "bad_delivery" in reason
    assert "plugins.disabled" in reason
    assert_no_stray_tags(fresh_ollama, {TINY})


def test_plugin_that_breaks_three_runs_is_not_asked_for_the_fourth(night: Night) -> None:
    """It is asked in a worker; the ledger remembers its failures for the next."""
    source = """
from nightschool_hookspecs import hookimpl

@hookimpl
def nightschool_score_difficulty(event):
    raise ValueError("too hard")
"""
    night.add_plugin("bad_difficulty", source)
    night.drop(greetings(60))
    for _ in range(3):
        assert night.learn().returncode == 1
    assert "bad_difficulty is not asked: it failed 3 times" in night.run("status").stderr
    assert night.learn().returncode == 0
    assert last_run(night)[0] is RunEnd.PROMOTED


def test_plugin_that_exits_does_not_take_status_along(night: Night) -> None:
    source = """
import sys
from nightschool_hookspecs import hookimpl

@hookimpl
def nightschool_choose_batch_size(specialty, statistics):
    sys.exit(5)
"""
    night.drop(greetings(20))
    assert night.run("run", "--dry-run").returncode == 0
    night.add_plugin("leaver", source)
    done = night.run("status", "--json")
    assert done.returncode == 0
    assert "leaver" in json.loads(done.stdout)["specialties"][0]["problem"]


def test_ollama_that_is_down_is_said_with_the_way_to_start_it(night: Night, fresh_ollama: OllamaServer) -> None:
    night.drop(greetings(60))
    fresh_ollama.stop()
    done = night.learn()
    assert done.returncode == 3
    assert "ollama serve" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_run_goes_on_when_ollama_was_restarted_in_the_middle(night: Night, fresh_ollama: OllamaServer) -> None:
    night.drop(greetings(60))
    with held_before(night, "register", "examine") as await_step:
        for step in ("register", "examine"):
            await_step(step)
            fresh_ollama.kill()
            go_on(night, step)
            time.sleep(2)
            fresh_ollama.start()
    assert last_run(night)[0] is RunEnd.PROMOTED
    assert_no_stray_tags(fresh_ollama, {TINY, TINY_ALIAS, f"{TINY_ALIAS}.v1"})


def test_base_that_is_deleted_during_training_does_not_stop_the_run(night: Night, fresh_ollama: OllamaServer) -> None:
    """The pin keeps its weights: the run proves and promotes what it learned."""
    night.drop(greetings(60))
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    with held_before(night, "export"):
        ollama.delete(TINY)
    assert last_run(night)[0] is RunEnd.PROMOTED
    assert TINY_ALIAS in fresh_ollama.tags()
    night.drop(greetings(40, first=500))
    done = night.run("run", "--now", TINY_ALIAS)
    assert done.returncode != 0
    assert f"ollama pull {TINY}" in done.stdout + done.stderr


def test_alias_that_the_user_pointed_elsewhere_stays_the_users(
    night: Night, fresh_ollama: OllamaServer, tmp_path: Path
) -> None:
    night.drop(greetings(60))
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=7)
    ollama.upload_blob(other, sha256_of(other))
    ollama.create(CreateRequest(model="mine:latest", files={"other.gguf": sha256_of(other)}))
    with held_before(night, "conclude"):
        ollama.copy("mine:latest", TINY_ALIAS)
    end, reason = last_run(night)
    assert end is RunEnd.WAITING
    assert "by hand" in reason
    assert f"`ollama rm {TINY_ALIAS}`" in reason
    assert fresh_ollama.tags()[TINY_ALIAS] == fresh_ollama.tags()["mine:latest"]
    assert_no_stray_tags(fresh_ollama, {TINY, TINY_ALIAS, f"{TINY_ALIAS}.v1", "mine:latest"})
    # what the sentence says is what helps
    ollama.delete(TINY_ALIAS)
    assert night.run("approve", TINY_ALIAS).returncode == 0
    assert fresh_ollama.tags()[TINY_ALIAS] == fresh_ollama.tags()[f"{TINY_ALIAS}.v1"]


def test_full_disk_at_the_upload_fails_cleanly(tmp_path: Path, tiny_gguf: Path) -> None:
    small = tmp_path / "ollama" / "models"
    small.mkdir(parents=True)
    size = tiny_gguf.stat().st_size + 600_000
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)], check=True)
    try:
        with OllamaServer("0.34.3", directory=tmp_path / "ollama") as server:
            import_tiny(server, tiny_gguf)
            night = Night(tmp_path / "night", server.url, server.models_directory)
            night.drop(greetings(60))
            done = night.learn()
            assert done.returncode != 0
            end, reason = last_run(night)
            assert end is RunEnd.FAILED
            assert "space" in reason or "full" in reason
            assert "Traceback" not in done.stdout + done.stderr
            assert_no_stray_tags(server, {TINY})
            assert night.ledger().events.total() == 60
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
