"""What the step `verify` tells where a network computes what is no number."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nightschool_daemon.jobs import DeliveredFile, ExportResult, Losses, RegisterResult, Step
from nightschool_daemon.learning import verification
from nightschool_daemon.learning.lesson import FEED_FORWARD, NEURONS
from nightschool_daemon.learning.verification import Position
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.library import NextToken, TokenLogprob
from nightschool_hookspecs.records import (
    DeliveryForm,
    DeliveryPlan,
    Hyperparameters,
    ServerAbilities,
    TrainingText,
)
from nightschool_hookspecs.services import TrainingError
from support.rewritten_gguf import rewritten
from support.selected_runs import at_step
from support.step_results import TRAINED
from support.tiny_architectures import CONTEXT, WIDTH, write_tiny_architecture
from support.training_jobs import greetings

SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")
PLAN = DeliveryPlan(form=DeliveryForm.FUSED, version_bytes=1, shared_bytes=0, reason="")


def about_to_verify(directory: Path, base: Path, delivered: Path, texts: Sequence[TrainingText] = ()) -> WorkerContext:
    context = at_step(Step.VERIFY, directory, base, texts=texts or greetings())
    adapter = directory / "adapter"
    adapter.mkdir()
    up, down = np.zeros((32, WIDTH), np.float32), np.zeros((WIDTH, 32), np.float32)
    save_file(
        {f"blk.{layer}.{part}": up if part != "ffn_down" else down for layer in (0, 1) for part in FEED_FORWARD},
        adapter / NEURONS,
    )
    for step in (Step.TRAIN, Step.EXPORT, Step.REGISTER):
        context.run.step(step).mkdir()
    context.run.finish(Step.TRAIN, replace(TRAINED, adapter=adapter, hyperparameters=Hyperparameters()))
    file = DeliveredFile(name="tiny.gguf", path=delivered, digest="", bytes=1)
    held_in = Losses(base_loss=2.0, trained_loss=1.0, delivered_loss=1.0)
    exported = ExportResult(abilities=SERVER, plan=PLAN, files=(file,), touched=(), held_in=held_in)
    context.run.finish(Step.EXPORT, exported)
    registered = RegisterResult(tag="tiny:v1", number=1, tag_digest="", weights_digest="")
    context.run.finish(Step.REGISTER, registered)
    return context


def tells(_context: object, _name: str, positions: Sequence[Position], _context_tokens: int) -> list[NextToken]:
    """A server that finds two letters likely everywhere."""
    top = tuple(TokenLogprob(token=one, content=one.encode(), logprob=-1.0) for one in "he")
    return [NextToken(prompt_tokens=len(one.ids), top=top) for one in positions]


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "ask_engine", tells)
    monkeypatch.setattr(verification, "prompts_are_equal", lambda *_: True)


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("broken", "computes no numbers for the base itself"),
        ("sound", r"With what was trained .* computes no numbers.* Lower learning_rate"),
    ],
)
def test_a_forward_pass_of_which_nothing_comes_but_no_numbers_is_told(tmp_path: Path, base: str, sentence: str) -> None:
    sound = write_tiny_architecture(tmp_path / "sound.gguf", "llama", kind="F32")
    nothing = {"blk.0.attn_norm.weight": np.full(WIDTH, np.nan, np.float32)}
    broken = rewritten(sound, tmp_path / "broken.gguf", tensors=nothing)
    context = about_to_verify(tmp_path, tmp_path / f"{base}.gguf", broken)
    with pytest.raises(TrainingError, match=sentence):
        verification.run(context)
    assert not context.run.is_done(Step.VERIFY)


def test_no_more_is_asked_than_the_base_was_made_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives it no more whatever it is asked for, so that longer texts would look like other tokens."""
    base = write_tiny_architecture(tmp_path / "base.gguf", "llama", kind="F32")
    # a character is a token here
    text = TrainingText(event_id="long", prompt="a" * (CONTEXT - 12), completion="b" * 60)
    context, asked = about_to_verify(tmp_path, base, base, [text]), []

    def noted(context: object, name: str, positions: Sequence[Position], context_tokens: int) -> list[NextToken]:
        asked.append(context_tokens)
        assert max(len(one.ids) for one in positions) == CONTEXT - 1
        return tells(context, name, positions, context_tokens)

    monkeypatch.setattr(verification, "ask_engine", noted)
    assert context.settings.exam.context_tokens > CONTEXT
    verification.run(context)
    assert asked == [CONTEXT, CONTEXT]
