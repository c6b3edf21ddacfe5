"""What a training takes where the settings leave it open, by real servers of both kinds."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import forms, tasks
from nightschool_daemon.config import DeliveryChoice, DeliverySettings, EngineChoice, OllamaSettings, Settings
from nightschool_daemon.config import TrainingSettings as Training
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.defaults import (
    RATES,
    RATES_BEHIND_NORMS,
    WIDTH,
    WIDTH_BEHIND_NORMS,
    measured_rate,
    settled,
)
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import DESCRIPTION, NEURONS
from nightschool_daemon.learning.peft_files import WEIGHTS
from nightschool_daemon.ollama.errors import OllamaUnreachable
from nightschool_hookspecs.records import Hyperparameters, TrainedForm
from nightschool_plugins.tuning_fixed import TuningFixed
from support.ollama_server import OllamaServer
from support.rewritten_gguf import rewritten
from support.tiny_architectures import write_tiny_architecture

OPEN = Hyperparameters()
NOWHERE = Settings(ollama=OllamaSettings(host="http://127.0.0.1:9"))
"""Where a server would be needed, this one does not answer."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    return gguf_file.read(write_tiny_architecture(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama"))


def at(server: OllamaServer) -> Settings:
    return Settings(ollama=OllamaSettings(host=server.url, models_directory=server.models_directory))


def test_neurons_are_added_where_the_server_takes_shards(file: GgufFile, ollama: OllamaServer) -> None:
    assert settled(OPEN, file, at(ollama), None).form is TrainedForm.NEURONS


def test_lora_is_trained_for_a_server_of_adapters(file: GgufFile, tmp_path: Path) -> None:
    with OllamaServer("0.34.0", directory=tmp_path / "ollama") as server:
        assert settled(OPEN, file, at(server), None).form is TrainedForm.LORA


def test_what_is_asked_for_is_taken_and_no_server_asked(file: GgufFile) -> None:
    asked = Hyperparameters(form=TrainedForm.GROUPED, learning_rate=0.5)
    assert settled(asked, file, NOWHERE, None) == asked


@pytest.mark.parametrize(
    ("form", "taken"), [(DeliveryChoice.ADAPTER, TrainedForm.LORA), (DeliveryChoice.FUSED, TrainedForm.NEURONS)]
)
def test_the_form_follows_an_asked_for_delivery(file: GgufFile, form: DeliveryChoice, taken: TrainedForm) -> None:
    settings = replace(NOWHERE, delivery=DeliverySettings(form=form))
    assert settled(OPEN, file, settings, None).form is taken


def test_lora_is_trained_through_transformers(file: GgufFile) -> None:
    settings = replace(NOWHERE, training=Training(engine=EngineChoice.TRANSFORMERS))
    assert settled(OPEN, file, settings, None).form is TrainedForm.LORA


def test_the_form_is_that_of_what_was_brought(file: GgufFile, tmp_path: Path) -> None:
    assert settled(OPEN, file, NOWHERE, tmp_path).form is TrainedForm.LORA
    (tmp_path / NEURONS).touch()
    assert settled(OPEN, file, NOWHERE, tmp_path).form is TrainedForm.NEURONS


def test_the_form_stays_that_of_the_version_in_use(file: GgufFile, ollama: OllamaServer, tmp_path: Path) -> None:
    """Else its lesson were none to begin from. What is gone is none either."""
    told: list[str] = []
    assert settled(OPEN, file, at(ollama), None, told.append, learned=tmp_path).form is TrainedForm.NEURONS
    (tmp_path / WEIGHTS).touch()
    assert settled(OPEN, file, NOWHERE, None, told.append, learned=tmp_path).form is TrainedForm.LORA
    assert told == [
        "LoRA is trained, not added neurons: the version in use has learned by LoRA, and training goes on from that."
    ]


def test_as_many_neurons_are_trained_as_what_was_brought_has(file: GgufFile, tmp_path: Path) -> None:
    """Unless another number is asked for."""
    (tmp_path / NEURONS).touch()
    (tmp_path / DESCRIPTION).write_text('{"form": "neurons", "count": 96}')
    assert settled(OPEN, file, NOWHERE, tmp_path).neurons == 96
    assert settled(replace(OPEN, neurons=32), file, NOWHERE, tmp_path).neurons == 32


def test_lora_is_trained_beside_a_base_without_a_gate(file: GgufFile, tmp_path: Path) -> None:
    """A gate that is part of another tensor is one."""
    phi3 = gguf_file.read(write_tiny_architecture(tmp_path / "phi3.gguf", "phi3"))
    with pytest.raises(OllamaUnreachable):
        settled(OPEN, phi3, NOWHERE, None)
    path = rewritten(file.path, tmp_path / "tiny.gguf", tensors={"blk.0.ffn_gate.weight": None})
    told: list[str] = []
    assert settled(OPEN, gguf_file.read(path), NOWHERE, None, told.append).form is TrainedForm.LORA
    assert told == [
        "LoRA is trained, not added neurons: This base has no blk.0.ffn_gate.weight, so no neurons can be added to it."
    ]


def test_a_server_that_is_away_is_told(file: GgufFile) -> None:
    with pytest.raises(OllamaUnreachable):
        settled(OPEN, file, NOWHERE, None)


@pytest.mark.parametrize("form", RATES)
def test_the_rate_is_the_measured_one_and_falls_with_the_width(file: GgufFile, form: TrainedForm) -> None:
    assert settled(Hyperparameters(form=form), file, NOWHERE, None).learning_rate == RATES[form]
    assert measured_rate(form, 4 * WIDTH, behind_norms=False) == RATES[form] / 4


WIDTHS = {"smollm2": (WIDTH, False), "gemma": (WIDTH_BEHIND_NORMS, True)}


def losses(model: str, task: str, name: str) -> dict[float, float]:
    """What each rate left on the first seed, as a multiple of the best one's, by the results that are kept."""
    files = forms.RESULTS.glob(f"{model}-{task}-{name}-*-0.json")
    cells = [
        forms.Cell(model=model, task=task, contender=name, rate=float(one.stem.split("-")[3]), seed=0) for one in files
    ]
    found = {one.rate: forms.read(one).delivered for one in cells}
    return {rate: loss / min(found.values()) for rate, loss in found.items()}


@pytest.mark.parametrize("model", WIDTHS)
@pytest.mark.parametrize("name", forms.CONTENDERS)
def test_the_rate_is_within_a_hundredth_of_the_best_or_loses_least_where_the_tasks_want_others(
    model: str, name: str
) -> None:
    width, behind_norms = WIDTHS[model]
    rate = measured_rate(forms.CONTENDERS[name].form, width, behind_norms=behind_norms)
    by_task = [losses(model, task, name) for task in tasks.TASKS]
    worst = {one: max(found[one] for found in by_task) for one in set.intersection(*map(set, by_task))}
    assert worst[rate] <= max(1.01, min(worst.values()))


@pytest.mark.parametrize(("model", "task", "name"), itertools.product(WIDTHS, tasks.TASKS, forms.CONTENDERS))
def test_the_best_rate_is_between_two_that_are_worse_and_was_taken_on_every_seed(
    model: str, task: str, name: str
) -> None:
    found = forms.summary(model, task, name)
    assert found is not None
    assert found.seeds == len(forms.SEEDS)


def test_a_step_is_of_as_many_examples_as_rates_were_measured_with() -> None:
    assert TuningFixed().batch_size == forms.BATCH == 8


def test_steps_are_smaller_where_norms_follow_the_blocks(tmp_path: Path) -> None:
    gemma = gguf_file.read(write_tiny_architecture(tmp_path / "gemma.gguf", "gemma3"))
    for form in (TrainedForm.LORA, TrainedForm.NEURONS):
        rate = settled(Hyperparameters(form=form), gemma, NOWHERE, None).learning_rate
        assert rate == RATES_BEHIND_NORMS[form] < RATES[form]
