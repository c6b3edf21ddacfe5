"""A lesson is written in wider types until enough of it is left, within the budget, or refused with the reason.

Where narrower types kept too little, those between are tried, and the fewest bytes that keep enough are delivered.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from nightschool_daemon.config import DeliveryChoice, DeliverySettings, Settings
from nightschool_daemon.jobs import NOTES, ExportResult, Losses, Step
from nightschool_daemon.learning import export, gguf_file
from nightschool_daemon.learning.delivery import ExportError
from nightschool_daemon.learning.export import MORE_ATTEMPTS, WORTH, Measured, attempted
from nightschool_daemon.learning.gguf_file import GgufError, GgufFile
from nightschool_daemon.learning.lesson import Lesson, LowRankDelta, LowRankLesson, NeuronLesson
from nightschool_daemon.learning.rounding import FINER, Demand
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_hookspecs.records import DeliveryForm, ServerAbilities
from nightschool_hookspecs.services import TrainingError
from support.deliveries import delivering
from support.tiny_architectures import write_tiny_architecture

SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")
DELIVERY = DeliverySettings()
RANK = 4
ADDED = 64
SECOND_HEAD = 8192
"""Bytes that the second shard has for names and places of its tensors, so that the first has none for them."""


@pytest.fixture
def file(tmp_path: Path) -> GgufFile:
    return gguf_file.read(write_tiny_architecture(tmp_path / "tiny.gguf", "llama", kind="Q4_0"))


def low_rank(file: GgufFile, rank: int) -> LowRankLesson:
    generator = np.random.default_rng(0)
    factors = {
        name: LowRankDelta(
            module=name,
            down=generator.standard_normal((rank, one.shape[1])).astype(np.float32),
            up=(generator.standard_normal((one.shape[0], rank)) * 0.002).astype(np.float32),
            scale=1.0,
        )
        for name, one in file.tensors.items()
        if name.startswith("blk.") and len(one.shape) == 2
    }
    return LowRankLesson(file, factors)


@pytest.fixture
def lesson(file: GgufFile) -> LowRankLesson:
    """A large change of a four-bit base, so that narrow types are tried first."""
    return low_rank(file, RANK)


@pytest.fixture
def neurons(file: GgufFile) -> NeuronLesson:
    generator = np.random.default_rng(0)
    width, layers = file.number("embedding_length") or 0, file.number("block_count") or 0
    shapes = {"ffn_gate": (ADDED, width), "ffn_up": (ADDED, width), "ffn_down": (width, ADDED)}
    parameters = {f"blk.{layer}.{part}": shape for layer in range(layers) for part, shape in shapes.items()}
    return NeuronLesson(
        file,
        {name: generator.standard_normal(shape).astype(np.float32) * 0.05 for name, shape in parameters.items()},
    )


def keeping(shares: Sequence[float]) -> Measured:
    """Measures of one attempt after another."""
    left: Iterator[float] = iter(shares)

    def measured(export: ExportResult) -> ExportResult:
        return replace(export, held_in=Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=3.0 - next(left)))

    return measured


def attempts_of(context: WorkerContext, lesson: Lesson, shares: Sequence[float]) -> ExportResult:
    return attempted(context, lesson, SERVER, "tiny", keeping(shares))


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What an attempt wrote."""

    kinds: tuple[str, ...]
    """Of the touched tensors."""
    bytes: int
    written: tuple[int, ...]
    """A number for each file, another one where it was written anew."""


def all_attempts(context: WorkerContext, lesson: Lesson, server: ServerAbilities = SERVER) -> list[Attempt]:
    """Every attempt, where none keeps enough."""
    found: list[Attempt] = []

    def measured(export: ExportResult) -> ExportResult:
        tensors = gguf_file.read(export.files[0].path).tensors
        kinds = tuple(tensors[name].type.name for name in lesson.touched) if lesson.touched[0] in tensors else ()
        written = tuple(one.path.stat().st_ino for one in export.files)
        found.append(Attempt(kinds=kinds, bytes=export.plan.version_bytes, written=written))
        return replace(export, held_in=Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=2.5))

    with pytest.raises(ExportError, match=r"50\.0% of the lesson are left"):
        attempted(context, lesson, server, "tiny", measured)
    return found


def told(context: WorkerContext) -> list[str]:
    return (context.run.step(Step.EXPORT) / NOTES).read_text().splitlines()


def test_the_first_attempt_that_keeps_enough_is_delivered(tmp_path: Path, lesson: LowRankLesson) -> None:
    context = delivering(tmp_path, DELIVERY)
    result = attempts_of(context, lesson, [0.995])
    assert (result.attempts, len(told(context))) == (1, 1)
    assert result.held_in is not None
    assert result.held_in.kept == pytest.approx(0.995)
    assert "Of what is possible it adds the fewest bytes" in result.why
    assert [one.form.value for one in result.others] == ["fused"]


def test_too_little_is_retried_with_more_bytes(tmp_path: Path, lesson: LowRankLesson) -> None:
    narrow = attempts_of(delivering(tmp_path / "a", DELIVERY), lesson, [1.0])
    context = delivering(tmp_path / "b", DELIVERY)
    attempts = len(lesson.demands())
    wide = attempts_of(context, lesson, [0.5] * (attempts - 1) + [0.99] + [0.5] * MORE_ATTEMPTS)
    assert wide.attempts == attempts + MORE_ATTEMPTS
    assert attempts > 2
    assert wide.plan.version_bytes > narrow.plan.version_bytes
    assert 0 <= wide.plan.version_bytes - wide.files[0].path.stat().st_size < SECOND_HEAD
    first, second, *_ = told(context)
    assert first.startswith("delivered as split: ")
    assert second.startswith("Written into the file, 50.0% of the lesson are left, and delivery.min_kept asks for 99%.")


@pytest.mark.parametrize(("gain", "lost", "allowed"), [(0.1, 0.021, 0.02), (0.1, 0.031, 0.03), (5.0, 0.051, 0.05)])
def test_too_little_of_what_was_not_taught_is_retried_with_more_bytes_too(
    tmp_path: Path, lesson: LowRankLesson, gain: float, lost: float, allowed: float
) -> None:
    """A hundredth of the larger gain may be lost, of what was learned or of what was not, or what is chance."""
    taught = 3.0 if allowed == 0.03 else 1.0
    directory = tmp_path / "wide"
    losing = iter([lost, lost - 0.002, lost, lost, lost])

    def measured(export: ExportResult) -> ExportResult:
        held_in = Losses(base_loss=taught, trained_loss=0.0, delivered_loss=0.0)
        held_out = Losses(base_loss=2.0 + gain, trained_loss=2.0, delivered_loss=2.0 + next(losing))
        return replace(export, held_in=held_in, held_out=held_out, held_out_texts=5)

    context = delivering(directory, DELIVERY)
    result = attempted(context, lesson, SERVER, "tiny", measured)
    assert result.held_out is not None
    assert result.held_out.lost == pytest.approx(lost - 0.002)
    _, again, *_ = told(context)
    assert f"{2 + lost:.3f} nats an answer token where the trained network has 2.000" in again
    assert f"at most {allowed:.3f} more" in again
    assert "in wider types" in again


def test_what_was_not_taught_is_lost_in_no_type(tmp_path: Path, lesson: LowRankLesson) -> None:
    def measured(export: ExportResult) -> ExportResult:
        held_in = Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=2.0)
        held_out = Losses(base_loss=3.0, trained_loss=2.9, delivered_loss=2.95)
        return replace(export, held_in=held_in, held_out=held_out, held_out_texts=5)

    with pytest.raises(
        ExportError, match=r"not taught worse: 2\.950 .* trained network has 2\.900, and at most 0\.020"
    ):
        attempted(delivering(tmp_path, DELIVERY), lesson, SERVER, "tiny", measured)


def test_every_attempt_has_other_types_and_more_bytes_than_the_one_before(
    tmp_path: Path, lesson: LowRankLesson
) -> None:
    attempts = all_attempts(delivering(tmp_path, DELIVERY), lesson)
    assert len({one.kinds for one in attempts}) == len(attempts) > 2
    assert [one.bytes for one in attempts] == sorted({one.bytes for one in attempts})
    assert set(attempts[-1].kinds) == {"F16"}


def test_eight_bits_throughout_are_tried_before_sixteen(tmp_path: Path, lesson: LowRankLesson) -> None:
    attempts = all_attempts(delivering(tmp_path, DELIVERY), lesson)
    assert set(attempts[-2].kinds) == {"Q8_0"}


def test_added_neurons_are_tried_once_in_each_of_their_types(tmp_path: Path, neurons: NeuronLesson) -> None:
    attempts = all_attempts(delivering(tmp_path, DELIVERY), neurons)
    assert len({one.kinds for one in attempts}) == len(attempts)
    assert [one.bytes for one in attempts] == sorted({one.bytes for one in attempts})
    assert [set(one.kinds) for one in attempts if len(set(one.kinds)) == 1] == [{"Q4_0"}, {"Q8_0"}, {"F16"}]


@pytest.mark.parametrize(
    ("demand", "kind", "old_error", "new_error"),
    [
        (Demand(allowed_noise=30.0), "Q4_0", 0.0, 0.02),
        (Demand(allowed_noise=30.0, least=Kind.Q8_0), "Q8_0", 1e-4, 1e-4),
        (Demand(allowed_noise=0.0), "F16", 1e-6, 1e-6),
    ],
)
def test_added_neurons_stand_beside_the_base_whatever_their_type(
    tmp_path: Path, neurons: NeuronLesson, demand: Demand, kind: str, old_error: float, new_error: float
) -> None:
    tensors = [neurons.tensor(name, demand) for name in neurons.touched]
    gguf_file.write(tmp_path / "delivered.gguf", neurons.fields(), tensors)
    delivered = gguf_file.read(tmp_path / "delivered.gguf")
    assert delivered.number("feed_forward_length") == (neurons.file.number("feed_forward_length") or 0) + ADDED
    for name in neurons.touched:
        assert delivered.tensors[name].type.name == kind
        base, added = neurons.file.dequantized(name), neurons.parameters[name.removesuffix(".weight")]
        axis = 1 if "ffn_down" in name else 0
        old, new = np.split(delivered.dequantized(name), [base.shape[axis]], axis=axis)
        assert relative_error(old, base) <= old_error
        assert relative_error(new, added) <= new_error


def relative_error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.square(found - wanted).sum() / np.square(wanted).sum())


def test_what_all_versions_share_is_written_once(tmp_path: Path, lesson: LowRankLesson) -> None:
    attempts = all_attempts(delivering(tmp_path, DELIVERY), lesson)
    firsts, shared = zip(*(one.written for one in attempts), strict=True)
    assert len(set(shared)) == 1
    assert all(one != other for one, other in pairwise(firsts))


def test_an_adapter_is_written_once(tmp_path: Path, lesson: LowRankLesson) -> None:
    """Wider types of tensors would change nothing of it."""
    server = replace(SERVER, adapter=True)
    assert len(all_attempts(delivering(tmp_path, DeliverySettings(form=DeliveryChoice.ADAPTER)), lesson, server)) == 1


def test_an_adapter_that_keeps_enough_where_narrow_types_did_not_is_final(tmp_path: Path, file: GgufFile) -> None:
    """Fewer bytes of tensors would change nothing of it."""
    forms: list[DeliveryForm] = []

    def measured(export: ExportResult) -> ExportResult:
        forms.append(export.plan.form)
        is_enough = export.plan.form is DeliveryForm.ADAPTER
        return replace(
            export, held_in=Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=2.0 if is_enough else 2.5)
        )

    server, lesson = replace(SERVER, adapter=True), low_rank(file, 8 * RANK)
    result = attempted(delivering(tmp_path, DELIVERY), lesson, server, "tiny", measured)
    *before, last = forms
    assert before
    assert set(before) == {DeliveryForm.SPLIT}
    assert last is result.plan.form is DeliveryForm.ADAPTER


@pytest.mark.parametrize(("copies", "is_refused"), [(1.9, True), (2.1, False)])
def test_it_needs_room_for_the_files_and_for_the_copies_that_ollama_gets(
    tmp_path: Path, lesson: LowRankLesson, monkeypatch: pytest.MonkeyPatch, copies: float, is_refused: bool
) -> None:
    """Here both are on one disk. What is replaced by a further attempt is no third copy."""
    bad_to_good = [0.5] * (len(lesson.demands()) - 1) + [0.99] + [0.5] * MORE_ATTEMPTS
    whole = sum(one.bytes for one in attempts_of(delivering(tmp_path / "a", DELIVERY), lesson, bad_to_good).files)
    context = delivering(tmp_path / "b", DELIVERY)

    def free(_place: Path) -> SimpleNamespace:
        written = sum(one.stat().st_size for one in context.run.step(Step.EXPORT).glob("*.gguf"))
        return SimpleNamespace(free=int(copies * whole) - written)

    monkeypatch.setattr(shutil, "disk_usage", free)
    if is_refused:
        with pytest.raises(ExportError, match="Free some space"):
            attempts_of(context, lesson, bad_to_good)
    else:
        assert attempts_of(context, lesson, bad_to_good).attempts == len(bad_to_good)


def test_where_no_type_keeps_enough_it_is_refused_with_the_reason(tmp_path: Path, lesson: LowRankLesson) -> None:
    context = delivering(tmp_path, DELIVERY)
    with pytest.raises(
        ExportError, match=r"98\.0% of the lesson are left, and delivery\.min_kept asks for 99%"
    ) as error:
        attempts_of(context, lesson, [0.98] * len(lesson.demands()))
    assert "a larger one survives" in str(error.value)


def test_what_keeps_more_must_fit_the_budget(tmp_path: Path, lesson: LowRankLesson) -> None:
    narrow = attempts_of(delivering(tmp_path / "a", DELIVERY), lesson, [1.0])
    limit = replace(DELIVERY, max_version_mb=narrow.plan.version_bytes / 1e6)
    with pytest.raises(ExportError, match=r"What keeps more is too large\. A version may cost") as error:
        attempts_of(delivering(tmp_path / "b", limit), lesson, [0.98] * len(lesson.demands()))
    assert "Written into the file" in str(error.value)


# --------------------------------------------------------------------------- the fewest bytes


def touched_bytes(export: ExportResult) -> int:
    return sum(one.bytes for one in gguf_file.read(export.files[0].path).tensors.values())


@pytest.mark.parametrize(("form", "share"), [("lesson", 0.3), ("lesson", 0.9), ("neurons", 0.6)])
def test_the_fewest_bytes_that_keep_enough_are_sought(
    tmp_path: Path, request: pytest.FixtureRequest, form: str, share: float
) -> None:
    """Enough is kept by all that have so many bytes, of those between two rungs of the ladder."""
    lesson: Lesson = request.getfixturevalue(form)
    *failed, enough = [lesson.bytes(one) for one in lesson.demands()][:3]
    least = failed[-1] + share * (enough - failed[-1])
    tried: list[int] = []

    def measured(export: ExportResult) -> ExportResult:
        tried.append(touched_bytes(export))
        return replace(
            export,
            held_in=Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=2.005 if tried[-1] >= least else 2.02),
        )

    result = attempted(delivering(tmp_path, DELIVERY), lesson, SERVER, "tiny", measured)
    assert tried[:3] == [*failed, enough]
    assert len(set(tried)) == len(tried) == result.attempts <= 3 + MORE_ATTEMPTS
    assert touched_bytes(result) == min(one for one in tried if one >= least)
    possible = [enough, *(lesson.bytes(one) for one in lesson.demands(FINER))]
    spare = touched_bytes(result) - min(one for one in possible if one >= least)
    assert spare <= max((enough - failed[-1]) / 4, WORTH * result.plan.version_bytes)


@pytest.mark.parametrize("seed", range(2))
def test_what_keeps_too_little_is_never_delivered_and_takes_no_place_of_what_keeps_enough(
    tmp_path: Path, lesson: LowRankLesson, seed: int
) -> None:
    """However little more bytes have to do with what is kept."""
    context = delivering(tmp_path, DELIVERY)
    directory = context.run.step(Step.EXPORT)
    kept = np.random.default_rng(seed).uniform(0.983, 1.0, 20)
    left: dict[str, float] = {}
    """Digest of the first shard -> what it keeps."""

    def standing() -> str:
        return hashlib.sha256((directory / "tiny-00001-of-00002.gguf").read_bytes()).hexdigest()

    def enough() -> list[str]:
        return [digest for digest, share in left.items() if share >= 0.99]

    def measured(export: ExportResult) -> ExportResult:
        assert standing() == (enough() or [export.files[0].digest])[-1]
        left[export.files[0].digest] = kept[len(left)]
        return replace(
            export, held_in=Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=3.0 - kept[len(left) - 1])
        )

    result = attempted(context, lesson, SERVER, "tiny", measured)
    assert result.files[0].digest == standing() == enough()[-1]
    assert result.held_in is not None
    assert result.held_in.kept == pytest.approx(left[standing()])
    assert sorted(directory.rglob("*.gguf")) == sorted(one.path for one in result.files)
    assert not [one for one in directory.iterdir() if one.is_dir()]


def test_each_attempt_is_told_and_what_is_delivered(tmp_path: Path, lesson: LowRankLesson) -> None:
    context = delivering(tmp_path, DELIVERY)
    result = attempts_of(context, lesson, [0.5, 0.6, 0.995, 0.98, 0.992, 0.97])
    assert result.attempts == 6
    _, *again, last = told(context)
    found = [
        (re.findall(r"([\d.]+)% of the lesson", one)[0], re.findall(r"in ([a-z]+ [a-z]+): ", one)) for one in again
    ]
    assert found == [
        ("50.0", ["wider types"]),
        ("60.0", ["wider types"]),
        ("99.5", ["fewer bytes"]),
        ("98.0", ["fewer bytes"]),
        ("99.2", ["fewer bytes"]),
    ]
    assert last.startswith("The smallest that keeps enough is delivered: 99.2% of the lesson at ")


def test_without_room_for_another_attempt_what_keeps_enough_is_delivered(
    tmp_path: Path, lesson: LowRankLesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = delivering(tmp_path, DELIVERY)
    shares = [0.5, 0.5, 0.995]
    measured = keeping(shares)

    def filling(export: ExportResult) -> ExportResult:
        if export.attempts == len(shares):
            monkeypatch.setattr(shutil, "disk_usage", lambda _place: SimpleNamespace(free=0))
        return measured(export)

    result = attempted(context, lesson, SERVER, "tiny", filling)
    assert result.attempts == len(shares)
    assert all(one.path.stat().st_size == one.bytes for one in result.files)
    assert re.match(r"No further attempt: The delivery needs \d+ MB", told(context)[-1])


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), MemoryError(), TrainingError("no number"), GgufError("cut off")]
)
def test_an_attempt_that_need_not_be_made_costs_no_run(tmp_path: Path, lesson: LowRankLesson, error: Exception) -> None:
    context = delivering(tmp_path, DELIVERY)
    measured = keeping([0.5, 0.5, 0.995])

    def failing(export: ExportResult) -> ExportResult:
        if export.attempts > 3:
            raise error
        return measured(export)

    result = attempted(context, lesson, SERVER, "tiny", failing)
    assert result.attempts == 3
    assert all(one.path.stat().st_size == one.bytes for one in result.files)
    assert told(context)[-1].startswith("No further attempt: ")


def test_an_attempt_that_would_not_end_in_time_is_not_made(
    tmp_path: Path, lesson: LowRankLesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of an hour each, of which the fourth would be beyond four fifths of five hours: it would be killed."""
    hours = iter([0.0, 3.0 * 3600])
    monkeypatch.setattr(export, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    training = replace(Settings().training, time_limit_minutes=4.9 * 60)
    context = delivering(tmp_path, DELIVERY)
    context = replace(context, settings=replace(context.settings, training=training))
    result = attempts_of(context, lesson, [0.5, 0.5, 0.995])
    assert result.attempts == 3
