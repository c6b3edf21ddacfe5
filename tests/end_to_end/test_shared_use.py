"""A share of live use, from `nightschool ab` to the alias that moved: real server, daemon, proxy and application."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import FILE_NAME, Ledger
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.runs.moves import AliasMover, Destination
from nightschool_hookspecs.records import MoveKind
from support.night import TINY, TINY_ALIAS, TINY_TYPE, Night, import_tiny, wait_until
from support.ollama_server import OllamaServer, free_port
from support.proxying import is_listening, wait_for_port

FIRST, SECOND = f"{TINY_ALIAS}.v1", f"{TINY_ALIAS}.v2"
LENGTHS = {FIRST: 3, SECOND: 1}
MOST_CONVERSATIONS = 150


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path, port: int) -> Night:
    """An alias that was promoted to a version whose answers are too short."""
    weights = import_tiny(fresh_ollama, tiny_gguf)
    night = Night(
        tmp_path / "night",
        fresh_ollama.url,
        fresh_ollama.models_directory,
        settings=f"[proxy]\nenabled = true\nport = {port}\n",
    )
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    ledger = Ledger.open(night.state / FILE_NAME)
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
    for tag, length in LENGTHS.items():
        parameters: dict[str, object] = {"num_predict": length, "temperature": 0, "num_thread": 1}
        ollama.create(CreateRequest(model=tag, files={"tiny.gguf": weights}, parameters=parameters))
    tags, moment = fresh_ollama.tags(), datetime.now(UTC) - timedelta(days=1)
    mover = AliasMover(ledger=ledger, ollama=ollama, hooks=hooks, clock=lambda: moment)
    for source, target in ((TINY, FIRST), (FIRST, SECOND)):
        mover.move(
            kind=MoveKind.PROMOTE,
            alias=TINY_ALIAS,
            origin=Destination(tag=source, digest=tags[source]),
            destination=Destination(tag=target, digest=tags[target]),
            reason="it was better in the exam",
        )
    ledger.close()
    ollama.close()
    return night


def use(port: int, number: int) -> dict[str, object]:
    """An application asks through the proxy, and tells what its user says of an answer. It knows the alias alone."""
    prompt = f"greet guest {number}"
    body = {"model": TINY_ALIAS, "stream": False, "messages": [{"role": "user", "content": prompt}]}
    answer = httpx.post(f"http://127.0.0.1:{port}/api/chat", json=body, timeout=60).json()
    assert answer["model"] == TINY_ALIAS
    return {
        "id": f"use-{number}",
        "source": "application",
        "timestamp": datetime.now(UTC).isoformat(),
        "artifact_type": TINY_TYPE,
        "model": TINY_ALIAS,
        "input_data": prompt,
        "ai_output": answer["message"]["content"],
        "feedback_type": "explicit_positive" if answer["eval_count"] == LENGTHS[FIRST] else "explicit_negative",
    }


def test_share_of_use_takes_the_worse_version_back(night: Night, fresh_ollama: OllamaServer, port: int) -> None:
    night.drop([{**use_nothing(), "id": "first"}])
    daemon = night.start("serve")
    try:
        wait_for_port(port)
        wait_until(lambda: night.ledger().events.total() == 1)
        told = night.run("ab", TINY_ALIAS, "--share", "0.5")
        assert told.returncode == 0, told.stderr
        assert f"50% of the conversations with {TINY_ALIAS} go to {SECOND}, the others to {FIRST}" in told.stdout
        assert fresh_ollama.tags()[TINY_ALIAS] == fresh_ollama.tags()[SECOND]
        for number in range(MOST_CONVERSATIONS):
            night.drop([use(port, number)])
            if number == 5:
                wait_until(lambda: night.ledger().events.total() == 7)
                shown = night.run("status")
                assert "Shared use" in shown.stdout, shown.stderr
            if fresh_ollama.tags().get(TINY_ALIAS) == fresh_ollama.tags()[FIRST]:
                break
        wait_until(lambda: fresh_ollama.tags().get(TINY_ALIAS) == fresh_ollama.tags()[FIRST])
        wait_until(lambda: night.ledger().facts.beginning_with("share:") == {})
        assert night.run("ab", TINY_ALIAS, "--off").returncode == 4
    finally:
        daemon.terminate()
        text, _ = daemon.communicate(timeout=60)
    # without the daemon the command does the same by itself
    assert night.run("ab", TINY_ALIAS, "--off").returncode == 4
    refused = night.run("ab", TINY_ALIAS, "--share", "0.5")
    assert (refused.returncode, "has no candidate" in refused.stderr) == (1, True)
    moved = night.ledger().moves.latest(1)[0]
    assert (moved.kind, moved.to_tag) == (MoveKind.ROLL_BACK, FIRST)
    assert "a share of its use decided" in moved.reason
    assert f"{FIRST} won and is in use" in text
    # with the daemon its proxy ended
    assert not is_listening(port)


def use_nothing() -> dict[str, object]:
    """Feedback that makes the specialty known."""
    return {
        "source": "other",
        "artifact_type": TINY_TYPE,
        "model": TINY,
        "input_data": "greet",
        "ai_output": "a whole and sound answer",
        "feedback_type": "explicit_positive",
    }
