"""The training loop over a packed network: batches, losses, optimiser, checkpoints. Reads from top to bottom.

A checkpoint can be gone on with at any step: order, batches and dropout depend on the seed and the step alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nightschool_daemon.jobs import write_durably
from nightschool_daemon.learning.base_file import ADVICE
from nightschool_daemon.learning.engine import methods
from nightschool_daemon.learning.engine.examples import Example, Numbered, batches, divided, passes
from nightschool_daemon.learning.engine.forms import Form
from nightschool_daemon.learning.engine.layout import Layout, lay_out
from nightschool_daemon.learning.engine.network import Network
from nightschool_hookspecs.records import Hyperparameters, TrainingMethod
from nightschool_hookspecs.services import TrainingError

GRADIENT_NORM = 1.0
FINAL_RATE = 0.1
"""The cosine ends at this share of the learning rate."""
STEPS_A_SEED = 1_000_003
CHECKPOINTS = "checkpoints"
"""Directory of a training's output."""
CHECKPOINT_S = 60.0
"""A checkpoint is written when the last one is older than this, and after each epoch."""

Report = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a training goes."""

    method: TrainingMethod
    hyperparameters: Hyperparameters
    seed: int
    tokens_a_pass: int
    output: Path
    """Gets `metrics.jsonl`, `checkpoints/` and `best.safetensors`."""
    signature: str
    """What base, data and settings it is made of: a checkpoint of another is not gone on with."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a training."""

    steps: int
    tokens: int
    examples: int
    base_loss: float
    """Nats per answer token on the watched examples; for DPO and KTO the loss of the method."""
    trained_loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a training is; what a checkpoint holds besides tensors."""

    epoch: int = 0
    step_of_epoch: int = 0
    step: int = 0
    tokens: int = 0
    best_loss: float = math.inf
    base_loss: float = math.nan
    seconds: float = 0.0
    is_over: bool = False


def train(
    network: Network,
    form: Form,
    examples: Sequence[Example],
    plan: Plan,
    report: Report,
    *,
    reference: Form | None = None,
) -> Outcome:
    """Train `form` beside the frozen network, and leave the best epoch's parameters in it.

    `reference`: what DPO and KTO are held to, a frozen form of training; None: the base alone. Raises `TrainingError`
    where the loss is no number.
    """
    settings = plan.hyperparameters
    split = divided(examples, plan.seed, settings.num_epochs)
    network.form = form
    objective = Objective(network, plan, split.learned, split.watched, reference)
    optimizer = torch.optim.AdamW(form.trained(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
    checkpoint = Checkpoint(directory=plan.output / CHECKPOINTS, signature=plan.signature)
    state = checkpoint.restore(form, optimizer) or State(base_loss=objective.loss_before())
    _require_sound_base(state.base_loss)
    steps = math.ceil(len(split.learned) / settings.batch_size) * settings.num_epochs
    clock = Clock()
    _forget_later_steps(plan.output / "metrics.jsonl", state)
    with (plan.output / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        while state.epoch < settings.num_epochs and not state.is_over:
            todo = batches(split.learned, settings.batch_size, state.epoch, plan.seed)[state.step_of_epoch :]
            for batch in todo:
                rate = settings.learning_rate * schedule(state.step, steps, settings.warmup_ratio)
                # dropout depends on seed and step alone, so that a resumed training repeats it
                torch.manual_seed(plan.seed * STEPS_A_SEED + state.step)
                form.is_training = True
                loss = update(objective, batch, optimizer, rate)
                form.is_training = False
                state = replace(
                    state,
                    step=state.step + 1,
                    step_of_epoch=state.step_of_epoch + 1,
                    tokens=state.tokens + sum(len(one.example) for one in batch),
                )
                metrics.write(json.dumps({"step": state.step, "loss": loss, "lr": rate}) + "\n")
                report(state.step, steps, f"epoch {state.epoch + 1} of {settings.num_epochs}, loss {loss:.3f}")
                if clock.since_checkpoint() > CHECKPOINT_S:
                    metrics.flush()
                    state = replace(state, seconds=state.seconds + clock.taken())
                    checkpoint.keep(form, optimizer, state)
            watched = objective.watched_loss()
            _require_number(watched)
            improved = watched < state.best_loss
            metrics.write(json.dumps({"epoch": state.epoch + 1, "step": state.step, "watched_loss": watched}) + "\n")
            if improved or not split.held:
                save_parameters(form, plan.output / "best.safetensors")
                state = replace(state, best_loss=watched)
            state = replace(
                state,
                epoch=state.epoch + 1,
                step_of_epoch=0,
                seconds=state.seconds + clock.taken(),
                is_over=split.held and not improved,
            )
            metrics.flush()
            checkpoint.keep(form, optimizer, state)
    load_parameters(form, plan.output / "best.safetensors")
    return Outcome(
        steps=state.step,
        tokens=state.tokens,
        examples=len(split.learned),
        base_loss=state.base_loss,
        trained_loss=state.best_loss,
        seconds=state.seconds,
    )


def schedule(step: int, steps: int, warmup_ratio: float) -> float:
    """Share of the learning rate: linear warm-up, then a cosine down to `FINAL_RATE`."""
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def update(objective: Objective, batch: Sequence[Numbered], optimizer: torch.optim.Optimizer, rate: float) -> float:
    """One optimiser step over a batch. Returns its loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    total = 0.0
    for loss in objective.losses(batch):
        loss.backward()
        total += float(loss.detach())
    _require_number(total)
    torch.nn.utils.clip_grad_norm_(objective.parameters(), GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _require_sound_base(loss: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"The loss of the base itself is no number, so its weights are damaged. {ADVICE}")


def _require_number(loss: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError("The loss is no longer a number. Lower learning_rate in [plugins.tuning_fixed] (a half).")


# --------------------------------------------------------------------------- objectives


class Objective:
    """The loss of a batch by the chosen method. What DPO and KTO are held to is asked once for each answer."""

    def __init__(
        self,
        network: Network,
        plan: Plan,
        learned: Sequence[Example],
        watched: Sequence[Example],
        reference: Form | None = None,
    ) -> None:
        self._network, self._plan, self._reference = network, plan, reference
        self._pads = network.pads(branching=plan.method is TrainingMethod.DPO)
        self._beta = plan.hyperparameters.beta
        self._watched = [Numbered(number=number, example=one) for number, one in enumerate(watched)]
        self._references: Mapping[Example, Tensor] = {}
        if plan.method is not TrainingMethod.SFT:
            with self._as(reference):
                self._references = self._sums(list(dict.fromkeys((*learned, *watched))))
        liked = sum(one.answers[0].liked for one in learned)
        self._weights = methods.kto_weights(liked, len(learned) - liked)

    def parameters(self) -> list[Tensor]:
        """What is trained."""
        form = self._network.form
        return [] if form is None else form.trained()

    def losses(self, batch: Sequence[Numbered]) -> Iterator[Tensor]:
        """The batch's loss in parts, one a pass; their sum is the mean over the batch."""
        whole = self._whole(batch)
        divergence = self._divergence(batch) if self._plan.method is TrainingMethod.KTO else 0.0
        for part in passes(batch, self._plan.tokens_a_pass, padded=self._pads):
            examples = [one.example for one in part]
            layout = self._layout(examples)
            values = self._network.log_probabilities(layout)
            yield self._loss(examples, layout, values, divergence) / whole

    def loss_before(self) -> float:
        """`watched_loss` of the base; for DPO and KTO of what they are held to."""
        with self._as(None if self._plan.method is TrainingMethod.SFT else self._reference):
            return self.watched_loss()

    def watched_loss(self) -> float:
        """The mean loss over the watched examples; for SFT every answer token counts alike."""
        even = self._watched
        if self._plan.method is TrainingMethod.SFT:
            even = [replace(one, example=_unweighted(one.example)) for one in self._watched]
        with torch.no_grad():
            return sum(float(loss) for loss in self.losses(even)) if even else math.nan

    def _whole(self, batch: Sequence[Numbered]) -> float:
        if self._plan.method is not TrainingMethod.SFT:
            return float(len(batch))
        return sum(answer.weight * len(answer.tokens) for one in batch for answer in one.example.answers)

    def _loss(self, examples: Sequence[Example], layout: Layout, values: Tensor, divergence: float) -> Tensor:
        if self._plan.method is TrainingMethod.SFT:
            weights = [answer.weight for one in examples for answer in one.answers]
            return methods.sft_loss(values, torch.tensor(weights, device=values.device)[layout.answer_of], 1.0)
        sums = methods.answer_sums(values, layout.answer_of, layout.answers)
        reference = torch.cat([self._references[one] for one in examples])
        if self._plan.method is TrainingMethod.DPO:
            scores = methods.PairScores(
                chosen=sums[0::2],
                rejected=sums[1::2],
                reference_chosen=reference[0::2],
                reference_rejected=reference[1::2],
            )
            margins = torch.tensor([one.margin for one in examples], device=sums.device)
            return methods.dpo_losses(scores, margins, self._beta).sum()
        liked = torch.tensor([one.answers[0].liked for one in examples], device=sums.device)
        losses = methods.kto_losses(sums, reference, liked, divergence, self._beta)
        return (losses * torch.where(liked, *self._weights)).sum()

    def _divergence(self, batch: Sequence[Numbered]) -> float:
        """How far the model is from its reference, on answers to other prompts (KTO's reference point)."""
        if len(batch) == 1:
            return 0.0
        examples = [one.example for one in batch]
        mismatched = [
            replace(one, answers=other.answers)
            for one, other in zip(examples, [*examples[1:], examples[0]], strict=True)
        ]
        policy = self._sums(mismatched)
        with self._as(self._reference):
            reference = self._sums(mismatched)
        moved = [float(policy[one] - reference[one]) for one in mismatched]
        return max(0.0, sum(moved) / len(moved))

    @contextmanager
    def _as(self, form: Form | None) -> Iterator[None]:
        """With another form beside the network, or with none."""
        trained, self._network.form = self._network.form, form
        try:
            yield
        finally:
            self._network.form = trained

    def _sums(self, examples: Sequence[Example]) -> dict[Example, Tensor]:
        """Log-probability of each answer of each example, shape (answers,), without gradient."""
        found: dict[Example, Tensor] = {}
        numbered = [Numbered(number=number, example=one) for number, one in enumerate(examples)]
        with torch.no_grad():
            for part in passes(numbered, self._plan.tokens_a_pass, padded=self._pads):
                layout = self._layout([one.example for one in part])
                values = self._network.log_probabilities(layout)
                sums = methods.answer_sums(values, layout.answer_of, layout.answers)
                ends = sums.split([len(one.example.answers) for one in part])
                found |= {one.example: end for one, end in zip(part, ends, strict=True)}
        return found

    def _layout(self, examples: Sequence[Example]) -> Layout:
        return lay_out([one.branches() for one in examples], self._network.bench.device)


def _unweighted(example: Example) -> Example:
    return replace(example, answers=tuple(replace(one, weight=1.0) for one in example.answers))


# --------------------------------------------------------------------------- files


def _forget_later_steps(metrics: Path, state: State) -> None:
    """Take out what a training wrote after the checkpoint that it now goes on from."""
    written = _whole_lines(metrics) if metrics.exists() and state.step else []
    kept = [one for one in written if one["step"] <= state.step and one.get("epoch", 0) <= state.epoch]
    write_durably(metrics, "".join(f"{json.dumps(one)}\n" for one in kept))


def _whole_lines(metrics: Path) -> list[dict[str, float]]:
    """All lines up to one in which the power went."""
    found = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


class Clock:
    """Measures working time between checkpoints."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def since_checkpoint(self) -> float:
        """Seconds since `taken` was last called."""
        return time.monotonic() - self._began

    def taken(self) -> float:
        """The same, and begin anew."""
        seconds = self.since_checkpoint()
        self._began = time.monotonic()
        return seconds


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The last kept step, in safetensors and JSON: no pickle."""

    directory: Path
    signature: str

    def keep(self, form: Form, optimizer: torch.optim.Optimizer, state: State) -> None:
        """Keep a step; the one before goes when this one is whole."""
        place = self.directory / f"step-{state.step}-epoch-{state.epoch}"
        place.mkdir(parents=True, exist_ok=True)
        save_parameters(form, place / "form.safetensors")
        save_moments(optimizer, place / "optimizer.safetensors")
        write_durably(place / "state.json", json.dumps({"signature": self.signature, "state": vars(state)}))
        for other in self.directory.glob("step-*"):
            if other != place:
                shutil.rmtree(other)

    def restore(self, form: Form, optimizer: torch.optim.Optimizer) -> State | None:
        """Go on from the kept step, if it was made from the same job."""
        for file in sorted(self.directory.glob("step-*/state.json")):
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["signature"] != self.signature:
                continue
            load_parameters(form, file.parent / "form.safetensors")
            load_moments(optimizer, file.parent / "optimizer.safetensors")
            return State(**kept["state"])
        return None


def save_moments(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Write what an optimiser remembers of each parameter, and wait until it is on the disk."""
    from safetensors.torch import save_file

    state = optimizer.state_dict()["state"]
    save_file({f"{number}.{key}": value for number, of in state.items() for key, value in of.items()}, file)
    _sync(file)


def load_moments(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Give an optimiser of the same parameters what another one remembered."""
    from safetensors.torch import load_file

    whole = optimizer.state_dict()
    whole["state"] = {}
    for name, value in load_file(file).items():
        number, key = name.split(".", 1)
        whole["state"].setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(whole)


def save_parameters(form: Form, file: Path) -> None:
    """Write what is trained: whole, or not there."""
    from safetensors.torch import save_file

    temporary = file.with_name(f".{file.name}.tmp")
    save_file({name: one.detach().contiguous() for name, one in form.parameters.items()}, temporary)
    _sync(temporary)
    temporary.replace(file)


def _sync(file: Path) -> None:
    """Wait until a file is on the disk: what says that it is whole must not get there before it."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def load_parameters(form: Form, file: Path) -> None:
    """Read it back. Raises `TrainingError` where it does not fit."""
    from safetensors.torch import load_file

    form.put(load_file(file))
