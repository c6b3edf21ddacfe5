"""Components as records, and the configurations that are made of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ablation import claims
from benchmarks.ablation.cells import Block, Cell
from benchmarks.ablation.components import (
    BASE,
    COMPONENTS,
    CURVE,
    ORACLE,
    PASSES,
    RAW,
    RAW_WITHOUT,
    Arm,
    Component,
    Pipeline,
    alone,
    default,
    halved,
    joined,
    joining,
    measured,
    peer_of,
    toml,
    whole,
    without,
)
from benchmarks.ablation.selection_random import nightschool_select_events
from benchmarks.learning import FULL, QUICK, Extent, cells, decided, every, left_out
from nightschool_daemon import config
from nightschool_daemon.hooks import BUILT_IN, Hooks, PluginState
from nightschool_daemon.hooks.sources import OPTIONAL
from nightschool_hookspecs import Budget, ScoredEvent
from nightschool_hookspecs.testing import sample_event

SIZE = FULL.sizes["shell"]
THERE = Component(name="there", plugins=("selection_active",))
THERE_ALREADY = next(one for one in measured() if one.name == "reward")
ELSEWHERE = Component(name="elsewhere", plugins=("selection_active", "not_written_yet"))
ARMS = (RAW, ORACLE, whole(measured()), default(()), *map(alone, measured()))


def asked_in(arm: Arm, directory: Path) -> set[str]:
    """The plugins that are asked where an arm is installed."""
    file = directory / "config.toml"
    file.write_text(toml(arm.tables(SIZE, 0)), encoding="utf-8")
    settings = config.load(file)
    hooks = Hooks.load(plugin_directory=None, tables=settings.plugin_tables, plugins=settings.plugins)
    return {one.name for one in hooks.status() if one.state is PluginState.ACTIVE}


def test_what_is_not_there_is_told_and_left_out() -> None:
    assert ELSEWHERE.missing == ("not_written_yet",)
    assert measured((THERE, ELSEWHERE)) == (THERE,)


def test_what_no_night_can_show_is_left_out() -> None:
    assert measured((Component(name="when", why_not="it says when"),)) == ()


def test_every_optional_built_in_belongs_to_a_component() -> None:
    assert {name for one in COMPONENTS for name in one.plugins} >= OPTIONAL


def test_names_are_unique() -> None:
    for names in ([one.name for one in COMPONENTS], [one.name for one in ARMS]):
        assert len(set(names)) == len(names)


def test_the_raw_pool_is_neither_weighed_nor_chosen_from(tmp_path: Path) -> None:
    asked = asked_in(RAW, tmp_path)
    assert asked.isdisjoint({*RAW_WITHOUT, *OPTIONAL})
    assert RAW.samples


@pytest.mark.parametrize("one", measured(), ids=lambda one: one.name)
def test_a_component_alone_adds_its_own_plugins_and_no_other(one: Component, tmp_path: Path) -> None:
    asked = asked_in(alone(one), tmp_path)
    assert asked - asked_in(RAW, tmp_path) == set(one.plugins) - asked_in(RAW, tmp_path)
    assert asked >= set(one.plugins)
    assert alone(one).samples is not one.chooses


@pytest.mark.parametrize("one", joining(measured()), ids=lambda one: one.name)
def test_everything_but_one_lacks_what_only_that_one_has(one: Component, tmp_path: Path) -> None:
    others = {name for other in joining(measured()) if other != one for name in other.plugins}
    everything, but_one = (asked_in(arm, tmp_path) for arm in (whole(measured()), without(one, measured())))
    assert everything - but_one == set(one.plugins) - others - asked_in(default(()), tmp_path)


def test_the_default_is_what_is_asked_anyway_and_the_winners(tmp_path: Path) -> None:
    by_default = set(BUILT_IN) - OPTIONAL
    assert asked_in(default(()), tmp_path) == by_default
    assert asked_in(default((THERE,)), tmp_path) == by_default | {"selection_active"}


def test_pipelines_of_other_parts_have_other_names() -> None:
    assert whole((THERE,)).name != whole(()).name
    assert default((THERE,)).name != default(()).name


def test_an_arm_is_held_against_as_much_of_the_raw_pool() -> None:
    often = Component(name="often", passes=12, watches=True)
    assert peer_of(alone(THERE)) == RAW
    assert peer_of(halved(THERE)) == next(one for one in CURVE if one.share == 0.5)
    assert (peer_of(alone(often)).passes, peer_of(alone(often)).watches) == (12, False)
    assert peer_of(alone(often)).tokens(SIZE) == alone(often).tokens(SIZE) == 4 * SIZE.tokens


def test_a_search_has_the_epochs_of_the_raw_pool_and_batches_around_its_own() -> None:
    tuning = alone(claims.component("tuning"))
    assert (peer_of(tuning), tuning.passes, tuning.watches) == (RAW, PASSES, True)
    assert tuning.tokens(SIZE) == RAW.tokens(SIZE)
    searched = tuning.tables(SIZE, 0)["plugins.tuning_optuna"]
    assert (searched["num_epochs"], searched["batch_size"]) == ([PASSES, PASSES], [SIZE.batch, 2 * SIZE.batch])


def test_preferences_alone_are_nothing_without_pairs() -> None:
    assert alone(claims.component("preferences")).is_of_pairs
    assert not any(arm.is_of_pairs for arm in (RAW, whole(measured()), alone(THERE_ALREADY)))


def test_later_tables_count() -> None:
    assert joined({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": {}}) == {"a": {"x": 1, "y": 3}, "b": {}}


def test_the_most_informative_cells_come_first() -> None:
    order = [cell.arm.name for cell in (*cells(FULL), *left_out(FULL))]
    awaited = (BASE, RAW, alone(THERE_ALREADY), ORACLE, default(()), whole(measured()))
    places = [order.index(arm.name) for arm in awaited]
    assert places == sorted(places)
    other = Block(model="smollm2", task="shell", seed=1)
    assert next(cell.arm for cell in cells(FULL) if cell.block == other) == BASE


def test_what_asks_its_base_is_run_where_that_can_answer(tmp_path: Path) -> None:
    wanted = {(cell.arm.name, cell.block.model) for cell in every(replace(FULL, results=tmp_path))}
    for one in joining(measured()):
        for arm in (alone(one), without(one, measured())):
            assert {model for name, model in wanted if name == arm.name} == {"smollm2" if one.asks else "gemma"}


def test_what_is_compared_is_run_on_one_base(tmp_path: Path) -> None:
    wanted = {cell.name for cell in every(replace(FULL, results=tmp_path))}
    for cell in every(replace(FULL, results=tmp_path)):
        if cell.arm.pipeline is Pipeline.RAW:
            assert Cell(block=cell.block, arm=peer_of(cell.arm)).name in wanted
        if cell.arm.left_out is not None:
            assert Cell(block=cell.block, arm=whole(measured())).name in wanted


def test_what_is_decided_is_shown_on_blocks_of_its_own(tmp_path: Path) -> None:
    extent = replace(FULL, results=tmp_path)
    assert {cell.block.seed for cell in decided(extent)} == set(FULL.fresh_seeds)
    wanted = {cell.name for cell in cells(extent)}
    for cell in decided(extent):
        assert {Cell(block=cell.block, arm=arm).name for arm in (BASE, RAW, ORACLE, default(()))} <= wanted


def test_everything_but_one_is_run_on_the_seeds_of_the_decisions() -> None:
    seeds: dict[str, set[int]] = {}
    for cell in left_out(FULL):
        seeds.setdefault(cell.arm.name, set()).add(cell.block.seed)
    assert set(seeds) == {whole(measured()).name, *(without(one, measured()).name for one in joining(measured()))}
    assert all(found == set(FULL.seeds) == {0, 1} for found in seeds.values())


def test_everything_is_run_of_every_component_that_is_there(tmp_path: Path) -> None:
    names = {cell.arm.name for cell in every(replace(FULL, results=tmp_path))}
    assert names >= {alone(one).name for one in measured()}
    assert names >= {without(one, measured()).name for one in joining(measured())}
    assert names >= {peer_of(alone(one)).name for one in measured()}
    assert names >= {one.name for one in claims.arms(measured())}


@pytest.mark.parametrize("extent", [FULL, QUICK])
def test_cells_of_one_name_are_one(extent: Extent, tmp_path: Path) -> None:
    of_name: dict[str, Cell] = {}
    wanted = every(replace(extent, results=tmp_path))
    assert all(of_name.setdefault(cell.name, cell) == cell for cell in wanted)


def test_what_is_for_one_task_alone_is_not_run_on_the_other() -> None:
    narrow = {one.name for one in measured() if one.tasks == ("diagrams",)}
    assert not any(cell.arm.name in narrow and cell.block.task == "shell" for cell in cells(FULL))


def test_pipelines_are_told_apart() -> None:
    assert {arm.pipeline for arm in ARMS} == {Pipeline.RAW, Pipeline.MEASURED}


def test_a_sample_stays_where_some_of_the_events_are_not_there() -> None:
    events = [
        ScoredEvent(
            event=sample_event(f"e-{number}"), priority=0.0, reward=0.0, difficulty=0.5, group="", trained_on=False
        )
        for number in range(60)
    ]
    budget = Budget(events=24, tokens=1)
    chosen = nightschool_select_events(events=tuple(events), budget=budget, seed=7)
    fewer = nightschool_select_events(events=tuple(events[5:]), budget=budget, seed=7)
    gone = {one.event.key for one in events[:5]}
    assert len(set(chosen)) == len(fewer) == 24
    assert set(chosen) - gone <= set(fewer)
    assert chosen != nightschool_select_events(events=tuple(events), budget=budget, seed=8)
