"""A promoted model that goes bad in use: the daemon moves the alias back by itself, to the very manifest before."""

import re
from collections.abc import Callable, Iterator
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
from support.ollama_server import OllamaServer
from support.tiny_gguf import CHARACTERS

FIRST, SECOND = f"{TINY_ALIAS}.v1", f"{TINY_ALIAS}.v2"
LIMIT_S = 60.0
GOOD: dict[str, object] = {"num_predict": 4, "temperature": 0}
EMPTY: dict[str, object] = {"stop": [" ", *CHARACTERS], "temperature": 0}
LOOPING: dict[str, object] = {"num_predict": 64, "temperature": 0, "repeat_penalty": 0.4}
LOOP = re.compile(r"(.{1,3})\1{5}")


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    """An installation with the tiny base and a first version that answers well."""
    weights = import_tiny(fresh_ollama, tiny_gguf)
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    ollama.create(CreateRequest(model=FIRST, files={"tiny.gguf": weights}, parameters=GOOD))
    ollama.close()
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)


@pytest.fixture
def promote(night: Night, fresh_ollama: OllamaServer) -> Iterator[Callable[[str, str, datetime], None]]:
    """Promotes from one tag to another, as a run that ended at a time."""
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))

    def move(source: str, target: str, at: datetime) -> None:
        ledger = Ledger.open(night.state / FILE_NAME)
        hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
        tags = fresh_ollama.tags()
        AliasMover(ledger=ledger, ollama=ollama, hooks=hooks, clock=lambda: at).move(
            kind=MoveKind.PROMOTE,
            alias=TINY_ALIAS,
            origin=Destination(tag=source, digest=tags[source]),
            destination=Destination(tag=target, digest=tags[target]),
            reason="it was better in the exam",
        )
        ledger.close()

    yield move
    ollama.close()


def use(url: str, number: int, at: datetime) -> dict[str, object]:
    """An application asks the alias, checks the answer by itself, and tells what it found."""
    prompt = f"greet guest {number}"
    body = {"model": TINY_ALIAS, "stream": False, "messages": [{"role": "user", "content": prompt}]}
    answer = httpx.post(f"{url}/api/chat", json=body, timeout=60).json()["message"]["content"]
    is_sound = bool(answer) and LOOP.search(answer) is None
    return {
        "id": f"use-{number}",
        "source": "application",
        "timestamp": at.isoformat(),
        "artifact_type": TINY_TYPE,
        "model": TINY_ALIAS,
        "input_data": prompt,
        "ai_output": answer,
        "feedback_type": "success" if is_sound else "validation_failure",
        "validation_score": 90 if is_sound else 0,
    }


@pytest.mark.parametrize("parameters", [EMPTY, LOOPING], ids=["empty", "looping"])
def test_model_that_answers_nothing_or_loops_is_taken_back_by_feedback_alone(
    night: Night,
    fresh_ollama: OllamaServer,
    promote: Callable[[str, str, datetime], None],
    parameters: dict[str, object],
) -> None:
    start = datetime.now(UTC)
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    ollama.create(CreateRequest(model=SECOND, from_model=TINY, parameters=parameters))
    promote(TINY, FIRST, start - timedelta(days=2))
    manifest = next(fresh_ollama.models_directory.glob("manifests/*/*/tiny-nightschool/1m.greeting"))
    before = manifest.read_bytes()
    night.drop([use(fresh_ollama.url, number, start - timedelta(days=1)) for number in range(12)])
    promote(FIRST, SECOND, start)
    assert manifest.read_bytes() != before
    daemon = night.start("serve")
    try:
        # the application meets the bad model seven times: that could be chance, and nothing is moved
        night.drop([use(fresh_ollama.url, number, datetime.now(UTC)) for number in range(20, 27)])
        wait_until(lambda: night.ledger().events.total() == 19)
        assert fresh_ollama.tags()[TINY_ALIAS] == fresh_ollama.tags()[SECOND]
        night.drop([use(fresh_ollama.url, number, datetime.now(UTC)) for number in range(27, 32)])
        wait_until(lambda: fresh_ollama.tags().get(TINY_ALIAS) == fresh_ollama.tags()[FIRST], LIMIT_S)
        wait_until(lambda: night.ledger().moves.unfinished() == ())
    finally:
        daemon.terminate()
        text, _ = daemon.communicate(timeout=60)
    assert manifest.read_bytes() == before
    moved = night.ledger().moves.latest(1)[0]
    assert (moved.kind, moved.from_tag, moved.to_tag) == (MoveKind.ROLL_BACK, SECOND, FIRST)
    assert "of 12 negative" in moved.reason
    assert f"{TINY_ALIAS} was moved back to {FIRST}: feedback got worse after the promotion" in text
    assert "roll_back" in night.run("history").stdout
    # what was taken back cannot be taken back again: undo leads on to the base
    assert night.run("undo", TINY_ALIAS).returncode == 0
    assert fresh_ollama.tags()[TINY_ALIAS] == fresh_ollama.tags()[TINY]


def test_model_that_goes_on_answering_well_stays(
    night: Night, fresh_ollama: OllamaServer, promote: Callable[[str, str, datetime], None]
) -> None:
    start = datetime.now(UTC)
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    ollama.create(CreateRequest(model=SECOND, from_model=FIRST, parameters={"num_predict": 5}))
    promote(TINY, FIRST, start - timedelta(days=2))
    night.drop([use(fresh_ollama.url, number, start - timedelta(days=1)) for number in range(12)])
    promote(FIRST, SECOND, start)
    night.drop([use(fresh_ollama.url, number, datetime.now(UTC)) for number in range(20, 60)])
    daemon = night.start("serve")
    wait_until(lambda: (night.state / FILE_NAME).is_file() and night.ledger().events.total() == 52)
    daemon.terminate()
    text, _ = daemon.communicate(timeout=60)
    assert fresh_ollama.tags()[TINY_ALIAS] == fresh_ollama.tags()[SECOND]
    assert "moved back" not in text


def test_an_alias_that_was_put_back_by_hand_stays_there(
    night: Night, fresh_ollama: OllamaServer, promote: Callable[[str, str, datetime], None]
) -> None:
    """What was said is of the version that somebody took away: the one before it did nothing wrong."""
    start = datetime.now(UTC)
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    ollama.create(CreateRequest(model=SECOND, from_model=TINY, parameters=EMPTY))
    promote(TINY, FIRST, start - timedelta(days=2))
    night.drop([use(fresh_ollama.url, number, start - timedelta(days=1)) for number in range(12)])
    promote(FIRST, SECOND, start)
    night.drop([use(fresh_ollama.url, number, datetime.now(UTC)) for number in range(20, 32)])
    ollama.copy(FIRST, TINY_ALIAS)
    daemon = night.start("serve")
    try:
        wait_until(lambda: (night.state / FILE_NAME).is_file() and night.ledger().events.total() == 24)
        # a look at the feedback that came later
        night.drop([use(fresh_ollama.url, 40, datetime.now(UTC))])
        wait_until(lambda: night.ledger().events.total() == 25)
    finally:
        daemon.terminate()
        text, _ = daemon.communicate(timeout=60)
    assert fresh_ollama.tags()[TINY_ALIAS] == fresh_ollama.tags()[FIRST]
    assert "was moved by hand since" in text
