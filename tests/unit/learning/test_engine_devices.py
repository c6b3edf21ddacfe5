"""Which device is taken, what it says of its memory, and what it is tried by. There is none here but the CPU."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from nightschool_daemon.jobs import NOTES, Step
from nightschool_daemon.learning import gguf_file, training
from nightschool_daemon.learning.engine import (
    blocks,
    devices,
    footprint,
    layout,
    machine,
    memory,
    methods,
    packed,
    proof,
)
from nightschool_daemon.learning.engine.adam import Adam
from nightschool_daemon.learning.engine.footprint import Probe
from nightschool_daemon.learning.engine.forms import Form, LowRank, Neurons
from nightschool_daemon.learning.engine.layout import Branches, lay_out
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.engine.todo import Cut
from nightschool_daemon.learning.loadable import device_for
from nightschool_daemon.learning.packed_route import make_form
from nightschool_hookspecs.records import Hyperparameters, TrainedForm
from support.selected_runs import at_step
from support.tiny_architectures import write_tiny_architecture

CPU, CUDA, METAL = (torch.device(name) for name in ("cpu", "cuda", "mps"))
OTHER = torch.device("cpu:0")
"""The CPU by another name: what is told from it is so by name alone."""
BACKWARD = torch.device("lazy:0")
"""A device that torch goes back on without a driver."""
RECOMMENDED, DRIVEN = 10 * 10**9, 2 * 10**9
"""Bytes that Metal recommends as the most, and that its driver holds."""
LORA = Hyperparameters(form=TrainedForm.LORA, lora_r=4)


# --------------------------------------------------------------------------- the choice


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> dict[torch.device, str]:
    """What is wrong with devices."""
    found: dict[torch.device, str] = {}
    monkeypatch.setattr(proof, "problem", lambda device, _dtype=None: found.get(device))
    return found


def finds(monkeypatch: pytest.MonkeyPatch, *there: torch.device) -> None:
    """Have torch find these and no others."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: CUDA in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: METAL in there)


@pytest.mark.parametrize(
    ("there", "wrong", "taken", "told"),
    [
        ((), (), CPU, None),
        ((CUDA,), (), CUDA, None),
        ((METAL,), (), METAL, None),
        ((CUDA, METAL), (), CUDA, None),
        ((CUDA, METAL), (CUDA,), METAL, "by CUDA or ROCm is not used: norms come out otherwise."),
        ((CUDA,), (CUDA,), CPU, "by CUDA or ROCm is not used: norms come out otherwise."),
        ((METAL,), (METAL,), CPU, "by Metal is not used: norms come out otherwise."),
    ],
)
def test_a_gpu_is_taken_that_computes_as_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    problems: dict[torch.device, str],
    there: tuple[torch.device, ...],
    wrong: tuple[torch.device, ...],
    taken: torch.device,
    told: str | None,
) -> None:
    finds(monkeypatch, *there)
    problems.update(dict.fromkeys(wrong, "norms come out otherwise"))
    assert machine.device() == taken
    assert machine.passed_over() == (None if told is None else f"The GPU that torch finds {told}")


def test_a_gpu_without_16_bits_multiplies_in_32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_seconds", lambda _where, dtype: 1.0 if dtype is torch.bfloat16 else 9.0)
    fastest = machine.fastest_type.__wrapped__
    for problem, dtype in ((None, torch.bfloat16), ("norms come out otherwise", torch.float32)):
        monkeypatch.setattr(
            proof, "problem", lambda _, dtype, problem=problem: problem if dtype is torch.bfloat16 else None
        )
        assert fastest(METAL) is dtype
        assert fastest(CPU) is torch.bfloat16


def test_a_training_tells_that_a_gpu_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch says that there is Metal, and has none: nothing takes the place of the trial."""
    finds(monkeypatch, METAL)
    context = at_step(Step.TRAIN, tmp_path, write_tiny_architecture(tmp_path / "tiny.gguf", "llama"))
    monkeypatch.setattr(training, "make_job", lambda _: pytest.fail("far enough"))
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        training.run(context)
    assert machine.device() == CPU
    (note,) = (context.run.step(Step.TRAIN) / NOTES).read_text().splitlines()
    assert note.startswith("The GPU that torch finds by Metal is not used: floats of quantised blocks cannot be ")


# --------------------------------------------------------------------------- what it is tried by

Part = Callable[[Bench], Iterator[Tensor]]


def problem(device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """As it is found anew."""
    return proof.problem.__wrapped__(device, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_gradient", [True, False])
def test_the_cpu_computes_as_the_cpu(dtype: torch.dtype, with_gradient: bool) -> None:
    """Whoever asks may want no gradients."""
    with torch.set_grad_enabled(with_gradient):
        assert problem(OTHER, dtype) is None


def test_what_is_tried_is_worth_comparing() -> None:
    """Neither next to nothing nor beyond all bounds, and by gradients too."""
    bench = Bench(device=CPU, dtype=torch.float32, threads=1)
    counts = dict.fromkeys(proof.PARTS, 0)
    for name, part in proof.PARTS.items():
        for one in part(bench):
            counts[name] += 1
            assert 1e-3 < float(one.detach().abs().max()) < 20
    assert list(counts.values()) == [3, 3, 3, 15, 3, 3, 1]


@pytest.mark.parametrize("name", proof.PARTS)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("by", [1.1, float("nan")])
def test_no_part_may_come_out_otherwise(monkeypatch: pytest.MonkeyPatch, name: str, last: bool, by: float) -> None:
    """The first result, or the last gradient."""
    usual = proof.PARTS[name]

    def off(bench: Bench) -> Iterator[Tensor]:
        found = [one.detach() for one in usual(bench)]
        if bench.device.index is not None:
            found[-last] = found[-last] * by
        yield from found

    monkeypatch.setattr(proof, "PARTS", {**proof.PARTS, name: off})
    assert problem(OTHER) == f"{name} come out otherwise than on the CPU"


@pytest.mark.parametrize("name", proof.PARTS)
@pytest.mark.parametrize("error", [NotImplementedError, TypeError, AssertionError, torch.OutOfMemoryError])
def test_no_part_may_fail(monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception]) -> None:
    usual = proof.PARTS[name]

    def fails(bench: Bench) -> Iterator[Tensor]:
        yield from usual(bench)
        if bench.device.index is not None:
            raise error("The operator 'aten::x'\nis not there")

    monkeypatch.setattr(proof, "PARTS", {**proof.PARTS, name: fails})
    assert problem(OTHER) == f"{name} cannot be computed there (The operator 'aten::x' is not there)"


def test_blocks_are_de_quantised_where_they_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "dequantized", lambda *_: pytest.fail("asked"))
    with pytest.raises(pytest.fail.Exception, match="asked"):
        problem(torch.device("meta"))


class Noted(TorchDispatchMode):  # type: ignore[misc]  # torch is not read by mypy
    """Operations that give something on a device, and the types of what they give."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self.operations: set[str] = set()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: object, types: object, args: tuple[object, ...] = (), kwargs=None):  # type: ignore[no-untyped-def]
        found = function(*args, **(kwargs or {}))  # type: ignore[operator]
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, Tensor) and one.device == self._device:
                self.operations.add(str(function).removeprefix("aten.").removesuffix(".default"))
                self.types.add(one.dtype)
        return found


@functools.cache
def with_metal() -> set[str]:
    """What torch computes on Metal, by its own table."""
    table = Path(torch.__file__).parents[1] / "torchgen" / "packaged" / "ATen" / "native" / "native_functions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = {one["func"].split("(")[0]: one for one in yaml.load(table.read_text(encoding="utf-8"), loader)}  # noqa: S506  # both are safe
    found = set[str]()
    for name, one in entries.items():
        kernels = " ".join(entries[one.get("structured_delegate", name)].get("dispatch", {"Composite": ""}))
        if "MPS" in kernels or "Composite" in kernels:
            found.add(name)
    return found


def beside(network: Network, form: TrainedForm) -> Form:
    generator = torch.Generator()
    if form is TrainedForm.NEURONS:
        return Neurons(network.architecture, count=32, spread=lambda _: 1.0, generator=generator).on(BACKWARD)
    return LowRank(network.linears(), rank=2, alpha=4, group=1, generator=generator, dropout=0.1).on(BACKWARD)


@pytest.mark.parametrize(
    ("architecture", "form"),
    [
        ("llama", TrainedForm.NEURONS),
        ("gemma2", TrainedForm.LORA),
        ("phi3", TrainedForm.LORA),
        ("qwen3", TrainedForm.LORA),
        ("mistral3", TrainedForm.NEURONS),
    ],
)
def test_a_training_asks_metal_for_nothing_that_it_lacks(tmp_path: Path, architecture: str, form: TrainedForm) -> None:
    """Nor for floats of 64 bits, of which it has none."""
    path = write_tiny_architecture(tmp_path / "tiny.gguf", architecture, kind="Q4_K")
    rows = [Branches(stem=(1, 5, 9, 11), answers=((7, 8, 9), (3, 4))), Branches(stem=(1, 5, 30), answers=((31, 32),))]
    with FakeTensorMode(allow_non_fake_inputs=True), Noted(BACKWARD) as noted:
        network = Network(gguf_file.read(path), Bench(device=BACKWARD, dtype=torch.bfloat16, threads=1))
        network.form = made = beside(network, form)
        made.is_training = True
        lying = network.lay_out(rows)
        sums = methods.sums_by_answer(network.log_probabilities(lying), lying.answer_of, lying.answers)
        sums.sum().backward()
    assert all(one.grad is not None for one in made.parameters.values())
    assert {"index_add", "index_copy_", "_softmax_backward_data", "scatter_.src"} <= noted.operations
    assert noted.operations - with_metal() == set()
    assert torch.float64 not in noted.types


@pytest.mark.parametrize("kind", blocks.READERS)
def test_blocks_of_every_type_become_floats_by_what_metal_has(kind: Kind) -> None:
    weights, size = GGML_QUANT_SIZES[kind]
    with FakeTensorMode(), Noted(BACKWARD) as noted:
        found = blocks.dequantized(torch.zeros(2, size, dtype=torch.uint8, device=BACKWARD), kind)
    assert (found.shape, found.dtype) == ((2, weights), torch.float32)
    assert noted.operations - with_metal() == set()
    assert torch.float64 not in noted.types


def test_metal_has_the_optimiser_and_the_table_is_read() -> None:
    assert "_fused_adamw_" in with_metal()
    assert "segment_reduce" not in with_metal()
    with Noted(CPU) as noted:
        optimizer = Adam([one := torch.ones(2)])
        one.grad = torch.ones(2)
        optimizer.step(0.1)
    assert torch.float64 not in noted.types


def test_what_rows_teach_a_token_in_common_is_the_same_sum_without_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Branches(stem=(1, 2, *range(number)), answers=((7,) * number,)) for number in (1, 3, 5)]
    lying, taught = lay_out(rows, CPU, shares=True), []
    for where in (("cpu",), ()):
        monkeypatch.setattr(layout, "SUMS_SEGMENTS", where)
        x = torch.rand(len(lying.ids), 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (lying.padded(x) * torch.arange(1, 8 * 3 * lying.longest + 1).view(3, lying.longest, 8)).sum().backward()
        taught.append(x.grad)
    torch.testing.assert_close(*taught)
    assert lying.repeated is not None


# --------------------------------------------------------------------------- memory


@pytest.fixture
def on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that shares the machine's memory, of which there is ample."""
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: RECOMMENDED)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: DRIVEN)
    monkeypatch.setattr(memory, "free_memory", lambda: 100 * 10**9)
    monkeypatch.setattr(memory, "_left_in_group", lambda _pages: float("inf"))
    monkeypatch.setattr(memory, "resident_bytes", lambda: pytest.fail("the process's own was asked for"))


@pytest.mark.usefixtures("on_metal")
@pytest.mark.parametrize(
    ("machine_has", "group_leaves", "free"),
    [
        (100 * 10**9, float("inf"), RECOMMENDED - DRIVEN),
        (3 * 10**9, float("inf"), 3 * 10**9),
        (3 * 10**9, 10**9, 10**9),
    ],
    ids=["Metal", "the machine", "a control group"],
)
def test_on_metal_the_smaller_of_both_is_free(
    monkeypatch: pytest.MonkeyPatch, machine_has: int, group_leaves: float, free: int
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: machine_has)
    monkeypatch.setattr(memory, "_left_in_group", lambda _pages: group_leaves)
    assert memory.allowed_bytes(METAL) == memory.FREE_SHARE * free + DRIVEN
    assert memory.taken_bytes(METAL) == DRIVEN


@pytest.mark.usefixtures("on_metal")
def test_metal_that_holds_more_than_it_recommends_has_nothing_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: RECOMMENDED + 1)
    assert memory.allowed_bytes(METAL) == RECOMMENDED + 1


@pytest.mark.usefixtures("on_metal", "problems")
def test_transformers_goes_to_metal_where_there_is_room_for_the_base(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, METAL)
    file = gguf_file.read(tiny_gguf)
    assert device_for(file) == METAL
    monkeypatch.setattr(memory, "free_memory", lambda: 10**4)
    assert device_for(file) == CPU


@pytest.mark.usefixtures("on_metal")
def test_on_metal_the_files_pages_count_and_the_process_does_not(tiny_gguf: Path) -> None:
    """What is kept unpacked takes the pages of its blocks less."""
    network = Network(gguf_file.read(tiny_gguf), Bench(device=CPU, dtype=torch.bfloat16, threads=1))
    form = make_form(network, LORA, 0)
    network.bench = Bench(device=METAL, dtype=torch.bfloat16, threads=1)
    fixed = footprint._fixed_bytes(network, form, Cut(checkpointed=0), 10**12)
    assert fixed == DRIVEN + network.weights.bytes + form.size() * 3 * 4 + footprint.FIXED_BYTES
    matrices = network.blocks[-1].matrices.values()
    more = sum(one.weights * 2 - one.data.nbytes for one in matrices)
    assert footprint._fixed_bytes(network, form, Cut(checkpointed=0, unpacked=1), 10**12) == fixed + more


@pytest.mark.usefixtures("on_metal")
def test_metal_has_as_few_holes_as_other_gpus(tiny_gguf: Path) -> None:
    network = Network(gguf_file.read(tiny_gguf), Bench(device=CPU, dtype=torch.bfloat16, threads=1))
    found = {}
    for device in (CPU, CUDA, METAL):
        network.bench = Bench(device=device, dtype=torch.bfloat16, threads=1)
        probe = Probe(tokens=64, kept_bytes=10**6, shared_bytes=0, lengths=100)
        found[device] = footprint._moving_bytes(network, probe, Cut(checkpointed=0))
    assert found[METAL] == found[CUDA] < found[CPU]


@pytest.mark.parametrize(("device", "waits"), [(CPU, []), (CUDA, ["cuda"]), (METAL, ["mps"])])
def test_the_device_that_computes_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, waits: list[str]
) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda one: waited.append(one.type))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    devices.wait_for(device)
    assert waited == waits


# --------------------------------------------------------------------------- elsewhere than on Linux


@pytest.fixture
def _without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither control groups nor an account of what is mapped, as on macOS."""
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "no" / "cgroup")
    monkeypatch.setattr(packed, "OWN_MAPPINGS", tmp_path / "no" / "smaps")


@pytest.mark.usefixtures("_without_proc")
def test_memory_is_told_without_proc(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(gguf_file.read(tiny_gguf), Bench(device=CPU, dtype=torch.float32, threads=1))
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 10**8)
    assert network.weights.resident_bytes() == 0
    assert memory.held_bytes(network) == 10**8
    assert memory.available_bytes(network) == memory.FREE_SHARE * 10**9 + 10**8


def test_memory_is_told_as_linux_tells_it() -> None:
    def told(file: str, key: str) -> int:
        lines = Path(file).read_text(encoding="ascii").splitlines()
        (found,) = (one for one in lines if one.startswith(f"{key}:"))
        return int(found.split()[1]) * 1024

    assert memory.resident_bytes() == pytest.approx(told("/proc/self/status", "VmRSS"), rel=0.05)
    assert psutil.Process().memory_info().vms == pytest.approx(told("/proc/self/status", "VmSize"), rel=0.05)
    # others take and give meanwhile
    assert memory.free_memory() == pytest.approx(told("/proc/meminfo", "MemAvailable"), rel=0.5)
