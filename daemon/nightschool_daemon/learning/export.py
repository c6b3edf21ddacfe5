"""Step `export`: the lesson is written into GGUF files that Ollama takes.

Untouched tensors are copied byte for byte. Touched ones get a type in which the delta survives: rounded
back to four bits most weights would return to where they were.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import numpy as np
from numpy.typing import NDArray

from nightschool_daemon.disk import delivered_bytes, sync, told
from nightschool_daemon.jobs import (
    DeliveredFile,
    ExportResult,
    LossKind,
    PrepareResult,
    Step,
)
from nightschool_daemon.learning import adapter_file, gguf_file
from nightschool_daemon.learning.delivery import Decision, ExportError, absent, chosen, cost, target_of
from nightschool_daemon.learning.engine.loop import LOWER_RATE
from nightschool_daemon.learning.gguf_file import Field, GgufError, NewTensor
from nightschool_daemon.learning.lesson import Lesson, read_lesson, require_low_rank
from nightschool_daemon.learning.measuring import Measure
from nightschool_daemon.learning.probing import probed
from nightschool_daemon.learning.rounding import Demand
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_hookspecs.records import (
    DeliveryForm,
    DeliveryPlan,
    DeliveryTarget,
    ServerAbilities,
    TrainingResult,
)

SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
Value = gguf.GGUFValueType
MORE_ATTEMPTS = 3
"""To save bytes, once enough of a lesson is left."""
WORTH = 0.01
"""Of a version's bytes: an attempt that cannot save so many is not made."""
TIME_SHARE = 0.8
"""Of the time that a step may take: an attempt that would not end within it is not made."""
FAILURES: tuple[type[Exception], ...] = (ExportError, GgufError, OSError, RuntimeError, MemoryError)
"""Of the disk, of torch and of memory: by them an attempt ends that need not be made, and no run."""

FLOOR = 0.02
"""Nats an answer token. What nobody learned from may be answered so much worse in any case: of a small gain a hundredth
is less than what rounding does by chance."""

Measured = Callable[[ExportResult], ExportResult]
"""The same with the losses of base, trained and delivered network, once the files are written."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What is delivered, and under which name."""

    lesson: Lesson
    name: str
    directory: Path
    demand: Demand
    report: Callable[[int, int, str], None]
    shared: DeliveredFile | None = None
    """What no lesson touches, where it was written already."""


def run(context: WorkerContext) -> None:
    """Choose a form of delivery, write its files, leave `ExportResult`."""
    base = context.run.result(Step.PREPARE, PrepareResult).base
    trained = context.run.result(Step.TRAIN, TrainingResult)
    directory = context.run.step(Step.EXPORT)
    file = gguf_file.read(base.gguf)
    lesson = read_lesson(trained.adapter, file)
    if not lesson.touched:
        raise ExportError("The training changed no weight, so there is nothing to deliver. Raise the learning rate.")
    context.progress(0, 1, "find out what this Ollama takes")
    abilities = probed(context, directory, base.pin, base.architecture)
    name = f"{base.name.replace(':', '-').replace('/', '-')}.{context.info.specialty.artifact_type}"
    context.progress(0, 1, "measure what was learned")
    measure = Measure.of(context, base, lesson)
    delivered = attempted(context, lesson, abilities, name, measure.of_delivered)
    context.run.finish(Step.EXPORT, delivered)


def attempted(
    context: WorkerContext, lesson: Lesson, abilities: ServerAbilities, name: str, measured: Measured
) -> ExportResult:
    """Write the lesson in wider types each time, until enough of it is left by `measured`, then in fewer bytes while
    that is so. Raises `ExportError`."""
    attempts = _Attempts(
        context=context, lesson=lesson, abilities=abilities, name=name, measured=measured, began=time.monotonic()
    )
    result: ExportResult | None = None
    failed: Demand | None = None
    for demand in lesson.demands():
        again = "" if result is None else f"{_left_in(result, context)} Once more, in wider types: "
        result = attempts.attempt(demand, context.run.step(Step.EXPORT), result, again)
        if attempts.is_enough(result):
            # an adapter's floats are what they are, whatever is asked of the tensors
            if failed is None or result.plan.form is DeliveryForm.ADAPTER:
                return result
            return attempts.narrowed(result, failed, demand)
        _require_numbers(result)
        if result.plan.form is DeliveryForm.ADAPTER:
            break
        failed = demand
    raise ExportError(f"{_left_in(result, context)} Lower it, or give the lesson more feedback: a larger one survives.")


@dataclass(frozen=True, kw_only=True)
class _Attempts:
    """A lesson written in one choice of types after another."""

    context: WorkerContext
    lesson: Lesson
    abilities: ServerAbilities
    name: str
    measured: Measured
    began: float
    """By `time.monotonic`."""

    def attempt(self, demand: Demand, directory: Path, before: ExportResult | None, again: str) -> ExportResult:
        """Write and measure. `before`: an attempt whose files are there, `again`: what is told first of the new one."""
        decision = _decided(self.context, target_of(self.lesson, self.abilities, demand), before, again)
        min_free_gb = self.context.settings.delivery.min_free_gb
        _require_disk(directory, self.lesson.file.path, decision.plan, before, min_free_gb)
        parcel = Parcel(
            lesson=self.lesson,
            name=self.name,
            directory=directory,
            demand=demand,
            report=self.context.progress,
            shared=_shared(before),
        )
        return self.measured(_written(parcel, decision, self.abilities, 1 if before is None else before.attempts + 1))

    def is_enough(self, result: ExportResult) -> bool:
        """Whether enough of the lesson is left, in what was learned and in what was not."""
        min_kept = self.context.settings.delivery.min_kept
        return _kept(result) >= min_kept and _lost_elsewhere(result, min_kept) is None

    def narrowed(self, result: ExportResult, failed: Demand, enough: Demand) -> ExportResult:
        """Of some attempts between two demands the one of fewest bytes that keeps enough, `result` where none does.

        Its files stay where they are until others are whole, measured and enough.
        """
        directory, first, last = self.context.run.step(Step.EXPORT), result.attempts, result
        with TemporaryDirectory(dir=directory) as aside:
            for _ in range(MORE_ATTEMPTS):
                demand = self.lesson.between(failed, enough, WORTH * result.plan.version_bytes)
                if demand is None or not self._has_time(result.attempts):
                    break
                again = f"{_left_in(last, self.context)} Once more, in fewer bytes: "
                try:
                    last = self.attempt(demand, Path(aside), result, again)
                except FAILURES as error:
                    self.context.note(f"No further attempt: {told(error, directory)}")
                    break
                result = replace(result, attempts=last.attempts)
                if self.is_enough(last):
                    result, enough = _moved(last, directory), demand
                else:
                    failed = demand
        if result.attempts > first:
            left = f"{_kept(result):.1%} of the lesson at {cost(result.plan)}"
            self.context.note(f"The smallest that keeps enough is delivered: {left}.")
        return result

    def _has_time(self, attempts: int) -> bool:
        """Whether one more like those that were made would end in time."""
        taken = time.monotonic() - self.began
        return taken * (1 + 1 / attempts) <= TIME_SHARE * self.context.time_s


def _moved(result: ExportResult, directory: Path) -> ExportResult:
    """Its files in a directory, in place of those of the same names."""
    files = tuple(replace(one, path=one.path.replace(directory / one.name)) for one in result.files)
    sync(directory)
    return replace(result, files=files)


def _require_numbers(result: ExportResult) -> None:
    written = (one for one in (result.held_in, result.held_out) if one is not None)
    if not all(math.isfinite(one.delivered_loss) for one in written):
        raise ExportError(
            "Written into the file, what was trained is too large for the types of a GGUF: the loss of the model is no "
            f"number. {LOWER_RATE}."
        )


def _decided(context: WorkerContext, target: DeliveryTarget, before: ExportResult | None, again: str) -> Decision:
    """Choose a form, and say what each would cost. `before`: an attempt that kept too little of the lesson."""
    plans = context.hooks.choose_delivery(target=target)
    try:
        decision = chosen(plans, context.settings.delivery, target)
    except ExportError as error:
        if before is None:
            raise
        raise ExportError(f"{_left_in(before, context)} What keeps more is too large. {error}") from error
    context.note(f"{again}{decision.sentence(tuple(absent(plans, target)))}")
    return decision


def _written(parcel: Parcel, decision: Decision, abilities: ServerAbilities, attempts: int) -> ExportResult:
    return ExportResult(
        abilities=abilities,
        plan=decision.plan,
        files=WRITERS[decision.plan.form](parcel),
        touched=parcel.lesson.touched,
        others=decision.others,
        why=decision.why,
        attempts=attempts,
    )


def _shared(result: ExportResult | None) -> DeliveredFile | None:
    """The shard that a further attempt has in common with this one."""
    return result.files[1] if result is not None and result.plan.form is DeliveryForm.SPLIT else None


def _kept(result: ExportResult | None) -> float:
    return result.held_in.kept if result is not None and result.held_in is not None else 0.0


def _lost_elsewhere(result: ExportResult, min_kept: float) -> str | None:
    """What is wrong where the file loses more of held-out references than it may; None: nothing.

    Their own share says little: of what was not taught a small gain is the rule, and a hundredth of it is noise.
    """
    held_out = result.held_out
    if held_out is None:
        return None
    gains = [held_out.gain]
    if result.held_in is not None and result.held_in.kind is LossKind.ANSWERS:
        gains.append(result.held_in.gain)
    allowed = max(FLOOR, (1 - min_kept) * max(gains))
    if held_out.lost <= allowed:
        return None
    return (
        f"Written into the file, what was trained answers what it was not taught worse: {held_out.delivered_loss:.3f} "
        f"nats an answer token where the trained network has {held_out.trained_loss:.3f}, and at most {allowed:.3f} "
        "more are allowed (delivery.min_kept)."
    )


def _left_in(result: ExportResult | None, context: WorkerContext) -> str:
    """Why it is not enough, or how much there is to spare."""
    min_kept = context.settings.delivery.min_kept
    lost = None if result is None or _kept(result) < min_kept else _lost_elsewhere(result, min_kept)
    return lost or (
        f"Written into the file, {_kept(result):.1%} of the lesson are left, and delivery.min_kept asks for "
        f"{min_kept:.0%}."
    )


# --------------------------------------------------------------------------- the three forms


def write_fused(parcel: Parcel) -> tuple[DeliveredFile, ...]:
    """One file with every tensor."""
    lesson = parcel.lesson
    touched = frozenset(lesson.touched)
    tensors = [
        lesson.tensor(name, parcel.demand) if name in touched else gguf_file.copied(lesson.file, name)
        for name in lesson.file.tensors
    ]
    return (_write(parcel, f"{parcel.name}.gguf", lesson.fields(), tensors),)


def write_split(parcel: Parcel) -> tuple[DeliveredFile, ...]:
    """Two shards: all metadata with the touched tensors, and what no version touches.

    The second depends on the base and the set of touched tensors alone, so that all versions share it.
    """
    lesson = parcel.lesson
    names, touched = list(lesson.file.tensors), frozenset(lesson.touched)
    own = [lesson.tensor(name, parcel.demand) for name in names if name in touched]
    metadata = [one for one in lesson.fields() if one.key not in SPLIT_KEYS]
    first = _write(parcel, f"{parcel.name}-00001-of-00002.gguf", [*metadata, *_split_keys(0, len(names))], own)
    return (first, parcel.shared or _write_shared(parcel))


def _write_shared(parcel: Parcel) -> DeliveredFile:
    lesson = parcel.lesson
    touched = frozenset(lesson.touched)
    tensors = [gguf_file.copied(lesson.file, name) for name in lesson.file.tensors if name not in touched]
    fields = [lesson.file.fields["general.architecture"], *_split_keys(1, len(lesson.file.tensors))]
    return _write(parcel, f"{parcel.name}-00002-of-00002.gguf", fields, tensors)


def write_adapter(parcel: Parcel) -> tuple[DeliveredFile, ...]:
    """A LoRA adapter."""
    lesson = require_low_rank(parcel.lesson)
    (alpha,) = {one.scale * one.down.shape[0] for one in lesson.factors.values()}
    tensors = [
        tensor
        for name, one in lesson.factors.items()
        for tensor in adapter_file.tensors_of(
            lesson.file, name, one.down.shape[0], _bytes_of(one.down), _bytes_of(one.up)
        )
    ]
    return (_write(parcel, f"{parcel.name}.adapter.gguf", adapter_file.fields_of(lesson.file, alpha), tensors),)


WRITERS: Mapping[DeliveryForm, Callable[[Parcel], tuple[DeliveredFile, ...]]] = {
    DeliveryForm.FUSED: write_fused,
    DeliveryForm.SPLIT: write_split,
    DeliveryForm.ADAPTER: write_adapter,
}


def _bytes_of(values: NDArray[np.float32]) -> Callable[[], bytes]:
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


def _require_disk(
    directory: Path, base: Path, plan: DeliveryPlan, before: ExportResult | None, min_free_gb: float
) -> None:
    """Raise `ExportError` where the run's disk has no room for the files, or Ollama's none for the copies that it gets.

    `before`: an attempt whose files are used again, or replaced once the new ones are whole.
    """
    whole = plan.version_bytes + plan.shared_bytes
    there = 0 if before is None else sum(one.bytes for one in before.files)
    for place in (directory, base.parent):
        needed = max(whole, delivered_bytes(place, directory, base, whole) - there) + int(min_free_gb * 1e9)
        free = shutil.disk_usage(place).free
        if free < needed:
            raise ExportError(
                f"The delivery needs {math.ceil(needed / 1e6)} MB on the disk of {place}, and {free // 10**6} MB are "
                "free. Free some space, or lower delivery.min_free_gb."
            )
