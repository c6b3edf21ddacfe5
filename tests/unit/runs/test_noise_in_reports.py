"""What the morning report says of feedback that looks wrong."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nightschool_daemon.jobs import FINDINGS, EventRow, NoiseRow, RunDirectory, Step, write_lines
from nightschool_daemon.reporting.sheet import Section
from nightschool_daemon.runs.fates import Fates
from nightschool_daemon.runs.sheets import noise_sections
from nightschool_hookspecs import NoiseFinding, Side
from nightschool_hookspecs.records import TrainingMethod
from nightschool_hookspecs.testing import sample_event
from support.step_results import SELECTED

CHOSEN = replace(
    SELECTED,
    sources={
        TrainingMethod.SFT: ("dropdir/0", "dropdir/1", "dropdir/4"),
        TrainingMethod.DPO: ("dropdir/0", "dropdir/4"),
    },
)


def run(place: Path, *findings: NoiseFinding, held_out: Sequence[str] = ()) -> RunDirectory:
    directory = RunDirectory(path=place)
    for step in (Step.PREPARE, Step.SELECT):
        directory.begin(step)
    events = [sample_event(f"{number}", input_data=f"list `{number}`\nplease") for number in range(9)]
    rows = [EventRow(event=one, group=one.id, side=None, trained_on=False, arrival=1) for one in events]
    write_lines(directory.step(Step.PREPARE) / "events.jsonl", rows)
    sides = {one.event_id: Side.HELD_OUT if one.event_id in held_out else Side.TRAINING for one in findings}
    doubts = [NoiseRow(finding=one, side=sides[one.event_id]) for one in findings]
    write_lines(directory.step(Step.SELECT) / FINDINGS, doubts)
    directory.finish(Step.SELECT, CHOSEN)
    return directory


def told(place: Path, *findings: NoiseFinding, held_out: Sequence[str] = ()) -> list[Section]:
    directory = run(place, *findings, held_out=held_out)
    return list(noise_sections(directory, Fates(directory, (), is_over=True)))


def finding(number: int, factor: float, contradicts: str | None = "dropdir/8") -> NoiseFinding:
    return NoiseFinding(
        event_id=f"dropdir/{number}", factor=factor, reason="2 others want more", contradicts=contradicts
    )


def test_the_gravest_are_told_with_their_prompt_their_reason_and_what_it_means(tmp_path: Path) -> None:
    found = [finding(number, factor) for number, factor in enumerate((1.0, 0.4, 0.0, 0.6, 0.7, 0.8))]
    (section,) = told(tmp_path, *found, held_out=["dropdir/3"])
    assert section.title == "What looks wrong in your feedback"
    assert section.sentences[0] == "6 pieces of your feedback may be wrong or overtaken, of which these 5 look worst."
    assert "`nightschool explain EVENT`" in section.sentences[1]
    assert section.points == (
        "`dropdir/2` (`list '2' please`): 2 others want more (`dropdir/8`). Nothing is learned from it.",
        "`dropdir/1` (`list '1' please`): 2 others want more (`dropdir/8`). It counts 40% of its weight.",
        "`dropdir/3` (`list '3' please`): 2 others want more (`dropdir/8`). "
        "It is kept for the exam, where it counts as it is.",
        "`dropdir/4` (`list '4' please`): 2 others want more (`dropdir/8`). "
        "It counts 70% of its weight as a wanted answer, and in full as a preference.",
        "`dropdir/5` (`list '5' please`): 2 others want more (`dropdir/8`). This run learns nothing from it.",
    )


def test_what_is_only_shown_counts_as_ever(tmp_path: Path) -> None:
    (section,) = told(tmp_path, finding(0, 1.0, None))
    assert section.sentences[0] == "1 piece of your feedback may be wrong or overtaken."
    assert section.points == ("`dropdir/0` (`list '0' please`): 2 others want more. It counts as ever.",)


def test_where_nothing_looks_wrong_nothing_is_said(tmp_path: Path) -> None:
    assert told(tmp_path) == []
