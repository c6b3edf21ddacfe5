"""A run whose pin of its base is gone from Ollama: another state directory beside it took it for nobody's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nightschool_daemon.config import DeliverySettings, Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import PrepareResult, Step
from nightschool_daemon.ollama import names
from nightschool_daemon.runs import alone, pipeline
from nightschool_daemon.runs.alone import Order, train_alone
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import RunRefused
from nightschool_daemon.runs.listener import SilentListener
from nightschool_hookspecs.records import ParsedFeedback
from nightschool_hookspecs.testing import sample_event
from support.memory_ollama import MemoryOllama
from support.run_rows import RUN_ROW

TINY = "tiny:1b"


@pytest.fixture
def ollama(tmp_path: Path, tiny_gguf: Path) -> MemoryOllama:
    found = MemoryOllama(tmp_path / "models", tiny_gguf, TINY)
    # a pin is known by such a digest in its name
    found._digests[TINY] = found.weights
    return found


@pytest.fixture
def settings(tmp_path: Path, ollama: MemoryOllama) -> Settings:
    return Settings(
        ollama=ollama.settings,
        state=StateSettings(directory=tmp_path / "state"),
        delivery=DeliverySettings(min_free_gb=0.0),
    )


@pytest.fixture
def seen(ollama: MemoryOllama, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step behind the preparation found the pin. None of them does anything."""
    found = list[bool]()

    def look(context: StepContext, step: Step) -> None:
        pin = context.result(Step.PREPARE, PrepareResult).base.pin
        found.append(pin in {one.name for one in ollama.tags()})
        context.directory.finish(step, {})

    looks: dict[Step, Callable[[StepContext], None]] = {
        step: partial(look, step=step) for step in Step if step is not Step.PREPARE
    }
    monkeypatch.setattr(alone, "OllamaHttp", lambda _settings: ollama)
    monkeypatch.setattr(pipeline, "PERFORM", {**pipeline.PERFORM, **looks})
    monkeypatch.setattr(pipeline, "ACCEPT", {})
    monkeypatch.setattr(pipeline, "_early_ending", lambda *_arguments, **_named: None)
    return found


class Another(SilentListener):
    """Removes tags from Ollama when a step begins."""

    def __init__(self, ollama: MemoryOllama, begins: Step, *, base_too: bool = False) -> None:
        self._ollama, self._begins, self._base_too = ollama, begins, base_too

    def step_began(self, run_id: str, step: Step) -> None:
        if step is self._begins:
            for name in [one.name for one in self._ollama.tags()]:
                if self._base_too or name != TINY:
                    self._ollama.delete(name)


def train(settings: Settings, listener: SilentListener) -> None:
    order = Order(model=TINY, feedback=ParsedFeedback(events=(sample_event("1"),)), data_digest="data", name="kind")
    hooks = Hooks.load(plugin_directory=None, tables={})
    train_alone(settings, order, hooks=hooks, listener=listener, now=RUN_ROW.started_at)


@pytest.mark.parametrize("was_there", [False, True])
def test_a_pin_that_another_removed_is_made_again_before_the_step_that_needs_it(
    ollama: MemoryOllama, settings: Settings, seen: list[bool], *, was_there: bool
) -> None:
    """And is given free at the end, though another had made it first."""
    if was_there:
        ollama.copy(TINY, names.pin_of(TINY, ollama.tags()[0].digest))
    with pytest.raises(RunRefused, match="left no version"):
        train(settings, Another(ollama, Step.REGISTER))
    assert seen == [True] * 6
    assert [one.name for one in ollama.tags()] == [TINY]


def test_where_the_base_is_gone_too_it_is_said_how_it_comes_back(
    ollama: MemoryOllama, settings: Settings, seen: list[bool]
) -> None:
    told = rf"^register: {TINY} was removed from Ollama, .*base-.*`ollama pull {TINY}` brings it again; then call again"
    with pytest.raises(RunRefused, match=told):
        train(settings, Another(ollama, Step.REGISTER, base_too=True))
    assert len(seen) == 4
