"""What a version is expected to cost, against what lessons of that form then do cost."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nightschool_daemon.config import DeliveryChoice
from nightschool_daemon.jobs import DeliveredFile
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.delivery import Expected, target_of
from nightschool_daemon.learning.export import Parcel, write_adapter, write_fused, write_split
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import Lesson, LowRankDelta, LowRankLesson, NeuronLesson
from nightschool_daemon.learning.rounding import Demand
from nightschool_daemon.plans import cost_text, duration
from nightschool_hookspecs.records import DeliveryTarget, Hyperparameters, ServerAbilities, TrainedForm
from nightschool_plugins import delivery_fused, delivery_split
from support.tiny_architectures import write_tiny_architecture

SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")
RANK = 4
LORA = Hyperparameters(form=TrainedForm.LORA, lora_r=RANK)
GROUPED = Hyperparameters(lora_r=RANK, form=TrainedForm.GROUPED)
GENERATOR = np.random.default_rng(0)
USUAL = Demand(allowed_noise=1.0)
COUNT = 256
"""Of added neurons a layer."""
SECOND_HEAD = 8192
"""Bytes that a second shard has for names and places of its tensors."""


@pytest.fixture(scope="module", params=[("Q4_K", ""), ("Q8_0", ""), ("F16", ""), ("Q8_0", "bias")])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    path, (kind, variant) = tmp_path_factory.mktemp("tiny") / "tiny.gguf", request.param
    return gguf_file.read(write_tiny_architecture(path, "llama", kind=kind, variant=variant))


def low_rank(file: GgufFile, *, group: int, scale: float = 0.005) -> LowRankLesson:
    """A lesson on every matrix of every block, of a tenth of the weights' size unless told otherwise."""
    factors = {}
    for name, one in file.tensors.items():
        if name.startswith("blk.") and len(one.shape) == 2:
            rows, columns = one.shape
            down = np.repeat(GENERATOR.standard_normal((RANK, columns // group)), group, axis=1)
            up = GENERATOR.standard_normal((rows, RANK)) * scale
            factors[name] = LowRankDelta(module=name, down=down.astype(np.float32), up=up.astype(np.float32), scale=1.0)
    return LowRankLesson(file, factors, group=group)


def neurons(file: GgufFile) -> NeuronLesson:
    """A lesson of units that do nothing."""
    width, layers = file.number("embedding_length") or 0, file.number("block_count") or 0
    shapes = {"ffn_gate": (COUNT, width), "ffn_up": (COUNT, width), "ffn_down": (width, COUNT)}
    return NeuronLesson(
        file,
        {f"blk.{n}.{part}": np.zeros(shape, np.float32) for n in range(layers) for part, shape in shapes.items()},
    )


def parcel_of(directory: Path, lesson: Lesson) -> Parcel:
    return Parcel(lesson=lesson, name="tiny", directory=directory, demand=USUAL, report=lambda _done, _of, _what: None)


def version_bytes(target: DeliveryTarget) -> int:
    return sum(one.delivered_bytes for one in target.tensors if one.touched)


def touched(target: DeliveryTarget) -> set[str]:
    return {one.name for one in target.tensors if one.touched}


@pytest.mark.parametrize(("settings", "group"), [(LORA, 1), (GROUPED, 32)], ids=["lora", "grouped"])
def test_a_lora_costs_what_was_expected(file: GgufFile, settings: Hyperparameters, group: int) -> None:
    paid = target_of(low_rank(file, group=group), SERVER, USUAL)
    least, most = (Expected(settings=settings).target(file, SERVER, widest=widest) for widest in (False, True))
    assert touched(least) == touched(most) == touched(paid)
    assert least.adapter_bytes == paid.adapter_bytes
    assert version_bytes(least) <= version_bytes(paid) <= version_bytes(most)


@pytest.mark.parametrize("noise", [1e9, 30.0, 1.0, 0.0])
@pytest.mark.parametrize("scale", [0.05, 0.005, 0.00005])
@pytest.mark.parametrize("group", [1, 32])
def test_no_tensor_is_delivered_below_its_own_bytes(file: GgufFile, group: int, scale: float, noise: float) -> None:
    paid = target_of(low_rank(file, group=group, scale=scale), SERVER, Demand(allowed_noise=noise))
    least = Expected(settings=LORA).target(file, SERVER, widest=False)
    assert version_bytes(least) <= version_bytes(paid)
    assert all(one.delivered_bytes >= one.bytes for one in paid.tensors)


def test_added_neurons_cost_exactly_what_was_expected(file: GgufFile) -> None:
    paid = target_of(neurons(file), SERVER, USUAL)
    expected = Expected(settings=Hyperparameters(form=TrainedForm.NEURONS), neurons=COUNT)
    for widest in (False, True):
        assert expected.target(file, SERVER, widest=widest) == paid


@pytest.mark.parametrize("form", [DeliveryChoice.AUTO, DeliveryChoice.FUSED])
def test_a_version_with_added_neurons_is_as_large_as_was_expected(
    file: GgufFile, tmp_path: Path, form: DeliveryChoice
) -> None:
    """Larger than its base."""
    (written,) = write_fused(parcel_of(tmp_path, neurons(file)))
    expected = Expected(settings=Hyperparameters(form=TrainedForm.NEURONS), neurons=COUNT).version_bytes(file, form)
    assert written.bytes == expected > file.path.stat().st_size


@pytest.mark.parametrize("lesson_of", [partial(low_rank, group=1), neurons], ids=["lora", "neurons"])
def test_a_version_in_one_file_is_as_large_as_its_plan_says(
    file: GgufFile, tmp_path: Path, lesson_of: Callable[[GgufFile], Lesson]
) -> None:
    """Its tokenizer counts too."""
    lesson = lesson_of(file)
    plan = delivery_fused.nightschool_choose_delivery(target=target_of(lesson, SERVER, USUAL))
    (written,) = write_fused(parcel_of(tmp_path, lesson))
    assert plan is not None
    assert plan.version_bytes == written.bytes


@pytest.mark.parametrize("lesson_of", [partial(low_rank, group=1), neurons], ids=["lora", "neurons"])
def test_a_shard_of_a_versions_own_is_about_as_large_as_its_plan_says_and_no_larger(
    file: GgufFile, tmp_path: Path, lesson_of: Callable[[GgufFile], Lesson]
) -> None:
    """Its tokenizer counts too; what names the tensors of the other shard stands in that one."""
    lesson = lesson_of(file)
    plan = delivery_split.nightschool_choose_delivery(target=target_of(lesson, SERVER, USUAL))
    own, _ = write_split(parcel_of(tmp_path, lesson))
    assert plan is not None
    assert 0 <= plan.version_bytes - own.bytes < SECOND_HEAD


def test_a_plan_expects_the_tokenizer_too(file: GgufFile) -> None:
    expected = Expected(settings=Hyperparameters(form=TrainedForm.NEURONS), neurons=COUNT)
    plan = delivery_fused.nightschool_choose_delivery(target=expected.target(file, SERVER, widest=False))
    assert plan is not None
    assert plan.version_bytes == expected.version_bytes(file, DeliveryChoice.FUSED)


@pytest.mark.parametrize("write", [write_fused, write_split])
def test_a_version_with_a_lora_is_no_larger_than_was_expected(
    file: GgufFile, tmp_path: Path, write: Callable[[Parcel], tuple[DeliveredFile, ...]]
) -> None:
    files = write(parcel_of(tmp_path, low_rank(file, group=1)))
    written = sum(one.bytes for one in files)
    assert written <= Expected(settings=LORA).version_bytes(file, DeliveryChoice.AUTO) + SECOND_HEAD


def test_an_adapter_is_as_large_as_was_expected_and_as_its_plan_says(file: GgufFile, tmp_path: Path) -> None:
    """What names its tensors counts too."""
    lesson = low_rank(file, group=1)
    (written,) = write_adapter(parcel_of(tmp_path, lesson))
    assert target_of(lesson, SERVER, USUAL).adapter_bytes == written.bytes
    assert Expected(settings=LORA).version_bytes(file, DeliveryChoice.ADAPTER) == written.bytes


def test_chosen_parts_and_upper_layers_alone_are_touched(file: GgufFile) -> None:
    expected = Expected(
        settings=Hyperparameters(form=TrainedForm.LORA, lora_layers=("attn_q", "ffn_down")), trained_from=1
    )
    assert touched(expected.target(file, SERVER, widest=True)) == {"blk.1.attn_q.weight", "blk.1.ffn_down.weight"}


def test_neither_norms_nor_the_embedding_are_touched(file: GgufFile) -> None:
    names = touched(Expected(settings=LORA).target(file, SERVER, widest=False))
    assert names
    assert all(len(file.tensors[name].shape) == 2 and name.startswith("blk.") for name in names)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (99, "99 s"), (100, "2 min"), (5990, "100 min"), (6000, "1.7 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_costs_read_well() -> None:
    assert cost_text(1_000_000, 2_500_000, 0) == "1.0 to 2.5 MB a version"
    assert cost_text(1_000_000, 1_000_001, 3_000_000) == "1.0 MB a version, 3.0 MB shared by all versions"
