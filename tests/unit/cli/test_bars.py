"""Progress bars take one line each, however narrow the terminal is."""

import io

import pytest
from rich.console import Console

from nightschool_daemon import display
from nightschool_daemon.jobs import Step

PLAN = "passes of 512 tokens, 30 layers kept unpacked: about 1.5 GB of 6.0 GB, and 39 s for the training itself"


def told(monkeypatch: pytest.MonkeyPatch, width: int, done: int, total: int, text: str) -> str:
    """What a terminal of so many columns got of a training."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None, highlight=False, soft_wrap=True)
    monkeypatch.setattr(display, "err", console)
    with display.run_listener() as listener:
        listener.step_began("r", Step.TRAIN)
        listener.progress("r", Step.TRAIN, done, total, text)
    return stream.getvalue()


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_bar_takes_a_line(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = [
        line.replace("\x1b[2K", "").strip("\r") for line in told(monkeypatch, width, 1234, 4321, PLAN).splitlines()
    ]
    shown = [line for line in lines if line.startswith("train ")]
    assert shown
    assert max(map(len, shown)) <= width
    assert any("1234/4321" in line for line in shown)


def test_brackets_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "lower max_length in [plugins.tuning_fixed] ([/hard])"
    assert text in told(monkeypatch, 120, 1, 2, text)


def test_the_loss_is_seen_in_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "epoch 1 of 3, loss 2.345" in told(monkeypatch, 80, 12, 321, "epoch 1 of 3, loss 2.345")
