"""Losses, and their gradients, are those that TRL's trainers compute on the same network and batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.forms import LowRank
from nightschool_daemon.learning.engine.loop import Objective, Plan
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod
from support.tiny_gguf import write_tiny_gguf
from support.transformers_models import assert_same_gradients, in_peft_layout, in_transformers, peft_gradients

PAD, IGNORED = 0, -100
RANK, ALPHA = 4, 8
Adapter = dict[str, Tensor]
Fresh = Callable[[], PreTrainedModel]

WANTED = (
    Example(prompt=(1, 262, 270, 275), answers=(Answer(tokens=(261, 264, 280)),)),
    Example(prompt=(1, 300), answers=(Answer(tokens=(301, 303, 304, 305, 306)),)),
    Example(prompt=(1, 310, 311), answers=(Answer(tokens=(312,)),)),
)
PAIRS = (
    Example(prompt=(1, 262, 270, 275), answers=(Answer(tokens=(261, 264, 280)), Answer(tokens=(290,)))),
    Example(prompt=(1, 300), answers=(Answer(tokens=(301, 302)), Answer(tokens=(301, 303, 304, 305, 306)))),
    Example(prompt=(1, 310, 311), answers=(Answer(tokens=(312,)), Answer(tokens=(313,)))),
)
OPINIONS = (
    Example(prompt=(1, 262, 270, 275), answers=(Answer(tokens=(261, 264, 280)),)),
    Example(prompt=(1, 300), answers=(Answer(tokens=(301, 303, 304, 305, 306), liked=False),)),
    Example(prompt=(1, 310, 311), answers=(Answer(tokens=(312,)),)),
)
WEIGHTS = (0.5, 1.0)
"""Of a liked and of a disliked answer, where two are liked and one is not."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A loss, and its gradient by the names and in the layout of a PEFT adapter."""

    loss: float
    gradient: Adapter


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """The same network for both sides."""

    file: GgufFile
    fresh: Fresh
    tokenizer: PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    directory = tmp_path_factory.mktemp("trl")
    path = write_tiny_gguf(directory / "tiny.gguf", kind="F32")
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=path.name)
    return Tiny(
        file=gguf_file.read(path),
        fresh=lambda: in_transformers(path, directory),
        tokenizer=tokenizer,
    )


def form_of(network: Network, seed: int) -> LowRank:
    """An adapter that moves the network clearly off its base."""
    generator = torch.Generator().manual_seed(seed)
    form = LowRank(network.linears(), rank=RANK, alpha=ALPHA, group=1, generator=generator)
    for name, one in form.parameters.items():
        if name.endswith(".lora_b"):
            torch.nn.init.normal_(one, std=0.05, generator=generator)
    return form


def ours(
    tiny: Tiny,
    method: TrainingMethod,
    examples: Sequence[Example],
    seed: int,
    directory: Path,
    *,
    beside: Sequence[Example] = (),
) -> Known:
    """Of a batch. `beside`: what else the epoch has."""
    network = Network(tiny.file, Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1))
    plan = Plan(
        method=method,
        hyperparameters=Hyperparameters(form=TrainedForm.LORA, learning_rate=2e-4),
        seed=0,
        tokens_a_pass=20,
        output=directory,
        signature="",
    )
    objective = Objective(network, plan, (*examples, *beside), examples)
    network.form = form = form_of(network, seed)
    total = 0.0
    for part in objective.losses(examples):
        part.total.backward()
        total += float(part.total.detach())
    gradients = {name: one.grad for name, one in form.parameters.items() if one.grad is not None}
    return Known(loss=total, gradient=in_peft_layout(form, gradients, tiny.file, directory / "gradient"))


def adapter(tiny: Tiny, seed: int, directory: Path) -> Adapter:
    network = Network(tiny.file, Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1))
    form = form_of(network, seed)
    return in_peft_layout(form, form.parameters, tiny.file, directory / "adapter")


def targets(adapter: Adapter) -> LoraConfig:
    modules = sorted({name.split(".")[-3] for name in adapter})
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules, task_type="CAUSAL_LM")


def theirs(trainer: SFTTrainer | DPOTrainer | KTOTrainer, batch: dict[str, Tensor], adapter: Adapter) -> Known:
    model = trainer.model
    assert model is not None
    set_peft_model_state_dict(model, adapter)
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return Known(loss=float(loss.detach()), gradient=peft_gradients(model))


def assert_same(found: Known, expected: Known) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert_same_gradients(found.gradient, expected.gradient)


@pytest.mark.parametrize("seed", [0, 1])
def test_wanted_answers_are_learned_from_as_trl_does(tiny: Tiny, tmp_path: Path, seed: int) -> None:
    weights = adapter(tiny, seed, tmp_path)
    trainer = SFTTrainer(
        model=tiny.fresh(),
        args=SFTConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list([{"prompt": "a", "completion": "b"}]),
        processing_class=tiny.tokenizer,
        peft_config=targets(weights),
    )
    batch = DataCollatorForLanguageModeling(pad_token_id=PAD)(
        [
            {
                "input_ids": [*one.prompt, *one.answers[0].tokens],
                "labels": [*(IGNORED for _ in one.prompt), *one.answers[0].tokens],
            }
            for one in WANTED
        ]
    )
    assert_same(ours(tiny, TrainingMethod.SFT, WANTED, seed, tmp_path), theirs(trainer, batch, weights))


def weighted_mean(model: torch.nn.Module, batch: Sequence[Example], epoch: Sequence[Example]) -> Tensor:
    """Losses of the batch's answer tokens by their weights, over its tokens at the mean weight of the epoch."""
    total = torch.zeros(())
    for one in batch:
        ids = torch.tensor([*one.prompt, *one.answers[0].tokens])
        chances = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], dim=-1)
        behind = len(one.prompt) - 1
        total = total - one.weight * chances[behind:].gather(1, ids[behind + 1 :, None]).sum()
    mean = sum(one.weight * one.labels for one in epoch) / sum(one.labels for one in epoch)
    return total / (mean * sum(one.labels for one in batch))


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_count_by_their_weights_against_the_mean_of_the_epoch(tiny: Tiny, tmp_path: Path, seed: int) -> None:
    weights = adapter(tiny, seed, tmp_path)
    *batch, other = [
        replace(one, answers=(replace(one.answers[0], weight=weight),))
        for one, weight in zip(WANTED, (0.5, 2.0, 0.2), strict=True)
    ]
    model = get_peft_model(tiny.fresh(), targets(weights))
    set_peft_model_state_dict(model, weights)
    loss = weighted_mean(model, batch, (*batch, other))
    loss.backward()
    expected = Known(loss=float(loss.detach()), gradient=peft_gradients(model))
    assert_same(ours(tiny, TrainingMethod.SFT, batch, seed, tmp_path, beside=[other]), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_are_learned_from_as_trl_does(tiny: Tiny, tmp_path: Path, seed: int) -> None:
    weights = adapter(tiny, seed, tmp_path)
    trainer = DPOTrainer(
        model=tiny.fresh(),
        args=DPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, beta=0.1),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tiny.tokenizer,
        peft_config=targets(weights),
    )
    batch = DataCollatorForPreference(pad_token_id=PAD)(
        [
            {
                "prompt_ids": list(one.prompt),
                "chosen_ids": list(one.answers[0].tokens),
                "rejected_ids": list(one.answers[1].tokens),
            }
            for one in PAIRS
        ]
    )
    assert_same(ours(tiny, TrainingMethod.DPO, PAIRS, seed, tmp_path), theirs(trainer, batch, weights))


def sum_of(model: torch.nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Log-probability of an answer."""
    ids = torch.tensor([*prompt, *answer])
    chances = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], dim=-1)
    found: Tensor = chances[len(prompt) - 1 :].gather(1, ids[len(prompt) :, None]).sum()
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_with_margins_are_learned_from_by_the_formula(tiny: Tiny, tmp_path: Path, seed: int) -> None:
    """Odin (Amini et al. 2024), written out: TRL has no margin for each pair."""
    weights = adapter(tiny, seed, tmp_path)
    pairs = [replace(one, margin=margin) for one, margin in zip(PAIRS, (0.0, 0.4, 1.0), strict=True)]
    base, model = tiny.fresh(), get_peft_model(tiny.fresh(), targets(weights))
    set_peft_model_state_dict(model, weights)
    losses = []
    for one in pairs:
        better, worse = (
            sum_of(model, one.prompt, answer.tokens) - sum_of(base, one.prompt, answer.tokens).detach()
            for answer in one.answers
        )
        losses.append(-torch.nn.functional.logsigmoid(0.1 * (better - worse) - one.margin))
    loss = torch.stack(losses).mean()
    loss.backward()
    expected = Known(loss=float(loss.detach()), gradient=peft_gradients(model))
    assert_same(ours(tiny, TrainingMethod.DPO, pairs, seed, tmp_path), expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_opinions_are_learned_from_as_trl_does(tiny: Tiny, tmp_path: Path, seed: int) -> None:
    weights = adapter(tiny, seed, tmp_path)
    trainer = KTOTrainer(
        model=tiny.fresh(),
        args=KTOConfig(
            output_dir=str(tmp_path),
            report_to=[],
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=len(OPINIONS),
            beta=0.1,
            desirable_weight=WEIGHTS[0],
            undesirable_weight=WEIGHTS[1],
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "completion": "b", "label": one} for one in (True, False)]),
        processing_class=tiny.tokenizer,
        peft_config=targets(weights),
    )
    others = [*OPINIONS[1:], OPINIONS[0]]
    batch = DataCollatorForUnpairedPreference(pad_token_id=PAD)(
        [
            {
                "prompt_ids": list(one.prompt),
                "completion_ids": list(one.answers[0].tokens),
                "KL_completion_ids": list(other.answers[0].tokens),
                "label": one.answers[0].liked,
            }
            for one, other in zip(OPINIONS, others, strict=True)
        ]
    )
    expected = theirs(trainer, batch, weights)
    (divergence,) = trainer._metrics["train"]["kl"]
    assert divergence > 0
    assert_same(ours(tiny, TrainingMethod.KTO, OPINIONS, seed, tmp_path), expected)
    # what an answer weighs in SFT is of no concern here
    weighed = [replace(one, answers=(replace(one.answers[0], weight=0.5),)) for one in OPINIONS]
    assert_same(ours(tiny, TrainingMethod.KTO, weighed, seed, tmp_path), expected)
