"""A share of an alias's use: begun, told to the proxy, decided by feedback, ended when it cannot go on."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightschool_daemon.config import Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import IncomingEvent, Ledger
from nightschool_daemon.proxy.answers import FILE_NAME, Answer, AnswerLog
from nightschool_daemon.proxy.conversation import conversation_of_event
from nightschool_daemon.proxy.routes import Route, Routes, RoutesFile, secret_of, write_routes
from nightschool_daemon.runs.errors import UndoRefused
from nightschool_daemon.runs.moves import Destination
from nightschool_daemon.runs.shares import Share, ShareRefused, Shares
from nightschool_hookspecs.records import Event, FeedbackType, Specialty
from nightschool_hookspecs.testing import sample_event

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
BASE, ALIAS = "llama3.2:3b", "llama3.2-nightschool:3b.shell"
FIRST, SECOND = Destination(tag=f"{ALIAS}.v1", digest="1" * 64), Destination(tag=f"{ALIAS}.v2", digest="2" * 64)
SPECIALTY = Specialty(base=BASE, artifact_type="shell")
SHARE = Share(alias=ALIAS, specialty=SPECIALTY, incumbent=FIRST, candidate=SECOND, share=0.2, since=NOON)


@dataclass(kw_only=True)
class Deeds:
    """Notes what follows from a verdict; refuses where it is told to."""

    kept: list[str] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    refusal: str | None = None

    def keep(self, share: Share, reason: str) -> None:
        self._note(self.kept, reason)

    def take_back(self, share: Share, reason: str) -> None:
        self._note(self.taken_back, reason)

    def _note(self, deeds: list[str], reason: str) -> None:
        if self.refusal is not None:
            raise UndoRefused(self.refusal)
        deeds.append(reason)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Shares over a ledger, a state directory and what Ollama holds."""

    shares: Shares
    ledger: Ledger
    state: Path
    tags: dict[str, str]

    def hear(self, count: int, *, version: Destination, liked: bool, names_alias: bool) -> None:
        """Take in feedback on answers that a version gave through the proxy."""
        log = AnswerLog(self.state, keep_days=10_000)
        log.start(NOON)
        for number in range(count):
            event = self._event(f"{version.tag}-{number}", liked=liked, model=ALIAS if names_alias else version.tag)
            conversation = conversation_of_event(secret_of(self.state), replace(event, model=ALIAS))
            log.put(Answer(conversation=conversation, alias=ALIAS, version=version.tag, at=LATER))
            self.ledger.events.add(
                [IncomingEvent(event=event, base=BASE, answered_by=event.model, group=event.id, arrived_at=LATER)]
            )
        log.stop()

    def _event(self, identifier: str, *, liked: bool, model: str) -> Event:
        kind = FeedbackType.EXPLICIT_POSITIVE if liked else FeedbackType.EXPLICIT_NEGATIVE
        event = sample_event(identifier, input_data=f"prompt {identifier}", feedback_type=kind)
        return replace(event, timestamp=LATER, model=model)


def look(bench: Bench, deeds: Deeds) -> tuple[str, ...]:
    return bench.shares.look(keep=deeds.keep, take_back=deeds.take_back)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    tags = {FIRST.tag: FIRST.digest, SECOND.tag: SECOND.digest, ALIAS: FIRST.digest}
    settings = Settings(state=StateSettings(directory=tmp_path))
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("judge_feedback",))
    shares = Shares(settings=settings, ledger=ledger, hooks=hooks, digests=lambda: tags)
    yield Bench(shares=shares, ledger=ledger, state=tmp_path, tags=tags)
    ledger.close()


def test_share_is_told_to_the_proxy_and_taken_back(bench: Bench) -> None:
    bench.shares.begin(SHARE)
    told = RoutesFile(bench.state).current().of(ALIAS)
    assert told == Route(alias=ALIAS, incumbent=FIRST.tag, candidate=SECOND.tag, share=0.2)
    assert bench.shares.all() == (SHARE,)
    assert bench.shares.end(ALIAS)
    assert not bench.shares.end(ALIAS)
    assert RoutesFile(bench.state).current().of(ALIAS) is None


@pytest.mark.parametrize("share", [0.0, -1.0, 0.96, 1.0, float("nan")])
def test_share_leaves_something_to_compare_with(bench: Bench, share: float) -> None:
    with pytest.raises(ShareRefused, match=r"0\.95 at most"):
        bench.shares.begin(replace(SHARE, share=share))


def test_proxy_hears_again_of_what_a_crash_kept_from_it(bench: Bench) -> None:
    bench.shares.begin(SHARE)
    write_routes(bench.state, Routes())
    bench.shares.tell_the_proxy()
    assert RoutesFile(bench.state).current().of(ALIAS) == SHARE.route


def test_where_nothing_was_ever_shared_nothing_is_written(bench: Bench) -> None:
    bench.shares.tell_the_proxy()
    assert look(bench, Deeds()) == ()
    assert not bench.shares.end(ALIAS)
    assert not (bench.state / "proxy").exists()


def test_version_that_is_gone_is_not_shared(bench: Bench) -> None:
    del bench.tags[SECOND.tag]
    with pytest.raises(ShareRefused, match="no longer in Ollama"):
        bench.shares.begin(SHARE)


def test_another_size_goes_on_with_what_was_heard_another_candidate_begins_anew(bench: Bench) -> None:
    bench.shares.begin(SHARE)
    assert bench.shares.begin(replace(SHARE, share=0.5, since=LATER)).since == NOON
    third = Destination(tag=f"{ALIAS}.v3", digest="3" * 64)
    bench.tags[third.tag] = third.digest
    assert bench.shares.begin(replace(SHARE, candidate=third, since=LATER)).since == LATER


@pytest.mark.parametrize("names_alias", [True, False], ids=["feedback names the alias", "names the version"])
@pytest.mark.parametrize("candidate_is_better", [True, False])
def test_winner_is_kept_and_loser_taken_back(bench: Bench, *, names_alias: bool, candidate_is_better: bool) -> None:
    bench.shares.begin(SHARE)
    bench.hear(12, version=FIRST, liked=not candidate_is_better, names_alias=names_alias)
    bench.hear(7, version=SECOND, liked=candidate_is_better, names_alias=names_alias)
    deeds = Deeds()
    assert look(bench, deeds) == ()
    assert "of 7" in bench.shares.states()[0].verdict
    bench.hear(9, version=SECOND, liked=candidate_is_better, names_alias=names_alias)
    (sentence,) = look(bench, deeds)
    assert (len(deeds.kept), len(deeds.taken_back)) == ((1, 0) if candidate_is_better else (0, 1))
    assert f"{(SECOND if candidate_is_better else FIRST).tag} won" in sentence
    assert bench.shares.all() == ()


def test_what_cannot_be_done_yet_is_tried_again(bench: Bench) -> None:
    bench.shares.begin(SHARE)
    bench.hear(12, version=FIRST, liked=True, names_alias=True)
    bench.hear(12, version=SECOND, liked=False, names_alias=True)
    (sentence,) = look(bench, Deeds(refusal="the disk is full."))
    assert "the disk is full" in sentence
    assert bench.shares.all() == (SHARE,)
    deeds = Deeds()
    look(bench, deeds)
    assert len(deeds.taken_back) == 1


def test_feedback_on_what_did_not_go_through_the_proxy_counts_for_nobody(bench: Bench) -> None:
    bench.shares.begin(SHARE)
    event = replace(sample_event(), timestamp=LATER, model=ALIAS)
    bench.ledger.events.add([IncomingEvent(event=event, base=BASE, answered_by=ALIAS, group="g", arrived_at=LATER)])
    assert bench.shares.feedback_on(SHARE).answers == ()


@pytest.mark.parametrize("kind", ["corrupt", "locked away"])
def test_where_the_record_of_the_proxy_cannot_be_read_nobody_knows_and_it_is_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    bench.shares.begin(SHARE)
    bench.hear(12, version=FIRST, liked=True, names_alias=True)
    bench.hear(3, version=SECOND, liked=False, names_alias=False)
    file = bench.state / "proxy" / FILE_NAME
    for one in file.parent.glob(f"{FILE_NAME}*"):
        one.unlink()
    if kind == "corrupt":
        file.write_bytes(b"nothing that SQLite knows" * 100)
    else:
        file.mkdir()
    assert look(bench, Deeds()) == look(bench, Deeds()) == ()
    assert [one.by_candidate for one in bench.shares.feedback_on(SHARE).answers] == [True] * 3
    (told,) = [one.getMessage() for one in caplog.records if "cannot be read" in one.getMessage()]
    assert str(file.parent) in told


@pytest.mark.parametrize("name", [FIRST.tag, SECOND.tag, ALIAS])
def test_share_ends_where_a_version_or_the_alias_was_changed(bench: Bench, name: str) -> None:
    bench.shares.begin(SHARE)
    bench.tags[name] = "f" * 64
    (sentence,) = look(bench, Deeds())
    assert f"The share of {ALIAS} ended: {name}" in sentence
    assert RoutesFile(bench.state).current().of(ALIAS) is None
