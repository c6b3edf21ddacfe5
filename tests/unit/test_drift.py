"""The list of built-ins, their files, their tables in `config.toml` and their documentation say the same."""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import tomli

from nightschool_daemon import codec
from nightschool_daemon.config import PluginSettings, Preset
from nightschool_daemon.hooks import BUILT_IN, BUILT_IN_PACKAGE, STAGES, Hooks, is_observer
from nightschool_hookspecs.testing import check_plugin

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
SETTINGS_HOOK = "nightschool_register_settings"


def plugin(name: str) -> ModuleType:
    return importlib.import_module(f"{BUILT_IN_PACKAGE}.{name}")


def default_settings(name: str) -> object | None:
    """The settings of a built-in with its defaults; None where it has none."""
    contribute = getattr(plugin(name), SETTINGS_HOOK, None)
    return None if contribute is None else contribute()()


def documented_hooks() -> dict[str, set[str]]:
    """The table of built-ins in the document: name and hooks."""
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", DOCUMENT, re.MULTILINE)
    return {name: {f"nightschool_{hook}" for hook in re.findall(r"`(\w+)`", hooks)} for name, hooks in rows}


def test_every_file_is_in_the_tuple() -> None:
    files = {file.stem for file in (ROOT / "plugins" / BUILT_IN_PACKAGE).glob("*.py") if file.stem != "__init__"}
    assert sorted(BUILT_IN) == sorted(files)


def test_document_lists_the_built_ins_in_order() -> None:
    assert tuple(documented_hooks()) == BUILT_IN


def test_document_names_the_hooks_of_each() -> None:
    hooks = Hooks.load(plugin_directory=None, tables={}, plugins=PluginSettings(preset=Preset.ALL))
    assert documented_hooks() == {one.name: set(one.hooks) - {SETTINGS_HOOK} for one in hooks.status()}


def test_every_deciding_hook_has_a_built_in() -> None:
    declared = {name for stage in STAGES for name in vars(stage) if name.startswith("nightschool_")}
    implemented = set().union(*documented_hooks().values())
    deciding = {name for name in declared - {SETTINGS_HOOK} if not is_observer(name)}
    assert deciding == {name for name in implemented if not is_observer(name)}


def test_configuration_has_a_table_for_every_plugin_with_settings() -> None:
    tables = tomli.loads((ROOT / "config.toml").read_text(encoding="utf-8"))["plugins"]
    shown = {name: table for name, table in tables.items() if isinstance(table, dict)}
    assert shown == {name: plain for name in BUILT_IN if (plain := _plain(default_settings(name))) is not None}


def _plain(settings: object | None) -> object:
    """Settings as TOML can say them: a value of None has no key."""
    if settings is None or not dataclasses.is_dataclass(settings):
        return None
    values: dict[str, object] = json.loads(codec.to_json(settings))
    return {key: value for key, value in values.items() if value is not None}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_keeps_the_contract(name: str) -> None:
    check_plugin(plugin(name))
