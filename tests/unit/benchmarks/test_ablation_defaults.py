"""What is asked by default is what the rule makes of the results that are kept."""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ablation.components import COMPONENTS, RAW_WITHOUT, Component, alone
from benchmarks.ablation.pages import Findings
from benchmarks.learning import FULL, found, model_of, of_arms, unfinished
from nightschool_daemon.hooks.sources import OPTIONAL

SHIPPED = Path(__file__).resolve().parents[3] / "config.toml"


@pytest.fixture(scope="module")
def findings() -> Findings:
    return found(FULL)


@pytest.fixture
def shipped() -> dict[str, Any]:
    return tomllib.loads(SHIPPED.read_text(encoding="utf-8"))


def contradictions(findings: Findings, optional: Collection[str], shipped: Mapping[str, Any]) -> Iterator[str]:
    """What is on or off by default against the rule, by which all that is undecided is off."""
    winners = findings.default.components
    for plugin in sorted({plugin for one in COMPONENTS for plugin in _switched(one)}):
        parts = [one for one in COMPONENTS if plugin in one.plugins]
        if (plugin not in optional) is not any(one in winners for one in parts):
            yield _told(findings, plugin, parts, is_on=plugin not in optional)
    for one in COMPONENTS:
        if one.tables and not one.plugins and _has(shipped, one) is not (one in winners):
            yield _told(findings, one.name, [one], is_on=_has(shipped, one))


def _switched(one: Component) -> set[str]:
    """Its plugins, without those of which a night needs one of their kind in any case."""
    return set(one.plugins) - set(RAW_WITHOUT)


def _has(shipped: Mapping[str, Any], one: Component) -> bool:
    """Whether the settings of a part are those by default."""
    for name, values in one.tables.items():
        table = shipped
        for key in name.split("."):
            table = table[key]
        if not values.items() <= table.items():
            return False
    return True


def _told(findings: Findings, what: str, parts: Collection[Component], *, is_on: bool) -> str:
    rulings = "; ".join(f"{one.name}: {ruling(findings, one)}" for one in parts)
    return f"{what} is {'on' if is_on else 'off'} by default ({rulings})"


def ruling(findings: Findings, one: Component) -> str:
    """What the rule says of a part."""
    if not one.is_measured or unfinished(of_arms(FULL, model_of(FULL, alone(one)), (alone(one),)), FULL):
        return f"undecided, {one.why_not or 'as not all of its cells were run'}"
    decision = findings.decisions.get(one.name)
    return f"{decision.default} ({decision.reason})" if decision is not None else "undecided"


def test_defaults_follow_the_measurement(findings: Findings, shipped: dict[str, Any]) -> None:
    assert list(contradictions(findings, OPTIONAL, shipped)) == []


@pytest.mark.parametrize("plugin", sorted(OPTIONAL))
def test_no_plugin_becomes_a_default_without_results(findings: Findings, shipped: dict[str, Any], plugin: str) -> None:
    (told,) = contradictions(findings, OPTIONAL - {plugin}, shipped)
    assert told.startswith(f"{plugin} is on by default")
    assert ": off (" in told or ": undecided, " in told


def test_a_setting_that_is_a_part_becomes_no_default_either(findings: Findings, shipped: dict[str, Any]) -> None:
    shipped["similarity"]["max_near_duplicates"] = 2
    (told,) = contradictions(findings, OPTIONAL, shipped)
    assert told.startswith("duplicates is on by default")


def test_what_lacks_cells_is_told_as_undecided_and_never_a_default(findings: Findings) -> None:
    undecided = [one for one in COMPONENTS if ruling(findings, one).startswith("undecided")]
    assert {"context", "batching"} <= {one.name for one in undecided}
    assert not any(one in findings.default.components for one in undecided)
