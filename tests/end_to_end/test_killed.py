"""SIGKILL at every step of a run: the run finishes, one version results, nothing is left behind."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from nightschool_daemon.jobs import Step
from nightschool_hookspecs.records import RunEnd
from support.night import TINY, TINY_ALIAS, Night, greetings, import_tiny, wait_until
from support.ollama_server import OllamaServer

KILLER = '''
"""Kills its process where a file says so, once."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from nightschool_hookspecs import RunInfo, hookimpl


MIDDLE_S = {
    **{"split": 0.1, "select": 0.1, "train": 2.0, "export": 0.2, "verify": 2.0, "examine": 0.5},
    **{"judge": 0.1, "report": 0.3},
}
"""Well within the time that each worker needs to start and work; the daemon's own steps take milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Killer:
    order: Path = Path("/nonexistent")

    def _obey(self, moment: str, delay_s: float = 0.0) -> None:
        if self.order.is_file() and self.order.read_text() == moment:
            self.order.unlink()
            if delay_s:
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    @hookimpl
    def nightschool_before_step(self, run: RunInfo, step: str) -> None:
        self._obey(f"before {step}")
        self._obey(f"during {step}", MIDDLE_S.get(step, 0.0005))

    @hookimpl
    def nightschool_after_step(self, run: RunInfo, step: str) -> None:
        self._obey(f"after {step}")


@hookimpl
def nightschool_register_settings() -> type[Killer]:
    return Killer
'''


def killable(place: Path, server: OllamaServer, gguf: Path) -> tuple[Night, Path]:
    """A night with feedback, and the file that says where it is killed."""
    import_tiny(server, gguf)
    night = Night(place / "night", server.url, server.models_directory)
    order = place / "order"
    night.add_plugin("killer", KILLER)
    night.configuration.write_text(night.configuration.read_text() + f'\n[plugins.killer]\norder = "{order}"\n')
    night.drop(greetings(60))
    return night, order


def test_run_survives_a_kill_before_during_and_after_every_step(
    tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path
) -> None:
    night, order = killable(tmp_path, fresh_ollama, tiny_gguf)
    kills: list[str] = []

    for step in Step:
        for moment in ("before", "during", "after"):
            order.write_text(f"{moment} {step.value}")
            if serve_until_it_ends(night, is_first=not kills) == -signal.SIGKILL:
                kills.append(f"{moment} {step.value}")

    assert len(kills) == 3 * len(Step), kills
    assert not order.exists()
    daemon = night.start("serve")
    wait_until(lambda: not night.ledger().runs.unfinished(), 120)
    daemon.terminate()
    assert daemon.wait(60) == 0
    ledger = night.ledger()
    runs = ledger.runs.latest(100)
    assert [row.end for row in runs] == [RunEnd.PROMOTED]
    tags = fresh_ollama.tags()
    assert set(tags) == {TINY, TINY_ALIAS, f"{TINY_ALIAS}.v1", *(one for one in tags if ".base-" in one)}
    assert tags[TINY_ALIAS] == tags[f"{TINY_ALIAS}.v1"]
    assert [one.name for one in night.run_directories()] == [runs[0].id]
    assert fresh_ollama.blobs() == blobs_of_manifests(fresh_ollama)
    assert ledger.events.total() == 60


def test_step_whose_files_were_damaged_is_taken_again(
    tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path
) -> None:
    night, order = killable(tmp_path, fresh_ollama, tiny_gguf)
    order.write_text(f"after {Step.SELECT.value}")
    assert night.learn().returncode == -signal.SIGKILL
    examples = night.run_directories()[0] / "select" / "examples.jsonl"
    whole = examples.read_bytes()
    examples.write_bytes(whole[: len(whole) // 2])

    done = night.learn()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "select: its files, or those it was made from, are not what they were" in done.stdout + done.stderr
    assert examples.read_bytes() == whole
    assert night.ledger().runs.latest(1)[0].end is RunEnd.PROMOTED


def serve_until_it_ends(night: Night, *, is_first: bool) -> int:
    """Start the daemon, which goes on with what was begun. Returns the exit code that it was killed with."""
    daemon = night.start("serve")
    asking = None
    if is_first:
        wait_until((night.directory / "run" / "control.sock").exists, 30)
        asking = night.start("run", "--now")
    try:
        return daemon.wait(120)
    except subprocess.TimeoutExpired:
        daemon.kill()
        said = [one.communicate()[0] for one in (daemon, asking) if one is not None]
        pytest.fail(f"the daemon was not killed; it said {said}, and the order was {order_of(night)}")


def order_of(night: Night) -> str:
    """The order that was not obeyed."""
    file = night.directory.parent / "order"
    return file.read_text() if file.exists() else "obeyed"


def blobs_of_manifests(server: OllamaServer) -> set[str]:
    """Names of the blob files that some tag needs."""
    needed: set[str] = set()
    for file in (server.models_directory / "manifests").rglob("*"):
        if file.is_file():
            manifest = json.loads(file.read_bytes())
            layers = [manifest["config"], *manifest["layers"]]
            needed.update(layer["digest"].replace(":", "-") for layer in layers)
    return needed
