"""What a training that fails says of itself, and what it does not blame on the plugin that asked for it."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nightschool_daemon.config import EngineChoice
from nightschool_daemon.jobs import Step
from nightschool_daemon.learning import gguf_file, training
from nightschool_daemon.learning.trainable import without_what_it_cannot
from nightschool_hookspecs.records import Hyperparameters, Material, MethodChoice, TrainedForm
from nightschool_hookspecs.services import TrainingError
from support.selected_runs import at_step
from support.tiny_architectures import write_tiny_architecture
from support.training_jobs import greetings, training_job

LORA = Hyperparameters(form=TrainedForm.LORA, learning_rate=1e-3, lora_r=2)
BOTH = Material(examples=80, better_known=80, pairs=70, liked=0, disliked=0)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_architecture(tmp_path / "tiny.gguf", "llama")


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full: "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "The disk is full: "),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "Memory ran out: CUDA out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory ran out: DefaultCPUAllocator"),
        (MemoryError(), "Memory ran out"),
        (RuntimeError("mat1 and mat2\nshapes differ"), "The training failed with RuntimeError: mat1 and mat2 shapes"),
        (TrainingError("The loss is no longer a number."), "The loss is no longer a number."),
    ],
)
def test_what_fails_below_a_plugin_is_no_fault_of_the_plugin(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, told: str
) -> None:
    """Else it would be struck out after three nights with a full disk."""

    def fails(*_: object, **__: object) -> None:
        raise failure

    context = at_step(Step.TRAIN, tmp_path, tiny, texts=greetings())
    monkeypatch.setattr(training, "prepare", fails)
    engine = training.Engine(context, gguf_file.read(tiny))
    job = training.make_job(context)
    job = replace(job, hyperparameters=LORA)
    # as a plugin asks, through the host that counts failures
    with pytest.raises(TrainingError) as caught:
        context.hooks.train_adapter(job=job, train=engine)
    assert str(caught.value).startswith(told)
    assert ("lower neurons or lora_r" in str(caught.value)) == told.startswith("The disk is full")


@pytest.mark.parametrize(
    ("engine", "method", "pairs"),
    [
        (EngineChoice.AUTO, MethodChoice.AUTO, 70),
        (EngineChoice.TRANSFORMERS, MethodChoice.AUTO, 0),
        # who asks for pairs alone is told that there is no way
        (EngineChoice.TRANSFORMERS, MethodChoice.DPO, 70),
    ],
)
def test_where_pairs_cannot_be_learned_the_wanted_answers_alone_are(
    tmp_path: Path, tiny: Path, engine: EngineChoice, method: MethodChoice, pairs: int
) -> None:
    notes: list[str] = []
    job = replace(training_job(tmp_path, tiny, LORA), material=BOTH, method=method)
    found = without_what_it_cannot(job, gguf_file.read(tiny), engine, notes.append)
    assert (found.material.pairs, found.material.examples) == (pairs, 80)
    assert [one.split(":")[0] for one in notes] == (
        [] if pairs else ["Wanted answers alone are learned, and 70 pairs of answers are not"]
    )
