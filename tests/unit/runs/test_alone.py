"""What a training by hand takes from the settings of nights, and how it goes on where it was interrupted."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon import codec
from nightschool_daemon.config import ConfigurationError, DeliverySettings, Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import Step
from nightschool_daemon.ollama.errors import OllamaRefused, OllamaUnreachable
from nightschool_daemon.ollama.http import ShownModel
from nightschool_daemon.runs import alone, pipeline
from nightschool_daemon.runs.alone import Order, of_all, plan_alone, train_alone
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import RunRefused, TrainingInterrupted
from nightschool_daemon.runs.listener import SilentListener
from nightschool_hookspecs.records import (
    Event,
    FeedbackType,
    MethodChoice,
    ParsedFeedback,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.testing import sample_event
from support.memory_ollama import MemoryOllama
from support.run_rows import VERSION_ROW

NOW = datetime.now(UTC)
TINY = "tiny:1b"
YEAR_S = 365 * 24 * 3600


def test_no_limit_of_a_night_holds() -> None:
    settings = Settings()
    training = replace(settings.training, max_events=1, max_tokens=1, time_limit_minutes=0.1)
    own = of_all(replace(settings, training=training), [sample_event(f"{number}") for number in range(3)])
    # a worker reads them from a file
    read = codec.from_json(codec.to_json(own), Settings)
    assert read.training.time_limit_s > YEAR_S
    assert (read.training.max_events, read.similarity.max_near_duplicates) == (3, 3)
    assert read.training.max_tokens > 10**12


def order(adapter: Path | None = None, *, anew: bool = False) -> Order:
    feedback = ParsedFeedback(events=(sample_event("1"),))
    return Order(model=TINY, feedback=feedback, data_digest="data", name="kind", adapter=adapter, anew=anew)


@pytest.fixture
def train(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StepContext]:
    """Calls for a training at whose end somebody presses Ctrl-C, and gives what its steps worked with."""
    ollama, contexts = MemoryOllama(tmp_path / "models", tiny_gguf, TINY), list[StepContext]()
    settings = Settings(ollama=ollama.settings, state=StateSettings(directory=tmp_path / "state"))

    def learned(context: StepContext) -> None:
        contexts.append(context)
        adapter = context.directory.step(Step.TRAIN) / "adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        (adapter / "adapter_model.safetensors").write_bytes(b"learned")
        context.directory.finish(Step.TRAIN, trained(adapter))
        raise KeyboardInterrupt

    monkeypatch.setattr(alone, "OllamaHttp", lambda _settings: ollama)
    monkeypatch.setattr(pipeline, "learn_only", learned)

    def called(order: Order, delivery: DeliverySettings = settings.delivery) -> StepContext:
        hooks = Hooks.load(plugin_directory=None, tables={})
        with pytest.raises(TrainingInterrupted, match=f"^{re.escape(alone.STOPPED)}$"):
            train_alone(replace(settings, delivery=delivery), order, hooks=hooks, listener=SilentListener(), now=NOW)
        return contexts[-1]

    return called


def trained(adapter: Path) -> TrainingResult:
    return TrainingResult(
        adapter=adapter,
        methods=(TrainingMethod.SFT,),
        steps=1,
        tokens=1,
        examples=1,
        left_out=0,
        base_loss=2.0,
        trained_loss=1.0,
        seconds=1.0,
        epoch_losses=(),
    )


def test_what_goes_on_is_delivered_by_the_settings_of_the_call_that_goes_on(train: Callable[..., StepContext]) -> None:
    first = train(order(), DeliverySettings(max_version_mb=1.0))
    second = train(order(), DeliverySettings(max_version_mb=500.0))
    assert second.directory == first.directory
    assert second.settings.delivery.max_version_mb == 500.0
    read = codec.from_json(second.directory.settings.read_bytes(), Settings)
    assert read == second.settings


def test_the_place_that_got_what_was_trained_is_no_reason_to_refuse_the_same_call(
    train: Callable[..., StepContext], tmp_path: Path
) -> None:
    place = tmp_path / "adapter"
    place.mkdir(mode=0o700)
    first = train(order(place))
    assert place.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in place.iterdir()] == ["adapter_model.safetensors"]
    assert train(order(place)).directory == first.directory
    for cut in (b"lear", b""):
        (place / "adapter_model.safetensors").write_bytes(cut)
        assert train(order(place)).directory == first.directory
        assert (place / "adapter_model.safetensors").read_bytes() == b"learned"
    for other in ("adapter_model.safetensors", "mine.txt"):
        (place / other).write_bytes(b"learned something else")
        with pytest.raises(RunRefused, match="is there already"):
            train(order(place))
        (place / other).unlink()
    assert train(order(place)).directory == first.directory


def test_a_place_that_is_taken_costs_nothing_of_what_was_left(
    train: Callable[..., StepContext], tmp_path: Path
) -> None:
    first = train(order(tmp_path / "adapter"))
    with pytest.raises(RunRefused, match="is there already"):
        train(order(tmp_path / "adapter", anew=True))
    assert train(order()).directory == first.directory


def after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ollama: MemoryOllama, learned: Callable[[StepContext], None]
) -> Callable[[], None]:
    """Calls for a training of which `learned` stands for the steps."""
    state = StateSettings(directory=tmp_path / "state")
    monkeypatch.setattr(alone, "OllamaHttp", lambda _settings: ollama)
    monkeypatch.setattr(pipeline, "learn_only", learned)
    hooks = Hooks.load(plugin_directory=None, tables={})

    def called() -> None:
        settings = Settings(ollama=ollama.settings, state=state)
        train_alone(settings, order(), hooks=hooks, listener=SilentListener(), now=NOW)

    return called


def test_an_interrupt_once_the_model_has_its_name_says_so(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama = MemoryOllama(tmp_path / "models", tiny_gguf, TINY)
    candidate = "tiny-nightschool:1b.manual-a.v1"
    version = replace(VERSION_ROW, tag=candidate, tag_digest=ollama.add(candidate))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(alone, "version_of_run", lambda _context: version)
    monkeypatch.setattr(alone, "account_of", interrupted)

    def learned(context: StepContext) -> None:
        context.directory.step(Step.TRAIN).mkdir()
        context.directory.finish(Step.TRAIN, trained(tmp_path))

    train = after(monkeypatch, tmp_path, ollama, learned)
    with pytest.raises(TrainingInterrupted, match=r"^Ended, but kind:latest is made\."):
        train()
    assert {one.name for one in ollama.tags()} == {TINY, "kind:latest"}


def test_an_ollama_that_is_away_does_not_take_the_place_of_the_reason(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama = MemoryOllama(tmp_path / "models", tiny_gguf, TINY)

    def fails(_context: StepContext) -> None:
        monkeypatch.setattr(ollama, "tags", away)
        raise RunRefused("Memory ran out.")

    def away() -> None:
        raise OllamaUnreachable("Ollama is not reachable.")

    with pytest.raises(RunRefused, match=r"^Memory ran out\.$"):
        after(monkeypatch, tmp_path, ollama, fails)()


def said(number: int, feedback: FeedbackType, corrected: str | None = None) -> Event:
    """Of one prompt, where only the number of the answer differs."""
    return replace(
        sample_event(f"{number}"),
        feedback_type=feedback,
        input_data="greet",
        ai_output=f"hello {number}",
        corrected_output=corrected,
        validation_score=None,
    )


LIKED, DISLIKED = said(1, FeedbackType.EXPLICIT_POSITIVE), said(2, FeedbackType.EXPLICIT_NEGATIVE)
CORRECTED = said(3, FeedbackType.USER_CORRECTION, "hello")
WANTED = replace(CORRECTED, ai_output=None)


@pytest.mark.parametrize(
    ("method", "events", "told"),
    [
        (MethodChoice.DPO, [LIKED, WANTED], "--method dpo: there is no pair of a better and a worse answer"),
        (MethodChoice.KTO, [CORRECTED], "--method kto: there is no answer that was liked or disliked by itself"),
        (MethodChoice.DPO, [LIKED, DISLIKED], ""),
        (MethodChoice.DPO, [CORRECTED], ""),
        (MethodChoice.KTO, [DISLIKED], ""),
        (MethodChoice.SFT, [WANTED], ""),
        (MethodChoice.AUTO, [LIKED], ""),
    ],
)
def test_a_method_that_the_file_has_nothing_for_is_refused_before_anything_is_begun(
    tmp_path: Path,
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: MethodChoice,
    events: list[Event],
    told: str,
) -> None:
    ollama = MemoryOllama(tmp_path / "models", tiny_gguf, TINY)
    monkeypatch.setattr(alone, "OllamaHttp", lambda _settings: ollama)
    # where it would be begun
    blocked = tmp_path / "file"
    blocked.touch()
    settings = Settings(ollama=ollama.settings, state=StateSettings(directory=blocked / "state"))
    settings = replace(settings, training=replace(settings.training, method=method))
    asked = replace(order(), feedback=ParsedFeedback(events=tuple(events)))
    hooks = Hooks.load(plugin_directory=None, tables={})
    with pytest.raises(RunRefused if told else ConfigurationError) as caught:
        train_alone(settings, asked, hooks=hooks, listener=SilentListener(), now=NOW)
    if told:
        assert str(caught.value).startswith(told)
        assert "--method sft" in str(caught.value)
    else:
        assert f"{blocked / 'state'} cannot be made (Not a directory)" in str(caught.value)


CHOOSY = """
from nightschool_hookspecs import hookimpl


@hookimpl
def nightschool_build_preference_pairs(events):
    return None
"""


def test_a_plugin_of_others_is_not_asked_before_its_events_are_scored(tmp_path: Path) -> None:
    file = tmp_path / "choosy.py"
    file.write_text(CHOOSY)
    file.chmod(0o600)
    hooks = Hooks.load(plugin_directory=tmp_path, tables={}, check_files=False)
    assert [one.state.value for one in hooks.status() if one.name == "choosy"] == ["active"]
    settings = replace(Settings(), training=replace(Settings().training, method=MethodChoice.DPO))
    alone._require_lesson(settings, [WANTED], hooks)
    with pytest.raises(RunRefused, match="no pair"):
        alone._require_lesson(settings, [WANTED], Hooks.load(plugin_directory=None, tables={}))


def test_a_plan_for_a_damaged_base_says_how_to_get_it_anew(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaged(MemoryOllama):
        def show(self, name: str) -> ShownModel:
            raise OllamaRefused("Ollama says: unexpected EOF", status=500)

    ollama = Damaged(tmp_path / "models", tiny_gguf, TINY)
    monkeypatch.setattr(alone, "OllamaHttp", lambda _settings: ollama)
    with pytest.raises(RunRefused, match=r"unexpected EOF\. `ollama pull tiny:1b` brings it anew\."):
        plan_alone(Settings(ollama=ollama.settings), model=TINY, events=None, now=NOW)
