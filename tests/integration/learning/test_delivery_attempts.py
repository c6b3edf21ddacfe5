"""A lesson is written in wider types until enough of it is left, within the budget, or refused with the reason."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from nightschool_daemon.config import DeliverySettings, Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import NOTES, ExportResult, Losses, RunDirectory, Step
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.delivery import ExportError
from nightschool_daemon.learning.export import ALLOWED_NOISE, Measured, attempted
from nightschool_daemon.learning.lesson import LowRank, LowRankLesson
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_hookspecs.records import RunInfo, ServerAbilities, Specialty
from support.tiny_architectures import write_tiny_architecture

SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")
SETTINGS = Settings(delivery=DeliverySettings(min_free_gb=0))
RANK = 4


@pytest.fixture
def lesson(tmp_path: Path) -> LowRankLesson:
    """A large change of a four-bit base, so that narrow types are tried first."""
    file = gguf_file.read(write_tiny_architecture(tmp_path / "tiny.gguf", "llama", kind="Q4_0"))
    generator = np.random.default_rng(0)
    factors = {
        name: LowRank(
            module=name,
            down=generator.standard_normal((RANK, one.shape[1])).astype(np.float32),
            up=(generator.standard_normal((one.shape[0], RANK)) * 0.002).astype(np.float32),
            scale=1.0,
        )
        for name, one in file.tensors.items()
        if name.startswith("blk.") and len(one.shape) == 2
    }
    return LowRankLesson(file, factors)


def context_of(directory: Path, delivery: DeliverySettings) -> WorkerContext:
    run = RunDirectory(path=directory / "run")
    run.step(Step.EXPORT).mkdir(parents=True)
    info = RunInfo(
        id="r",
        specialty=Specialty(base="tiny:1m", artifact_type="greeting"),
        seed=1,
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        reason="test",
        directory=run.path,
    )
    hooks = Hooks.load(plugin_directory=None, tables={})
    return WorkerContext(
        step=Step.EXPORT, run=run, info=info, settings=replace(SETTINGS, delivery=delivery), hooks=hooks
    )


def keeping(shares: Sequence[float]) -> Measured:
    """Measures of one attempt after another."""
    left: Iterator[float] = iter(shares)

    def measured(_export: ExportResult) -> Losses:
        return Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=3.0 - next(left))

    return measured


def attempts_of(context: WorkerContext, lesson: LowRankLesson, shares: Sequence[float]) -> ExportResult:
    return attempted(context, lesson, SERVER, "tiny", keeping(shares))


def told(context: WorkerContext) -> list[str]:
    return (context.run.step(Step.EXPORT) / NOTES).read_text().splitlines()


def test_the_first_attempt_that_keeps_enough_is_delivered(tmp_path: Path, lesson: LowRankLesson) -> None:
    context = context_of(tmp_path, SETTINGS.delivery)
    result = attempts_of(context, lesson, [0.995])
    assert (result.attempts, len(told(context))) == (1, 1)
    assert result.held_in is not None
    assert result.held_in.kept == pytest.approx(0.995)
    assert "Of what is possible it adds the fewest bytes" in result.why
    assert [one.form.value for one in result.others] == ["fused"]


def test_too_little_is_retried_with_more_bytes(tmp_path: Path, lesson: LowRankLesson) -> None:
    narrow = attempts_of(context_of(tmp_path / "a", SETTINGS.delivery), lesson, [1.0])
    context = context_of(tmp_path / "b", SETTINGS.delivery)
    wide = attempts_of(context, lesson, [0.5] * (len(ALLOWED_NOISE) - 1) + [0.99])
    assert wide.attempts == len(ALLOWED_NOISE)
    assert wide.plan.version_bytes > narrow.plan.version_bytes
    assert wide.files[0].path.stat().st_size >= wide.plan.version_bytes
    first, second, *_ = told(context)
    assert first.startswith("delivered as split: ")
    assert second.startswith("Written into the file, 50.0% of the lesson are left, and delivery.min_kept asks for 99%.")


def test_where_no_type_keeps_enough_it_is_refused_with_the_reason(tmp_path: Path, lesson: LowRankLesson) -> None:
    context = context_of(tmp_path, SETTINGS.delivery)
    with pytest.raises(
        ExportError, match=r"98\.0% of the lesson are left, and delivery\.min_kept asks for 99%"
    ) as error:
        attempts_of(context, lesson, [0.98] * len(ALLOWED_NOISE))
    assert "a larger one survives" in str(error.value)


def test_what_keeps_more_must_fit_the_budget(tmp_path: Path, lesson: LowRankLesson) -> None:
    narrow = attempts_of(context_of(tmp_path / "a", SETTINGS.delivery), lesson, [1.0])
    limit = replace(SETTINGS.delivery, max_version_mb=narrow.plan.version_bytes / 1e6)
    with pytest.raises(ExportError, match=r"What keeps more is too large\. A version may cost") as error:
        attempts_of(context_of(tmp_path / "b", limit), lesson, [0.98] * len(ALLOWED_NOISE))
    assert "Written into the file" in str(error.value)
