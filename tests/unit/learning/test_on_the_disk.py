"""What a training and a delivery leave is on the disk before its name is, and its name before anybody is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nightschool_daemon.jobs import RunDirectory, Step, write_durably
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.checkpoints import save_tensors
from nightschool_daemon.learning.engine.forms import LowRank, Neurons
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.peft_files import save_form
from nightschool_daemon.learning.peft_route import save_adapter, with_adapter
from nightschool_daemon.runs.rebuild import take_over
from nightschool_hookspecs.records import Hyperparameters, TrainingMethod, TrainingResult
from support.power import Disk

Save = Callable[[Path, Path], None]


def network_of(base: Path) -> Network:
    return Network(gguf_file.read(base), Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1))


def saves_neurons(base: Path, place: Path) -> None:
    network = network_of(base)
    form = Neurons(network.architecture, count=32, spread=network.spread, generator=torch.Generator())
    save_form(form, network.file, place)


def saves_low_rank(base: Path, place: Path) -> None:
    network = network_of(base)
    form = LowRank(network.linears(), rank=2, alpha=4, group=1, generator=torch.Generator())
    save_form(form, network.file, place)


def saves_adapter(_base: Path, place: Path) -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    save_adapter(with_adapter(model, Hyperparameters(lora_r=2)), place, "")


def writes_gguf(base: Path, place: Path) -> None:
    file = gguf_file.read(base)
    gguf_file.write(place, list(file.fields.values()), [gguf_file.copied(file, name) for name in file.tensors])


def writes_tensors(_base: Path, place: Path) -> None:
    save_tensors({"one": torch.ones(3)}, place)


def writes_text(_base: Path, place: Path) -> None:
    write_durably(place, "done")


@pytest.mark.parametrize(
    "save", [saves_neurons, saves_low_rank, saves_adapter, writes_gguf, writes_tensors, writes_text]
)
def test_a_power_cut_finds_it_whole_or_not_at_all(
    tmp_path: Path, tiny_gguf: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    for _ in ("new", "in place of an earlier one"):
        save(tiny_gguf, tmp_path / "saved")
        assert disk.too_early == []
        assert disk.has(tmp_path / "saved")


def test_a_lesson_that_is_delivered_again_is_on_the_disk_before_its_step_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, run = RunDirectory(path=tmp_path / "earlier"), RunDirectory(path=tmp_path / "run")
    for one in (earlier, run):
        one.step(Step.TRAIN).mkdir(parents=True)
    lesson = earlier.step(Step.TRAIN) / "adapter"
    lesson.mkdir()
    (lesson / "neurons.safetensors").write_bytes(b"learned")
    trained = TrainingResult(
        adapter=lesson, methods=(TrainingMethod.SFT,), steps=1, tokens=1, examples=1, left_out=0, base_loss=2.0,
        trained_loss=1.0, seconds=1.0, epoch_losses=(),
    )  # fmt: skip
    earlier.finish(Step.TRAIN, trained)
    disk = Disk(monkeypatch)
    take_over(earlier, run)
    copied = run.result(Step.TRAIN, TrainingResult).adapter
    assert (copied / "neurons.safetensors").read_bytes() == b"learned"
    assert disk.has(copied)
    assert disk.too_early == []


def test_what_is_only_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    (tmp_path / ".unfinished").write_text("done")
    (tmp_path / ".unfinished").replace(tmp_path / "saved")
    assert disk.too_early == [tmp_path / ".unfinished"]
    assert not disk.has(tmp_path / "saved")
