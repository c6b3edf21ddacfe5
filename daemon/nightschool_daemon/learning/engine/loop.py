"""The training loop over a packed network: batches, losses, optimiser, checkpoints. Reads from top to bottom.

A checkpoint can be gone on with at any step: order, batches and dropout depend on the seed, the step and the losses.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from nightschool_daemon.disk import sync
from nightschool_daemon.jobs import StretchMark, write_durably
from nightschool_daemon.learning.base_file import ADVICE
from nightschool_daemon.learning.engine import methods
from nightschool_daemon.learning.engine.adam import Adam
from nightschool_daemon.learning.engine.checkpoints import Checkpoints, State, load, put, save_tensors, unfinished
from nightschool_daemon.learning.engine.curriculum import (
    Arrange,
    Curriculum,
    StretchLog,
    Teachable,
    begun,
    evaluated,
    events_of,
    is_under_way,
    nobody_arranges,
)
from nightschool_daemon.learning.engine.examples import Example, Split, batches, divided, mean_weight, passes
from nightschool_daemon.learning.engine.forms import Form
from nightschool_daemon.learning.engine.layout import Layout
from nightschool_daemon.learning.engine.machine import return_free_memory
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.scoring import sums_of
from nightschool_daemon.learning.engine.trajectories import AnswerLoss, PassLoss, TrajectoryLog, told
from nightschool_daemon.learning.termination import Terminated, uninterrupted
from nightschool_hookspecs.records import Hyperparameters, TrainingMethod, TrainingResult
from nightschool_hookspecs.services import TrainingError

GRADIENT_NORM = 1.0
FINAL_RATE = 0.1
"""The cosine ends at this share of the learning rate."""
STEPS_A_SEED = 1_000_003
ADAPTER, CHECKPOINTS, BEST = "adapter", "checkpoints", "best.safetensors"
"""In a training's output."""
CHECKPOINT_S, LEARNED_A_WRITE = 60.0, 20.0
"""A checkpoint is written when so many seconds have passed since the last one was whole, and so many times as long as
that one took to write, which of a large model is most of a minute. One is written after each epoch in any case."""

SMOOTHED_STEPS = 10
"""Over about so many steps the loss of batches is smoothed."""
FAR_FACTOR, FAR_NATS = 1.5, 1.0
"""A loss is far above another that is more than so many times, and so much on top. At too high a rate a model forgets
what it could: 10 nats and more (20 to 35 of SmolLM2 at a rate of 0.3), where it had 1 to 4 before."""
FAR_STEPS = 20
"""After so many steps that were far above, what is watched tells whether the training is hopeless."""
RISEN_FACTOR, RISEN_NATS = 1.1, 0.1
"""What was learned from must not end so much above where it began: of that even a lesson of nothing new costs less."""
LOWER_RATE = "Lower learning_rate in [plugins.tuning_fixed] (to a tenth), or leave it out"

MORE_TIME = "Raise training.time_limit_minutes, or lower training.max_tokens."

Report = Callable[[int, int, str], None]
S = TypeVar("S", bound=Teachable)
L_contra = TypeVar("L_contra", bound=Teachable, contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a training goes."""

    method: TrainingMethod
    hyperparameters: Hyperparameters
    seed: int
    tokens_a_pass: int
    output: Path
    """Gets `metrics.jsonl`, `trajectories.jsonl`, `checkpoints/`, `best.safetensors`; `curriculum.jsonl` if there is
    one."""
    signature: str
    """What base, data and settings it is made of: a checkpoint of another is not gone on with."""
    arrange: Arrange = nobody_arranges
    goes_on: bool = False
    """Whether it begins from what an earlier training of the specialty learned."""
    has_start: bool = False
    """Whether it begins from what any training left: its loss is not the base's then."""
    spared_bytes: int = 0
    """Of the disk: what it leaves free, for the delivery and for others."""
    until: float = math.inf
    """When no further step begins, by `time.monotonic()`: what was learned by then is what it comes to."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a training."""

    steps: int
    tokens: int
    examples: int
    base_loss: float
    """Nats per answer token on the watched examples; for DPO and KTO the loss of the method."""
    trained_loss: float
    watched: tuple[float, ...]
    """The same after each epoch."""
    seconds: float
    cut_short: str = ""
    """How far it came by the time that it had, in a sentence; empty: to its end."""

    def result(self, plan: Plan, split: Split[S], *, left_out: int) -> TrainingResult:
        """What is told of a training whose adapter is saved. `left_out`: examples that were too long."""
        return TrainingResult(
            adapter=plan.output / ADAPTER,
            methods=(plan.method,),
            steps=self.steps,
            tokens=self.tokens,
            examples=self.examples,
            left_out=left_out,
            base_loss=self.base_loss,
            trained_loss=self.trained_loss,
            seconds=self.seconds,
            not_learned=self.cut_short,
            epoch_losses=self.watched,
            learned_events=events_of(split.learned),
            watched_events=events_of(split.watched) if split.held else (),
            hyperparameters=plan.hyperparameters,
        )


class Learner(Protocol[L_contra]):
    """What learns from batches of examples: a form beside the packed network, or PEFT's adapter in a model."""

    def named(self) -> Mapping[str, Tensor]:
        """What a training leaves; of it is trained what wants a gradient."""
        ...

    def losses(self, batch: Sequence[L_contra]) -> Iterator[PassLoss]:
        """A batch's loss in parts, one a pass. Nats per answer token, or the loss of the method."""
        ...

    def learning(self) -> AbstractContextManager[None]:
        """With dropout, while a batch is learned from."""
        ...

    def loss_before(self) -> float:
        """What is watched, before the training."""
        ...

    def watched_loss(self) -> float:
        """What is watched, now."""
        ...


class Keeper(Protocol):
    """What becomes of a training while it is under way."""

    def restored(self, learner: Learner[S], optimizer: Adam) -> State:
        """Where it goes on, or begins."""
        ...

    def tell(self, values: Mapping[str, float]) -> None:
        """Hear the figures of a step or of an epoch."""
        ...

    def tell_answers(self, answers: Sequence[AnswerLoss], state: State) -> None:
        """Hear the losses of the answers that were learned from in the step before."""
        ...

    def tell_stretch(self, mark: StretchMark) -> None:
        """Hear of a stretch that a plugin arranged."""
        ...

    def keep(self, learner: Learner[S], optimizer: Adam, state: State) -> None:
        """Keep where it is."""
        ...

    def keep_best(self, learner: Learner[S]) -> None:
        """Keep what was trained: it is the best so far."""
        ...

    def take_best(self, learner: Learner[S]) -> None:
        """Leave the best in it."""
        ...


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
    where the loss is no number, or far above that where it began.
    """
    split = divided(examples, plan.seed, plan.hyperparameters)
    network.form = form
    return teach(Objective(network, plan, split.learned, split.watched, reference), split, plan, report)


def teach(learner: Learner[S], split: Split[S], plan: Plan, report: Report) -> Outcome:
    """Have something learn epoch by epoch until a judged one is worse, and leave the best one's parameters in it.

    Where the time is over before, the epoch that it is in ends there. Goes on from a checkpoint if one fits, and leaves
    one when the worker is to end. Raises `Diverged`, and keeps nothing, where it goes astray, and `TrainingError` where
    the disk has no room for what is kept, or there is no time at all.
    """
    keeper = OnDisk(plan.output, plan.signature)
    keeper.require_room(learner, plan.spared_bytes)
    course = Course(learner, split, plan, report, keeper)
    if course.goes_on() and course.is_late():
        raise TrainingError(f"There is no time left for it. {MORE_TIME}")
    try:
        while course.goes_on():
            for batch in course.batches_left():
                course.learn(batch)
                if course.is_late():
                    break
            course.end_stretch()
        course.require_gain()
    except Terminated:
        course.break_off()
        raise
    except Diverged:
        # it would go the same way again
        keeper.forget()
        raise
    return course.end()


class Course(Generic[S]):
    """A training under way."""

    def __init__(
        self,
        learner: Learner[S],
        split: Split[S],
        plan: Plan,
        report: Report,
        keeper: Keeper,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now`: seconds, from any beginning."""
        self._learner, self._split, self._plan, self._report, self._keeper = learner, split, plan, report, keeper
        self._settings = settings = plan.hyperparameters
        self._steps = math.ceil(len(split.learned) / settings.batch_size) * settings.num_epochs
        self._optimizer = Adam(trained_of(learner))
        self._state = self._begun(keeper.restored(learner, self._optimizer))
        _require_sound_base(self._state.base_loss)
        self._curriculum = Curriculum(
            learned=split.learned,
            method=plan.method,
            settings=settings,
            seed=plan.seed,
            arrange=plan.arrange,
            goes_on=plan.goes_on,
        )
        self._clock, self._now = Clock(now), now
        self._kept_step = self._state.step

    def _begun(self, state: State) -> State:
        """With the loss of where it begins, which is known when it goes on."""
        if not math.isnan(state.start_loss):
            return state
        return replace(state, start_loss=self._learner.watched_loss() if self._plan.has_start else state.base_loss)

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self._steps

    def goes_on(self) -> bool:
        """Whether there is an epoch to learn from."""
        return self._state.epoch < self._settings.num_epochs and not self._state.is_over

    def is_late(self) -> bool:
        """Whether the time is over in which steps begin."""
        return self._now() >= self._plan.until

    def batches_left(self) -> list[list[S]]:
        """Up to the next evaluation."""
        if not is_under_way(self._state):
            self._state = begun(self._state, self._curriculum.next(self._state))
        arranged = [self._split.learned[place] for place in self._state.places]
        return batches(arranged, self._settings.batch_size)[self._state.step_of_epoch :]

    def learn(self, batch: Sequence[S]) -> None:
        """One step."""
        state = self._state
        rate = self._settings.learning_rate * schedule(state.step, self._steps, self._settings.warmup_ratio)
        # dropout depends on seed and step alone, so that a resumed training repeats it
        torch.manual_seed(self._plan.seed * STEPS_A_SEED + state.step)
        with self._learner.learning():
            loss, answers = gradients_of(self._learner, batch)
        # parameters, state and what is told are always of one step
        with uninterrupted():
            self._optimizer.step(rate)
            self._state = replace(
                state,
                step=state.step + 1,
                step_of_epoch=state.step_of_epoch + 1,
                tokens=state.tokens + sum(map(len, batch)),
                smoothed=(smoothed := _smoothed(state.smoothed, loss)),
                far_steps=state.far_steps + 1 if self._is_far(smoothed) and self._is_warm(state) else 0,
            )
            self._keeper.tell({"step": self._state.step, "loss": loss, "lr": rate})
            self._keeper.tell_answers(answers, self._state)
        stage = f" ({state.stage})" if state.stage else ""
        epochs = f"epoch {state.epoch + 1} of {self._settings.num_epochs}{stage}"
        self._report(self._state.step, self._steps, f"{epochs}, loss {loss:.3f}")
        if self._state.far_steps and self._state.far_steps % FAR_STEPS == 0:
            # batches may be harder than what is watched
            self._require_near(watched_loss(self._learner))
        if self._clock.is_due():
            self._keep(self._state)

    def _is_warm(self, state: State) -> bool:
        """Whether the rate has been at its height."""
        return state.step >= warmup_steps(self._steps, self._settings.warmup_ratio)

    def _is_far(self, loss: float) -> bool:
        return loss > FAR_FACTOR * max(self._state.base_loss, self._state.start_loss) + FAR_NATS

    def _require_near(self, watched: float) -> None:
        if self._is_far(watched):
            raise self._diverged(watched)

    def require_gain(self) -> None:
        """Raise `Diverged` where the best epoch is far worse than where it began, or worse by what was learned from.

        What is kept aside may end somewhat worse: of many epochs the last ones learn by heart.
        """
        found, began = self._state.best_loss, max(self._state.base_loss, self._state.start_loss)
        if self._is_far(found) or (not self._split.held and found > RISEN_FACTOR * began + RISEN_NATS):
            raise self._diverged(found)

    def _diverged(self, watched: float) -> Diverged:
        return Diverged(
            f"At a learning rate of {self._settings.learning_rate:g} the loss rose from "
            f"{self._state.start_loss:.2f} to {watched:.2f}, so nothing is learned. {LOWER_RATE}."
        )

    def end_stretch(self) -> None:
        """Evaluate what was learned."""
        watched = watched_loss(self._learner)
        # an epoch that is through has to be judged before anything goes on from it
        with uninterrupted():
            if self._state.stage:
                self._keeper.tell_stretch(self._curriculum.mark(self._state, watched))
            self._state = evaluated(self._state, watched)
            late = self.is_late()
            if late and self._state.step < self._steps:
                cut_short = f"Its time was over after {self._state.step} of {self._steps} steps. {MORE_TIME}"
                self._state = replace(self._state, cut_short=cut_short)
            if self._curriculum.is_through(self._state) or late:
                self._end_epoch(watched, is_last=late)

    def _end_epoch(self, watched: float, *, is_last: bool) -> None:
        """See whether it got better. None is judged before one has seen everything that there is to learn."""
        state = self._state
        is_judged = state.has_seen_all and state.epoch >= self._split.first_judged
        improved = watched < state.best_loss or not is_judged
        held = self._split.held
        self._keeper.tell({"epoch": state.epoch + 1, "step": state.step, "watched_loss": watched, "held": held})
        is_best = improved or not held
        if is_best:
            state = replace(state, best_loss=watched, best_step=state.step)
        state = replace(
            state,
            is_over=is_last or (held and not improved),
            watched=(*state.watched, watched),
            has_seen_all=state.has_seen_all or self._curriculum.has_seen_all(state),
        )
        self._keep(self._curriculum.next_epoch(state))
        # behind the checkpoint: of one that knows of no best like this the next call would take it for an older one
        if is_best:
            self._keeper.keep_best(self._learner)

    def break_off(self) -> None:
        """Keep the last step, unless it is kept already."""
        if self._state.step != self._kept_step:
            self._keep(self._state)

    def end(self) -> Outcome:
        """Take the best epoch."""
        self._keeper.take_best(self._learner)
        return Outcome(
            steps=self._state.step,
            tokens=self._state.tokens,
            examples=len(self._split.learned),
            base_loss=self._state.base_loss,
            trained_loss=self._state.best_loss,
            watched=tuple(self._state.watched),
            seconds=self._state.seconds,
            cut_short=self._state.cut_short,
        )

    def _keep(self, state: State) -> None:
        with uninterrupted():
            self._state = replace(state, seconds=state.seconds + self._clock.taken())
            with self._clock.writing():
                self._keeper.keep(self._learner, self._optimizer, self._state)
            self._kept_step = state.step


def watched_loss(learner: Learner[S]) -> float:
    """What is watched, now. Raises `Diverged`."""
    found = learner.watched_loss()
    _require_number(found)
    return found


def warmup_steps(steps: int, warmup_ratio: float) -> int:
    """In which the learning rate rises."""
    return max(1, round(steps * warmup_ratio))


def schedule(step: int, steps: int, warmup_ratio: float) -> float:
    """Share of the learning rate: linear warm-up, then a cosine down to `FINAL_RATE`."""
    warmup = warmup_steps(steps, warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def gradients_of(learner: Learner[S], batch: Sequence[S]) -> tuple[float, tuple[AnswerLoss, ...]]:
    """Leave the gradients of a batch, clipped, with what is trained. Returns its loss, and those of its answers."""
    total = 0.0
    answers: list[AnswerLoss] = []
    for part in learner.losses(batch):
        part.total.backward()
        total += float(part.total.detach())
        answers += part.answers
        # the next pass has rows of other lengths: what it does not fit into would lie idle beside it
        return_free_memory()
    _require_number(total)
    torch.nn.utils.clip_grad_norm_(trained_of(learner), GRADIENT_NORM)
    return total, tuple(answers)


def trained_of(learner: Learner[S]) -> list[Tensor]:
    """The parameters that are trained."""
    return [one for one in learner.named().values() if one.requires_grad]


def _smoothed(before: float, loss: float) -> float:
    return loss if math.isnan(before) else before + (loss - before) / SMOOTHED_STEPS


def _require_sound_base(loss: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"The loss of the base itself is no number, so its weights are damaged. {ADVICE}")


class Diverged(TrainingError):
    """A training went astray, as at too high a rate."""


def _require_number(loss: float) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"The loss is no longer a number. {LOWER_RATE}.")


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
        self._watched = watched
        self._weight = mean_weight((answer.weight, len(answer.tokens)) for one in learned for answer in one.answers)
        self._references: Mapping[Example, Tensor] = {}
        if plan.method is not TrainingMethod.SFT:
            with self._as(reference):
                self._references = self._sums(list(dict.fromkeys((*learned, *watched))))
        liked = sum(one.answers[0].liked for one in learned)
        self._weights = methods.kto_weights(liked, len(learned) - liked)

    def named(self) -> Mapping[str, Tensor]:
        """What is trained, and what is left as it is because memory is short."""
        form = self._network.form
        return {} if form is None else form.parameters

    @contextmanager
    def learning(self) -> Iterator[None]:
        """With dropout."""
        form = self._network.form
        if form is None:
            yield
            return
        form.is_training = True
        try:
            yield
        finally:
            form.is_training = False

    def losses(self, batch: Sequence[Example]) -> Iterator[PassLoss]:
        """The batch's loss in parts, one a pass; their sum is the mean over the batch.

        What weighs more than the mean of the epoch moves the model more, whatever else is in its batch.
        """
        is_sft = self._plan.method is TrainingMethod.SFT
        whole = self._weight * _answer_tokens(batch) if is_sft else float(len(batch))
        divergence = self._divergence(batch) if self._plan.method is TrainingMethod.KTO else 0.0
        for part in passes(batch, self._plan.tokens_a_pass, padded=self._pads):
            layout = self._layout(part)
            values = self._network.log_probabilities(layout)
            yield PassLoss(
                total=self._loss(part, layout, values, divergence) / whole,
                answers=_wanted_losses(part, layout, values) if is_sft else (),
            )

    def loss_before(self) -> float:
        """`watched_loss` of the base; for DPO and KTO of what they are held to."""
        with self._as(None if self._plan.method is TrainingMethod.SFT else self._reference):
            return self.watched_loss()

    def watched_loss(self) -> float:
        """The mean loss over the watched examples; for SFT every answer token counts alike."""
        if not self._watched:
            return math.nan
        with torch.no_grad():
            if self._plan.method is not TrainingMethod.SFT:
                return sum(float(part.total) for part in self.losses(self._watched))
            found = -sum(float(self._network.log_probabilities(one).sum()) for one in self._layouts(self._watched))
            return found / _answer_tokens(self._watched)

    def _loss(self, examples: Sequence[Example], layout: Layout, values: Tensor, divergence: float) -> Tensor:
        if self._plan.method is TrainingMethod.SFT:
            weights = [answer.weight for one in examples for answer in one.answers]
            return methods.sft_loss(values, torch.tensor(weights, device=values.device)[layout.answer_of])
        sums = methods.sums_by_answer(values, layout.answer_of, layout.answers)
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

    def _divergence(self, batch: Sequence[Example]) -> float:
        """How far the model is from its reference, on answers to other prompts (KTO's reference point)."""
        if len(batch) == 1:
            return 0.0
        longest = self._plan.hyperparameters.max_length
        mismatched = [
            one.with_answers(other.answers, longest) for one, other in zip(batch, [*batch[1:], batch[0]], strict=True)
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
        return sums_of(self._network, examples, self._plan.tokens_a_pass, padded=self._pads)

    def _layouts(self, examples: Sequence[Example]) -> Iterator[Layout]:
        for part in passes(examples, self._plan.tokens_a_pass, padded=self._pads):
            yield self._layout(part)

    def _layout(self, examples: Sequence[Example]) -> Layout:
        return self._network.lay_out([one.branches() for one in examples])


def _answer_tokens(examples: Sequence[Example]) -> int:
    return sum(one.labels for one in examples)


def _wanted_losses(examples: Sequence[Example], layout: Layout, values: Tensor) -> tuple[AnswerLoss, ...]:
    """Of wanted answers, one an example, from the log-probabilities of their tokens."""
    sums = methods.sums_by_answer(values.detach(), layout.answer_of, layout.answers).tolist()
    return told(examples, [-nats / one.labels for one, nats in zip(examples, sums, strict=True)])


# --------------------------------------------------------------------------- files and time


class OnDisk:
    """`Keeper` of a training that goes on after a kill: checkpoints, the best epoch, and what is told by the way."""

    def __init__(self, output: Path, signature: str) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._output = output
        self._checkpoints = Checkpoints(directory=output / CHECKPOINTS, signature=signature)
        self._metrics: Metrics
        self._log: StretchLog
        self._trajectories: TrajectoryLog

    def require_room(self, learner: Learner[S], spared_bytes: int) -> None:
        """Raise `TrainingError` where what is kept, and what is to stay free, is more than the disk has."""
        needed = self._checkpoints.bytes_at_once(learner.named()) + spared_bytes
        there = self._bytes_there() + shutil.disk_usage(self._output).free
        if there < needed:
            raise TrainingError(
                f"The disk of {self._output} has {there / 1e9:.1f} GB for this training, and it may need "
                f"{needed / 1e9:.1f} GB, the delivery included. Free some space, or lower delivery.min_free_gb, or "
                "neurons or lora_r in [plugins.tuning_fixed]."
            )

    def _bytes_there(self) -> int:
        """What it kept before it was interrupted: what comes takes its place."""
        kept = (*(self._output / CHECKPOINTS).rglob("*.safetensors"), self._output / BEST)
        return sum(one.stat().st_size for one in kept if one.is_file())

    def forget(self) -> None:
        """Remove what can be gone on from."""
        shutil.rmtree(self._output / CHECKPOINTS, ignore_errors=True)
        (self._output / BEST).unlink(missing_ok=True)

    def restored(self, learner: Learner[S], optimizer: Adam) -> State:
        unfinished(self._output / BEST).unlink(missing_ok=True)
        state = self._checkpoints.restore(learner.named(), optimizer) or State(base_loss=learner.loss_before())
        if state.step and state.step == state.best_step:
            # it may have been killed between the two
            self.keep_best(learner)
        self._metrics = Metrics(self._output / "metrics.jsonl", state)
        self._log = StretchLog(self._output, state)
        self._trajectories = TrajectoryLog(self._output, state)
        return state

    def tell(self, values: Mapping[str, float]) -> None:
        self._metrics.write(values)

    def tell_answers(self, answers: Sequence[AnswerLoss], state: State) -> None:
        self._trajectories.write(answers, state)

    def tell_stretch(self, mark: StretchMark) -> None:
        self._log.write(mark)

    def keep(self, learner: Learner[S], optimizer: Adam, state: State) -> None:
        self._metrics.flush()
        self._trajectories.flush()
        self._checkpoints.keep(learner.named(), optimizer, state)

    def keep_best(self, learner: Learner[S]) -> None:
        save_tensors(learner.named(), self._output / BEST)

    def take_best(self, learner: Learner[S]) -> None:
        put(learner.named(), load(self._output / BEST))


class Metrics:
    """`metrics.jsonl`: a line a step, and one an epoch. What was written behind the checkpoint goes."""

    def __init__(self, file: Path, state: State) -> None:
        written = _whole_lines(file) if file.exists() and state.step else []
        kept = [one for one in written if one["step"] <= state.step and one.get("epoch", 0) <= state.epoch]
        write_durably(file, "".join(f"{json.dumps(one)}\n" for one in kept))
        self._file = file

    def write(self, values: Mapping[str, float]) -> None:
        """Add a line."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(f"{json.dumps(values)}\n")

    def flush(self) -> None:
        """Wait until the lines are on the disk: who goes on from a checkpoint does not write its steps again."""
        sync(self._file)


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
    """Measures working time, and tells when a checkpoint is due."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._counted = self._written = now()
        self._write_s = 0.0

    def taken(self) -> float:
        """Seconds since it was last asked."""
        before, self._counted = self._counted, self._now()
        return self._counted - before

    def is_due(self) -> bool:
        """Whether so much was learned that it is worth a checkpoint."""
        return self._now() - self._written > max(CHECKPOINT_S, LEARNED_A_WRITE * self._write_s)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While a checkpoint is written."""
        began = self._now()
        yield
        self._written = self._now()
        self._write_s = self._written - began
