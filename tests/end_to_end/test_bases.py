"""A base that changes or vanishes: its versions are rebuilt, retrained, or learning stops and says so."""

from pathlib import Path

import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_daemon.reasons import REBUILD, RETRAIN
from nightschool_hookspecs.records import RunEnd
from support.night import TINY, TINY_ALIAS, Night, greetings, import_tiny
from support.ollama_server import OllamaServer
from support.tiny_gguf import write_tiny_gguf

WATCHER = """
from pathlib import Path

from nightschool_hookspecs import BaseChange, InstalledModel, hookimpl


@hookimpl
def nightschool_after_base_change(change: BaseChange, model: InstalledModel) -> None:
    with (Path(__file__).parent.parent / "changes").open("a") as stream:
        stream.write(f"{change.value} {model.name}\\n")
"""

PARAMETERS = {"temperature": 0.25}


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    """An installation whose first version serves."""
    import_tiny(fresh_ollama, tiny_gguf)
    night = Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)
    night.add_plugin("watcher", WATCHER)
    night.drop(greetings(60))
    done = night.learn()
    assert done.returncode == 0, done.stdout + done.stderr
    return night


def changes(night: Night) -> list[str]:
    """What the hook saw."""
    return (night.directory / "changes").read_text().splitlines()


def test_changed_base_is_followed_by_a_run_while_the_old_version_serves(
    night: Night, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    weights = sha256_of(tiny_gguf)
    # the same weights with other parameters
    ollama.create(CreateRequest(model=TINY, files={"tiny.gguf": weights}, parameters=PARAMETERS))

    assert run_that_follows(night, fresh_ollama, REBUILD, f"{TINY_ALIAS}.v2") is RunEnd.PROMOTED

    assert changes(night) == [f"appeared {TINY}", f"configuration_changed {TINY}"]
    assert ("temperature", "0.25") in ollama.show(TINY_ALIAS).modelfile.parameters
    # other weights under the same name
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=5)
    ollama.upload_blob(other, sha256_of(other))
    ollama.create(CreateRequest(model=TINY, files={"tiny.gguf": sha256_of(other)}, parameters=PARAMETERS))

    end = run_that_follows(night, fresh_ollama, RETRAIN, f"{TINY_ALIAS}.v3")

    assert end in (RunEnd.PROMOTED, RunEnd.NOT_ENOUGH, RunEnd.DISCARDED)
    assert changes(night)[2:] == [f"weights_changed {TINY}"]


def run_that_follows(night: Night, server: OllamaServer, reason: str, version: str) -> RunEnd | None:
    """How a run for a changed base ended. Where nothing better is proven on it, the old version goes on serving."""
    before = server.tags()[TINY_ALIAS]
    done = night.learn()
    row = night.ledger().runs.latest(1)[0]
    assert row.reason == reason, done.stdout + done.stderr
    tags = server.tags()
    if row.end is RunEnd.PROMOTED:
        assert tags[TINY_ALIAS] == tags[version] != before
    else:
        assert tags[TINY_ALIAS] == before, row.outcome_reason
    return row.end


def test_vanished_base_stops_learning_says_so_and_its_return_starts_it_again(
    night: Night, fresh_ollama: OllamaServer, tiny_gguf: Path
) -> None:
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    first = fresh_ollama.tags()[TINY_ALIAS]
    ollama.delete(TINY)
    night.drop(greetings(20, first=700))

    done = night.learn()

    assert done.returncode == 1
    assert f"ollama pull {TINY}" in done.stdout + done.stderr
    assert fresh_ollama.tags()[TINY_ALIAS] == first
    status = night.json("status")
    assert isinstance(status, dict)
    assert f"ollama pull {TINY}" in status["specialties"][0]["problem"]

    import_tiny(fresh_ollama, tiny_gguf)
    again = night.learn()
    assert "learns again" in again.stdout + again.stderr
    status = night.json("status")
    assert isinstance(status, dict)
    assert status["specialties"][0]["problem"] is None
