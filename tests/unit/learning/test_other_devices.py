"""Beside a GPU all is on it. There is none here, but torch has tensors without values that say where they are."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from torch._subclasses.fake_tensor import FakeTensorMode

from nightschool_daemon.learning import ggml, gguf_file
from nightschool_daemon.learning.engine import (
    attention,
    blocks,
    fitting,
    footprint,
    machine,
    memory,
    methods,
    pace,
    proof,
)
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.footprint import Probe
from nightschool_daemon.learning.engine.forms import Form, LowRank, Neurons
from nightschool_daemon.learning.engine.layout import Branches
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.norm import rms_norm
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.engine.todo import Cut, Todo
from nightschool_daemon.learning.loadable import device_for
from nightschool_daemon.learning.loading import load_base
from nightschool_daemon.learning.packed_route import make_form
from nightschool_daemon.learning.peft_route import answer_losses, learner_of
from nightschool_daemon.learning.rows import Row
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod
from nightschool_hookspecs.services import TrainingError
from support.tiny_architectures import write_tiny_architecture

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BACKWARD = torch.device("lazy:0")
"""A device that torch goes back on, too, without a driver."""
SHAPES_ALONE = torch.device("meta")
PAIR = [Branches(stem=(1, 5, 9, 11), answers=((7, 8, 9), (3, 4))), Branches(stem=(1, 5, 30), answers=((31, 32),))]
IN_LINE = [Branches(stem=(1, 5, 9, 11), answers=((7, 8, 9),)), Branches(stem=(1, 30), answers=((31, 32),))]
ROWS = [
    Row(prompt=(1, 5, 9), completion=(7, 8), weight=1.0),
    Row(prompt=(1, 30), completion=(31, 32, 33), weight=0.5),
]
LORA = Hyperparameters(form=TrainedForm.LORA, learning_rate=1e-3, lora_r=4, batch_size=4)
FREE, HELD = 10**9, 10**8
"""Bytes of a GPU that are free, and that torch holds of it."""


@pytest.fixture
def found_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch finds a GPU by CUDA, which computes as the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(proof, "problem", lambda *_: None)


def test_transformers_trains_where_the_machine_is_fastest(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "device", lambda: SHAPES_ALONE)
    base = load_base(tiny_gguf, sha256_of(tiny_gguf), tmp_path)
    # else transformers looks at values
    base.model.config.use_cache = True
    learner = learner_of(base, Hyperparameters(lora_r=2), 0, ROWS, ROWS)
    assert {one.device for one in (*base.model.parameters(), *learner.named().values())} == {SHAPES_ALONE}
    losses = answer_losses(base.model, ROWS)
    losses.sum().backward()
    assert (losses.device, losses.shape) == (SHAPES_ALONE, (2,))
    assert all(one.grad is not None for one in learner.named().values())


@pytest.mark.usefixtures("found_gpu")
@pytest.mark.parametrize(("free", "device"), [(10**9, CUDA), (10**4, CPU)])
def test_transformers_goes_to_a_gpu_that_has_room_for_the_base(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, free: int, device: torch.device
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 10**10))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    assert device_for(gguf_file.read(tiny_gguf)) == device


@pytest.mark.usefixtures("found_gpu")
def test_a_base_is_loaded_where_there_is_room_for_it(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU here: it would not come to it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (0, 10**10))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    base = load_base(tiny_gguf, sha256_of(tiny_gguf), tmp_path)
    assert {one.device for one in base.model.parameters()} == {CPU}


def test_whoever_loads_a_base_needs_memory_of_the_machine_whatever_the_gpu_has(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery and its verification as well as a training."""
    monkeypatch.setattr(machine, "device", lambda: SHAPES_ALONE)
    monkeypatch.setattr(memory, "free_memory", lambda: 10**6)
    with pytest.raises(TrainingError, match=r"Through transformers this base needs about .* can be had"):
        load_base(tiny_gguf, sha256_of(tiny_gguf), tmp_path)


# --------------------------------------------------------------------------- the packed engine


def beside(network: Network, form: str) -> Form:
    generator = torch.Generator()
    if form == "neurons":
        made: Form = Neurons(network.architecture, count=32, spread=lambda _: 1.0, generator=generator)
    else:
        made = LowRank(network.linears(), rank=2, alpha=4, group=1, generator=generator, dropout=0.1)
    made.is_training = True
    return made.on(network.bench.device)


@pytest.mark.parametrize(
    ("architecture", "variant", "form", "kind"),
    [
        ("llama", "rope_freqs", "lora", "Q4_K"),
        ("llama", "bias", "neurons", "F16"),
        ("mistral3", "", "neurons", "Q8_0"),
        ("gemma2", "", "lora", "IQ4_NL"),
        ("gemma3", "", "neurons", "Q6_K"),
        ("phi3", "longrope", "lora", "Q5_1"),
    ],
)
def test_a_pass_forth_and_back_leaves_nothing_on_the_cpu(
    tmp_path: Path, architecture: str, variant: str, form: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors of two devices do not mix."""
    # the kernel itself wants a driver
    monkeypatch.setattr(attention, "runs", lambda *_: True)
    path = write_tiny_architecture(tmp_path / "tiny.gguf", architecture, variant=variant, kind=kind)
    for device, dtype, rows in (
        (CUDA, torch.bfloat16, IN_LINE),
        (CUDA, torch.bfloat16, PAIR),
        (BACKWARD, torch.float32, PAIR),
    ):
        with FakeTensorMode(allow_non_fake_inputs=True):
            network = Network(gguf_file.read(path), Bench(device=device, dtype=dtype, threads=2))
            network.form = made = beside(network, form)
            if network.rows_in_line is not None:
                network.rows_in_line = lambda q, *_: q
            network.keep_unpacked(1)
            layout = network.lay_out(rows)
            sums = methods.sums_by_answer(network.log_probabilities(layout), layout.answer_of, layout.answers)
            assert (sums.device.type, sums.shape) == (device.type, (layout.answers,))
            if device == BACKWARD:
                sums.sum().backward()
                assert all(one.grad is not None for one in made.parameters.values())


class Elsewhere(torch.Tensor):  # type: ignore[misc]  # torch is not read by mypy
    """A tensor of the CPU that says that it is on a GPU."""

    device = CUDA


def test_a_norm_is_the_same_on_every_device() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 64, generator=generator), torch.rand(64, generator=generator)
    for dtype in (torch.float32, torch.bfloat16):
        own, other = (rms_norm(one, weight, 1e-5, dtype) for one in (x, x.as_subclass(Elsewhere)))
        torch.testing.assert_close(other.as_subclass(torch.Tensor), own, rtol=8 * torch.finfo(dtype).eps, atol=1e-6)


def test_blocks_go_to_the_device_and_become_floats_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ggml's C would write where the device has no memory."""
    path = write_tiny_architecture(tmp_path / "tiny.gguf", "llama", kind="Q4_K")
    network = Network(gguf_file.read(path), Bench(device=CPU, dtype=torch.float32, threads=1))
    matrix = network.blocks[0].matrices["attn_q"]
    monkeypatch.setattr(ggml, "library", lambda: pytest.fail("it was asked"))
    usual, at = blocks.dequantized, list[torch.device]()

    def noted(data: torch.Tensor, kind: Kind) -> torch.Tensor:
        at.append(data.device)
        return usual(data, kind)

    monkeypatch.setattr(blocks, "dequantized", noted)
    found = Bench(device=SHAPES_ALONE, dtype=torch.bfloat16, threads=2).unpacked(matrix).unpacked
    assert found is not None
    assert (found.device, found.dtype, found.shape) == (SHAPES_ALONE, torch.bfloat16, matrix.shape)
    assert set(at) == {SHAPES_ALONE}


# --------------------------------------------------------------------------- memory


Beside = tuple[Network, Form]


@pytest.fixture
def on_gpu(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Beside:
    """A network and a LoRA that are on a GPU as far as memory goes."""
    network = Network(gguf_file.read(tiny_gguf), Bench(device=CPU, dtype=torch.bfloat16, threads=1))
    form = make_form(network, LORA, 0)
    network.bench = Bench(device=CUDA, dtype=torch.bfloat16, threads=1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (FREE, 10 * FREE))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: HELD)
    monkeypatch.setattr(memory, "free_memory", lambda: pytest.fail("the machine's own was asked for"))
    return network, form


def test_a_gpu_tells_what_it_has_to_give(on_gpu: Beside) -> None:
    network, _ = on_gpu
    assert memory.available_bytes(network) == memory.FREE_SHARE * FREE + HELD


def test_on_a_gpu_the_files_pages_and_the_process_take_nothing(on_gpu: Beside) -> None:
    """What is kept unpacked takes all its floats there."""
    network, form = on_gpu
    fixed = footprint._fixed_bytes(network, form, Cut(checkpointed=0), 10**12)
    assert fixed == HELD + form.size() * 3 * 4 + footprint.FIXED_BYTES
    floats = sum(one.weights * 2 for one in network.blocks[-1].matrices.values())
    assert footprint._fixed_bytes(network, form, Cut(checkpointed=0, unpacked=1), 10**12) == fixed + floats


def test_a_gpu_has_fewer_holes(on_gpu: Beside) -> None:
    network, _ = on_gpu
    probe, whole = Probe(tokens=64, kept_bytes=10**6, shared_bytes=0, lengths=100), Cut(checkpointed=0)
    there = footprint._moving_bytes(network, probe, whole)
    network.bench = Bench(device=CPU, dtype=torch.bfloat16, threads=1)
    kept = network.architecture.layers * probe.kept_bytes
    assert (
        footprint._moving_bytes(network, probe, whole) - there == (footprint.HOLES - footprint.HOLES_OF_DEVICES) * kept
    )


def test_a_training_is_made_to_fit_the_gpu(on_gpu: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    network, form = on_gpu
    example = Example(prompt=(1,) * 20, answers=(Answer(tokens=(2,) * 20),))
    todo = Todo(examples=[example] * 4, method=TrainingMethod.SFT, settings=LORA, seed=0)
    line = pace.Line(fixed=0, slope=0)
    nothing = pace.Pace(alone=line, forth=line, back=line, head_forth=line, head_both=line)
    monkeypatch.setattr(pace, "pace_of", lambda *_: nothing)
    for kept, is_short in ((10**6, False), (17 * 10**7, True)):
        monkeypatch.setattr(
            footprint, "widest", lambda *_, kept=kept: Probe(tokens=64, kept_bytes=kept, shared_bytes=0)
        )
        plan = fitting.fitted(network, form, todo)
        assert plan.peak_bytes <= plan.available_bytes == memory.FREE_SHARE * FREE + HELD
        assert bool(plan.checkpointed) is is_short
