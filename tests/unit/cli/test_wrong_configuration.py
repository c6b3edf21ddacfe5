"""What a wrong configuration ends with, also where it is a plugin's table that is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from nightschool_daemon.exits import Exit


@pytest.mark.parametrize("wrong", ["[exam]\nmax_itms = 3", "[plugins.tuning_fixed]\nlearning_rat = 3"])
@pytest.mark.parametrize(
    "command",
    ["config check", "config show", "plan tiny:1b", "exam", "train tiny:1b --data {data} --name kind", "run --now"],
)
def test_unknown_key_ends_every_command_that_goes_by_it_with_code_78(tmp_path: Path, wrong: str, command: str) -> None:
    file, data = tmp_path / "config.toml", tmp_path / "data.jsonl"
    data.touch()
    file.write_text(
        f'[ollama]\nhost = "127.0.0.1:9"\n[feedback]\ndirectory = "{tmp_path / "feedback"}"\n'
        f'[state]\ndirectory = "{tmp_path / "state"}"\nruntime_directory = "{tmp_path / "runtime"}"\n{wrong}\n'
    )
    words = command.format(data=data).split()
    line = [sys.executable, "-m", "nightschool_daemon", "--config", str(file), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.CONFIGURATION, done.stderr
    assert done.stdout == ""
    assert str(file) in done.stderr
    assert "unknown key" in done.stderr
