"""`serve` is told from a command that merely has the word among its arguments."""

import pytest

from nightschool_daemon.__main__ import command_of


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("serve", "serve"),
        ("--config a.toml serve --safe-mode", "serve"),
        ("--config=a.toml serve", "serve"),
        ("--config serve status", "status"),
        ("run --now serve", "run"),
        ("--version", None),
        ("", None),
    ],
)
def test_command_is_the_first_word(line: str, command: str | None) -> None:
    assert command_of(line.split()) == command
