"""Beside a GPU all is on it: on torch's meta device, which has shapes and no values, nothing mixes with the CPU."""

from pathlib import Path

import pytest
import torch

from nightschool_daemon.learning.engine import machine
from nightschool_daemon.learning.loading import load_base
from nightschool_daemon.learning.peft_route import answer_losses, learner_of
from nightschool_daemon.learning.rows import Row
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import Hyperparameters

ELSEWHERE = torch.device("meta")
ROWS = [
    Row(prompt=(1, 5, 9), completion=(7, 8), weight=1.0),
    Row(prompt=(1, 30), completion=(31, 32, 33), weight=0.5),
]


def test_transformers_trains_where_the_machine_is_fastest(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "device", lambda: ELSEWHERE)
    base = load_base(tiny_gguf, sha256_of(tiny_gguf), tmp_path)
    # else transformers looks at values
    base.model.config.use_cache = True
    learner = learner_of(base, Hyperparameters(lora_r=2), 0, ROWS, ROWS)
    assert {one.device for one in (*base.model.parameters(), *learner.named().values())} == {ELSEWHERE}
    losses = answer_losses(base.model, ROWS)
    losses.sum().backward()
    assert (losses.device, losses.shape) == (ELSEWHERE, (2,))
    assert all(one.grad is not None for one in learner.named().values())
