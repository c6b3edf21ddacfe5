"""A training of the tiny model: its adapter is PEFT's own, and an interruption changes nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from nightschool_daemon.jobs import STRETCHES, TRAJECTORIES, StretchMark, TrajectoryPoint, read_lines
from nightschool_daemon.learning import loading
from nightschool_daemon.learning.engine import footprint, memory
from nightschool_daemon.learning.engine.loop import Report
from nightschool_daemon.learning.loading import Base, load_base
from nightschool_daemon.learning.peft_route import (
    _moving_bytes,
    _of_length,
    fine_tune,
    learner_of,
    mean_loss,
    require_known_layout,
)
from nightschool_daemon.learning.rows import Row, rows_of
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import Hyperparameters, TrainingResult, TrainingText
from nightschool_hookspecs.services import TrainingError
from support.training_jobs import (
    Interrupted,
    greetings,
    harder_and_harder,
    keep_every_step,
    staged,
    training_job,
    unheard,
)

SETTINGS = Hyperparameters(learning_rate=0.01, batch_size=4, num_epochs=3, lora_r=4, lora_alpha=8, max_length=64)
Load = Callable[[], Base]


@pytest.fixture(scope="module")
def load(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads the base anew: a training leaves its adapter in the model."""
    cache, digest = tmp_path_factory.mktemp("cache"), sha256_of(tiny_gguf)
    torch.set_num_threads(1)
    return lambda: load_base(tiny_gguf, digest, cache)


def fine_tuned(
    base: Base,
    directory: Path,
    gguf: Path,
    texts: list[TrainingText],
    report: Report = unheard,
    settings: Hyperparameters = SETTINGS,
) -> TrainingResult:
    return fine_tune(base, training_job(directory, gguf, settings, texts=texts), settings, report)


def stops_at(step: int) -> Report:
    def report(done: int, _total: int, _text: str) -> None:
        if done == step:
            raise Interrupted

    return report


def logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        answer: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0]
    return answer


@pytest.fixture(scope="module")
def trained(load: Load, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, TrainingResult, Path]:
    """A training from beginning to end."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    base = load()
    return base, fine_tuned(base, directory, tiny_gguf, greetings()), directory


def test_the_answer_is_learned(trained: tuple[Base, TrainingResult, Path]) -> None:
    _, result, directory = trained
    assert (result.steps, result.examples, result.left_out) == (9, 12, 0)
    assert result.trained_loss < result.base_loss / 2
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in lines if "loss" in one] == list(range(1, 10))
    assert [one["epoch"] for one in lines if "epoch" in one] == [1, 2, 3]


def test_each_answers_loss_is_told_before_the_step_that_learns_from_it(
    load: Load, trained: tuple[Base, TrainingResult, Path]
) -> None:
    _, _, directory = trained
    points = list(read_lines(directory / TRAJECTORIES, TrajectoryPoint))
    assert sorted((one.epoch, one.event_id) for one in points) == sorted(
        (epoch, one.event_id) for epoch in (1, 2, 3) for one in greetings()
    )
    fresh = load()
    rows = {row.event_id: row for row in rows_of(greetings(), fresh.tokens)}
    for point in points[: SETTINGS.batch_size]:
        assert point.loss == pytest.approx(mean_loss(fresh.model, [rows[point.event_id]]), rel=1e-4)


def test_what_no_person_said_of_it_has_no_losses_of_its_own(load: Load, tiny_gguf: Path, tmp_path: Path) -> None:
    one, other, variant, *_ = greetings()
    texts = [
        one,
        replace(variant, event_id=one.event_id, variant=True),
        replace(other, beside=True),
        replace(other, event_id="", prompt="say it\n", beside=True),
    ]
    fine_tuned(load(), tmp_path, tiny_gguf, texts, settings=replace(SETTINGS, num_epochs=1))
    points = read_lines(tmp_path / TRAJECTORIES, TrajectoryPoint)
    assert sorted((point.event_id, point.variant) for point in points) == [(one.event_id, False), (one.event_id, True)]


def test_peft_loads_the_adapter_and_computes_the_same(load: Load, trained: tuple[Base, TrainingResult, Path]) -> None:
    base, result, _ = trained
    ids = base.tokens.prompt("greet guest 3\n")
    fresh = load()
    plain = logits(fresh.model, ids)
    loaded = PeftModel.from_pretrained(fresh.model, result.adapter)
    torch.testing.assert_close(logits(loaded, ids), logits(base.model, ids), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, logits(loaded, ids), atol=0.1)


def test_a_layout_that_we_do_not_know_is_refused_and_the_model_is_left_without_an_adapter(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load()
    before = list(base.model.state_dict())
    monkeypatch.setattr(loading, "PERMUTED", frozenset())
    with pytest.raises(TrainingError, match=r"The layout of blk\.\d\.attn_\w\.weight .*'llama' is not known"):
        require_known_layout(base, SETTINGS)
    assert list(base.model.state_dict()) == before


def test_the_adapter_names_no_path_of_this_machine(trained: tuple[Base, TrainingResult, Path]) -> None:
    _, result, _ = trained
    configuration = json.loads((result.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert configuration["base_model_name_or_path"] == "tiny (GGUF)"
    assert not list(result.adapter.glob("*.bin"))


@pytest.mark.parametrize("step", [4, 5, 9])
def test_a_resumed_training_equals_the_uninterrupted_one(
    load: Load, trained: tuple[Base, TrainingResult, Path], tiny_gguf: Path, tmp_path: Path, step: int
) -> None:
    _, whole, _ = trained
    again = training_job(tmp_path, tiny_gguf, SETTINGS, texts=greetings())
    with pytest.raises(Interrupted):
        fine_tune(load(), again, SETTINGS, stops_at(step))
    steps: list[int] = []
    result = fine_tune(load(), again, SETTINGS, lambda done, _total, _text: steps.append(done))
    # it went on behind the last whole epoch, of three steps each
    assert steps == list(range((step - 1) // 3 * 3 + 1, 10))
    expected = load_file(whole.adapter / "adapter_model.safetensors")
    found = load_file(result.adapter / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=0)
    assert (result.steps, result.tokens) == (whole.steps, whole.tokens)
    assert (result.base_loss, result.trained_loss) == (whole.base_loss, whole.trained_loss)


def test_within_an_epoch_it_goes_on_with_the_same_dropout(
    load: Load, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_every_step(monkeypatch)
    settings = replace(SETTINGS, lora_dropout=0.2)
    whole = fine_tuned(load(), tmp_path / "whole", tiny_gguf, greetings(), settings=settings)
    with pytest.raises(Interrupted):
        fine_tuned(load(), tmp_path / "cut", tiny_gguf, greetings(), stops_at(5), settings)
    torch.manual_seed(99)
    steps: list[int] = []
    again = fine_tuned(
        load(), tmp_path / "cut", tiny_gguf, greetings(), lambda done, _total, _text: steps.append(done), settings
    )
    assert steps == list(range(5, 10))
    for name in ("metrics.jsonl", TRAJECTORIES):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    expected, found = (load_file(one.adapter / "adapter_model.safetensors") for one in (whole, again))
    assert all(torch.equal(found[name], weights) for name, weights in expected.items())


def test_a_curriculum_goes_on_where_it_was_interrupted(
    load: Load, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_every_step(monkeypatch)

    def taught(name: str, report: Report) -> TrainingResult:
        job = training_job(tmp_path / name, tiny_gguf, SETTINGS, texts=harder_and_harder())
        return fine_tune(load(), job, SETTINGS, report, arrange=staged(evaluations=3, fewest_steps=1))

    whole = taught("whole", unheard)
    with pytest.raises(Interrupted):
        taught("cut", stops_at(5))
    again = taught("cut", unheard)
    assert (again.steps, again.tokens, again.epoch_losses) == (whole.steps, whole.tokens, whole.epoch_losses)
    marks = list(read_lines(tmp_path / "whole" / STRETCHES, StretchMark))
    assert list(read_lines(tmp_path / "cut" / STRETCHES, StretchMark)) == marks
    assert [one.stage for one in marks] == ["easy", "easy", "medium", "medium", "hard", "hard", "all"]
    expected, found = (load_file(one.adapter / "adapter_model.safetensors") for one in (whole, again))
    assert all(torch.equal(found[name], weights) for name, weights in expected.items())


def test_a_finished_training_is_not_repeated(
    load: Load, trained: tuple[Base, TrainingResult, Path], tiny_gguf: Path
) -> None:
    """It had stopped, and says again what came of it."""
    _, result, directory = trained
    steps: list[int] = []
    again = fine_tuned(load(), directory, tiny_gguf, greetings(), lambda done, _total, _text: steps.append(done))
    assert (steps, again) == ([], result)


@pytest.mark.parametrize("count", [12, 40])
def test_a_loss_that_is_no_number_behind_the_last_step_is_told(
    load: Load, tiny_gguf: Path, tmp_path: Path, count: int
) -> None:
    """With one step an epoch only the watched loss shows it; of forty examples some are held out for that."""
    settings = replace(SETTINGS, learning_rate=1e30, batch_size=count, num_epochs=1 if count == 12 else 2)
    with pytest.raises(TrainingError, match="no longer a number"):
        fine_tuned(load(), tmp_path, tiny_gguf, greetings(count), settings=settings)
    assert not (tmp_path / "adapter").exists()


def test_chosen_layers_alone_are_trained(load: Load, tiny_gguf: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_epochs=1, lora_layers=("attn_q", "ffn_down"))
    asked = training_job(tmp_path, tiny_gguf, settings, texts=greetings())
    adapter = fine_tune(load(), asked, settings, unheard).adapter
    changed = {name.split(".")[-3] for name in load_file(adapter / "adapter_model.safetensors")}
    assert changed == {"q_proj", "down_proj"}
    with pytest.raises(TrainingError, match="no layer q_proj"):
        fine_tune(load(), asked, replace(settings, lora_layers=("q_proj",)), unheard)


def test_a_training_that_does_not_go_on_from_the_last_one_says_so(
    load: Load, trained: tuple[Base, TrainingResult, Path], tiny_gguf: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    job = training_job(tmp_path, tiny_gguf, SETTINGS, texts=greetings())
    fine_tune(load(), job, SETTINGS, unheard, note=told.append)
    assert not told
    job = replace(job, warm_start=trained[1].adapter)
    assert not fine_tune(load(), job, SETTINGS, unheard, note=told.append).warm_start
    (sentence,) = told
    assert sentence.startswith("The training begins from the base, not from what the model in use has learned")
    with pytest.raises(TrainingError, match="Take start_from out"):
        fine_tune(load(), replace(job, requires_start=True), SETTINGS, unheard)


def test_a_row_longer_than_memory_is_refused_before_anything_is_learned(
    load: Load, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, max_length=4000, batch_size=1)
    short = training_job(tmp_path / "short", tiny_gguf, settings, texts=greetings(3))
    long = TrainingText(event_id="long", prompt="a" * 3000, completion="b")
    too_long = training_job(tmp_path / "long", tiny_gguf, settings, texts=[*greetings(3), long])
    monkeypatch.setattr(memory, "resident_bytes", lambda: 10**9)
    monkeypatch.setattr(memory, "free_memory", lambda: 10**8)
    assert fine_tune(load(), short, settings, unheard).steps == 9
    with pytest.raises(TrainingError, match=r"An example of 3002 tokens .* needs about .* Lower max_length"):
        fine_tune(load(), too_long, settings, stops_at(0))
    base = load()
    monkeypatch.setattr(memory, "free_memory", lambda: 10**6)
    with pytest.raises(TrainingError, match=r"A pass of \d+ tokens"):
        fine_tune(base, short, replace(settings, batch_size=8), stops_at(0))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_a_long_pass_keeps_follows_from_short_ones(load: Load, dropout: float) -> None:
    base = load()
    row = Row(prompt=(1,) * 20, completion=(2,) * 10, weight=1.0)
    learner = learner_of(base, replace(SETTINGS, lora_dropout=dropout), 0, [row], [row])
    with learner.learning():
        half, whole, told = (_moving_bytes(base.model, _of_length(row, size)) for size in (64, 128, 400))
    assert footprint.extrapolated(64, half, 128, whole, 400) == pytest.approx(told, rel=0.05)


def test_a_checkpoint_of_another_dataset_is_not_gone_on_with(load: Load, tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fine_tuned(load(), tmp_path, tiny_gguf, greetings(11), stops_at(4))
    steps: list[int] = []
    fine_tune(
        load(),
        training_job(tmp_path, tiny_gguf, SETTINGS, texts=greetings()),
        SETTINGS,
        lambda done, _total, _text: steps.append(done),
    )
    assert steps == list(range(1, 10))


def test_examples_that_do_not_fit_are_left_out_and_counted(load: Load, tiny_gguf: Path, tmp_path: Path) -> None:
    long = TrainingText(event_id="long", prompt="a" * 200, completion="b")
    result = fine_tune(
        load(), training_job(tmp_path, tiny_gguf, SETTINGS, texts=[*greetings(3), long]), SETTINGS, unheard
    )
    assert (result.examples, result.left_out) == (3, 1)


def test_a_dataset_of_which_nothing_fits_is_told(load: Load, tiny_gguf: Path, tmp_path: Path) -> None:
    long = TrainingText(event_id="long", prompt="a" * 200, completion="b")
    with pytest.raises(TrainingError, match="No example fits into 64 tokens"):
        fine_tuned(load(), tmp_path, tiny_gguf, [long])
