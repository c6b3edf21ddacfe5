"""The general route of training: a LoRA adapter through transformers and PEFT, for SFT.

It serves the architectures that the packed engine lacks and transformers can load from a GGUF. Reads from top to
bottom: loss, loop, checkpoints. Losses are in nats per answer token.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nightschool_daemon.jobs import write_durably
from nightschool_daemon.learning.engine.examples import divided
from nightschool_daemon.learning.engine.loop import GRADIENT_NORM, Report, load_moments, save_moments, schedule
from nightschool_daemon.learning.engine.peft_files import MODULES
from nightschool_daemon.learning.loading import Base
from nightschool_daemon.learning.rows import Row, read_rows, signature
from nightschool_hookspecs.records import Hyperparameters, TrainingJob, TrainingMethod, TrainingResult
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

TOKENS_A_PASS = 1024
"""Padded tokens of one forward pass; a batch is cut into as many passes as it needs."""
IGNORED = -100


# --------------------------------------------------------------------------- loss


def padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and weights, each of shape (rows, longest). Right padding needs no mask under causal attention."""
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED, dtype=torch.long)
    weights = torch.zeros(len(rows), longest)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row.prompt + row.completion)
        labels[number, len(row.prompt) : len(row)] = torch.tensor(row.completion)
        weights[number, len(row.prompt) : len(row)] = row.weight
    return ids, labels, weights


def summed_loss(model: PreTrainedModel, rows: Sequence[Row]) -> tuple[torch.Tensor, float]:
    """Weighted sum of the answer tokens' losses, and the sum of their weights.

    The head sees the hidden states at label positions only, shape (labels, width): over a vocabulary of
    262,144 that is most of the memory and time of a short batch.
    """
    import torch

    ids, labels, weights = padded(rows)
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    at = labels[:, 1:] != IGNORED
    logits = head(model, hidden[:, :-1][at])
    losses = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][at], reduction="none")
    weight = weights[:, 1:][at]
    return (losses * weight).sum(), float(weight.sum())


def head(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of hidden states, shape (positions, vocabulary), with the cap that some architectures put on them."""
    project = model.get_output_embeddings()
    if project is None:
        raise TrainingError(f"Models of the kind {type(model).__name__} have no head. Choose another base.")
    logits = project(hidden)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap * (logits / cap).tanh() if cap else logits


def require_equal_logits(model: PreTrainedModel, row: Row) -> None:
    """Raise where decoder and head alone are not what the whole model computes, as with scaled logits."""
    import torch

    ids, _, _ = padded([row])
    with torch.no_grad():
        whole = model(input_ids=ids).logits[0, -1].float()
        parts = head(model, model.get_decoder()(input_ids=ids).last_hidden_state[0, -1:])[0].float()
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3):
        raise TrainingError(
            f"Models of the kind {type(model).__name__} compute their logits in a way that this training does not "
            "know. Choose another base."
        )


def mean_loss(model: PreTrainedModel, rows: Sequence[Row]) -> float:
    """Loss per answer token, every token counted alike."""
    import torch

    total = count = 0.0
    model.eval()
    with torch.no_grad():
        for part in passes([Row(prompt=row.prompt, completion=row.completion, weight=1.0) for row in rows]):
            loss, weight = summed_loss(model, part)
            total += float(loss)
            count += weight
    return total / count


def passes(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Cut a batch into forward passes of at most `TOKENS_A_PASS` padded tokens, rows of like length together."""
    part: list[Row] = []
    for row in sorted(rows, key=len):
        if part and len(row) * (len(part) + 1) > TOKENS_A_PASS:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


# --------------------------------------------------------------------------- the loop


@dataclass(kw_only=True)
class State:
    """How far a training is; what a checkpoint holds besides tensors."""

    epoch: int = 0
    step: int = 0
    tokens: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    base_loss: float = math.nan
    seconds: float = 0.0


def fine_tune(base: Base, job: TrainingJob, settings: Hyperparameters, report: Report) -> TrainingResult:
    """Train a LoRA adapter on all linear layers and save the best epoch's. Goes on from a checkpoint if one fits."""
    import torch

    if job.warm_start is not None and job.requires_start:
        raise TrainingError(
            "Only the packed engine begins from an adapter, and it does not train this base. Take start_from out."
        )
    rows, left_out = read_rows(job.dataset, base.tokens, settings.max_length)
    require_equal_logits(base.model, rows[0])
    split = divided(rows, job.seed, settings.num_epochs)
    began = time.monotonic()
    base_loss = mean_loss(base.model, split.watched)
    torch.manual_seed(job.seed)
    model = with_adapter(base.model, settings)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    made_of = signature(job, TrainingMethod.SFT, settings)
    checkpoints = Checkpoints(directory=job.output / "checkpoints", signature=made_of)
    state = checkpoints.restore(model, optimizer) or State(base_loss=base_loss)
    # PEFT put its layers into the model itself, so this is the network with the adapter
    network = base.model
    batches = math.ceil(len(split.learned) / settings.batch_size)
    steps = batches * settings.num_epochs
    metrics = (job.output / "metrics.jsonl").open("a", encoding="utf-8")
    while state.epoch < settings.num_epochs:
        network.train()
        for batch in epoch_batches(split.learned, settings.batch_size, state.epoch, job.seed):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(state.step, steps, settings.warmup_ratio)
            loss = update(network, batch, optimizer, trained)
            state.step += 1
            state.tokens += sum(map(len, batch))
            metrics.write(json.dumps({"step": state.step, "loss": loss, "lr": optimizer.param_groups[0]["lr"]}) + "\n")
            report(state.step, steps, f"epoch {state.epoch + 1} of {settings.num_epochs}, loss {loss:.3f}")
        state.epoch += 1
        watched_loss = mean_loss(network, split.watched)
        metrics.write(json.dumps({"epoch": state.epoch, "step": state.step, "watched_loss": watched_loss}) + "\n")
        state.seconds += time.monotonic() - began
        began = time.monotonic()
        improved = watched_loss < state.best_loss
        if improved or not split.held:
            state.best_loss, state.best_epoch = watched_loss, state.epoch
            save_adapter(model, job.output / "adapter")
        checkpoints.keep(model, optimizer, state)
        if split.held and not improved:
            break
    metrics.close()
    return TrainingResult(
        adapter=job.output / "adapter",
        methods=(TrainingMethod.SFT,),
        steps=state.step,
        tokens=state.tokens,
        examples=len(split.learned),
        left_out=left_out,
        base_loss=state.base_loss,
        trained_loss=state.best_loss,
        seconds=state.seconds,
    )


def epoch_batches(rows: Sequence[Row], size: int, epoch: int, seed: int) -> Iterator[Sequence[Row]]:
    """The first epoch keeps the order of the curriculum, later ones are shuffled."""
    order = list(range(len(rows)))
    if epoch:
        random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 - no secret
    for start in range(0, len(order), size):
        yield [rows[number] for number in order[start : start + size]]


def update(
    network: PreTrainedModel,
    batch: Sequence[Row],
    optimizer: torch.optim.Optimizer,
    trained: Sequence[torch.nn.Parameter],
) -> float:
    """One optimiser step over a batch. Returns its weighted mean loss."""
    import torch

    whole = sum(row.weight * len(row.completion) for row in batch)
    total = 0.0
    for part in passes(batch):
        loss, _ = summed_loss(network, part)
        (loss / whole).backward()
        total += float(loss.detach())
    if not math.isfinite(total):
        raise TrainingError(
            "The loss became infinite. Lower learning_rate in [plugins.tuning_fixed] (a half is a good try)."
        )
    torch.nn.utils.clip_grad_norm_(trained, GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total / whole


# --------------------------------------------------------------------------- adapter and checkpoints


def with_adapter(model: PreTrainedModel, settings: Hyperparameters) -> PeftModel:
    """Put a LoRA beside every linear layer but the head."""
    from peft import LoraConfig, get_peft_model

    configuration = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=[_module(one) for one in settings.lora_layers] or "all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, configuration)


def _module(layer: str) -> str:
    """`attn_q` to `q_proj`."""
    if layer not in MODULES:
        raise TrainingError(
            f"There is no layer {layer}: there are {', '.join(MODULES)}. Correct lora_layers in [plugins.tuning_fixed]."
        )
    return MODULES[layer].rsplit(".", 1)[-1]


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Save in PEFT's own form: whole, or not there."""
    temporary = directory.with_name(".adapter.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    # the base is a blob in Ollama's store: a path to it would mislead whoever loads the adapter elsewhere
    model.peft_config["default"].base_model_name_or_path = ""
    model.save_pretrained(str(temporary), safe_serialization=True)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The last finished epoch, in safetensors and JSON: no pickle."""

    directory: Path
    signature: str

    def keep(self, model: PeftModel, optimizer: torch.optim.Optimizer, state: State) -> None:
        """Keep the state after an epoch; the one before goes when this one is whole."""
        from safetensors.torch import save_file

        place = self.directory / f"epoch-{state.epoch}"
        place.mkdir(parents=True, exist_ok=True)
        save_file({name: one.detach() for name, one in trained_of(model)}, place / "adapter.safetensors")
        save_moments(optimizer, place / "optimizer.safetensors")
        write_durably(place / "state.json", json.dumps({"signature": self.signature, "state": vars(state)}))
        for other in self.directory.iterdir():
            if other != place:
                shutil.rmtree(other)

    def restore(self, model: PeftModel, optimizer: torch.optim.Optimizer) -> State | None:
        """Go on from the kept state, if it was made from the same job."""
        import torch
        from safetensors.torch import load_file

        for file in sorted(self.directory.glob("epoch-*/state.json")):
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["signature"] != self.signature:
                continue
            weights = load_file(file.parent / "adapter.safetensors")
            with torch.no_grad():
                for name, one in trained_of(model):
                    one.copy_(weights[name])
            load_moments(optimizer, file.parent / "optimizer.safetensors")
            return State(**kept["state"])
        return None


def trained_of(model: PeftModel) -> list[tuple[str, torch.nn.Parameter]]:
    """The adapter's own parameters by name."""
    return [(name, one) for name, one in model.named_parameters() if one.requires_grad]
