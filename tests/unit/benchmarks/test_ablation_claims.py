"""Ten claims and their figures, the tables, and that finished cells stay finished."""

import dataclasses
import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from benchmarks import ablation, results
from benchmarks.ablation import pages
from benchmarks.ablation.cells import SHOWS, BaseResult, Block, Cell, Cost, Made, Result, file_of
from benchmarks.ablation.claims import CLAIMS, arms, component, needed
from benchmarks.ablation.components import BASE, CURVE, ORACLE, RAW, Component, alone, default, measured, whole, without
from benchmarks.ablation.decisions import Decision, Default
from benchmarks.ablation.effects import Figure
from benchmarks.ablation.measures import Losses, Taken
from benchmarks.ablation.records import Kind, Records, rare_places, read
from benchmarks.learning import FULL, PAGE, cells, unfinished

BLOCKS = [Block(model="gemma", task=task, seed=seed) for task in FULL.sizes for seed in (0, 1)]
FRESH = [Block(model=model, task=task, seed=2) for task in FULL.sizes for model in FULL.models]
PARTS = measured()


def made(block: Block, code: str = "now") -> Made:
    return Made(size=FULL.sizes[block.task], code=code, tables="")


def losses(mean: float, count: int) -> Losses:
    return Losses(nats=(mean,) * count, tokens=(10,) * count)


def taken(block: Block, learned: float, score: float, forgotten: float) -> Taken:
    """A model that takes so much of the base's loss away, scores so much, and forgets so many nats a token."""
    size = FULL.sizes[block.task]
    # chance differs from block to block, and a little from arm to arm
    jitter = 0.01 * math.sin(3 * block.seed + len(block.task) + 10 * learned)
    return Taken(
        held_out=losses(50 * (1 - learned - jitter), size.held_out),
        general=losses(20 + 10 * forgotten, 34),
        scores=(100 * (score + jitter),) * size.asked,
        slipped=(100 * (score + jitter),) * size.slipped,
    )


def result(block: Block, learned: float, score: float, forgotten: float = 0.5, *, tokens: int = 1000) -> Result:
    cost = Cost(
        budget=tokens,
        tokens=tokens,
        epochs=3,
        examples=10,
        added=0,
        pairs=0,
        sampled=0,
        searched=0,
        selecting_s=1.0,
        training_s=9.0,
        peak_mb=1000.0,
    )
    return Result(made=made(block), taken=taken(block, learned, score, forgotten), cost=cost, spread=SPREAD)


def base(block: Block) -> BaseResult:
    size = FULL.sizes[block.task]
    untaught = Taken(
        held_out=losses(50.0, size.held_out),
        general=losses(20.0, 34),
        scores=(20.0,) * size.asked,
        slipped=(20.0,) * size.slipped,
    )
    return BaseResult(made=made(block), taken=untaught, closing="", said={}, own=())


SPREAD = {"priorities": 0.4, "scores": 20.0, "weights": 0.0, "difficulties": 0.2}
BY_CELLS = tuple(claim for claim in CLAIMS if claim.part != "similarity")
"""The other takes its figure from labelled pairs, which is no matter of cells."""


def findings_of(records: Records) -> pages.Findings:
    return dataclasses.replace(pages.Findings.of(records, FULL.fresh_seeds), claims=BY_CELLS)


@pytest.fixture
def records() -> Records:
    """A bench in which `duplicates` helps, everything together helps more, and the rest does nothing."""
    found: dict[tuple[str, Block], Result] = {}
    for block in BLOCKS:
        for arm in (RAW, *map(alone, PARTS), *arms(PARTS)):
            found[arm.name, block] = result(block, 0.4, 0.5)
        for arm, learned in zip(CURVE, (0.1, 0.2, 0.3), strict=True):
            found[arm.name, block] = result(block, learned, 0.4)
        found["active-0.5", block] = result(block, 0.4, 0.5)
        found["duplicates", block] = result(block, 0.48, 0.6)
        for arm in (ORACLE, whole(PARTS), default(()), default((component("duplicates"),))):
            found[arm.name, block] = result(block, 0.5, 0.62, 0.1)
        for one in PARTS:
            found[without(one, PARTS).name, block] = result(block, 0.49, 0.61, 0.4)
    bases = {block: base(block) for block in (*BLOCKS, *FRESH)}
    ours = pages.Findings.of(Records(sizes=FULL.sizes, bases=bases, results=found), FULL.fresh_seeds).default
    for block in FRESH:
        for arm, learned in ((RAW, 0.4), (ORACLE, 0.5), (default(()), 0.4), (ours, 0.5)):
            found[arm.name, block] = result(block, learned, learned + 0.1, 0.1)
    return Records(sizes=FULL.sizes, bases=bases, results=found)


# --------------------------------------------------------------------------- figures


def test_shares_are_what_is_taken_of_the_bases_loss(records: Records) -> None:
    block = BLOCKS[0]
    assert records.share(RAW.name, block, Kind.LEARNED) == pytest.approx(0.4, abs=0.011)
    assert records.share(BASE.name, block, Kind.LEARNED) == 0
    assert records.share(BASE.name, block, Kind.SCORE) == pytest.approx(0.2)
    assert records.share(RAW.name, block, Kind.FORGOTTEN) == pytest.approx(0.5)


def test_nothing_is_said_of_what_nobody_was_asked(records: Records) -> None:
    diagrams = next(block for block in BLOCKS if block.task == "diagrams")
    assert records.share(RAW.name, diagrams, Kind.SLIPPED) is None


def test_edge_cases_are_some_of_the_prompts_that_are_asked() -> None:
    for task, size in FULL.sizes.items():
        assert 0 < len(rare_places(task, size, 0)) < size.asked


def test_a_curve_tells_how_much_is_needed() -> None:
    shares = [0.125, 0.25, 0.5, 1.0]
    curve = [0.1, 0.2, 0.3, 0.4]
    assert [needed(curve, shares, one) for one in curve] == pytest.approx(shares)
    assert needed(curve, shares, 0.35) == pytest.approx(math.sqrt(0.5))
    assert (needed(curve, shares, 0.0), needed(curve, shares, 0.9)) == pytest.approx((0.125, 1.0))


def test_a_dent_in_a_curve_is_noise() -> None:
    assert needed([0.1, 0.3, 0.2, 0.4], [0.125, 0.25, 0.5, 1.0], 0.25) < 0.25


def test_half_a_night_that_teaches_as_much_as_a_whole_one_is_twice_as_efficient(records: Records) -> None:
    claim = next(one for one in CLAIMS if one.part == "active selection")
    found = claim.take(records)
    assert found is not None
    assert found.value == pytest.approx(2.0, rel=0.2)


def test_there_are_ten_claims() -> None:
    assert len({claim.part for claim in CLAIMS}) == 10
    assert all(claim.goal > 1 for claim in CLAIMS)


# --------------------------------------------------------------------------- what is shown


def test_what_helps_is_told_and_the_default_has_all_that_is_on(records: Records) -> None:
    findings = findings_of(records)
    helpful = {name for name, one in findings.decisions.items() if one.default is Default.HELPS}
    assert helpful == {"duplicates"}
    on = {name for name, one in findings.decisions.items() if one.is_on}
    assert {one.name for one in findings.default.components} == {name for name in on if not component(name).variant_of}


def test_of_the_settings_of_one_part_the_surest_becomes_the_default(records: Records) -> None:
    surest = Decision(default=Default.HELPS, reason="", p_better=0.001, detectable=0.1)
    decisions = {
        "rehearsal": dataclasses.replace(surest, p_better=0.01),
        "rehearsal-5": dataclasses.replace(surest, default=Default.OFF),
        "rehearsal-25": surest,
        "duplicates": surest,
    }
    found = dataclasses.replace(findings_of(records), decisions=decisions).default
    assert {one.name for one in found.components} == {"rehearsal-25", "duplicates"}


def test_rows_hold_their_goals_or_do_not(records: Records) -> None:
    rows = list(pages.rows(findings_of(records)))
    assert len(rows) == 7 + len(BY_CELLS)
    assert all(set(row) == {"measure", "ours", "peer", "ratio", "goal", "holds"} for row in rows)
    told = {str(row["measure"]).partition(" (95 %")[0]: row["holds"] for row in rows}
    assert told["active selection: efficiency +30 %: fewer examples for the same quality"] is True
    assert told["reward: model quality +20 %"] is False
    assert told["held-out loss taken away, default pipeline / raw pool"] is True
    assert told["held-out loss taken away, today's default / raw pool, as a control"] is None
    json.loads(json.dumps(rows, allow_nan=False))


def test_a_goal_is_held_or_missed_by_the_whole_interval() -> None:
    figure = Figure(value=1.2, low=1.1, high=1.4)
    assert [pages.held(figure, goal, at_most=False) for goal in (1.1, 1.15, 1.5)] == [True, None, False]
    assert [pages.held(figure, goal, at_most=True) for goal in (1.4, 1.15, 1.0)] == [True, None, False]


def test_what_decides_is_not_what_shows_it(records: Records) -> None:
    spoiled = {
        (arm, block): result(block, 0.9, 0.9) if block in FRESH and arm != RAW.name else one
        for (arm, block), one in records.results.items()
    }
    findings = findings_of(dataclasses.replace(records, results=spoiled))
    assert findings.decisions == findings_of(records).decisions
    assert set(findings.fresh.blocks(RAW.name)) == set(FRESH)
    assert set(findings.records.blocks(RAW.name)) == set(BLOCKS)


def test_until_the_decided_pipeline_is_run_todays_is_shown(records: Records) -> None:
    decided = findings_of(records).default
    assert findings_of(records).headline == decided != default(())
    left = {key: one for key, one in records.results.items() if key != (decided.name, FRESH[0])}
    findings = findings_of(dataclasses.replace(records, results=left))
    assert findings.headline == default(())
    assert "today's default" in str(next(pages.rows(findings))["measure"])


def test_missing_plugins_are_told(records: Records) -> None:
    elsewhere = Component(name="elsewhere", plugins=("not_written_yet",))
    claim = dataclasses.replace(BY_CELLS[0], needs=(elsewhere,))
    findings = dataclasses.replace(findings_of(records), claims=(claim,))
    (row,) = list(pages.rows(findings))[7:]
    assert (row["ours"], row["holds"]) == (None, None)
    assert "not there: `not_written_yet`" in str(row["measure"])
    assert "not there: `not_written_yet`" in pages.claims_table(findings)


def test_tables_have_a_line_for_everything(records: Records) -> None:
    findings = findings_of(records)
    table = pages.arms_table(findings)
    assert all(f"| {alone(one).name} |" in table for one in PARTS)
    assert all(len(line.split(" | ")) == 14 for line in table.splitlines() if line.startswith("| "))
    assert pages.claims_table(findings).count("\n") == 1 + len(BY_CELLS)


def test_what_was_not_run_is_named(records: Records) -> None:
    def named(results: Mapping[tuple[str, Block], Result]) -> str:
        table = pages.arms_table(findings_of(dataclasses.replace(records, results=results)))
        return "\n".join(line for line in table.splitlines() if line.startswith("Not measured beside it: "))

    assert "noise" not in named(records.results)
    assert "noise" in named({key: one for key, one in records.results.items() if key[0] != "noise"})


def test_a_part_that_could_tell_nothing_apart_is_marked(records: Records) -> None:
    lines = pages.arms_table(findings_of(records)).splitlines()
    told = {line.partition(",")[0]: line.count("no signal") for line in lines if "standard deviation" in line}
    told_apart = dict.fromkeys(("plain", "reward", "active", "curriculum"), 0)
    assert told == told_apart | dict.fromkeys(("noise", "negatives"), len(BLOCKS))


def test_a_search_is_part_of_what_an_arm_takes(records: Records) -> None:
    block = BLOCKS[0]
    one = records.results["tuning", block]
    dear = dataclasses.replace(one, cost=dataclasses.replace(one.cost, searched=3 * one.cost.tokens))
    found = dataclasses.replace(records, results={(RAW.name, block): one, ("tuning", block): dear})
    assert pages.costs(found, "tuning", RAW.name)["tokens"] == 4


def test_nothing_is_shown_of_nothing(tmp_path: Path) -> None:
    findings = findings_of(read(tmp_path, FULL.sizes, None))
    assert findings.decisions == {}
    assert findings.default == default(())
    rows = list(pages.rows(findings))
    assert {row["holds"] for row in rows} == {None}
    assert all("(not measured)" in str(row["measure"]) or "(not there:" in str(row["measure"]) for row in rows)
    pages.draw(findings, tmp_path / "plot.svg")
    assert not (tmp_path / "plot.svg").exists()


def test_the_plot_is_the_same_each_time(records: Records, tmp_path: Path) -> None:
    findings = findings_of(records)
    for name in ("first.svg", "second.svg"):
        pages.draw(findings, tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_the_page_has_a_place_for_each_table(tmp_path: Path) -> None:
    copy = tmp_path / PAGE.name
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("arms", "claims"):
        results.put_into(copy, name, f"the table {name}")
        assert f"the table {name}" in copy.read_text(encoding="utf-8")


# --------------------------------------------------------------------------- going on


def keep(directory: Path, kept: dict[str, BaseResult | Result]) -> None:
    wanted = {file_of(directory, name): partial(_as_it_is, one) for name, one in kept.items()}
    results.carry_out(wanted, math.inf)


def _as_it_is(one: BaseResult | Result) -> BaseResult | Result:
    return one


def test_finished_cells_are_read_as_they_were_kept(tmp_path: Path) -> None:
    block = Block(model="smollm2", task="shell", seed=3)
    untaught, taught = base(block), result(block, 0.4, 0.5)
    keep(tmp_path, {f"smollm2-shell-{BASE.name}-3": untaught, "smollm2-shell-without-hard-d9db-3": taught})
    found = read(tmp_path, FULL.sizes, "now")
    assert found.bases == {block: untaught}
    assert found.results == {("without-hard-d9db", block): taught}


def test_what_was_made_of_something_else_does_not_count(tmp_path: Path) -> None:
    block = BLOCKS[0]
    one = result(block, 0.4, 0.5)
    larger = dataclasses.replace(one.made, size=dataclasses.replace(one.made.size, night=1000))
    of_kind = {
        "same": one,
        "other-code": dataclasses.replace(one, made=dataclasses.replace(one.made, code="then")),
        "other-size": dataclasses.replace(one, made=larger),
    }
    keep(tmp_path, {f"gemma-shell-{kind}-0": kept for kind, kept in of_kind.items()})
    file_of(tmp_path, "gemma-shell-other-form-0").write_text("{}", encoding="utf-8")
    assert {arm for arm, _ in read(tmp_path, FULL.sizes, "now").results} == {"same"}
    assert {arm for arm, _ in read(tmp_path, FULL.sizes, None).results} == {"same", "other-code"}


def test_a_cell_that_is_finished_is_not_run_again(tmp_path: Path) -> None:
    extent = dataclasses.replace(FULL, results=tmp_path, code="now")
    wanted = list(cells(extent))
    assert len(unfinished(wanted, extent)) == len({cell.name for cell in wanted})
    keep(tmp_path, {wanted[0].name: base(wanted[0].block)})
    assert wanted[0].name not in {cell.name for cell in unfinished(wanted, extent)}
    assert wanted[0].name in {cell.name for cell in unfinished(wanted, dataclasses.replace(extent, code="then"))}


def test_what_only_shows_results_is_no_reason_to_measure_again() -> None:
    there = {file.name for file in Path(ablation.__file__).parent.glob("*.py")}
    assert there > SHOWS


def test_a_result_is_that_of_its_cell() -> None:
    cell = Cell(block=BLOCKS[0], arm=whole(PARTS))
    assert file_of(Path("there"), cell.name).name == f"gemma-shell-{whole(PARTS).name}-0.json"
