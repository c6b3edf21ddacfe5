"""Aliases on a real server: every move is recorded before it is made, and a crash leaves no half-moved one."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import Ledger, MoveRow, MoveState
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.runs.errors import MoveFailed, UndoRefused
from nightschool_daemon.runs.moves import AliasMover, Destination
from nightschool_daemon.runs.undo import promotion_to_undo, undo
from nightschool_hookspecs.records import MoveKind
from support.night import import_tiny
from support.ollama_server import OllamaServer

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ALIAS = "tiny-nightschool:1m.greeting"
PIN = "tiny-nightschool:1m.base-0123456789ab"
FIRST, SECOND = f"{ALIAS}.v1", f"{ALIAS}.v2"


@pytest.fixture
def mover(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Iterator[AliasMover]:
    """A mover with a pin and two versions that differ in their system text."""
    weights = import_tiny(fresh_ollama, tiny_gguf, PIN)
    ollama = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    for tag in (FIRST, SECOND):
        ollama.create(CreateRequest(model=tag, files={"tiny.gguf": weights}, system=tag))
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
    yield AliasMover(ledger=ledger, ollama=ollama, hooks=hooks, clock=lambda: NOW)
    ollama.close()
    ledger.close()


def destination(mover: AliasMover, tag: str) -> Destination:
    """A tag as a destination."""
    digest = mover.digest_of(tag)
    assert digest is not None
    return Destination(tag=tag, digest=digest)


def promote(mover: AliasMover, source: str, target: str, kind: MoveKind = MoveKind.PROMOTE) -> None:
    """A promotion from one tag to another, or a move of another kind."""
    mover.move(
        kind=kind,
        alias=ALIAS,
        origin=destination(mover, source),
        destination=destination(mover, target),
        reason="test",
    )


def intend(mover: AliasMover, source: str, target: str) -> int:
    """An intent whose move never came: the crash."""
    return mover.ledger.moves.intend(
        MoveRow(
            id=0,
            kind=MoveKind.PROMOTE,
            alias=ALIAS,
            from_digest=mover.digest_of(source),
            to_digest=mover.digest_of(target),
            from_tag=source,
            to_tag=target,
            reason="test",
            run_id=None,
            intended_at=NOW,
            done_at=None,
            state=MoveState.INTENDED,
        )
    )


def test_two_promotions_are_undone_one_by_one_to_the_very_digest(mover: AliasMover) -> None:
    promote(mover, PIN, FIRST)
    promote(mover, FIRST, SECOND)
    assert mover.digest_of(ALIAS) == mover.digest_of(SECOND)
    undo(mover, promotion_to_undo(mover, ALIAS))
    assert mover.digest_of(ALIAS) == mover.digest_of(FIRST)
    undo(mover, promotion_to_undo(mover, ALIAS))
    assert mover.digest_of(ALIAS) == mover.digest_of(PIN)
    with pytest.raises(UndoRefused, match="no promotion"):
        undo(mover, promotion_to_undo(mover, ALIAS))


def test_twenty_promotions_are_undone_one_by_one_to_the_very_manifests(
    mover: AliasMover, fresh_ollama: OllamaServer
) -> None:
    versions = [PIN, *(f"{ALIAS}.v{number}" for number in range(1, 21))]
    for tag in versions[3:]:
        mover.ollama.create(CreateRequest(model=tag, from_model=FIRST, system=tag))
    manifests = []
    for source, target in pairwise(versions):
        promote(mover, source, target)
        manifests.append(manifest(fresh_ollama, ALIAS))
    assert len(set(manifests)) == 20
    for before in reversed(manifests[:-1]):
        undo(mover, promotion_to_undo(mover, ALIAS))
        assert manifest(fresh_ollama, ALIAS) == before
    undo(mover, promotion_to_undo(mover, ALIAS))
    assert manifest(fresh_ollama, ALIAS) == manifest(fresh_ollama, PIN)


def test_undo_does_not_wait_for_a_request_that_is_being_answered(mover: AliasMover, fresh_ollama: OllamaServer) -> None:
    """The answer goes on to its end by the model that it began with; the next one is the earlier model's."""
    promote(mover, PIN, FIRST)
    promote(mover, FIRST, SECOND)
    body = {
        "model": ALIAS,
        "prompt": "greet the guest",
        "options": {"num_predict": 1500, "num_ctx": 2048, "stop": [], "seed": 1},
    }
    with httpx.stream("POST", f"{fresh_ollama.url}/api/generate", json=body, timeout=120) as response:
        lines = response.iter_lines()
        first = json.loads(next(lines))
        undo(mover, promotion_to_undo(mover, ALIAS))
        assert mover.digest_of(ALIAS) == mover.digest_of(FIRST)
        answered = [first, *map(json.loads, lines)]
    assert not first["done"]
    assert answered[-1]["done"]
    assert "error" not in answered[-1]
    assert said(fresh_ollama, ALIAS) == said(fresh_ollama, FIRST) != said(fresh_ollama, SECOND)


def said(server: OllamaServer, model: str) -> str:
    """What a model says to one prompt, always the same."""
    body = {
        "model": model,
        "prompt": "greet the guest",
        "stream": False,
        "options": {"num_predict": 12, "num_ctx": 2048, "stop": [], "temperature": 0, "seed": 1},
    }
    return str(httpx.post(f"{server.url}/api/generate", json=body, timeout=120).json()["response"])


def manifest(server: OllamaServer, tag: str) -> bytes:
    """The bytes of a tag's manifest, as they lie on the disk."""
    name, version = tag.split(":")
    (file,) = server.models_directory.glob(f"manifests/*/*/{name}/{version}")
    return file.read_bytes()


def test_the_same_move_twice_is_one_move(mover: AliasMover) -> None:
    promote(mover, PIN, FIRST)
    promote(mover, PIN, FIRST)
    assert len(mover.ledger.moves.history(ALIAS, 10)) == 1


def test_intent_that_was_not_carried_out_is_replayed(mover: AliasMover) -> None:
    promote(mover, PIN, FIRST)
    intend(mover, FIRST, SECOND)
    assert mover.replay()
    assert mover.digest_of(ALIAS) == mover.digest_of(SECOND)
    assert not mover.ledger.moves.unfinished()


def test_manifest_that_a_crash_emptied_is_repaired(mover: AliasMover, fresh_ollama: OllamaServer) -> None:
    promote(mover, PIN, FIRST)
    intend(mover, FIRST, SECOND)
    manifest = next(fresh_ollama.models_directory.glob("manifests/*/*/tiny-nightschool/1m.greeting"))
    manifest.write_bytes(b"")
    assert mover.digest_of(ALIAS) is None
    mover.replay()
    assert mover.digest_of(ALIAS) == mover.digest_of(SECOND)


def test_alias_that_somebody_else_pointed_elsewhere_is_never_overwritten(mover: AliasMover) -> None:
    promote(mover, PIN, FIRST)
    intend(mover, FIRST, SECOND)
    mover.ollama.create(CreateRequest(model="mine:latest", from_model=PIN, system="mine"))
    mover.ollama.copy("mine:latest", ALIAS)
    mine = mover.digest_of("mine:latest")
    assert "by hand" in mover.replay()[0]
    with pytest.raises(MoveFailed, match="by hand"):
        promote(mover, FIRST, SECOND)
    with pytest.raises(UndoRefused, match="by hand"):
        undo(mover, promotion_to_undo(mover, ALIAS))
    assert mover.digest_of(ALIAS) == mine


def test_destination_that_changed_is_refused_and_the_alias_stays(mover: AliasMover) -> None:
    promote(mover, PIN, FIRST)
    second = destination(mover, SECOND)
    mover.ollama.delete(SECOND)
    with pytest.raises(MoveFailed, match="gone from Ollama"):
        mover.move(
            kind=MoveKind.PROMOTE,
            alias=ALIAS,
            origin=destination(mover, FIRST),
            destination=second,
            reason="test",
        )
    assert mover.digest_of(ALIAS) == mover.digest_of(FIRST)
    assert not mover.ledger.moves.unfinished()


def test_undo_says_when_the_earlier_version_is_gone(mover: AliasMover) -> None:
    promote(mover, PIN, FIRST)
    promote(mover, FIRST, SECOND)
    mover.ollama.delete(FIRST)
    with pytest.raises(UndoRefused, match="keep_versions"):
        undo(mover, promotion_to_undo(mover, ALIAS))
    assert mover.digest_of(ALIAS) == mover.digest_of(SECOND)


def test_where_a_replayed_move_cannot_be_finished_the_alias_gets_back_what_it_had(mover: AliasMover) -> None:
    """A server that died in the middle of a copy left it empty."""
    promote(mover, PIN, FIRST)
    intend(mover, FIRST, SECOND)
    mover.ollama.delete(SECOND)
    mover.ollama.delete(ALIAS)
    (told,) = mover.replay()
    assert "was given up" in told
    assert mover.digest_of(ALIAS) == mover.digest_of(FIRST)
    assert not mover.ledger.moves.unfinished()


def test_a_move_that_was_begun_before_another_one_is_not_carried_out_behind_it(mover: AliasMover) -> None:
    promote(mover, PIN, FIRST)
    promote(mover, FIRST, SECOND)
    intend(mover, SECOND, FIRST)
    promote(mover, SECOND, PIN, MoveKind.UNDO)
    assert mover.replay() == ()
    assert mover.digest_of(ALIAS) == mover.digest_of(PIN)
