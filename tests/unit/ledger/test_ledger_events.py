"""Events in the ledger: upserts, tombstones, one row a content, sides for good, what is fresh."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon import codec
from nightschool_daemon.intake.assignment import group_of
from nightschool_daemon.jobs import PromptRow, Wording
from nightschool_daemon.ledger import AddResult, IncomingEvent, Ledger, LedgerError, VersionRow, VersionState
from nightschool_daemon.ledger.events import PROMPT_LETTERS
from nightschool_daemon.reporting.records import IncomingPrompts, Said
from nightschool_daemon.secret import FILE_NAME, secret_of
from nightschool_daemon.wording import fingerprint_of, key_of
from nightschool_hookspecs import (
    Context,
    Event,
    FeedbackType,
    Metadata,
    Side,
    SideChoice,
    Specialty,
    TrainingMethod,
)
from support.run_rows import RUN_ROW, VERSION_ROW

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SHELL = Specialty(base="tiny:1b", artifact_type="shell")
OTHER_BASE = Specialty(base="small:3b", artifact_type="shell")
POOLED = Specialty(base="tiny:1b", artifact_type="all")


def event(
    identifier: str, answer: str = "ls", version: str | None = None, *, deleted: bool = False, kind: str = "shell"
) -> Event:
    return Event(
        id=identifier,
        timestamp=NOW,
        feedback_type=FeedbackType.SUCCESS,
        input_data="List files",
        artifact_type=kind,
        ai_output=answer,
        validation_score=90,
        metadata=Metadata(source_version=version, deleted=deleted),
    )


def incoming(one: Event, base: str | None = SHELL.base) -> IncomingEvent:
    return IncomingEvent(event=one, base=base, answered_by=None, group=f"group of {one.input_data}", arrived_at=NOW)


def add(ledger: Ledger, *events: Event, base: str | None = SHELL.base) -> AddResult:
    return ledger.events.add([incoming(one, base) for one in events])


def ids(ledger: Ledger, specialty: Specialty = SHELL, *, with_unassigned: bool = False) -> list[str]:
    return [row.event.id for row in ledger.events.of_specialty(specialty, with_unassigned=with_unassigned)]


def version_row(number: int, run_id: str) -> VersionRow:
    return replace(VERSION_ROW, tag=f"shell.v{number}", specialty=SHELL, number=number, run_id=run_id)


def available(ledger: Ledger) -> int:
    return ledger.events.statistics(SHELL, with_unassigned=False).available


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    yield opened
    opened.close()


def test_the_same_event_again_changes_nothing(ledger: Ledger) -> None:
    assert len(add(ledger, event("1")).added) == 1
    again = add(ledger, event("1"))
    assert (again.unchanged, again.added, again.replaced, again.conflicts) == (1, (), (), 0)


def test_another_time_alone_is_no_change(ledger: Ledger) -> None:
    add(ledger, event("1"))
    assert add(ledger, replace(event("1"), timestamp=datetime(2026, 5, 1, tzinfo=UTC))).unchanged == 1


def test_the_newer_source_version_wins_whatever_comes_last(ledger: Ledger) -> None:
    add(ledger, event("1", "new", "10"))
    late = add(ledger, event("1", "old", "9"))
    assert (late.conflicts, late.replaced) == (1, ())
    assert ledger.events.of_specialty(SHELL, with_unassigned=False)[0].event.ai_output == "new"


def test_without_a_version_the_later_arrival_wins(ledger: Ledger) -> None:
    add(ledger, event("1", "first"))
    assert add(ledger, event("1", "second")).conflicts == 1
    assert [row.event.ai_output for row in ledger.events.of_specialty(SHELL, with_unassigned=False)] == ["second"]


def test_a_tombstone_retracts_and_a_later_record_brings_it_back(ledger: Ledger) -> None:
    add(ledger, event("1"))
    assert add(ledger, event("1", deleted=True)).retracted == 1
    assert (ids(ledger), ledger.events.total()) == ([], 0)
    add(ledger, replace(event("1"), timestamp=NOW + timedelta(seconds=1)))
    assert ids(ledger) == ["1"]


def test_a_tombstone_of_an_unknown_event_is_harmless(ledger: Ledger) -> None:
    assert add(ledger, event("1", deleted=True)) == AddResult(unchanged=1)


def test_equal_content_is_one_row_and_keeps_all_ids(ledger: Ledger) -> None:
    add(ledger, event("1"), event("2"), event("3"))
    assert ids(ledger) == ["3"]
    assert ledger.events.total() == 3
    add(ledger, event("3", deleted=True))
    assert ids(ledger) == ["2"]


def test_events_come_in_order_of_arrival_not_of_time(ledger: Ledger) -> None:
    late, early = datetime(2099, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)
    add(ledger, replace(event("late", "a"), timestamp=late), replace(event("early", "b"), timestamp=early))
    assert ids(ledger) == ["late", "early"]


def test_types_bases_and_pooling(ledger: Ledger) -> None:
    add(ledger, event("1", "a"), event("2", "b", kind="erd"))
    add(ledger, event("3", "c"), base=OTHER_BASE.base)
    add(ledger, event("4", "d"), base=None)
    assert ids(ledger) == ["1"]
    assert ids(ledger, with_unassigned=True) == ["1", "4"]
    assert ids(ledger, POOLED) == ["1", "2"]
    assert ids(ledger, OTHER_BASE, with_unassigned=True) == ["3", "4"]
    assert [(one.base, one.artifact_type, one.count) for one in ledger.events.count_by_specialty()] == [
        (None, "shell", 1),
        ("small:3b", "shell", 1),
        ("tiny:1b", "erd", 1),
        ("tiny:1b", "shell", 1),
    ]


def test_a_decided_side_never_changes(ledger: Ledger) -> None:
    add(ledger, event("1"))
    group = ledger.events.prompts("shell")[0].key
    ledger.events.set_sides("shell", [SideChoice(key=group, side=Side.HELD_OUT)])
    ledger.events.set_sides("shell", [SideChoice(key=group, side=Side.HELD_OUT)])
    with pytest.raises(LedgerError, match="for good"):
        ledger.events.set_sides(
            "shell", [SideChoice(key="new", side=Side.TRAINING), SideChoice(key=group, side=Side.TRAINING)]
        )
    assert ledger.events.of_specialty(SHELL, with_unassigned=False)[0].side is Side.HELD_OUT
    # the whole choice was undone
    ledger.events.set_sides("shell", [SideChoice(key="new", side=Side.HELD_OUT)])


def keys(ledger: Ledger) -> list[tuple[str, str | None, Side | None, bool]]:
    return [(one.key, one.group, one.side, one.placed) for one in ledger.events.prompts("shell")]


def test_prompts_are_those_of_all_bases_once_each_until_the_last_event_is_withdrawn(ledger: Ledger) -> None:
    add(ledger, event("1"), event("2", "other answer"))
    add(ledger, replace(event("3"), input_data="Count files"), base=OTHER_BASE.base)
    add(ledger, replace(event("4"), input_data="Draw", artifact_type="erd"))
    shell = [("group of List files", "group of List files", None, False)]
    both = [*shell, ("group of Count files", "group of Count files", None, False)]
    assert keys(ledger) == both
    assert [one.text for one in ledger.events.prompts("shell")] == ["List files", "Count files"]
    assert [one.text for one in ledger.events.prompts("all")] == ["List files", "Count files", "Draw"]
    add(ledger, event("3", deleted=True))
    assert keys(ledger) == shell


def test_a_prompt_stays_in_its_group_and_its_group_on_its_side(ledger: Ledger) -> None:
    add(ledger, event("1"), replace(event("2"), input_data="List all files"), replace(event("3"), input_data="between"))
    prompts = [one.key for one in ledger.events.prompts("shell")]
    groups = {prompts[0]: "g", prompts[1]: "g", prompts[2]: None}
    choices = [SideChoice(key="g", side=Side.TRAINING)]
    for _ in range(2):
        ledger.events.set_sides("shell", choices, groups)
    assert keys(ledger) == [
        (prompts[0], "g", Side.TRAINING, True),
        (prompts[1], "g", Side.TRAINING, True),
        (prompts[2], None, None, True),
    ]
    rows = ledger.events.of_specialty(SHELL, with_unassigned=False)
    assert [(row.group, row.side) for row in rows] == [("g", Side.TRAINING), ("g", Side.TRAINING), (None, None)]
    found = ledger.events.get("dropdir/2")
    assert found is not None
    assert (found.group, found.side) == ("g", Side.TRAINING)
    for other in ("another", None):
        with pytest.raises(LedgerError, match="for good"):
            ledger.events.set_sides("shell", [], {prompts[0]: other})
    # a pooled specialty decides for itself
    assert [one.placed for one in ledger.events.prompts("all")] == [False] * 3


def test_a_side_that_was_decided_before_there_were_groups_still_holds(ledger: Ledger) -> None:
    add(ledger, event("1"))
    ledger.events.set_sides("shell", [SideChoice(key="group of List files", side=Side.HELD_OUT)])
    assert keys(ledger) == [("group of List files", "group of List files", Side.HELD_OUT, True)]


def placed(ledger: Ledger, group: str = "g", side: Side = Side.TRAINING) -> str:
    """Put the only prompt there is into a group. Returns its key."""
    key = ledger.events.prompts("shell")[0].key
    ledger.events.set_sides("shell", [SideChoice(key=group, side=side)], {key: group})
    return key


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": Metadata(deleted=True)},
        {"input_data": "Count words", "timestamp": NOW + timedelta(hours=1)},
    ],
)
def test_a_prompt_that_an_event_left_behind_is_still_told_from_new_ones(
    ledger: Ledger, tmp_path: Path, change: dict[str, Any]
) -> None:
    """By a fingerprint: a version may have learned it, or an exam may ask it again, but its text is not kept."""
    add(ledger, event("1"))
    key = placed(ledger)
    add(ledger, replace(event("1"), **change))
    (gone,) = (one for one in ledger.events.prompts("shell") if one.key == key)
    assert gone == PromptRow(
        key=key,
        text=None,
        placed=True,
        group="g",
        side=Side.TRAINING,
        fingerprint=fingerprint_of("List files", secret_of(tmp_path)),
    )
    # who asks it again is in the group that it was in
    add(ledger, event("2"))
    assert [(one.text, one.group) for one in ledger.events.prompts("shell") if one.key == key] == [("List files", "g")]


def test_another_answer_leaves_no_prompt_behind(ledger: Ledger) -> None:
    add(ledger, event("1"))
    placed(ledger)
    add(ledger, replace(event("1", "another"), timestamp=NOW + timedelta(hours=1)))
    assert [one.fingerprint for one in ledger.events.prompts("shell")] == [None]


def test_a_prompt_whose_event_is_of_another_type_now_keeps_its_side_and_its_text(ledger: Ledger) -> None:
    add(ledger, event("1"))
    key = placed(ledger)
    add(ledger, replace(event("1"), artifact_type="erd", timestamp=NOW + timedelta(hours=1)))
    assert [(one.key, one.text, one.side) for one in ledger.events.prompts("shell")] == [
        (key, "List files", Side.TRAINING)
    ]
    assert [one.placed for one in ledger.events.prompts("erd")] == [False]
    assert left_behind(ledger) == []
    add(ledger, replace(event("1", deleted=True), timestamp=NOW + timedelta(hours=2)))
    assert [(one.key, one.text, one.side) for one in ledger.events.prompts("shell")] == [(key, None, Side.TRAINING)]


def left_behind(ledger: Ledger) -> list[tuple[str, str | None]]:
    """What the table holds, also of what is shown to nobody: events and texts."""
    rows = ledger._database.execute("SELECT event_key, text FROM wordings ORDER BY 1, 2")
    return [(row["event_key"], row["text"]) for row in rows]


def test_a_prompt_that_waited_for_a_side_leaves_nothing_behind(ledger: Ledger) -> None:
    add(ledger, event("1"), event("1", deleted=True))
    assert ledger.events.prompts("shell") == ()
    assert left_behind(ledger) == []


def test_a_prompt_that_a_run_froze_before_it_was_withdrawn_may_yet_get_a_side(ledger: Ledger) -> None:
    add(ledger, event("1"))
    (frozen,) = ledger.events.prompts("shell")
    ledger.runs.create(replace(RUN_ROW, id="r1"))
    add(ledger, event("1", deleted=True))
    ledger.events.set_sides("shell", [SideChoice(key="g", side=Side.TRAINING)], {frozen.key: "g"})
    assert [(one.text, one.side) for one in ledger.events.prompts("shell")] == [(None, Side.TRAINING)]


def test_a_prompt_that_another_event_asks_too_leaves_nothing_behind_until_that_one_goes(ledger: Ledger) -> None:
    add(ledger, event("1"), event("2"))
    placed(ledger)
    add(ledger, event("1", deleted=True))
    assert left_behind(ledger) == []
    assert [one.text for one in ledger.events.prompts("shell")] == ["List files"]
    add(ledger, event("2", deleted=True))
    assert left_behind(ledger) == [("dropdir/2", None)]


def wording(text: str, group: str = "g", event_id: str = "dropdir/1") -> Wording:
    return Wording(event_id=event_id, group=group, text=text, method=TrainingMethod.SFT)


def test_what_else_was_learned_is_in_the_group_of_what_it_was_made_of(ledger: Ledger) -> None:
    add(ledger, event("1"))
    placed(ledger)
    for _ in range(2):
        ledger.events.remember(SHELL, [wording("show the files")], [event("1")], "shell.v1")
    _, variant = ledger.events.prompts("shell")
    assert (variant.text, variant.group, variant.side, variant.placed) == ("show the files", "g", Side.TRAINING, True)
    # an event that asks it is placed before it is looked at, and a pooled specialty decides for itself
    asking = replace(event("2"), input_data="Show the files!")
    ledger.events.add(
        [IncomingEvent(event=asking, base=SHELL.base, answered_by=None, group=group_of(asking), arrived_at=NOW)]
    )
    row = ledger.events.get("dropdir/2")
    assert row is not None
    assert (row.group, row.side) == ("g", Side.TRAINING)
    assert [one.placed for one in ledger.events.prompts("all")] == [False, False]


def test_of_a_variant_of_what_was_withdrawn_a_fingerprint_stays(ledger: Ledger, tmp_path: Path) -> None:
    add(ledger, event("1"))
    placed(ledger)
    made = [wording("show the files"), wording("show users", "h", "dropdir/9"), wording("draw a cat", "", "")]
    ledger.events.remember(SHELL, made, [event("1")], "shell.v1")
    add(ledger, event("1", deleted=True))
    found, secret = {(one.text, one.fingerprint) for one in ledger.events.prompts("shell")}, secret_of(tmp_path)
    assert found == {
        (None, fingerprint_of("List files", secret)),
        (None, fingerprint_of("show the files", secret)),
        # of an event that nobody knows
        (None, fingerprint_of("show users", secret)),
        ("draw a cat", None),
    }


def test_a_secret_that_is_lost_is_told_until_another_takes_its_place(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / FILE_NAME
    assert ledger.events.forgotten() is None
    add(ledger, event("1"))
    placed(ledger)
    ledger.events.remember(SHELL, [wording("show the files")], [event("1")], "shell.v1")
    add(ledger, event("1", deleted=True))
    assert ledger.events.forgotten() is None
    secret.unlink()
    told = ledger.events.forgotten()
    assert told is not None
    assert told.startswith(f"{secret} is gone, by which withdrawn prompts are known again (2 of them): put it back")
    assert caplog.messages == []

    later = Ledger.open(tmp_path / "ledger.sqlite3")
    later.events.remember(SHELL, [wording("draw a cat", "h", "dropdir/9")], [event("1")], "shell.v1")
    later.close()
    assert secret.is_file()
    assert ledger.events.forgotten() is None
    (said,) = caplog.messages
    assert said.startswith(
        f"{secret} was gone and is made anew, so what was withdrawn before is not known again (2 prompt"
    )


def remembered(ledger: Ledger) -> list[tuple[str | None, str | None]]:
    key = key_of("show the files")
    return [(one.text, one.fingerprint) for one in ledger.events.prompts("shell") if one.key == key]


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": Metadata(deleted=True)},
        {"input_data": "Count words", "timestamp": NOW + timedelta(hours=1)},
        {"context": Context(system="be brief"), "timestamp": NOW + timedelta(hours=1)},
    ],
)
@pytest.mark.parametrize("while_the_run_goes_on", [True, False])
def test_no_text_is_kept_of_what_an_event_says_no_more(
    ledger: Ledger, tmp_path: Path, change: dict[str, Any], while_the_run_goes_on: bool
) -> None:
    """Whoever cuts something out of a conversation wants it gone. Fingerprints stay, as a version has learned it."""
    add(ledger, event("1"))
    placed(ledger)
    changed = replace(event("1"), **change)
    if while_the_run_goes_on:
        add(ledger, changed)
    ledger.events.remember(SHELL, [wording("show the files")], [event("1")], "shell.v1")
    if not while_the_run_goes_on:
        assert remembered(ledger) == [("show the files", None)]
        add(ledger, changed)
    assert remembered(ledger) == [(None, fingerprint_of("show the files", secret_of(tmp_path)))]
    # a daemon that died while it wrote does so again
    ledger.events.remember(SHELL, [wording("show the files")], [event("1")], "shell.v1")
    assert remembered(ledger) == [(None, fingerprint_of("show the files", secret_of(tmp_path)))]


@pytest.mark.parametrize("is_known", [True, False])
def test_nothing_is_kept_of_a_record_that_is_sent_again_to_be_withdrawn(
    ledger: Ledger, tmp_path: Path, is_known: bool
) -> None:
    secretive = Metadata(user="ann", reason="private", comment="hush", tests="assert x", extra_json='{"a": "b"}')
    told = replace(event("1", answer="ls -a"), context=Context(system="be brief"), metadata=secretive)
    if is_known:
        add(ledger, told)
    add(ledger, replace(told, metadata=replace(secretive, deleted=True, source_version="2")))
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as connection:
        (body,) = connection.execute("SELECT body FROM events").fetchone()
    kept = codec.from_json(body, Event)
    assert kept.metadata == Metadata(deleted=True, source_version="2")
    assert (kept.input_data, kept.ai_output, kept.context) == ("", None, Context())


def test_an_event_that_is_sent_again_as_it_was_keeps_its_texts(ledger: Ledger) -> None:
    add(ledger, event("1"))
    placed(ledger)
    ledger.events.remember(SHELL, [wording("show the files")], [event("1")], "shell.v1")
    add(ledger, replace(event("1"), timestamp=NOW + timedelta(hours=1)))
    assert remembered(ledger) == [("show the files", None)]


def test_what_was_decided_before_stays_where_a_variant_is_like_it(ledger: Ledger) -> None:
    add(ledger, event("1"))
    key = placed(ledger, side=Side.HELD_OUT)
    ledger.events.set_sides("shell", [SideChoice(key="other", side=Side.TRAINING)], {key_of("show users"): None})
    ledger.events.remember(SHELL, [wording("show users", "other")], [event("1")], "shell.v1")
    assert [(one.key, one.side) for one in ledger.events.prompts("shell")] == [(key, Side.HELD_OUT)]


def test_a_version_knows_the_groups_of_what_it_learned_as_variants_of_others(ledger: Ledger) -> None:
    add(ledger, event("1"))
    placed(ledger)
    ledger.versions.add(version_row(1, "r"))
    ledger.versions.set_state("shell.v1", VersionState.PROMOTED)
    learned = Wording(event_id="dropdir/9", group="other", text="List files", method=TrainingMethod.SFT)
    ledger.events.set_sides("shell", [], {key_of("List files"): "g"})
    ledger.events.remember(SHELL, [learned], [], "shell.v1")
    assert [row.in_use for row in ledger.events.of_specialty(SHELL, with_unassigned=False)] == [True]


def test_prompts_tell_what_versions_in_use_know(ledger: Ledger) -> None:
    add(ledger, event("1"))
    placed(ledger)
    ledger.versions.add(version_row(1, "r"))
    ledger.events.mark_known(SHELL, ["g"], "shell.v1")
    add(ledger, event("1", deleted=True))
    assert [one.in_use for one in ledger.events.prompts("shell", SHELL.base)] == [False]
    ledger.versions.set_state("shell.v1", VersionState.PROMOTED)
    assert [one.in_use for one in ledger.events.prompts("shell", SHELL.base)] == [True]
    assert [one.in_use for one in ledger.events.prompts("shell", OTHER_BASE.base)] == [False]


def test_what_a_run_looked_at_is_not_fresh_and_what_it_learned_is_trained_on(ledger: Ledger) -> None:
    add(ledger, event("1", "a"), event("2", "b"))
    assert available(ledger) == 2
    ledger.events.mark_batched(SHELL, "run", [event("1", "a"), event("2", "b")])
    ledger.events.mark_trained(SHELL, "run", [event("1", "a")], "tag.v1")
    ledger.events.mark_batched(SHELL, "run", [event("1", "a")])
    assert available(ledger) == 0
    rows = ledger.events.of_specialty(SHELL, with_unassigned=False)
    assert [(row.event.id, row.trained_on) for row in rows] == [("1", True), ("2", False)]
    assert ledger.events.statistics(SHELL, with_unassigned=False).batches_made == 1


def test_what_the_incumbent_inherited_is_told_from_what_other_versions_learned(ledger: Ledger) -> None:
    """The second was promoted over the first and taken back, the third over the first. The fourth was discarded."""
    events = [replace(event(str(number), "a"), input_data=f"Ask {number}") for number in range(5)]
    add(ledger, *events)
    incumbents = {1: "base", 2: "shell.v1", 3: "shell.v1", 4: "shell.v3"}
    for number, incumbent in incumbents.items():
        ledger.runs.create(replace(RUN_ROW, id=f"r{number}"))
        ledger.versions.add(version_row(number, f"r{number}"))
        ledger.evidence.store(f"r{number}", SHELL, incumbent, log_e_value=0.0, asked=(), counted=())
        ledger.events.mark_trained(SHELL, f"r{number}", [events[number]], f"shell.v{number}")
    assert ledger.versions.lineage("shell.v3") == ("shell.v3", "shell.v1")
    assert ledger.versions.lineage("base") == ()
    lineage = ledger.versions.lineage("shell.v3")
    rows = ledger.events.of_specialty(SHELL, with_unassigned=False, lineage=lineage)
    assert [row.event.id for row in rows if row.inherited] == ["1", "3"]
    assert [row.event.id for row in rows if row.trained_on] == ["1", "2", "3", "4"]


def test_a_group_is_known_to_what_is_in_use_also_when_its_events_change(ledger: Ledger) -> None:
    add(ledger, event("1", "a"), replace(event("2", "b"), input_data="List users"))
    ledger.versions.add(version_row(1, "r"))
    first, second = ledger.events.of_specialty(SHELL, with_unassigned=False)
    ledger.events.mark_known(SHELL, [first.group or ""], "shell.v1")

    def in_use() -> list[bool]:
        return [row.in_use for row in ledger.events.of_specialty(SHELL, with_unassigned=False)]

    assert first.group != second.group
    assert in_use() == [False, False]
    ledger.versions.set_state("shell.v1", VersionState.PROMOTED)
    assert in_use() == [True, False]
    add(ledger, replace(event("1", "a"), corrected_output="another", timestamp=NOW + timedelta(hours=1)))
    assert in_use() == [True, False]
    ledger.versions.set_state("shell.v1", VersionState.RETIRED)
    assert in_use() == [True, False]
    ledger.versions.set_state("shell.v1", VersionState.DISCARDED)
    assert in_use() == [False, False]


def test_a_copy_of_a_used_event_is_not_fresh(ledger: Ledger) -> None:
    add(ledger, event("1"))
    ledger.events.mark_batched(SHELL, "run", [event("1")])
    add(ledger, event("2"))
    assert available(ledger) == 0
    add(ledger, event("1", deleted=True))
    assert available(ledger) == 0


def test_a_changed_event_is_fresh_again(ledger: Ledger) -> None:
    add(ledger, event("1", "a"))
    ledger.events.mark_batched(SHELL, "run", [event("1", "a")])
    add(ledger, event("1", "b"))
    assert available(ledger) == 1


def test_an_event_that_changed_while_its_run_went_on_stays_fresh(ledger: Ledger) -> None:
    add(ledger, event("1", "a"))
    add(ledger, event("1", "b"))
    ledger.events.mark_batched(SHELL, "run", [event("1", "a")])
    ledger.events.mark_trained(SHELL, "run", [event("1", "a")], "tag.v1")
    assert available(ledger) == 1
    assert not ledger.events.of_specialty(SHELL, with_unassigned=False)[0].trained_on


def test_a_withdrawal_that_comes_first_holds(ledger: Ledger) -> None:
    add(ledger, event("1", deleted=True))
    add(ledger, event("1"))
    assert ids(ledger) == []
    assert ledger.events.total() == 0


def test_what_was_withdrawn_does_not_come_back_by_being_read_again(ledger: Ledger) -> None:
    add(ledger, event("1"))
    add(ledger, event("1", deleted=True))
    add(ledger, event("1"))
    assert ids(ledger) == []
    add(ledger, replace(event("1"), timestamp=NOW + timedelta(hours=1)))
    assert ids(ledger) == ["1"]


def test_versions_decide_between_an_event_and_its_withdrawal(ledger: Ledger) -> None:
    add(ledger, event("1", version="7"), event("1", version="1", deleted=True))
    assert ids(ledger) == ["1"]
    add(ledger, event("1", version="8", deleted=True), event("1", version="2"))
    assert ids(ledger) == []
    add(ledger, event("1", version="9"))
    assert ids(ledger) == ["1"]


def test_an_older_record_that_is_read_later_does_not_win(ledger: Ledger) -> None:
    add(ledger, replace(event("1", "corrected"), timestamp=NOW + timedelta(hours=1)))
    assert add(ledger, event("1", "first")).conflicts == 1
    assert ledger.events.of_specialty(SHELL, with_unassigned=False)[0].event.ai_output == "corrected"


def test_of_two_verdicts_on_one_answer_the_last_counts(ledger: Ledger) -> None:
    add(ledger, event("1"), replace(event("2"), feedback_type=FeedbackType.EXPLICIT_NEGATIVE, validation_score=0))
    assert ids(ledger) == ["2"]


def test_the_same_answer_in_another_context_is_another_content(ledger: Ledger) -> None:
    add(ledger, event("1"), replace(event("2"), context=Context(system="Answer in French.")))
    assert ids(ledger) == ["1", "2"]


def test_a_specialty_does_not_use_up_the_events_of_another(ledger: Ledger) -> None:
    add(ledger, event("1"), base=None)
    ledger.events.mark_batched(OTHER_BASE, "run", [event("1")])
    assert ledger.events.statistics(SHELL, with_unassigned=True).available == 1
    assert ledger.events.statistics(OTHER_BASE, with_unassigned=True).available == 0


def test_statistics_of_nothing(ledger: Ledger) -> None:
    found = ledger.events.statistics(SHELL, with_unassigned=True)
    assert (found.available, found.total_seen, found.average_quality) == (0, 0, 0.5)


def test_the_quality_of_a_correction_is_not_that_of_the_answer_it_corrects(ledger: Ledger) -> None:
    def quality() -> float:
        return ledger.events.statistics(SHELL, with_unassigned=True).average_quality

    corrected = [replace(event(name, name), corrected_output="ls -l", validation_score=20) for name in "12"]
    add(ledger, *corrected, replace(event("3", "3"), corrected_output="ls -a", validation_score=None))
    assert quality() == 1.0
    add(ledger, event("4", "4"), replace(event("5", "5"), validation_score=None))
    # of five, one has a score of 90, and one none
    assert quality() == pytest.approx((3 + 0.9) / 4)


def test_of_what_was_withdrawn_only_the_withdrawal_is_kept(ledger: Ledger) -> None:
    add(ledger, event("1"))
    add(ledger, event("1", deleted=True))
    row = ledger.events.get("dropdir/1")
    assert row is not None
    assert row.event == replace(event("1", deleted=True), input_data="", ai_output=None, validation_score=None)
    assert ledger.events.get("dropdir/2") is None


arrivals = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["x", "y", "z"]),
        st.one_of(st.none(), st.integers(0, 5).map(str)),
        st.booleans(),
    ),
    max_size=25,
)


@given(arrivals, st.integers(1, 5))
def test_any_order_of_arrival_ends_as_a_simple_model_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str | None, bool]], batch: int
) -> None:
    ledger = Ledger.open(tmp_path_factory.mktemp("ledger") / "ledger.sqlite3")
    expected: dict[str, Event] = {}
    versions: dict[str, int | None] = {}
    gone: set[str] = set()
    events = [event(name, answer, version, deleted=deleted) for name, answer, version, deleted in steps]
    for one in events:
        version = None if one.metadata.source_version is None else int(one.metadata.source_version)
        known = versions.get(one.id)
        order = 0 if version is None or known is None else version - known
        if one.id not in expected:
            expected[one.id], versions[one.id] = one, version
            gone |= {one.id} if one.metadata.deleted else set()
        elif one.metadata.deleted and one.id not in gone and order >= 0:
            gone.add(one.id)
            versions[one.id] = known if version is None else version
        elif not one.metadata.deleted and (order > 0 or (order == 0 and one.id not in gone)):
            expected[one.id], versions[one.id] = one, version
            gone.discard(one.id)
    for start in range(0, len(events), batch):
        add(ledger, *events[start : start + batch])
    alive = {name: one for name, one in expected.items() if name not in gone}
    rows = ledger.events.of_specialty(SHELL, with_unassigned=False)
    assert {row.event.ai_output for row in rows} == {one.ai_output for one in alive.values()}
    assert len(rows) == len({row.event.ai_output for row in rows})
    assert ledger.events.total() == len(alive)
    assert all(expected[row.event.id] == row.event for row in rows)
    ledger.close()


# --------------------------------------------------------------------------- what the track record is made of


def asked(
    number: int,
    text: str | None = None,
    *,
    timestamp: datetime = NOW,
    feedback_type: FeedbackType = FeedbackType.SUCCESS,
    metadata: Metadata | None = None,
) -> Event:
    return replace(
        event(f"e{number}"),
        input_data=text or f"prompt {number}",
        timestamp=timestamp,
        feedback_type=feedback_type,
        metadata=metadata or Metadata(),
    )


def test_feedback_in_use_is_in_order_of_its_own_time_and_each_prompt_is_heard_once(ledger: Ledger) -> None:
    bad = FeedbackType.EXPLICIT_NEGATIVE
    add(
        ledger,
        asked(1, timestamp=NOW + timedelta(days=2)),
        asked(2, timestamp=NOW + timedelta(days=1), feedback_type=bad),
        asked(3, "said twice", timestamp=NOW + timedelta(days=3)),
        replace(asked(4, "said twice", timestamp=NOW + timedelta(days=4), feedback_type=bad), ai_output="other"),
        asked(5, metadata=Metadata(weak=True)),
        asked(6, metadata=Metadata(demonstration=True)),
        asked(7, metadata=Metadata(preference=True)),
    )
    add(ledger, asked(8), base=OTHER_BASE.base)
    found = ledger.events.said(SHELL, 10)
    days = [(1, True), (2, False), (4, True)]
    assert found == tuple(Said(at=NOW + timedelta(days=day), negative=negative) for day, negative in days)
    assert len(ledger.events.said(SHELL, 2)) == 2


def test_a_wrong_clock_does_not_reorder_feedback(ledger: Ledger) -> None:
    late = asked(1, timestamp=datetime(2099, 1, 1, tzinfo=UTC), metadata=Metadata(clock_flag=True))
    add(ledger, late, asked(2, timestamp=NOW + timedelta(days=1)))
    assert [one.at for one in ledger.events.said(SHELL, 10)] == [NOW, NOW + timedelta(days=1)]


@pytest.mark.parametrize(
    ("count", "limit", "recent", "earlier"), [(0, 50, 0, 0), (10, 50, 5, 5), (60, 50, 20, 40), (400, 50, 50, 50)]
)
def test_incoming_prompts_are_the_newest_and_a_sample_of_all_times_before(
    ledger: Ledger, count: int, limit: int, recent: int, earlier: int
) -> None:
    add(ledger, *(asked(number) for number in range(count)))
    add(ledger, *(asked(1000 + number, f"prompt {number}") for number in range(min(5, count))))
    found = ledger.events.incoming_prompts(SHELL, limit)
    assert found.recent == tuple(f"prompt {number}" for number in range(count - recent, count))
    assert len(found.earlier) == earlier
    assert not set(found.earlier) & set(found.recent)
    if earlier:
        assert found.earlier[0] == "prompt 0"


def test_long_prompts_are_cut_and_unassigned_ones_are_among_them(ledger: Ledger) -> None:
    add(ledger, asked(1, "x" * 5000))
    add(ledger, asked(2, "of nobody"), base=None)
    add(ledger, asked(3, "of another"), base=OTHER_BASE.base)
    assert ledger.events.incoming_prompts(SHELL, 5) == IncomingPrompts(
        recent=("of nobody",), earlier=("x" * PROMPT_LETTERS,)
    )


def test_a_person_names_an_event_by_its_key_or_its_id(ledger: Ledger) -> None:
    add(ledger, event("1"), replace(event("1", answer="else"), source="chat"), event("2"))
    assert ledger.events.keys_of("chat/1") == ("chat/1",)
    assert ledger.events.keys_of("2") == ("dropdir/2",)
    assert ledger.events.keys_of("1") == ("chat/1", "dropdir/1")
    assert ledger.events.keys_of("nobody") == ()


def test_a_key_is_meant_before_an_id_that_looks_like_it(ledger: Ledger) -> None:
    add(ledger, event("1"), replace(event("dropdir/1", answer="else"), source="chat"))
    assert ledger.events.keys_of("dropdir/1") == ("dropdir/1",)


def test_of_a_pooled_specialty_an_event_has_the_side_of_all_types(ledger: Ledger) -> None:
    add(ledger, event("1"))
    ledger.events.set_sides("all", [SideChoice(key="group of List files", side=Side.HELD_OUT)])
    apart, pooled = (ledger.events.get("dropdir/1", pooled=one) for one in (False, True))
    assert apart is not None
    assert pooled is not None
    assert (apart.side, pooled.side) == (None, Side.HELD_OUT)
