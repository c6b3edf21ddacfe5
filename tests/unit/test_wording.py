"""How prompts are told apart: those that read the same are one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.wording import fold, key_of


@pytest.mark.parametrize(
    "other", ["Wie hei\u00dft das Caf\u00e9?", "wie heisst das cafe\u0301", "  WIE HEISST\n das CAFÉ ... "]
)
def test_prompts_that_read_the_same_are_one(other: str) -> None:
    assert key_of(other) == key_of("Wie heißt das Café?")


@given(st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)
