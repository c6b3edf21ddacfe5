"""What a batch teaches does not depend on how it is cut into passes, and each method moves answers as it should."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import methods
from nightschool_daemon.learning.engine.examples import WATCHED_FROM, Answer, Example, divided
from nightschool_daemon.learning.engine.forms import LowRank
from nightschool_daemon.learning.engine.layout import lay_out
from nightschool_daemon.learning.engine.loop import Objective, Outcome, Plan, train
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.engine.scoring import answer_sums
from nightschool_daemon.runs.alone import curves_of
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod
from support.tiny_gguf import write_tiny_gguf

CPU = torch.device("cpu")
SETTINGS = Hyperparameters(form=TrainedForm.LORA, learning_rate=0.01, batch_size=4, num_epochs=4)
PROMPTS = ((1, 262, 270, 275), (1, 300), (1, 310, 311), (1, 320, 321, 322, 323))
GOOD, BAD = (264, 264, 265), (290, 291)

LESSONS = {
    TrainingMethod.SFT: tuple(
        Example(prompt=prompt, answers=(Answer(tokens=GOOD[: number % 3 + 1], weight=1 - number / 5),))
        for number, prompt in enumerate(PROMPTS)
    ),
    TrainingMethod.DPO: tuple(
        Example(prompt=prompt, answers=(Answer(tokens=GOOD, weight=0.5), Answer(tokens=BAD)), margin=0.1 * number)
        for number, prompt in enumerate(PROMPTS)
    ),
    TrainingMethod.KTO: tuple(
        Example(prompt=prompt, answers=(Answer(tokens=GOOD if number % 2 else BAD, liked=number % 2 == 1, weight=0.5),))
        for number, prompt in enumerate(PROMPTS)
    ),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", kind="F32")


@pytest.fixture
def network(tiny: Path) -> Network:
    return Network(gguf_file.read(tiny), Bench(device=CPU, dtype=torch.float32, threads=1))


def adapter(network: Network, *, spread: float = 0.0) -> LowRank:
    generator = torch.Generator().manual_seed(3)
    form = LowRank(network.linears(), rank=4, alpha=8, group=1, generator=generator)
    for name, one in form.parameters.items():
        if name.endswith(".lora_b"):
            torch.nn.init.normal_(one, std=spread, generator=generator)
    return form


def plan(method: TrainingMethod, output: Path, *, tokens_a_pass: int = 100, signature: str = "one") -> Plan:
    return Plan(
        method=method,
        hyperparameters=SETTINGS,
        seed=7,
        tokens_a_pass=tokens_a_pass,
        output=output,
        signature=signature,
    )


def taught(network: Network, asked: Plan, examples: Sequence[Example]) -> Iterator[Tensor]:
    """The loss of a batch, then its gradients."""
    network.form = None
    objective = Objective(network, asked, examples, examples)
    network.form = form = adapter(network, spread=0.05)
    total = torch.zeros(())
    for part in objective.losses(examples):
        part.total.backward()
        total += part.total.detach()
    yield total
    for one in form.parameters.values():
        assert one.grad is not None
        yield one.grad


@pytest.mark.parametrize("method", LESSONS)
def test_a_batch_teaches_the_same_in_any_number_of_passes(
    network: Network, tmp_path: Path, method: TrainingMethod
) -> None:
    whole, *parts = (
        list(taught(network, plan(method, tmp_path, tokens_a_pass=tokens), LESSONS[method])) for tokens in (1000, 1, 14)
    )
    for part in parts:
        for one, other in zip(part, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tokens", [1000, 1, 14])
def test_the_loss_of_each_answer_is_told_whatever_it_weighs(network: Network, tmp_path: Path, tokens: int) -> None:
    known = [replace(one, event_id=f"e/{number}") for number, one in enumerate(LESSONS[TrainingMethod.SFT])]
    unknown = Example(prompt=PROMPTS[0], answers=(Answer(tokens=BAD),))
    asked = plan(TrainingMethod.SFT, tmp_path, tokens_a_pass=tokens)
    objective = Objective(network, asked, [*known, unknown], known)
    network.form = adapter(network, spread=0.05)
    told = {one.event_id: one.nats for part in objective.losses([*known, unknown]) for one in part.answers}
    sums = answer_sums(network, known)
    expected = {one.event_id: -float(nats[0]) / one.labels for one, nats in zip(known, sums, strict=True)}
    assert told == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", [TrainingMethod.DPO, TrainingMethod.KTO])
def test_what_is_not_simply_wanted_has_no_loss_of_its_own(
    network: Network, tmp_path: Path, method: TrainingMethod
) -> None:
    lesson = [replace(one, event_id="e/1") for one in LESSONS[method]]
    objective = Objective(network, plan(method, tmp_path), lesson, lesson)
    network.form = adapter(network)
    assert all(part.answers == () for part in objective.losses(lesson))


def trained(network: Network, form: LowRank, asked: Plan, examples: Sequence[Example]) -> Outcome:
    return train(network, form, examples, asked, lambda _done, _total, _text: None)


def likelihoods(network: Network, answer: tuple[int, ...]) -> Tensor:
    """Log-probability of one answer to each prompt."""
    rows = [Example(prompt=prompt, answers=(Answer(tokens=answer),)).branches() for prompt in PROMPTS]
    layout = lay_out(rows, CPU, shares=True)
    with torch.no_grad():
        return methods.sums_by_answer(network.log_probabilities(layout), layout.answer_of, layout.answers)


@pytest.mark.parametrize("method", [TrainingMethod.DPO, TrainingMethod.KTO])
def test_what_was_preferred_becomes_likelier_than_what_was_not(
    network: Network, tmp_path: Path, method: TrainingMethod
) -> None:
    before = likelihoods(network, GOOD) - likelihoods(network, BAD)
    outcome = trained(network, adapter(network), plan(method, tmp_path), LESSONS[method])
    assert outcome.trained_loss < outcome.base_loss
    (curve,) = curves_of(tmp_path, [method])
    assert not curve.is_held, "of so few none is kept out of the updates"
    assert [loss for _, loss in curve.watched] == list(outcome.watched)
    assert bool((likelihoods(network, GOOD) - likelihoods(network, BAD) > before + 1).all())


def test_a_pair_begins_at_the_loss_of_a_coin(network: Network, tmp_path: Path) -> None:
    pairs = [replace(one, margin=0.0) for one in LESSONS[TrainingMethod.DPO]]
    outcome = trained(network, adapter(network), plan(TrainingMethod.DPO, tmp_path), pairs)
    assert outcome.base_loss == pytest.approx(0.6931, abs=1e-4)


def test_the_epoch_that_serves_the_held_out_examples_best_is_kept(network: Network, tmp_path: Path) -> None:
    """Answers by chance: who learns them by heart gets worse at those that were held out."""
    chance = random.Random(5)
    examples = [
        Example(prompt=(1, chance.randrange(262, 350)), answers=(Answer(tokens=(chance.randrange(262, 350),)),))
        for _ in range(WATCHED_FROM)
    ]
    longer = replace(SETTINGS, num_epochs=10)
    form, asked = adapter(network), replace(plan(TrainingMethod.SFT, tmp_path), hyperparameters=longer)
    outcome = trained(network, form, asked, examples)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    watched = [one["watched_loss"] for one in lines if "watched_loss" in one]
    assert outcome.watched == tuple(watched)
    assert curves_of(tmp_path, [TrainingMethod.SFT])[0].is_held
    assert len(watched) < longer.num_epochs, "it stops when it gets worse"
    split = divided(examples, asked.seed, longer)
    judged = watched[split.first_judged - 1 :]
    assert judged[-1] > min(judged) == outcome.trained_loss
    assert min(watched) < min(judged), "an epoch before may have been better by its loss alone"
    assert Objective(network, asked, split.learned, split.watched).watched_loss() == pytest.approx(min(judged))


def test_a_finished_training_is_not_repeated(network: Network, tmp_path: Path) -> None:
    asked, lesson, steps = plan(TrainingMethod.SFT, tmp_path), LESSONS[TrainingMethod.SFT], list[int]()
    first = adapter(network)
    outcome = trained(network, first, asked, lesson)
    second = adapter(network)
    assert train(network, second, lesson, asked, lambda done, _total, _text: steps.append(done)) == outcome
    assert steps == []
    assert all(torch.equal(second.parameters[name], one) for name, one in first.parameters.items())


def test_twice_the_weight_counts_as_two_examples(network: Network, tmp_path: Path) -> None:
    one, other = (Example(prompt=prompt, answers=(Answer(tokens=GOOD),)) for prompt in PROMPTS[:2])
    heavier = replace(one, answers=(Answer(tokens=GOOD, weight=2.0),))
    asked = plan(TrainingMethod.SFT, tmp_path)
    weighed, repeated = (list(taught(network, asked, batch)) for batch in ([heavier, other], [one, one, other]))
    for found, expected in zip(weighed, repeated, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_weight_counts_whatever_else_is_in_the_batch(network: Network, tmp_path: Path) -> None:
    """A light and a heavy example teach by their weights, alone in a batch as together with others."""
    light, heavy = (Example(prompt=PROMPTS[0], answers=(Answer(tokens=GOOD, weight=weight),)) for weight in (0.5, 1.5))
    objective = Objective(network, plan(TrainingMethod.SFT, tmp_path), [light, heavy], [light])
    network.form = adapter(network, spread=0.05).freeze_below(network.architecture.layers)
    alone, weighed, both = (
        sum(float(part.total) for part in objective.losses(batch)) for batch in ([light], [heavy], [light, heavy])
    )
    assert weighed == pytest.approx(3 * alone)
    assert both == pytest.approx((alone + weighed) / 2)
    assert objective.watched_loss() == pytest.approx(2 * alone), "what is watched is not weighed"
