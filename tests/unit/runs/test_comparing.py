"""Who is compared on a specialty, and what both are asked."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon.comparisons import Asked
from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import EventRow
from nightschool_daemon.ledger import FILE_NAME, IncomingEvent, Ledger, RunRow, VersionRow, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.runs import RunRefused
from nightschool_daemon.runs.comparing import Matching, Pairing, made_from
from nightschool_daemon.runs.planner import Planner
from nightschool_hookspecs.records import Event, FeedbackType, Side, SideChoice, Specialty

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SHELL = Specialty(base="tiny:1b", artifact_type="shell")
ALIAS, VERSION = names.alias_of(SHELL), names.version_of(SHELL, 1)
DIGESTS = {"tiny:1b": "base", "other:1b": "other", ALIAS: "one", VERSION: "one"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / FILE_NAME)
    opened.runs.create(
        RunRow(
            id="r1",
            specialty=SHELL,
            seed=1,
            reason="",
            started_at=NOON,
            finished_at=None,
            end=None,
            outcome_reason="",
            directory=tmp_path,
        )
    )
    opened.versions.add(
        VersionRow(
            tag=VERSION,
            specialty=SHELL,
            number=1,
            run_id="r1",
            form=None,
            tag_digest="one",
            weights_digest="",
            base_tag_digest="b" * 64,
            base_weights_digest="",
            state=VersionState.PROMOTED,
            created_at=NOON,
            files=(),
        )
    )
    yield opened
    opened.close()


def teach(ledger: Ledger, first: int, last: int) -> list[Event]:
    """Corrections of so many prompts."""
    events = [
        Event(
            id=f"{number}",
            timestamp=NOON,
            feedback_type=FeedbackType.USER_CORRECTION,
            input_data=f"prompt {number}",
            artifact_type=SHELL.artifact_type,
            ai_output="a",
            corrected_output=f"b {number}",
        )
        for number in range(first, last)
    ]
    ledger.events.add(
        [
            IncomingEvent(event=one, base=SHELL.base, answered_by=None, group=one.input_data, arrived_at=NOON)
            for one in events
        ]
    )
    return events


def learn(ledger: Ledger, events: list[Event]) -> None:
    """The version learned them."""
    ledger.events.mark_trained(SHELL, "r1", events, VERSION)
    ledger.events.mark_known(SHELL, [one.input_data for one in events], VERSION)


def paired(ledger: Ledger, first: str | None, second: str | None, on: str | None = None) -> Pairing:
    planner = Planner(settings=Settings(), ledger=ledger, hooks=Hooks.load(plugin_directory=None, tables={}))
    return Matching(planner=planner, ledger=ledger, digests=DIGESTS).pair_up(first, second, on)


def asked(pairing: Pairing) -> list[str]:
    return [row.event.id for row in pairing.rows if row.side is Side.HELD_OUT]


def learned(rows: tuple[EventRow, ...]) -> list[str]:
    return [row.event.id for row in rows if row.trained_on]


def test_of_a_young_specialty_what_neither_learned_is_asked(ledger: Ledger) -> None:
    learn(ledger, teach(ledger, 0, 3))
    teach(ledger, 3, 5)
    found = paired(ledger, SHELL.base, ALIAS)
    assert (found.what, asked(found)) == (Asked.UNLEARNED, ["3", "4"])
    # their near-duplicates are found where the prompts are compared
    assert learned(found.rows) == ["0", "1", "2"]


def test_what_was_learned_is_not_asked_though_its_feedback_was_changed_since(ledger: Ledger) -> None:
    (first, _) = teach(ledger, 0, 2)
    learn(ledger, [first])
    ledger.events.add(
        [
            IncomingEvent(
                event=replace(first, corrected_output="another", timestamp=NOON.replace(hour=13)),
                base=SHELL.base,
                answered_by=None,
                group=first.input_data,
                arrived_at=NOON,
            )
        ]
    )
    assert asked(paired(ledger, SHELL.base, ALIAS)) == ["1"]


def test_who_never_learned_of_a_young_specialty_is_asked_all_of_it(ledger: Ledger) -> None:
    learn(ledger, teach(ledger, 0, 3))
    found = paired(ledger, SHELL.base, "other:1b")
    assert (found.what, asked(found)) == (Asked.ALL, ["0", "1", "2"])


def test_what_is_held_out_is_asked_alone_where_it_is_enough(ledger: Ledger) -> None:
    teach(ledger, 0, 10)
    choices = [SideChoice(key=f"prompt {number}", side=Side.HELD_OUT) for number in range(5)]
    ledger.events.set_sides(SHELL.artifact_type, choices)
    assert paired(ledger, SHELL.base, ALIAS).what is Asked.ALL
    ledger.events.set_sides(SHELL.artifact_type, [SideChoice(key="prompt 5", side=Side.HELD_OUT)])
    found = paired(ledger, SHELL.base, ALIAS)
    assert (found.what, asked(found)) == (Asked.HELD_OUT, ["0", "1", "2", "3", "4", "5"])


def test_where_all_was_learned_nothing_is_left_to_ask(ledger: Ledger) -> None:
    learn(ledger, teach(ledger, 0, 3))
    with pytest.raises(RunRefused, match=r"All feedback of .* was learned by one of the two"):
        paired(ledger, SHELL.base, ALIAS)


def test_a_specialty_may_be_named_where_none_of_both_names_it(ledger: Ledger) -> None:
    teach(ledger, 0, 3)
    with pytest.raises(RunRefused, match="no specialty has that name"):
        paired(ledger, "other:1b", "third:1b")
    found = paired(ledger, "other:1b", "third:1b", "tiny:1b/shell")
    assert (found.first, found.second, found.specialty) == ("other:1b", "third:1b", SHELL)


def test_a_version_is_ranked_by_the_base_that_it_was_made_from(ledger: Ledger) -> None:
    teach(ledger, 0, 3)
    assert paired(ledger, SHELL.base, ALIAS).bases == {ALIAS: names.pin_of(SHELL.base, "b" * 64)}


def test_who_is_on_a_file_is_ranked_by_the_only_pin_of_its_base() -> None:
    pin, later = names.pin_of(SHELL.base, "b" * 64), names.pin_of(SHELL.base, "c" * 64)
    tags = {**DIGESTS, pin: "base", names.pin_of("other:1b", "d" * 64): "other"}
    assert [made_from(one, tags) for one in (ALIAS, VERSION, SHELL.base, pin)] == [pin, pin, SHELL.base, pin]
    assert made_from(VERSION, {**tags, later: "later"}) == VERSION
