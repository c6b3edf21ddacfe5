"""What the step `train` makes sure of before it trains."""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from transformers import AutoModelForCausalLM

from nightschool_daemon.config import DeliveryChoice, DeliverySettings, EngineChoice
from nightschool_daemon.jobs import Step
from nightschool_daemon.learning import defaults, gguf_file, packed_route, training
from nightschool_daemon.learning.delivery import Expected, ExportError
from nightschool_daemon.learning.engine import memory
from nightschool_daemon.learning.packed_route import neurons_of
from nightschool_daemon.learning.peft_files import WEIGHTS
from nightschool_daemon.learning.training import Engine, make_job
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_hookspecs.records import (
    Hyperparameters,
    ServerAbilities,
    TrainedForm,
    TrainingJob,
    TrainingMethod,
)
from nightschool_hookspecs.services import TrainingError
from support.older_layouts import write_layouts
from support.selected_runs import at_step
from support.tiny_architectures import write_tiny_architecture
from support.training_jobs import greetings

NEURONS = Hyperparameters(form=TrainedForm.NEURONS, learning_rate=1e-3)
LORA = Hyperparameters(form=TrainedForm.LORA, learning_rate=1e-3, lora_r=4)


def test_shards_of_a_base_with_pictures_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    base, _ = write_layouts(tmp_path, "gemma3 with pictures")
    context = at_step(Step.TRAIN, tmp_path, base, DeliverySettings(form=DeliveryChoice.SPLIT))
    with pytest.raises(ExportError, match=r'takes this base in one file only.* Set delivery\.form = "auto"\.$'):
        training.run(context)


class Trained(Exception):
    """What a training was begun with."""

    def __init__(self, job: TrainingJob) -> None:
        super().__init__()
        self.job = job


def begun(context: WorkerContext, settings: Hyperparameters, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    """The job that the packed engine is given, whatever the plugin was given."""

    def tell(_file: object, _tokens: object, job: TrainingJob, *_others: object, **_more: object) -> NoReturn:
        raise Trained(job)

    monkeypatch.setattr(training, "prepare", tell)
    job = make_job(context)
    with pytest.raises(Trained) as told:
        Engine(context, gguf_file.read(job.base_gguf))(job, method=TrainingMethod.SFT, hyperparameters=settings)
    return told.value.job


def test_a_training_takes_the_form_of_what_the_version_in_use_has_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin's own training too. No server is asked what it takes."""
    base = write_tiny_architecture(tmp_path / "tiny.gguf", "phi3")
    context, usual = at_step(Step.TRAIN, tmp_path, base), make_job
    (tmp_path / WEIGHTS).touch()

    def goes_on(context: WorkerContext) -> TrainingJob:
        return replace(usual(context), warm_start=tmp_path, requires_start=False, hyperparameters=Hyperparameters())

    def tell(_context: object, job: TrainingJob, *_others: object) -> NoReturn:
        raise Trained(job)

    def tell_asked(
        _file: object,
        _tokens: object,
        job: TrainingJob,
        _method: object,
        wanted: Hyperparameters,
        *_others: object,
        **_more: object,
    ) -> NoReturn:
        raise Trained(replace(job, hyperparameters=wanted))

    monkeypatch.setattr(training, "make_job", goes_on)
    monkeypatch.setattr(training, "searched", tell)
    monkeypatch.setattr(training, "prepare", tell_asked)
    engine, job = Engine(context, gguf_file.read(base)), goes_on(context)
    for begin in (
        lambda: training.run(context),
        lambda: engine(job, method=TrainingMethod.SFT, hyperparameters=job.hyperparameters),
    ):
        with pytest.raises(Trained) as told:
            begin()
        assert told.value.job.hyperparameters.form is TrainedForm.LORA


@pytest.mark.parametrize("settings", [NEURONS, replace(NEURONS, neurons=64), LORA])
def test_a_training_leaves_room_for_a_version_that_is_larger_than_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Hyperparameters
) -> None:
    """In the run's directory and in Ollama's store, which are on one disk here."""
    base = write_tiny_architecture(tmp_path / "tiny.gguf", "llama", kind="Q4_0")
    file = gguf_file.read(base)
    count = neurons_of(file, settings.neurons) if settings.form is TrainedForm.NEURONS else 0
    version = Expected(settings=settings, neurons=count).version_bytes(file, DeliveryChoice.AUTO)
    assert version > base.stat().st_size
    context = at_step(Step.TRAIN, tmp_path, base, DeliverySettings(min_free_gb=0.5))
    assert begun(context, settings, monkeypatch).spared_bytes == 2 * version + 500_000_000


def test_a_base_that_is_larger_than_memory_is_not_loaded_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = at_step(Step.TRAIN, tmp_path, write_tiny_architecture(tmp_path / "tiny.gguf", "llama"))
    ours = replace(context.settings, training=replace(context.settings.training, engine=EngineChoice.TRANSFORMERS))
    context, job = replace(context, settings=ours), make_job(context)
    monkeypatch.setattr(memory, "free_memory", lambda: 10**6)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **_more: pytest.fail("it was loaded"))
    with pytest.raises(TrainingError, match=r"Through transformers this base needs about .* Choose a smaller base"):
        Engine(context, gguf_file.read(job.base_gguf))(job, method=TrainingMethod.SFT, hyperparameters=LORA)


@pytest.mark.parametrize("engine", EngineChoice)
def test_a_version_that_costs_more_than_it_may_is_refused_before_anything_is_trained(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineChoice
) -> None:
    """What memory has no room to train costs nothing, so the packed engine asks when it knows that."""
    limit = DeliverySettings(max_version_mb=0.01)
    context = at_step(Step.TRAIN, tmp_path, tiny_gguf, limit, greetings())
    ours = replace(context.settings, training=replace(context.settings.training, engine=engine))
    server = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")
    monkeypatch.setattr(training, "probed", lambda *_: server)
    monkeypatch.setattr(defaults, "_server_takes_split", lambda *_: True)
    monkeypatch.setattr(packed_route, "train", lambda *_, **_more: pytest.fail("it was trained"))
    monkeypatch.setattr(training, "load_base", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(TrainingError, match=r"^A version may cost 0\.01 MB \(delivery\.max_version_mb\), which is too"):
        training.run(replace(context, settings=ours))
