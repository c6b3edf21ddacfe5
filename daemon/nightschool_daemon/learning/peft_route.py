"""The general route of training: a LoRA adapter through transformers and PEFT, for SFT.

It serves the architectures that the packed engine lacks and transformers can load from a GGUF, in the packed engine's
own loop. Losses are in nats per answer token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nightschool_daemon.disk import whole_directory
from nightschool_daemon.learning.engine import footprint, machine, memory
from nightschool_daemon.learning.engine.curriculum import Arrange, nobody_arranges
from nightschool_daemon.learning.engine.examples import divided, mean_weight, passes
from nightschool_daemon.learning.engine.loop import ADAPTER, Plan, Report, teach
from nightschool_daemon.learning.engine.methods import sums_by_answer
from nightschool_daemon.learning.engine.trajectories import PassLoss, told
from nightschool_daemon.learning.engine.trying import Pupil, Slices, Trials, Unfit
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loadable import parameters_of
from nightschool_daemon.learning.loading import Base, require_same_weights
from nightschool_daemon.learning.peft_files import MODULES, base_name
from nightschool_daemon.learning.rows import Row, read_rows, require_asked, signature, told_of_lengths
from nightschool_daemon.learning.threads import cores
from nightschool_hookspecs.records import Hyperparameters, TrainingJob, TrainingMethod, TrainingResult
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

TOKENS_A_PASS = 1024
"""Padded tokens of one forward pass; a batch is cut into as many passes as it needs."""
PROBED_TOKENS = (64, 128)
"""Examples of so many show what those of any length keep."""
IGNORED = -100
FLOPS_PER_CORE = 1.6e10
"""32-bit operations that one core of an ordinary machine sustains in training: a rule of thumb."""


# --------------------------------------------------------------------------- loss


def padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels, each of shape (rows, longest). Right padding needs no mask under causal attention."""
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row.prompt + row.completion)
        labels[number, len(row.prompt) : len(row)] = torch.tensor(row.completion)
    return ids, labels


def answer_losses(model: PreTrainedModel, rows: Sequence[Row]) -> torch.Tensor:
    """Sum of the losses of each row's answer tokens, shape (rows,); no weight counts.

    The head sees the hidden states at label positions only, shape (labels, width): over a vocabulary of
    262,144 that is most of the memory and time of a short batch.
    """
    import torch

    ids, labels = padded(rows)
    hidden = model.get_decoder()(input_ids=ids.to(model.device)).last_hidden_state
    of_row, before = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    targets = labels[of_row, before + 1].to(model.device)
    of_row, before = of_row.to(model.device), before.to(model.device)
    logits = head(model, hidden[of_row, before])
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return sums_by_answer(losses, of_row, len(rows))


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

    ids = padded([row])[0].to(model.device)
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

    model.eval()
    with torch.no_grad():
        total = sum(float(answer_losses(model, part).sum()) for part in passes(rows, TOKENS_A_PASS))
    return total / _answer_tokens(rows)


def _answer_tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.completion) for row in rows)


# --------------------------------------------------------------------------- memory


def require_room(learner: AdapterLearner, rows: Sequence[Row], settings: Hyperparameters) -> None:
    """Raise `TrainingError` where the widest pass may keep more for the way back than there is memory for.

    That is counted, not guessed: two short examples go forth, and what they keep is extrapolated.
    """
    longest = max(rows, key=len)
    tokens = max(len(longest), min(TOKENS_A_PASS, settings.batch_size * len(longest)))
    with learner.learning():
        kept = [_moving_bytes(learner.network, _of_length(longest, size)) for size in PROBED_TOKENS]
    machine.return_free_memory()
    (size, larger), (found, more), device = PROBED_TOKENS, kept, learner.network.device
    states = footprint.FLOAT * footprint.STATES * sum(one.numel() for one in learner.named().values())
    needed = memory.taken_bytes(device) + states + footprint.extrapolated(size, found, larger, more, tokens)
    available = memory.allowed_bytes(device)
    if needed > available:
        what = "An example" if tokens == len(longest) else "A pass"
        raise TrainingError(
            f"{what} of {tokens} tokens through transformers needs about {needed / 1e9:.1f} GB of memory, and "
            f"{available / 1e9:.1f} GB can be had. Lower max_length or batch_size in [plugins.tuning_fixed], close "
            "what uses memory, or choose a smaller base."
        )


def _moving_bytes(model: PreTrainedModel, row: Row) -> int:
    """What a pass keeps, and at its height the gradients of what is largest in it, before an operation and behind."""
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    saved = footprint.saved_by(lambda: answer_losses(model, [row]), own)
    return sum(saved) + 2 * max(saved)


def _of_length(row: Row, tokens: int) -> Row:
    """One of so many tokens, with as large an answer in proportion."""
    answer = min(tokens - 1, max(1, tokens * len(row.completion) // len(row)))
    return Row(prompt=(0,) * (tokens - answer), completion=(0,) * answer, weight=1.0)


# --------------------------------------------------------------------------- the training


@dataclass(frozen=True, kw_only=True)
class AdapterLearner:
    """An adapter that learns wanted answers."""

    model: PeftModel
    network: PreTrainedModel
    """The base's own model: PEFT put its layers into it, so this is the network with the adapter."""
    watched: Sequence[Row]
    weight: float
    """The mean of an answer token."""

    def named(self) -> dict[str, torch.Tensor]:
        """The adapter's own parameters."""
        return {name: one for name, one in self.model.named_parameters() if one.requires_grad}

    def losses(self, batch: Sequence[Row]) -> Iterator[PassLoss]:
        """The batch's loss in parts, one a pass."""
        import torch

        whole = self.weight * _answer_tokens(batch)
        for part in passes(batch, TOKENS_A_PASS):
            losses = answer_losses(self.network, part)
            weights = torch.tensor([row.weight for row in part], device=losses.device)
            lengths = torch.tensor([len(row.completion) for row in part])
            yield PassLoss(
                total=(losses * weights).sum() / whole, answers=told(part, (losses.detach().cpu() / lengths).tolist())
            )

    @contextmanager
    def learning(self) -> Iterator[None]:
        """With dropout."""
        self.network.train()
        try:
            yield
        finally:
            self.network.eval()

    def loss_before(self) -> float:
        """That of the base, for an adapter begins as nothing."""
        return self.watched_loss()

    def watched_loss(self) -> float:
        """Nats per answer token."""
        return mean_loss(self.network, self.watched)


def fine_tune(
    base: Base,
    job: TrainingJob,
    settings: Hyperparameters,
    report: Report,
    *,
    note: Callable[[str], None] = logger.info,
    arrange: Arrange = nobody_arranges,
) -> TrainingResult:
    """Train a LoRA adapter on all linear layers and save the best epoch's. Goes on from a checkpoint if one fits.

    The base's layout is known: see `require_known_layout`. `note` hears where what was learned earlier is not begun
    from. Raises `TrainingError`, before it trains where memory is short.
    """
    require_no_start(job)
    if job.warm_start is not None:
        note(
            "The training begins from the base, not from what the model in use has learned: only the packed engine "
            "goes on from that, and it does not train this base here."
        )
    rows, left_out = read_rows(job.dataset, base.tokens, settings.max_length)
    require_asked((len(one.prompt) for one in rows), base.file, job.context)
    context = base.file.number("context_length")
    for sentence in told_of_lengths(map(len, rows), left_out, settings.max_length, context):
        note(sentence)
    require_equal_logits(base.model, rows[0])
    split = divided(rows, job.seed, settings)
    learner = learner_of(base, settings, job.seed, split.learned, split.watched)
    require_room(learner, rows, settings)
    plan = plan_of(job, settings, arrange)
    outcome = teach(learner, split, plan, report)
    save_adapter(learner.model, job.output / ADAPTER, base_name(base.file))
    return outcome.result(plan, split, left_out=left_out)


def require_no_start(job: TrainingJob) -> None:
    """Raise where a training must begin from an adapter."""
    if job.warm_start is not None and job.requires_start:
        raise TrainingError(
            "Only the packed engine begins from an adapter, and it does not train this base. Take start_from out."
        )


def learner_of(
    base: Base, settings: Hyperparameters, seed: int, learned: Sequence[Row], watched: Sequence[Row]
) -> AdapterLearner:
    """Put a new adapter into the base's model."""
    import torch

    torch.manual_seed(seed)
    return AdapterLearner(
        model=with_adapter(base.model, settings),
        network=base.model,
        watched=watched,
        weight=mean_weight((row.weight, len(row.completion)) for row in learned),
    )


def plan_of(job: TrainingJob, settings: Hyperparameters, arrange: Arrange) -> Plan:
    """How a training by this route goes."""
    return Plan(
        method=TrainingMethod.SFT,
        hyperparameters=settings,
        seed=job.seed,
        tokens_a_pass=TOKENS_A_PASS,
        output=job.output,
        signature=signature(job, TrainingMethod.SFT, settings),
        arrange=arrange,
        spared_bytes=job.spared_bytes,
        until=time.monotonic() + job.time_left_s,
    )


class LoadedTrials(Trials[Row]):
    """The same tried out, beside one loaded model that has an adapter for as long as one is trained."""

    def __init__(
        self, base: Base, job: TrainingJob, slices: Slices[Row], *, arrange: Arrange = nobody_arranges
    ) -> None:
        """The base's layout is known. Raises `TrainingError` where a training must begin from an adapter."""
        super().__init__(slices)
        require_no_start(job)
        self._base, self._job, self._arrange = base, job, arrange

    def epoch_seconds(self, settings: Hyperparameters) -> float:
        file = self._base.file
        trained = settings.lora_r * sum(sum(one.shape) for one in file.tensors.values() if len(one.shape) > 1)
        whole = rough_seconds(file, sum(map(len, self.slices.learned)))
        return whole * (1 + trained / parameters_of(file))

    @contextmanager
    def pupil(self, settings: Hyperparameters) -> Iterator[Pupil[Row]]:
        learner = learner_of(self._base, settings, self._job.seed, self.slices.learned, self.slices.measured)
        plan = plan_of(self._job, settings, self._arrange)
        try:
            _require_fit(learner, self.slices.learned, settings)
            yield Pupil(learner=learner, plan=plan, follow=self._likeliest)
        finally:
            learner.model.unload()
            machine.return_free_memory()

    def _likeliest(self, texts: Sequence[tuple[int, ...]]) -> list[int]:
        import torch

        self._base.model.eval()
        with torch.no_grad():
            return [self._behind(ids) for ids in texts]

    def _behind(self, ids: tuple[int, ...]) -> int:
        import torch

        model = self._base.model
        hidden = model.get_decoder()(input_ids=torch.tensor([ids], device=model.device)).last_hidden_state[0, -1:]
        return int(head(model, hidden).argmax())


def rough_seconds(file: GgufFile, tokens: int) -> float:
    """What learning from so many tokens may take: six operations for each weight and token."""
    return 6 * parameters_of(file) * tokens / (FLOPS_PER_CORE * cores())


def _require_fit(learner: AdapterLearner, rows: Sequence[Row], settings: Hyperparameters) -> None:
    try:
        require_room(learner, rows, settings)
    except TrainingError as error:
        raise Unfit(str(error)) from error


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


def require_known_layout(base: Base, settings: Hyperparameters) -> None:
    """Raise `TrainingError` where the file could not take what an adapter of these settings learns."""
    adapted = with_adapter(base.model, settings)
    try:
        require_same_weights(base, adapted.targeted_module_names)
    finally:
        adapted.unload()


def _module(layer: str) -> str:
    """`attn_q` to `q_proj`."""
    if layer not in MODULES:
        raise TrainingError(
            f"There is no layer {layer}: there are {', '.join(MODULES)}. Correct lora_layers in [plugins.tuning_fixed]."
        )
    return MODULES[layer].rsplit(".", 1)[-1]


def save_adapter(model: PeftModel, directory: Path, base: str) -> None:
    """Save in PEFT's own form: whole and on the disk, or not there. `base`: what it is told to be an adapter of."""
    # a path to the blob in Ollama's store would mislead whoever loads the adapter elsewhere
    model.peft_config["default"].base_model_name_or_path = base
    with whole_directory(directory) as place:
        # by default the base is looked for on Hugging Face, to see whether its embeddings are as they were
        model.save_pretrained(str(place), safe_serialization=True, save_embedding_layers=False)
