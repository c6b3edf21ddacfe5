"""Step `export`: the lesson is written into GGUF files that Ollama takes.

Untouched tensors are copied byte for byte. Touched ones get a type in which the delta survives: rounded
back to four bits most weights would return to where they were.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from nightschool_daemon.config import DeliveryChoice
from nightschool_daemon.jobs import DeliveredFile, ExportResult, PrepareResult, Step
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.gguf_file import Field, GgufFile, NewTensor
from nightschool_daemon.learning.lesson import LowRank, read_lesson
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.abilities import probe_abilities
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_hookspecs.records import (
    DeliveryForm,
    DeliveryPlan,
    DeliveryTarget,
    ServerAbilities,
    TensorInfo,
    TrainingResult,
)

SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
Value = gguf.GGUFValueType
Lesson = Mapping[str, LowRank]
Weights = NDArray[np.float32]


class ExportError(Exception):
    """The lesson cannot be delivered; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What is delivered, and under which name."""

    file: GgufFile
    lesson: Lesson
    name: str
    directory: Path
    report: Callable[[int, int, str], None]


def run(context: WorkerContext) -> None:
    """Choose a form of delivery, write its files, leave `ExportResult`."""
    base = context.run.result(Step.PREPARE, PrepareResult).base
    trained = context.run.result(Step.TRAIN, TrainingResult)
    directory = context.run.step(Step.EXPORT)
    file = gguf_file.read(base.gguf)
    lesson = read_lesson(trained.adapter, file)
    if not lesson:
        raise ExportError("The training changed no weight, so there is nothing to deliver. Raise the learning rate.")
    context.progress(0, 1, "find out what this Ollama takes")
    http = OllamaHttp(context.settings.ollama)
    try:
        abilities = probe_abilities(http, base.pin, base.architecture, directory / "probe")
    finally:
        http.close()
        shutil.rmtree(directory / "probe", ignore_errors=True)
    plans = context.hooks.choose_delivery(target=target_of(file, lesson, abilities))
    plan = chosen(plans, context.settings.delivery.form, abilities)
    _require_disk(directory, plan, context.settings.delivery.min_free_gb)
    name = f"{base.name.replace(':', '-').replace('/', '-')}.{context.info.specialty.artifact_type}"
    parcel = Parcel(file=file, lesson=lesson, name=name, directory=directory, report=context.progress)
    files = WRITERS[plan.form](parcel, plan)
    context.run.finish(
        Step.EXPORT, ExportResult(abilities=abilities, plan=plan, files=files, touched=tuple(sorted(lesson)))
    )


def target_of(file: GgufFile, lesson: Lesson, abilities: ServerAbilities) -> DeliveryTarget:
    """What the delivery plugins decide on."""
    tensors = tuple(
        TensorInfo(name=one.name, shape=one.shape, type=one.type.name, bytes=one.bytes, touched=one.name in lesson)
        for one in file.tensors.values()
    )
    adapter_bytes = sum(one.up.size + one.down.size for one in lesson.values()) * 4
    return DeliveryTarget(server=abilities, tensors=tensors, adapter_bytes=adapter_bytes)


def chosen(plans: Sequence[DeliveryPlan], wanted: DeliveryChoice, abilities: ServerAbilities) -> DeliveryPlan:
    """The plan that adds the fewest bytes a version, or the configured form. Raises `ExportError`."""
    possible = [plan for plan in plans if wanted is DeliveryChoice.AUTO or plan.form.value == wanted.value]
    if not possible:
        takes = ", ".join(plan.form.value for plan in plans) or "none of the known forms"
        asked = "" if wanted is DeliveryChoice.AUTO else f"delivery.form is '{wanted}', but "
        raise ExportError(
            f'{asked}Ollama {abilities.version} takes {takes}. Set delivery.form = "auto", or update Ollama to 0.34.1 '
            "or newer."
        )
    return min(possible, key=lambda plan: plan.version_bytes)


# --------------------------------------------------------------------------- the three forms


def write_fused(parcel: Parcel, plan: DeliveryPlan) -> tuple[DeliveredFile, ...]:
    """One file with every tensor."""
    kind = GGMLQuantizationType[plan.tensor_type or "Q8_0"]
    tensors = [
        _touched(parcel, name, kind) if name in parcel.lesson else gguf_file.copied(parcel.file, name)
        for name in parcel.file.tensors
    ]
    return (_write(parcel, f"{parcel.name}.gguf", list(parcel.file.fields.values()), tensors),)


def write_split(parcel: Parcel, plan: DeliveryPlan) -> tuple[DeliveredFile, ...]:
    """Two shards: all metadata with the touched tensors, and what no version touches.

    The second depends on the base and the set of touched tensors alone, so that all versions share it.
    """
    kind = GGMLQuantizationType[plan.tensor_type or "Q8_0"]
    names = list(parcel.file.tensors)
    own = [_touched(parcel, name, kind) for name in names if name in parcel.lesson]
    shared = [gguf_file.copied(parcel.file, name) for name in names if name not in parcel.lesson]
    metadata = [one for key, one in parcel.file.fields.items() if key not in SPLIT_KEYS]
    architecture = [parcel.file.fields["general.architecture"]]
    return (
        _write(parcel, f"{parcel.name}-00001-of-00002.gguf", [*metadata, *_split_keys(0, len(names))], own),
        _write(parcel, f"{parcel.name}-00002-of-00002.gguf", [*architecture, *_split_keys(1, len(names))], shared),
    )


def write_adapter(parcel: Parcel, plan: DeliveryPlan) -> tuple[DeliveredFile, ...]:
    """A LoRA adapter. It must not carry a chat template, or the server makes a template layer of it."""
    scales = {one.scale * one.down.shape[0] for one in parcel.lesson.values()}
    (alpha,) = scales
    fields = [
        parcel.file.fields["general.architecture"],
        gguf_file.field("general.type", Value.STRING, "adapter"),
        gguf_file.field("adapter.type", Value.STRING, "lora"),
        gguf_file.field("adapter.lora.alpha", Value.FLOAT32, alpha),
    ]
    tensors = [
        NewTensor(name=f"{name}.{part}", shape=values.shape, type=GGMLQuantizationType.F32, data=_bytes_of(values))
        for name, one in parcel.lesson.items()
        for part, values in (("lora_a", one.down), ("lora_b", one.up))
    ]
    return (_write(parcel, f"{parcel.name}.adapter.gguf", fields, tensors),)


WRITERS: Mapping[DeliveryForm, Callable[[Parcel, DeliveryPlan], tuple[DeliveredFile, ...]]] = {
    DeliveryForm.FUSED: write_fused,
    DeliveryForm.SPLIT: write_split,
    DeliveryForm.ADAPTER: write_adapter,
}


def quantized(values: Weights, kind: GGMLQuantizationType) -> bytes:
    """Weights as blocks of a ggml type, row by row."""
    return np.ascontiguousarray(gguf.quantize(values, kind)).tobytes()


def type_for(columns: int, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    """The type itself where rows are whole blocks of it, else 16-bit floats."""
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if columns % int(block) == 0 else GGMLQuantizationType.F16


def _touched(parcel: Parcel, name: str, kind: GGMLQuantizationType) -> NewTensor:
    tensor = parcel.file.tensors[name]
    fitting = type_for(tensor.shape[-1], kind)

    def data() -> bytes:
        return quantized(parcel.file.dequantized(name) + parcel.lesson[name].delta(), fitting)

    return NewTensor(name=name, shape=tensor.shape, type=fitting, data=data)


def _bytes_of(values: Weights) -> Callable[[], bytes]:
    return np.ascontiguousarray(values, np.float32).tobytes


def _split_keys(number: int, tensors: int) -> list[Field]:
    return [
        gguf_file.field("split.no", Value.UINT16, number),
        gguf_file.field("split.count", Value.UINT16, 2),
        gguf_file.field("split.tensors.count", Value.INT32, tensors),
    ]


def _write(parcel: Parcel, name: str, fields: Sequence[Field], tensors: Sequence[NewTensor]) -> DeliveredFile:
    path = parcel.directory / name

    def counted(number: int, tensor: NewTensor) -> NewTensor:
        def data() -> memoryview | bytes:
            parcel.report(number, len(tensors), f"write {name}")
            return tensor.data()

        return NewTensor(name=tensor.name, shape=tensor.shape, type=tensor.type, data=data)

    digest = gguf_file.write(path, fields, [counted(number, one) for number, one in enumerate(tensors)])
    gguf_file.read(path)
    return DeliveredFile(name=name, path=path, digest=digest, bytes=path.stat().st_size)


def _require_disk(directory: Path, plan: DeliveryPlan, min_free_gb: float) -> None:
    needed = plan.version_bytes + plan.shared_bytes + int(min_free_gb * 1e9)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ExportError(
            f"The delivery needs {math.ceil(needed / 1e6)} MB in {directory}, and {free // 10**6} MB are free. "
            "Free some space, or lower delivery.min_free_gb."
        )
