"""What the plot of a training's losses says of them."""

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from nightschool_daemon import display

STEPS_LINE = -3
"""Before the axis's name and the legend."""


def shown(monkeypatch: pytest.MonkeyPatch, steps: int, *, is_held: bool = False) -> list[str]:
    """The lines of a plot, in a terminal of 80 letters."""
    text = io.StringIO()
    monkeypatch.setattr(display, "out", Console(file=text, width=80, highlight=False, soft_wrap=True))
    losses = [(number, 3.0 / number) for number in range(1, steps + 1)]
    display.show_curve("loss by SFT", losses, [(steps, 2.0)], is_held=is_held)
    return text.getvalue().splitlines()


@pytest.mark.parametrize(("is_held", "told"), [(True, "examples kept apart"), (False, "some of these examples")])
def test_losses_are_of_examples_kept_apart_only_where_some_were(
    monkeypatch: pytest.MonkeyPatch, is_held: bool, told: str
) -> None:
    *plot, legend = shown(monkeypatch, 4, is_held=is_held)
    assert legend == f"Line: of each batch. x: of {told}, after an epoch."
    assert not any("of each batch" in line for line in plot), "a legend within would lie over the first losses"


@pytest.mark.parametrize(
    ("steps", "ticks"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (7, [1, 2, 4, 5, 7]), (120, [1, 30, 60, 90, 120])],
)
def test_steps_are_whole(monkeypatch: pytest.MonkeyPatch, steps: int, ticks: Sequence[int]) -> None:
    lines = shown(monkeypatch, steps)
    assert lines[STEPS_LINE].split() == [str(one) for one in ticks]
