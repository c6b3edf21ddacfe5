"""Plugins that do harm while they are imported stay outside, and the others work."""

from pathlib import Path

import pytest

from nightschool_daemon.hooks import Hooks, PluginState
from nightschool_daemon.hooks import child_import as host
from nightschool_hookspecs.testing import sample_event

GOOD = """
from nightschool_hookspecs import hookimpl

@hookimpl
def nightschool_score_difficulty(event):
    return 0.7
"""

HOSTILE = {
    "exits": "import sys; sys.exit(0)",
    "ends_the_process": "import os; os._exit(0)",
    "kills_itself": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "allocates": "memory = bytearray(8 * 1024**3)",
    "patches_json": "import json; json.loads = lambda *_: {}",
    "floods": "for _ in range(200_000): print('x' * 100)\nraise ValueError('flooded')",
    "syntax": "def (",
}


def drop(directory: Path, name: str, text: str) -> None:
    file = directory / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_import_is_refused(tmp_path: Path, name: str) -> None:
    drop(tmp_path, name, HOSTILE[name])
    drop(tmp_path, "good", GOOD)
    hooks = Hooks.load(plugin_directory=tmp_path, tables={}, built_in=())
    assert {one.name: one.state for one in hooks.status()} == {"good": PluginState.ACTIVE, name: PluginState.BROKEN}
    assert hooks.score_difficulty(event=sample_event()) == 0.7


def test_hanging_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "IMPORT_LIMIT_S", 2.0)
    drop(tmp_path, "hangs", "while True: pass")
    (status,) = Hooks.load(plugin_directory=tmp_path, tables={}, built_in=()).status()
    assert status.state is PluginState.BROKEN
    assert "longer than 2 s" in status.reason


def test_entries_that_are_no_plugins_leave_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "a_directory.py").mkdir()
    (tmp_path / "dangles.py").symlink_to(tmp_path / "nowhere")
    drop(tmp_path, "good", GOOD)
    hooks = Hooks.load(plugin_directory=tmp_path, tables={}, built_in=())
    states = {one.name: one.state for one in hooks.status()}
    assert states == {"a_directory": PluginState.BROKEN, "dangles": PluginState.BROKEN, "good": PluginState.ACTIVE}


def test_what_a_plugin_prints_is_not_the_commands_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop(tmp_path, "noisy", f"print('noise')\n{GOOD}")
    (status,) = Hooks.load(plugin_directory=tmp_path, tables={}, built_in=()).status()
    assert status.state is PluginState.ACTIVE
    assert capsys.readouterr().out == ""
