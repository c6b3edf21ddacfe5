"""`config.toml` is complete, and shows the defaults that hold without it."""

import dataclasses
import re
from pathlib import Path

import pytest

from nightschool_daemon import config
from nightschool_daemon.config import ConfigurationError, Settings
from nightschool_daemon.scheduling import named_weekdays

FILE = Path(__file__).resolve().parents[3] / "config.toml"
HOST_FIELDS = ("plugin_tables", "file")


def test_shipped_file_equals_the_defaults() -> None:
    read = config.parse(FILE.read_text(encoding="utf-8"), None)
    assert dataclasses.replace(read, plugin_tables={}) == Settings()


def test_every_key_stands_in_the_shipped_file() -> None:
    text = FILE.read_text(encoding="utf-8")
    for table in dataclasses.fields(Settings):
        if table.name in HOST_FIELDS:
            continue
        section = re.search(rf"^\[{table.name}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section is not None, table.name
        for key in dataclasses.fields(getattr(Settings(), table.name)):
            known = re.search(rf"^(# )?{key.name} = ", section.group(1), re.MULTILINE)
            assert known or f"[{table.name}.{key.name}]" in text, f"{table.name}.{key.name}"


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ("[exam]\nmax_itms = 3", "exam.max_itms", "max_items"),
        ("[exma]\nmax_items = 3", "exma", "exam"),
        ('[exam]\nmax_items = "3"', "exam.max_items", "a whole number"),
        ('[promotion]\npromote = "often"', "promotion.promote", "proven"),
        ("[exam]\nmax_items = true", "exam.max_items", "a whole number"),
        ("[exam", "TOML", "end of a table declaration"),
    ],
)
def test_wrong_configuration_names_its_path_and_the_way_out(text: str, path: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.parse(text, Path("/somewhere/config.toml"))
    assert "/somewhere/config.toml" in str(caught.value)
    assert path in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ('[plugins]\npreset = "all"', "auto"),
        ('[plugins]\npreset = "all"\n[training]\nmax_events = 9', "auto"),
        ('[plugins]\npreset = "all"\n[training]\nmethod = "sft"', "sft"),
        ('[plugins]\npreset = "measured"', "sft"),
        ("", "sft"),
    ],
)
def test_all_that_is_optional_learns_from_pairs_too_unless_the_method_is_set(text: str, method: str) -> None:
    assert config.parse(text, None).training.method == method


@pytest.mark.parametrize(
    ("cron", "named"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon,tue,wed,thu,fri"),
        ("5-7", "fri,sat,sun"),
        ("0-2", "sun,mon,tue"),
        ("1,3", "mon,wed"),
        ("*/2", "sun,tue,thu,sat"),
        ("mon-fri", "mon-fri"),
        ("*", "*"),
    ],
)
def test_weekdays_are_counted_as_cron_counts_them(cron: str, named: str) -> None:
    assert named_weekdays(cron) == named


def test_weekday_beyond_the_week_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="0-7"):
        named_weekdays("8")
