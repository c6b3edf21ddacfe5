"""What is delivered with added neurons computes what was trained, whatever the feed-forward blocks of its base are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nightschool_daemon.jobs import DeliveredFile
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.forms import Neurons
from nightschool_daemon.learning.engine.layout import Branches
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.engine.peft_files import save_form
from nightschool_daemon.learning.export import Parcel, write_fused, write_split
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import Lesson, block_of_neurons, read_lesson
from nightschool_daemon.learning.rounding import Demand
from support.tiny_architectures import write_tiny_architecture

BASES = [("llama", ""), ("llama", "bias"), ("gemma3", "")]
COUNT = 32
IDS = (1, *range(20, 33))


def computing(file: GgufFile, over: GgufFile | None = None) -> Network:
    return Network(file, Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1), over=over)


def logits(network: Network) -> torch.Tensor:
    layout = network.lay_out([Branches(stem=IDS[:-1], answers=(IDS[-1:],))])
    return network.logits(layout, torch.arange(len(IDS)))


def with_neurons(network: Network, directory: Path) -> Lesson:
    """A lesson as a training leaves it, which is beside the network too."""
    generator = torch.Generator().manual_seed(0)
    form = Neurons(network.architecture, count=COUNT, spread=network.spread, generator=generator)
    for one in form.parameters.values():
        torch.nn.init.normal_(one, std=0.1, generator=generator)
    network.form = form
    save_form(form, network.file, directory)
    return read_lesson(directory, network.file)


@pytest.mark.parametrize("write", [write_fused, write_split])
@pytest.mark.parametrize(("architecture", "variant"), BASES)
def test_what_is_delivered_computes_what_was_trained(
    tmp_path: Path, architecture: str, variant: str, write: Callable[[Parcel], tuple[DeliveredFile, ...]]
) -> None:
    base = gguf_file.read(write_tiny_architecture(tmp_path / "base.gguf", architecture, kind="F32", variant=variant))
    trained = computing(base)
    lesson = with_neurons(trained, tmp_path / "adapter")
    parcel = Parcel(
        lesson=lesson,
        name="tiny",
        directory=tmp_path,
        demand=Demand(allowed_noise=0.0),
        report=lambda _done, _of, _what: None,
    )
    delivered = gguf_file.read(write(parcel)[0].path)
    assert COUNT % block_of_neurons(base) == 0
    assert delivered.number("feed_forward_length") == (base.number("feed_forward_length") or 0) + COUNT
    torch.testing.assert_close(logits(computing(base, delivered)), logits(trained), rtol=1e-4, atol=1e-3)
    assert not torch.allclose(logits(computing(base)), logits(trained), rtol=1e-2, atol=1e-1), "it shows nothing"
