"""What can be trained here is told from the file, before Ollama or transformers are asked to load it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nightschool_daemon.config import EngineChoice
from nightschool_daemon.jobs import Step
from nightschool_daemon.learning import dataset
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.engine.architecture import FAMILIES
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.trainable import require_trainable, route_of
from nightschool_daemon.plans import Route
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod
from nightschool_hookspecs.services import TrainingError
from support.rewritten_gguf import Told, rewritten
from support.selected_runs import at_step
from support.tiny_architectures import write_tiny_architecture

LORA = Hyperparameters(form=TrainedForm.LORA)
Changes = Mapping[str, Told | None]
Tensors = Mapping[str, NDArray[np.float32] | None]


def called(tiny_gguf: Path, directory: Path, architecture: str, layers: int | None = 2) -> GgufFile:
    """The tiny model under the name of another architecture."""
    keys = {"general.architecture": architecture, f"{architecture}.block_count": layers}
    return open_base(rewritten(tiny_gguf, directory / "called.gguf", keys=keys))


@pytest.mark.parametrize("engine", EngineChoice)
@pytest.mark.parametrize("architecture", ["foobar", "mamba", "t5", "bert", "general", "\x1b[2J"])
def test_what_neither_engine_nor_transformers_trains_is_refused(
    tiny_gguf: Path, tmp_path: Path, architecture: str, engine: EngineChoice
) -> None:
    file = called(tiny_gguf, tmp_path, architecture)
    with pytest.raises(TrainingError, match="Neither transformers with PEFT nor the packed engine trains") as caught:
        route_of(file, engine, TrainingMethod.SFT, LORA)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith("Choose another base, or add this one to specialties.ignore.")


@pytest.mark.parametrize("architecture", ["starcoder2", "stablelm", "gpt2", "falcon", "nemotron"])
def test_what_transformers_loads_is_left_to_it(tiny_gguf: Path, tmp_path: Path, architecture: str) -> None:
    file = called(tiny_gguf, tmp_path, architecture)
    assert route_of(file, EngineChoice.AUTO, TrainingMethod.SFT, LORA) is Route.TRANSFORMERS
    require_trainable(file, EngineChoice.AUTO)


def test_a_file_that_does_not_say_how_many_layers_it_has_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    file = called(tiny_gguf, tmp_path, "starcoder2", layers=None)
    with pytest.raises(TrainingError, match=r"lacks starcoder2\.block_count"):
        route_of(file, EngineChoice.AUTO, TrainingMethod.SFT, LORA)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_the_engine_trains_is_trainable(tmp_path: Path, architecture: str) -> None:
    require_trainable(open_base(write_tiny_architecture(tmp_path / "a.gguf", architecture)), EngineChoice.AUTO)


BROKEN: Mapping[str, tuple[Changes, Tensors, str]] = {
    "an unknown architecture": ({"general.architecture": "foobar"}, {}, "trains a base of the architecture 'foobar'"),
    "experts": ({"llama.expert_count": 4}, {}, r"Models with experts \(MoE\), as this llama, cannot be trained"),
    "no heads": ({"llama.attention.head_count": 0}, {}, r"lacks llama\.attention\.head_count"),
    "a layer without a matrix": ({}, {"blk.1.ffn_up.weight": None}, r"has no tensor blk\.1\.ffn_up\.weight"),
}


@pytest.mark.parametrize("which", BROKEN)
def test_a_base_that_cannot_be_trained_is_refused_before_ollama_is_asked_for_prompts(
    tiny_gguf: Path, tmp_path: Path, which: str
) -> None:
    keys, tensors, sentence = BROKEN[which]
    base = rewritten(tiny_gguf, tmp_path / "broken.gguf", keys=keys, tensors=tensors)
    context = at_step(Step.SELECT, tmp_path, base)
    (context.run.step(Step.PREPARE) / "events.jsonl").touch()
    with pytest.raises(TrainingError, match=sentence):
        dataset.run(context)
