"""Registering the built-ins in the daemon must not load what only a worker needs."""

import subprocess
import sys

CHILD = """
import sys
from nightschool_daemon.config import PluginSettings, Preset
from nightschool_daemon.hooks import Hooks
hooks = Hooks.load(plugin_directory=None, tables={}, plugins=PluginSettings(preset=Preset.ALL))
assert all(one.state == "active" for one in hooks.status()), hooks.status()
heavy = {"numpy", "torch", "scipy", "gguf", "transformers", "ollama", "typer", "rich", "rapidfuzz"}
heavy |= {"sacrebleu", "wordllama", "sentence_transformers", "optuna"}
print(",".join(sorted(heavy & set(sys.modules))))
"""


def test_registering_all_built_ins_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
