"""What is delivered with added neurons computes what was trained, whatever the feed-forward blocks of its base are."""

from pathlib import Path

import pytest
import torch

from nightschool_daemon.config import DeliveryChoice
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.delivery import Expected
from nightschool_daemon.learning.engine.layout import Branches
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.export import write_fused, write_split
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import block_of_neurons, read_lesson
from nightschool_daemon.learning.loading import load_tokens
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod
from support.deliveries import Write, delivered, with_neurons
from support.tiny_architectures import write_tiny_architecture
from support.training_jobs import fine_tune, greetings, training_job, unheard

BASES = [("llama", ""), ("llama", "bias"), ("gemma3", ""), ("phi3", ""), ("phi3", "longrope")]
COUNT = 32
NEURONS = Hyperparameters(form=TrainedForm.NEURONS, learning_rate=0.01, batch_size=4, num_epochs=3, neurons=COUNT)
IDS = (1, *range(20, 33))


def computing(file: GgufFile, over: GgufFile | None = None) -> Network:
    return Network(file, Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1), over=over)


def logits(network: Network) -> torch.Tensor:
    layout = network.lay_out([Branches(stem=IDS[:-1], answers=(IDS[-1:],))])
    return network.logits(layout, torch.arange(len(IDS)))


@pytest.mark.parametrize("write", [write_fused, write_split])
@pytest.mark.parametrize(("architecture", "variant"), BASES)
def test_what_is_delivered_computes_what_was_trained(
    tmp_path: Path, architecture: str, variant: str, write: Write
) -> None:
    base = gguf_file.read(write_tiny_architecture(tmp_path / "base.gguf", architecture, kind="F32", variant=variant))
    trained = computing(base)
    file = delivered(with_neurons(trained, COUNT, tmp_path / "adapter"), tmp_path, write)
    assert COUNT % block_of_neurons(base) == 0
    assert file.number("feed_forward_length") == (base.number("feed_forward_length") or 0) + COUNT
    torch.testing.assert_close(logits(computing(base, file)), logits(trained), rtol=1e-4, atol=1e-3)
    assert not torch.allclose(logits(computing(base)), logits(trained), rtol=1e-2, atol=1e-1), "it shows nothing"


@pytest.mark.parametrize(("architecture", "variant"), BASES)
def test_a_version_is_as_large_as_was_expected(tmp_path: Path, architecture: str, variant: str) -> None:
    base = gguf_file.read(write_tiny_architecture(tmp_path / "base.gguf", architecture, kind="F16", variant=variant))
    file = delivered(with_neurons(computing(base), COUNT, tmp_path / "adapter"), tmp_path)
    expected = Expected(settings=NEURONS, neurons=COUNT).version_bytes(base, DeliveryChoice.FUSED)
    assert file.path.stat().st_size == expected > base.path.stat().st_size


def test_neurons_are_trained_beside_a_gate_that_is_part_of_another_tensor(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    path = write_tiny_architecture(tmp_path / "base.gguf", "phi3", kind="F32")
    base, job = gguf_file.read(path), training_job(tmp_path, path, NEURONS, texts=greetings())
    tokens = load_tokens(base, job.base_digest, tmp_path)
    result = fine_tune(base, tokens, job, TrainingMethod.SFT, NEURONS, unheard)
    assert result.trained_loss < result.base_loss / 2
    lesson, trained = read_lesson(result.adapter, base), computing(base)
    trained.form = lesson.form(torch.device("cpu"))
    found = logits(computing(base, delivered(lesson, tmp_path)))
    torch.testing.assert_close(found, logits(trained), rtol=1e-4, atol=1e-3)
