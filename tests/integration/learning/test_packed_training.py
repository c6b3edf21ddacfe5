"""A training by the packed engine: PEFT loads what it leaves, and an interruption changes nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from nightschool_daemon.jobs import STRETCHES, TRAJECTORIES, StretchMark, TrajectoryPoint, read_lines
from nightschool_daemon.learning import gguf_file, packed_route
from nightschool_daemon.learning.engine import fitting, machine
from nightschool_daemon.learning.engine.curriculum import Arrange, Curriculum, nobody_arranges
from nightschool_daemon.learning.engine.forms import Form, LowRank
from nightschool_daemon.learning.engine.layout import Branches, lay_out
from nightschool_daemon.learning.engine.methods import sums_by_answer
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.engine.todo import Todo
from nightschool_daemon.learning.lesson import read_lesson
from nightschool_daemon.learning.loading import Tokens, load_tokens
from nightschool_daemon.learning.packed_route import read_examples
from nightschool_daemon.learning.peft_files import load_form
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_daemon.plans import MemoryPlan
from nightschool_hookspecs.records import (
    Hyperparameters,
    LabelledText,
    LearnedExample,
    PairText,
    TrainedForm,
    TrainingMethod,
    TrainingResult,
    TrainingSoFar,
    TrainingText,
)
from nightschool_hookspecs.services import TrainingError
from support.tiny_architectures import write_tiny_architecture
from support.training_jobs import (
    Interrupted,
    fine_tune,
    greetings,
    harder_and_harder,
    keep_every_step,
    staged,
    training_job,
    unheard,
)
from support.transformers_models import assert_same_gradients, in_peft_layout, in_transformers, peft_gradients

SETTINGS = Hyperparameters(
    form=TrainedForm.LORA, learning_rate=0.005, batch_size=4, num_epochs=3, lora_r=4, lora_alpha=8, max_length=64
)
CPU = torch.device("cpu")
IN_TRANSFORMERS = ("llama", "mistral3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
"""The architectures that transformers has too. It does not read mistral3 from a GGUF."""


Uninterrupted = Callable[[str], tuple[Path, TrainingResult]]


@pytest.fixture(autouse=True)
def _every_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    keep_every_step(monkeypatch)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tokens(tiny_gguf: Path, cache: Path) -> Tokens:
    (cache / "tokenizers").mkdir(exist_ok=True)
    return load_tokens(gguf_file.read(tiny_gguf), sha256_of(tiny_gguf), cache)


def stops_at(step: int) -> Callable[[int, int, str], None]:
    def report(done: int, _total: int, _text: str) -> None:
        if done == step:
            raise Interrupted

    return report


def trained(
    directory: Path,
    gguf: Path,
    tokens: Tokens,
    *,
    settings: Hyperparameters = SETTINGS,
    texts: list[TrainingText] | None = None,
    report: Callable[[int, int, str], None] = unheard,
    warm_start: Path | None = None,
    requires_start: bool = False,
    note: Callable[[str], None] = lambda _: None,
    arrange: Arrange = nobody_arranges,
) -> TrainingResult:
    job = training_job(directory, gguf, settings, texts=texts or greetings())
    asked = replace(job, warm_start=warm_start, requires_start=requires_start)
    return fine_tune(
        gguf_file.read(gguf), tokens, asked, TrainingMethod.SFT, settings, report, note=note, arrange=arrange
    )


def losses(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


FORMS = {
    "lora": SETTINGS,
    "dropout": replace(SETTINGS, lora_dropout=0.2),
    "grouped": replace(SETTINGS, form=TrainedForm.GROUPED),
    "neurons": replace(SETTINGS, form=TrainedForm.NEURONS),
}


@pytest.fixture(scope="module")
def uninterrupted(tiny_gguf: Path, tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """The directory and the result of a whole training, one for each form."""
    found: dict[str, tuple[Path, TrainingResult]] = {}

    def one(form: str) -> tuple[Path, TrainingResult]:
        if form not in found:
            directory = tmp_path_factory.mktemp(form)
            found[form] = directory, trained(directory, tiny_gguf, tokens, settings=FORMS[form])
        return found[form]

    return one


@pytest.mark.parametrize("form", FORMS)
def test_the_answer_is_learned(uninterrupted: Uninterrupted, form: str) -> None:
    directory, result = uninterrupted(form)
    assert (result.steps, result.examples, result.left_out) == (9, 12, 0)
    assert result.trained_loss < result.base_loss / 2
    assert [one["step"] for one in losses(directory) if "loss" in one] == list(range(1, 10))


def test_what_stands_beside_the_lesson_is_learned_and_is_in_no_loss(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    _, alone = uninterrupted("lora")
    again = TrainingText(event_id="", prompt="say it\n", completion="it<|im_end|>", beside=True)
    texts = [*greetings(), *(replace(again, prompt=f"say it {number}\n") for number in range(4))]
    result = trained(tmp_path, tiny_gguf, tokens, texts=texts)
    assert (result.steps, result.examples, result.base_loss) == (12, 16, alone.base_loss)
    assert result.trained_loss != alone.trained_loss


def test_what_no_person_said_of_it_has_no_losses_of_its_own(tiny_gguf: Path, tokens: Tokens, tmp_path: Path) -> None:
    one, other, variant, *_ = greetings()
    texts = [
        one,
        replace(variant, event_id=one.event_id, variant=True),
        replace(other, beside=True),
        replace(other, event_id="", prompt="say it\n", beside=True),
    ]
    trained(tmp_path, tiny_gguf, tokens, texts=texts)
    points = read_lines(tmp_path / TRAJECTORIES, TrajectoryPoint)
    told = sorted((point.epoch, point.event_id, point.variant) for point in points)
    assert told == [(epoch, one.event_id, varied) for epoch in (1, 2, 3) for varied in (False, True)]


def test_losses_that_cannot_be_read_are_begun_anew_and_end_no_training(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path, tiny_gguf, tokens, report=stops_at(5))
    (tmp_path / TRAJECTORIES).write_text("{}\n", encoding="utf-8")
    assert trained(tmp_path, tiny_gguf, tokens).steps == 9
    assert {one.step for one in read_lines(tmp_path / TRAJECTORIES, TrajectoryPoint)} == {5, 6, 7, 8, 9}
    assert "begun anew" in caplog.text


def test_what_stands_beside_it_does_not_stand_in_for_a_lesson_that_is_too_long(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    again = TrainingText(event_id="", prompt="say it\n", completion="it<|im_end|>", beside=True)
    long = TrainingText(event_id="s/1", prompt="say it " * 20, completion="it<|im_end|>")
    with pytest.raises(TrainingError, match="No example fits into 64 tokens"):
        trained(tmp_path, tiny_gguf, tokens, texts=[long, again])


@pytest.mark.parametrize("step", [1, 3, 5, 9])
@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_training_equals_the_uninterrupted_one(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path, form: str, step: int
) -> None:
    settings = FORMS[form]
    directory, whole = uninterrupted(form)
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", tiny_gguf, tokens, settings=settings, report=stops_at(step))
    steps: list[int] = []
    again = trained(
        tmp_path / "cut", tiny_gguf, tokens, settings=settings, report=lambda done, _total, _text: steps.append(done)
    )
    # first the plan; the step in which it was cut had not been kept yet
    assert steps == [0, *range(step, 10)]
    assert losses(tmp_path / "cut") == losses(directory)
    (name,) = [one.name for one in whole.adapter.glob("*.safetensors")]
    expected, found = load_file(whole.adapter / name), load_file(again.adapter / name)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert torch.equal(found[key], values), key
    assert (again.steps, again.tokens) == (whole.steps, whole.tokens)
    assert (again.base_loss, again.trained_loss) == (whole.base_loss, whole.trained_loss)
    watched = tuple(one["watched_loss"] for one in losses(directory) if "watched_loss" in one)
    assert again.epoch_losses == whole.epoch_losses == watched


def test_the_plan_goes_with_the_checkpoints(uninterrupted: Uninterrupted) -> None:
    """What was measured before a training differs from run to run, and is no part of its output."""
    directory, _ = uninterrupted("lora")
    assert [one.parent.name for one in directory.rglob("plan.json")] == ["checkpoints"]


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_training_goes_on_in_the_type_that_it_began_in(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtypes: tuple[str, str]
) -> None:
    """The probe that chooses it meets other processes, and may find another type the next time."""
    first, second = dtypes
    monkeypatch.setattr(machine, "fastest_type", lambda _where: getattr(torch, first))
    whole = trained(tmp_path / "whole", tiny_gguf, tokens)
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", tiny_gguf, tokens, report=stops_at(5))
    monkeypatch.setattr(machine, "fastest_type", lambda _where: getattr(torch, second))
    again = trained(tmp_path / "cut", tiny_gguf, tokens)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert (again.adapter / "adapter_model.safetensors").read_bytes() == (
        whole.adapter / "adapter_model.safetensors"
    ).read_bytes()


@pytest.fixture
def memory_is_short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All that is planned has the upper layer trained alone, once: a second plan would train both."""
    planned: list[int] = []

    def fitted(network: Network, form: Form, todo: Todo) -> MemoryPlan:
        planned.append(1 if not planned else 0)
        return replace(whole(network, form, todo, available=10**12), trained_from=planned[-1], checkpointed=1)

    whole = fitting.fitted
    monkeypatch.setattr(fitting, "fitted", fitted)
    return planned


@pytest.mark.parametrize("form", ["lora", "neurons"])
def test_where_memory_is_short_the_upper_layers_learn_alone(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, form: str, memory_is_short: list[int]
) -> None:
    result = trained(tmp_path, tiny_gguf, tokens, settings=FORMS[form])
    assert result.trained_loss < result.base_loss
    assert "of 2 layers only the upper 1 are trained" in result.plan
    (adapter,) = result.adapter.glob("*.safetensors")
    learned = {name: one for name, one in load_file(adapter).items() if "lora_B" in name or "ffn_down" in name}
    assert {name for name, one in learned.items() if one.any()} == {name for name in learned if ".1." in name}


def test_layers_that_were_left_out_stay_so_after_an_interruption(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, memory_is_short: list[int]
) -> None:
    whole = trained(tmp_path / "whole", tiny_gguf, tokens)
    memory_is_short.clear()
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", tiny_gguf, tokens, report=stops_at(5))
    again = trained(tmp_path / "cut", tiny_gguf, tokens)
    assert memory_is_short == [1]
    (name,) = [one.name for one in whole.adapter.glob("*.safetensors")]
    expected, found = load_file(whole.adapter / name), load_file(again.adapter / name)
    assert all(torch.equal(found[key], values) for key, values in expected.items())
    file = gguf_file.read(tiny_gguf)
    assert set(read_lesson(again.adapter, file).touched) == {
        name for name, one in file.tensors.items() if name.startswith("blk.1.") and len(one.shape) == 2
    }


def test_what_a_left_out_layer_had_learned_earlier_stays(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path, memory_is_short: list[int]
) -> None:
    _, first = uninterrupted("lora")
    memory_is_short.clear()
    second = trained(tmp_path, tiny_gguf, tokens, warm_start=first.adapter)
    before, after = (load_file(one.adapter / "adapter_model.safetensors") for one in (first, second))
    same = {name for name, one in before.items() if torch.equal(one, after[name])}
    assert same == {name for name in before if ".layers.0." in name}


def test_metrics_are_never_behind_the_checkpoint(tiny_gguf: Path, tokens: Tokens, tmp_path: Path) -> None:
    """Who is killed right behind a checkpoint goes on from it, and does not write its steps again."""

    def compared(done: int, _total: int, _text: str) -> None:
        for kept in (tmp_path / "checkpoints").glob("*/state.json"):
            state = json.loads(kept.read_text())["state"]
            written = losses(tmp_path)
            for what, key in (("step", "loss"), ("epoch", "epoch")):
                found = [one[what] for one in written if key in one]
                assert found[: state[what]] == list(range(1, state[what] + 1))

    trained(tmp_path, tiny_gguf, tokens, report=compared)


def test_a_line_in_which_the_power_went_is_written_anew(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path, tiny_gguf, tokens, report=stops_at(5))
    for file in (tmp_path / "metrics.jsonl", tmp_path / TRAJECTORIES):
        file.write_bytes(file.read_bytes()[:-9])
    trained(tmp_path, tiny_gguf, tokens)
    for name in ("metrics.jsonl", TRAJECTORIES):
        assert (tmp_path / name).read_text() == (uninterrupted("lora")[0] / name).read_text()


def test_a_checkpoint_of_another_dataset_is_not_gone_on_with(tiny_gguf: Path, tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path, tiny_gguf, tokens, texts=greetings(11), report=stops_at(4))
    steps: list[int] = []
    trained(tmp_path, tiny_gguf, tokens, report=lambda done, _total, _text: steps.append(done))
    assert steps == list(range(10))
    assert [one["step"] for one in losses(tmp_path) if "loss" in one] == list(range(1, 10))


@pytest.mark.parametrize("form", ["lora", "neurons"])
def test_a_warm_start_begins_where_the_last_training_ended(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path, form: str
) -> None:
    directory, first = uninterrupted(form)
    trained(tmp_path, tiny_gguf, tokens, settings=FORMS[form], warm_start=first.adapter)
    begins = [losses(one)[0]["loss"] for one in (directory, tmp_path)]
    assert begins[1] < begins[0] / 2


def test_a_training_with_a_start_of_another_form_begins_from_the_base(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    first, _ = uninterrupted("lora")
    cold, _ = uninterrupted("neurons")
    told: list[str] = []
    result = trained(
        tmp_path, tiny_gguf, tokens, settings=FORMS["neurons"], warm_start=first / "adapter", note=told.append
    )
    assert not result.warm_start
    assert losses(tmp_path) == losses(cold)
    assert told[0].startswith("The training begins from the base: The earlier lesson has another form")


MORE = replace(FORMS["neurons"], neurons=96)
"""Than the 64 that are added where nothing else is asked for."""


def test_a_training_with_a_start_of_more_neurons_begins_from_the_base(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cold, _ = uninterrupted("neurons")
    earlier = trained(tmp_path / "earlier", tiny_gguf, tokens, settings=MORE)
    result = trained(tmp_path / "now", tiny_gguf, tokens, settings=FORMS["neurons"], warm_start=earlier.adapter)
    assert not result.warm_start
    assert losses(tmp_path / "now") == losses(cold)
    assert "begins from the base: The earlier lesson has 96 neurons a layer, and 64 are trained here" in caplog.text


def test_a_start_of_more_neurons_that_was_asked_for_says_what_to_set(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    earlier = trained(tmp_path / "earlier", tiny_gguf, tokens, settings=MORE)
    asked = partial(trained, gguf=tiny_gguf, tokens=tokens, warm_start=earlier.adapter, requires_start=True)
    with pytest.raises(TrainingError, match=r"Set neurons in \[plugins.tuning_fixed\] to its own"):
        asked(tmp_path / "now", settings=FORMS["neurons"])
    assert asked(tmp_path / "now", settings=MORE).warm_start


def test_a_checkpoint_of_more_neurons_is_left_out_and_all_is_learned_anew(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an update that adds fewer where the number is left open."""
    whole, _ = uninterrupted("neurons")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_route, "neurons_of", lambda _file, _asked: 96)
        with pytest.raises(Interrupted):
            trained(tmp_path, tiny_gguf, tokens, settings=FORMS["neurons"], report=stops_at(4))
    trained(tmp_path, tiny_gguf, tokens, settings=FORMS["neurons"])
    assert losses(tmp_path) == losses(whole)
    assert "is not whole, so it is left out: it remembers other parameters" in caplog.text


def test_a_start_that_is_gone_is_told_and_training_begins_from_the_base(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cold, _ = uninterrupted("lora")
    result = trained(tmp_path, tiny_gguf, tokens, warm_start=tmp_path / "deleted" / "adapter")
    assert not result.warm_start
    assert losses(tmp_path) == losses(cold)
    assert "begins from the base" in caplog.text
    assert "deleted" in caplog.text


def test_the_loss_before_is_the_bases_though_training_began_elsewhere(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    directory, cold = uninterrupted("lora")
    result = trained(tmp_path, tiny_gguf, tokens, warm_start=directory / "adapter")
    assert result.warm_start
    assert result.base_loss == cold.base_loss


# --------------------------------------------------------------------------- preferences

PAIRS = [
    PairText(
        event_id=f"p-{number}",
        prompt=f"greet guest {number}\n",
        chosen="hello<|im_end|>",
        rejected="go away<|im_end|>",
        margin=0.1 * (number % 3),
    )
    for number in range(8)
]
LABELS = [
    LabelledText(event_id=f"l-{number}", prompt=f"greet guest {number}\n", completion=text, liked=liked)
    for number in range(4)
    for text, liked in (("hello<|im_end|>", True), ("go away<|im_end|>", False))
]
PREFERENCES: dict[TrainingMethod, dict[str, Any]] = {
    TrainingMethod.DPO: {"pairs": PAIRS},
    TrainingMethod.KTO: {"labels": LABELS},
}


def preferred(
    directory: Path,
    gguf: Path,
    tokens: Tokens,
    method: TrainingMethod,
    *,
    report: Callable[[int, int, str], None] = unheard,
    warm_start: Path | None = None,
) -> TrainingResult:
    asked = replace(training_job(directory, gguf, SETTINGS, **PREFERENCES[method]), warm_start=warm_start)
    return fine_tune(gguf_file.read(gguf), tokens, asked, method, SETTINGS, report)


def preference_of(network: Network, tokens: Tokens) -> float:
    """How much likelier the better answers of `PAIRS` are than the worse ones, in nats a pair."""
    rows = [
        Branches(
            stem=tuple(tokens.prompt(one.prompt)),
            answers=tuple(tuple(tokens.completion(one.prompt, text)) for text in (one.chosen, one.rejected)),
        )
        for one in PAIRS
    ]
    layout = lay_out(rows, CPU, shares=True)
    with torch.no_grad():
        sums = sums_by_answer(network.log_probabilities(layout), layout.answer_of, layout.answers)
    return float((sums[0::2] - sums[1::2]).mean())


@pytest.mark.parametrize("method", PREFERENCES)
def test_what_is_preferred_becomes_likelier(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, method: TrainingMethod
) -> None:
    result = preferred(tmp_path, tiny_gguf, tokens, method)
    file = gguf_file.read(tiny_gguf)
    network = Network(file, Bench(device=CPU, dtype=torch.float32, threads=1))
    before = preference_of(network, tokens)
    network.form = read_lesson(result.adapter, file).form(CPU)
    assert preference_of(network, tokens) > before + 3
    assert result.methods == (method,)
    assert result.trained_loss < result.base_loss - 0.1


@pytest.mark.parametrize("method", PREFERENCES)
@pytest.mark.parametrize("step", [1, 3])
def test_preferences_are_gone_on_with_after_an_interruption(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, method: TrainingMethod, step: int
) -> None:
    whole = preferred(tmp_path / "whole", tiny_gguf, tokens, method)
    with pytest.raises(Interrupted):
        preferred(tmp_path / "broken", tiny_gguf, tokens, method, report=stops_at(step))
    result = preferred(tmp_path / "broken", tiny_gguf, tokens, method)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert result.trained_loss == whole.trained_loss


def test_preferences_are_held_to_what_they_began_from(
    uninterrupted: Uninterrupted, tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    directory, _ = uninterrupted("lora")
    result = preferred(tmp_path, tiny_gguf, tokens, TrainingMethod.DPO, warm_start=directory / "adapter")
    # with no change from where it began, each pair costs -log sigmoid(-margin)
    expected = [-torch.nn.functional.logsigmoid(torch.tensor(-one.margin)) for one in PAIRS]
    assert result.base_loss == pytest.approx(float(torch.stack(expected).mean()), abs=1e-5)


def test_a_lone_label_in_a_batch_has_no_other_answer_to_be_held_to(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, batch_size=1, num_epochs=1)
    asked = training_job(tmp_path, tiny_gguf, settings, labels=LABELS[:3])
    result = fine_tune(gguf_file.read(tiny_gguf), tokens, asked, TrainingMethod.KTO, settings, unheard)
    assert result.trained_loss < result.base_loss


def test_a_pair_is_as_long_as_its_longer_answer(tiny_gguf: Path, tokens: Tokens, tmp_path: Path) -> None:
    long = PairText(event_id="long", prompt="greet\n", chosen="hello", rejected="a" * 200)
    asked = training_job(tmp_path, tiny_gguf, SETTINGS, pairs=[*PAIRS, long])
    result = fine_tune(gguf_file.read(tiny_gguf), tokens, asked, TrainingMethod.DPO, SETTINGS, unheard)
    assert (result.examples, result.left_out) == (len(PAIRS), 1)


def test_both_events_of_a_pair_are_told_as_learned_from(tiny_gguf: Path, tokens: Tokens, tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_epochs=1)
    asked = training_job(tmp_path, tiny_gguf, settings, pairs=[replace(PAIRS[0], worse_event_id="worse"), *PAIRS[1:]])
    result = fine_tune(gguf_file.read(tiny_gguf), tokens, asked, TrainingMethod.DPO, settings, unheard)
    assert set(result.learned_events or ()) == {"worse", *(one.event_id for one in PAIRS)}


# --------------------------------------------------------------------------- curriculum


def test_a_curriculum_changes_what_an_epoch_sees_and_neither_its_steps_nor_its_examples(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path
) -> None:
    texts = harder_and_harder()
    result = trained(tmp_path, tiny_gguf, tokens, texts=texts, arrange=staged(evaluations=3, fewest_steps=1))
    assert [one["step"] for one in losses(tmp_path) if "loss" in one] == list(range(1, 10))
    assert (result.steps, len(result.epoch_losses)) == (9, 3)
    marks = list(read_lines(tmp_path / STRETCHES, StretchMark))
    assert [(one.epoch, one.stage, one.examples) for one in marks] == [
        (1, "easy", 4),
        (1, "easy", 4),
        (1, "medium", 4),
        (2, "medium", 4),
        (2, "hard", 4),
        (2, "hard", 4),
        (3, "all", 12),
    ]
    easy, medium, hard = ({f"g-{number}" for number in range(level, 12, 3)} for level in range(3))
    assert set(marks[0].first_seen) == easy
    assert not marks[1].first_seen, "the easy ones again"
    assert set(marks[2].first_seen) | set(marks[3].first_seen) <= medium
    assert set(marks[4].first_seen) & hard
    assert {name for mark in marks for name in mark.first_seen} == easy | medium | hard
    assert result.tokens == sum(one.tokens for one in marks)


@pytest.mark.parametrize("method", PREFERENCES)
def test_pairs_and_thumbs_have_no_difficulty_and_are_shuffled(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, method: TrainingMethod
) -> None:
    asked = training_job(tmp_path, tiny_gguf, SETTINGS, **PREFERENCES[method])
    examples, _ = read_examples(asked, method, tokens, SETTINGS.max_length)
    assert {one.event_id for one in examples} == {
        one.event_id for material in PREFERENCES[method].values() for one in material
    }
    shuffled, arranged = (
        Curriculum(learned=examples, method=method, settings=SETTINGS, seed=asked.seed, arrange=arrange)
        for arrange in (nobody_arranges, staged(fewest_steps=1))
    )
    assert list(arranged.expected()) == list(shuffled.expected())


@pytest.mark.parametrize(
    ("form", "starts", "is_brought", "goes_on"),
    [
        ("lora", True, False, True),
        ("lora", False, False, False),
        ("lora", True, True, False),
        ("neurons", True, False, False),
    ],
    ids=["earlier training", "base", "adapter that was brought", "one that does not fit"],
)
def test_a_curriculum_goes_on_with_what_an_earlier_training_of_ours_learned(
    uninterrupted: Uninterrupted,
    tiny_gguf: Path,
    tokens: Tokens,
    tmp_path: Path,
    form: str,
    starts: bool,
    is_brought: bool,
    goes_on: bool,
) -> None:
    told: list[TrainingSoFar] = []

    def arrange(*, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int) -> None:
        told.append(training)

    _, earlier = uninterrupted("lora")
    result = trained(
        tmp_path,
        tiny_gguf,
        tokens,
        settings=replace(FORMS[form], num_epochs=1),
        warm_start=earlier.adapter if starts else None,
        requires_start=is_brought,
        arrange=arrange,
    )
    assert {one.goes_on for one in told} == {goes_on}
    # the first of its losses is of where it begins, not of the base
    assert (told[-1].losses[0] == result.base_loss) is not result.warm_start


# --------------------------------------------------------------------------- bad input


def test_chosen_layers_alone_are_trained(tiny_gguf: Path, tokens: Tokens, tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_epochs=1, lora_layers=("attn_q", "ffn_down"))
    result = trained(tmp_path, tiny_gguf, tokens, settings=settings)
    touched = read_lesson(result.adapter, gguf_file.read(tiny_gguf)).touched
    assert {name.split(".")[2] for name in touched} == {"attn_q", "ffn_down"}
    with pytest.raises(TrainingError, match="no layer q_proj"):
        trained(tmp_path / "other", tiny_gguf, tokens, settings=replace(settings, lora_layers=("q_proj",)))


def test_a_loss_that_is_no_number_is_told(tiny_gguf: Path, tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no longer a number"):
        trained(tmp_path, tiny_gguf, tokens, settings=replace(SETTINGS, learning_rate=1e30))


@pytest.mark.parametrize("count", [12, 40])
def test_a_loss_that_is_no_number_behind_the_last_step_is_told(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, count: int
) -> None:
    """With one step an epoch only the watched loss shows it; of forty examples some are held out for that."""
    settings = replace(SETTINGS, learning_rate=1e30, batch_size=count, num_epochs=1 if count == 12 else 2)
    with pytest.raises(TrainingError, match="no longer a number"):
        trained(tmp_path, tiny_gguf, tokens, settings=settings, texts=greetings(count))
    assert not (tmp_path / "best.safetensors").exists()


def test_a_dataset_of_which_nothing_fits_is_told(tiny_gguf: Path, tokens: Tokens, tmp_path: Path) -> None:
    long = TrainingText(event_id="long", prompt="a" * 200, completion="b")
    with pytest.raises(TrainingError, match="No example fits into 64 tokens"):
        trained(tmp_path, tiny_gguf, tokens, texts=[long])


@pytest.mark.parametrize("form", ["lora", "grouped"])
@pytest.mark.parametrize("architecture", IN_TRANSFORMERS)
def test_peft_loads_the_adapter_and_computes_the_same(
    tokens: Tokens, cache: Path, tmp_path: Path, architecture: str, form: str
) -> None:
    gguf = write_tiny_architecture(tmp_path / f"{architecture}.gguf", architecture, kind="F32")
    result = trained(tmp_path / "run", gguf, tokens, settings=replace(FORMS[form], num_epochs=1))
    file = gguf_file.read(gguf)
    ids = tokens.prompt("greet guest 3, who comes late\n")
    network = Network(file, Bench(device=CPU, dtype=torch.float32, threads=1))
    layout, places = lay_out([Branches(stem=tuple(ids), answers=())], CPU, shares=True), torch.arange(len(ids))
    plain = network.logits(layout, places)
    network.form = read_lesson(result.adapter, file).form(CPU)
    ours = network.logits(layout, places)
    loaded = PeftModel.from_pretrained(in_transformers(gguf, cache), result.adapter)
    loaded.eval()
    assert sum(".lora_A." in name for name, _ in loaded.named_parameters()) == len(network.linears())
    with torch.no_grad():
        theirs = loaded(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)
    assert not torch.allclose(plain, ours, atol=0.1)
    assert len(read_lesson(result.adapter, file).touched) == len(network.linears())


@pytest.mark.parametrize("architecture", IN_TRANSFORMERS)
def test_gradients_are_those_of_peft(tokens: Tokens, cache: Path, tmp_path: Path, architecture: str) -> None:
    gguf = write_tiny_architecture(tmp_path / f"{architecture}.gguf", architecture, kind="F32")
    result = trained(tmp_path / "run", gguf, tokens, settings=replace(SETTINGS, num_epochs=1))
    file = gguf_file.read(gguf)
    prompt, answer = tokens.prompt("greet guest 3\n"), tokens.prompt("hello")[1:]
    network = Network(file, Bench(device=CPU, dtype=torch.float32, threads=1))
    form = LowRank(network.linears(), rank=4, alpha=8, group=1, generator=torch.Generator())
    load_form(form, file, result.adapter)
    network.form = form
    row = Branches(stem=tuple(prompt), answers=(tuple(answer),))
    network.log_probabilities(lay_out([row], CPU, shares=True)).mean().neg().backward()
    gradients = {name: one.grad for name, one in form.parameters.items() if one.grad is not None}
    loaded = PeftModel.from_pretrained(in_transformers(gguf, cache), result.adapter, is_trainable=True)
    loaded.eval()
    ids = torch.tensor([[*prompt, *answer]])
    loaded(input_ids=ids, labels=ids.masked_fill(torch.arange(ids.shape[1]) < len(prompt), -100)).loss.backward()
    assert_same_gradients(in_peft_layout(form, gradients, file, tmp_path / "gradient"), peft_gradients(loaded))
