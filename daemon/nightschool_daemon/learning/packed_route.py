"""The packed engine as a training of a run: from frozen texts to an adapter in PEFT's form."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from nightschool_daemon import codec
from nightschool_daemon.jobs import read_lines, write_durably
from nightschool_daemon.learning.engine import fitting, machine
from nightschool_daemon.learning.engine.architecture import read_architecture
from nightschool_daemon.learning.engine.curriculum import Arrange, nobody_arranges
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.footprint import STATE_OF_ONE
from nightschool_daemon.learning.engine.forms import Form, Linear, LowRank, Neurons, group_of
from nightschool_daemon.learning.engine.loop import ADAPTER, CHECKPOINTS, Objective, Plan, Report, train
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.scoring import likeliest
from nightschool_daemon.learning.engine.todo import Todo
from nightschool_daemon.learning.engine.trying import Pupil, Slices, Trials, Unfit
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import block_of_neurons
from nightschool_daemon.learning.loading import Tokens
from nightschool_daemon.learning.peft_files import load_form, save_form
from nightschool_daemon.learning.rows import (
    FILES,
    Row,
    require_asked,
    require_some,
    rows_of,
    signature,
    told_of_lengths,
)
from nightschool_daemon.plans import ON_TOP, MemoryPlan
from nightschool_hookspecs.records import (
    Hyperparameters,
    LabelledText,
    PairText,
    TrainedForm,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    TrainingText,
)
from nightschool_hookspecs.services import TrainingError

logger = logging.getLogger(__name__)

FROZEN_WORK, TRAINED_WORK = 4, 6
"""Operations a weight and token, forth and back: only what is trained has a gradient of its own."""
SHARE_OF_NEURONS = 8
"""Where nothing else is asked for, one unit is added for so many that there are."""
STATE_BYTES = fitting.HEADROOM_BYTES // 2
"""And no more than take so much with gradient and moments; the passes have the other half. Their number depends on the
base alone, not on the memory of a night, so that each night's lesson fits the next."""


def _unheard(_text: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training that is ready to begin."""

    network: Network
    form: Form
    start: Form | None
    """What it begins from, and what DPO and KTO are held to; None: the base."""
    todo: Todo

    def fitted(self) -> MemoryPlan:
        """Decide how it fits into memory. Raises `TrainingError` where it does not."""
        return fitting.fitted(self.network, self.form, self.todo)


def ready(
    file: GgufFile,
    job: TrainingJob,
    method: TrainingMethod,
    settings: Hyperparameters,
    examples: Sequence[Example],
    *,
    dtype: torch.dtype | None = None,
    arrange: Arrange = nobody_arranges,
    note: Callable[[str], None] = _unheard,
) -> Task:
    """Open the base, and make what is trained beside it. Raises `TrainingError`.

    `dtype`: the type of the products; None: the one in which this machine is fastest. `note` hears where what was
    learned earlier is not begun from.
    """
    network = Network(file, machine.bench(dtype), context=job.context)
    form, start = formed(network, job, settings, note)
    pads = network.pads(branching=method is TrainingMethod.DPO)
    todo = Todo(
        examples=examples,
        method=method,
        settings=settings,
        seed=job.seed,
        pads=pads,
        arrange=arrange,
        goes_on=start is not None and not job.requires_start,
        has_start=start is not None,
    )
    return Task(network=network, form=form, start=start, todo=todo)


def formed(
    network: Network, job: TrainingJob, settings: Hyperparameters, note: Callable[[str], None] = _unheard
) -> tuple[Form, Form | None]:
    """What is trained beside a base, and what it begins from; None: the base. Raises `TrainingError`."""
    start = loaded(network, job, settings, note)
    form = make_form(network, settings, job.seed)
    if start is not None:
        form.put(start.parameters)
    return form, start


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A training of a run as it was decided to go."""

    task: Task
    memory: MemoryPlan
    plan: Plan
    left_out: int
    """Examples that are too long."""


def prepare(
    file: GgufFile,
    tokens: Tokens,
    job: TrainingJob,
    method: TrainingMethod,
    settings: Hyperparameters,
    *,
    note: Callable[[str], None] = _unheard,
    arrange: Arrange = nobody_arranges,
) -> Prepared:
    """Decide how a training on all linear layers goes, as far as memory goes, or went before it was interrupted.

    It begins from `job.warm_start` where that is of the same form and size, and DPO and KTO are held to where it
    begins. Raises `TrainingError`.
    """
    examples, left_out = read_examples(job, method, tokens, settings.max_length)
    require_asked((len(one.prompt) for one in examples), file, job.context)
    lengths = (one.longest for one in examples)
    for sentence in told_of_lengths(lengths, left_out, settings.max_length, file.number("context_length")):
        note(sentence)
    made_of = signature(job, method, settings)
    make = partial(ready, file, job, method, settings, examples, arrange=arrange, note=note)
    task, decided = fitted_task(job.output / CHECKPOINTS, made_of, make)
    plan = Plan(
        method=method,
        hyperparameters=settings,
        seed=job.seed,
        tokens_a_pass=decided.tokens_a_pass,
        output=job.output,
        signature=made_of,
        arrange=arrange,
        goes_on=task.todo.goes_on,
        has_start=task.todo.has_start,
        spared_bytes=job.spared_bytes,
        until=time.monotonic() + job.time_left_s,
    )
    return Prepared(task=task, memory=decided, plan=plan, left_out=left_out)


def learn(prepared: Prepared, report: Report, note: Callable[[str], None] = _unheard) -> TrainingResult:
    """Train, and save the best epoch's adapter. Goes on from a checkpoint if one fits. Raises `TrainingError`."""
    task, memory, plan = prepared.task, prepared.memory, prepared.plan
    fitting.set_up(task.network, task.form, memory)
    report(0, 1, memory.sentence())
    note(f"{plan.method.upper()} in {memory.sentence()}; {ON_TOP}.")
    outcome = train(task.network, task.form, task.todo.examples, plan, report, reference=task.start)
    save_form(task.form, task.network.file, plan.output / ADAPTER)
    result = outcome.result(plan, task.todo.split, left_out=prepared.left_out)
    return replace(result, warm_start=task.start is not None, plan=memory.sentence())


class PackedTrials(Trials[Example]):
    """Wanted answers tried out by the packed engine, beside one network.

    All go through it in the same passes and types, decided with the first: else it would be these that are compared.
    The network is opened anew for a form that is larger than any before, as it may keep layers unpacked for which there
    is no longer room.
    """

    def __init__(
        self,
        file: GgufFile,
        job: TrainingJob,
        given: Hyperparameters,
        slices: Slices[Row],
        directory: Path,
        *,
        arrange: Arrange = nobody_arranges,
    ) -> None:
        """`directory`: where it is kept what was decided."""
        super().__init__(
            Slices(learned=tuple(map(example_of, slices.learned)), measured=tuple(map(example_of, slices.measured)))
        )
        self._file, self._job, self._given, self._directory, self._arrange = file, job, given, directory, arrange
        self._room: Room | None = None

    def epoch_seconds(self, settings: Hyperparameters) -> float:
        room = self._room or self._prepared(self._given)[0]
        # what was decided first, beside what is given, is kept
        return room.memory.seconds * self._work(room, settings) / self._work(room, self._given)

    def _work(self, room: Room, settings: Hyperparameters) -> float:
        """Operations a token, forth and back."""
        trained = room.largest * self._width(settings) / room.width
        return FROZEN_WORK * room.frozen() + TRAINED_WORK * trained

    def _width(self, settings: Hyperparameters) -> int:
        """To which the parameters of a form are in proportion."""
        if settings.form is TrainedForm.NEURONS:
            return settings.neurons or neurons_of(self._file, 0)
        return settings.lora_r

    @contextmanager
    def pupil(self, settings: Hyperparameters) -> Iterator[Pupil[Example]]:
        try:
            room, form, has_start = self._prepared(settings)
        except TrainingError as error:
            # such a form is too large for the memory, or the base does not take it
            raise Unfit(str(error)) from error
        room.network.form = form
        fitting.set_up(room.network, form, room.memory)
        plan = Plan(
            method=TrainingMethod.SFT,
            hyperparameters=settings,
            seed=self._job.seed,
            tokens_a_pass=room.memory.tokens_a_pass,
            output=self._directory,
            signature="",
            arrange=self._arrange,
            has_start=has_start,
        )
        learner = Objective(room.network, plan, self.slices.learned, self.slices.measured)
        try:
            yield Pupil(learner=learner, plan=plan, follow=partial(likeliest, room.network))
        finally:
            room.network.form = None
            machine.return_free_memory()

    def _prepared(self, settings: Hyperparameters) -> tuple[Room, Form, bool]:
        """A network with a plan that has room for this form, and whether the form holds what was brought along.

        Raises `TrainingError`.
        """
        if self._room is not None:
            form, start = formed(self._room.network, self._job, settings)
            if form.size() <= self._room.largest:
                return self._room, form, start is not None
            self._room = None
            machine.return_free_memory()
        # all examples at once make the widest passes that any batch size makes
        whole = replace(settings, batch_size=len(self.slices.learned), num_epochs=1)
        made_of = signature(self._job, TrainingMethod.SFT, self._given)
        make = partial(ready, self._file, self._job, TrainingMethod.SFT, whole, self.slices.learned)
        task, decided = fitted_task(self._directory, made_of, make)
        width = self._width(settings)
        # what is given is tried however short memory has become, as the training itself is
        if decided.peak_bytes > decided.available_bytes and width > self._width(self._given):
            raise TrainingError("Memory is short for so many parameters.")
        self._room = Room(network=task.network, memory=decided, largest=task.form.size(), width=width)
        return self._room, task.form, task.start is not None


@dataclass(frozen=True, kw_only=True)
class Room:
    """An opened base, and what was decided for trainings beside it."""

    network: Network
    memory: MemoryPlan
    largest: int
    """Parameters of the form for which it was made to fit into memory."""
    width: int
    """Of that form: rank, or neurons."""

    def frozen(self) -> int:
        """Weights of the base's layers."""
        return sum(one.weights for block in self.network.blocks for one in block.matrices.values())


class Ready(Protocol):
    """Makes a training ready, with products of a type; None: of the fastest."""

    def __call__(self, *, dtype: torch.dtype | None) -> Task: ...


def fitted_task(directory: Path, made_of: str, make: Ready) -> tuple[Task, MemoryPlan]:
    """A training with its memory plan: a new one, or that with which it began, kept in a directory.

    Raises `TrainingError`.
    """
    begun = kept_memory_plan(directory, made_of)
    task = make(dtype=None if begun is None else getattr(torch, begun.dtype))
    if begun is not None:
        return task, fitting.refitted(task.network, task.form, task.todo, begun.plan)
    decided = task.fitted()
    dtype = str(task.network.bench.dtype).removeprefix("torch.")
    keep_memory_plan(directory, KeptMemoryPlan(signature=made_of, plan=decided, dtype=dtype))
    return task, decided


@dataclass(frozen=True, kw_only=True)
class KeptMemoryPlan:
    """`plan.json`, which goes with the checkpoints, or with a search: no two runs measure the same."""

    signature: str
    plan: MemoryPlan
    dtype: str
    """Type of the products, as torch calls it."""


def kept_memory_plan(directory: Path, signature: str) -> KeptMemoryPlan | None:
    """How a training began, so that it goes on with the same passes and types; None: it did not begin yet."""
    file = directory / "plan.json"
    if not file.exists():
        return None
    try:
        kept = codec.from_json(file.read_bytes(), KeptMemoryPlan)
    except codec.CodecError as error:
        # torn by the disk, or of another release
        logger.warning("%s cannot be read, so memory is planned anew: %s", file, error)
        return None
    return kept if kept.signature == signature else None


def keep_memory_plan(directory: Path, plan: KeptMemoryPlan) -> None:
    """Keep it for that."""
    directory.mkdir(parents=True, exist_ok=True)
    write_durably(directory / "plan.json", codec.to_json(plan))


def loaded(
    network: Network, job: TrainingJob, settings: Hyperparameters, note: Callable[[str], None] = _unheard
) -> Form | None:
    """What the training begins from; None: the base. Raises `TrainingError` where what it must begin from is no fit."""
    if job.warm_start is None:
        return None
    form = make_form(network, settings, 0)
    try:
        load_form(form, network.file, job.warm_start)
    except TrainingError as error:
        if job.requires_start:
            raise
        sentence = f"The training begins from the base: {error}"
        logger.warning(sentence)
        note(sentence)
        return None
    return form


def read_examples(
    job: TrainingJob, method: TrainingMethod, tokens: Tokens, max_length: int
) -> tuple[list[Example], int]:
    """What the method learns from, and how many were too long. Raises `TrainingError` where nothing fits."""
    file = job.dataset / FILES[method]
    found = list(READERS[method](file, tokens))
    short = [one for one in found if one.longest <= max_length and all(answer.tokens for answer in one.answers)]
    require_some(sum(not one.beside for one in short), max_length)
    return short, len(found) - len(short)


def _wanted(file: Path, tokens: Tokens) -> Iterator[Example]:
    return map(example_of, rows_of(read_lines(file, TrainingText), tokens))


def example_of(row: Row) -> Example:
    """A wanted answer as the loop learns it."""
    return Example(
        prompt=row.prompt,
        answers=(Answer(tokens=row.completion, weight=row.weight),),
        group=row.group,
        event_id=row.event_id,
        difficulty=row.difficulty,
        score=row.score,
        variant=row.variant,
        beside=row.beside,
    )


def _preferred(file: Path, tokens: Tokens) -> Iterator[Example]:
    for pair in read_lines(file, PairText):
        answers = tuple(
            Answer(tokens=tuple(tokens.completion(pair.prompt, one))) for one in (pair.chosen, pair.rejected)
        )
        yield Example(
            prompt=tuple(tokens.prompt(pair.prompt)),
            answers=answers,
            margin=pair.margin,
            group=pair.group,
            event_id=pair.event_id,
            worse_event_id=pair.worse_event_id,
        )


def _labelled(file: Path, tokens: Tokens) -> Iterator[Example]:
    for label in read_lines(file, LabelledText):
        answer = Answer(tokens=tuple(tokens.completion(label.prompt, label.completion)), liked=label.liked)
        yield Example(
            prompt=tuple(tokens.prompt(label.prompt)), answers=(answer,), group=label.group, event_id=label.event_id
        )


READERS: Mapping[TrainingMethod, Callable[[Path, Tokens], Iterator[Example]]] = {
    TrainingMethod.SFT: _wanted,
    TrainingMethod.DPO: _preferred,
    TrainingMethod.KTO: _labelled,
}


def make_form(network: Network, settings: Hyperparameters, seed: int) -> Form:
    """What is trained beside the base. Raises `TrainingError` where the base does not take this form."""
    generator = torch.Generator().manual_seed(seed)
    if settings.form is TrainedForm.AUTO:
        raise ValueError("the form must be settled before it is made")
    if settings.form is TrainedForm.NEURONS:
        count = neurons_of(network.file, settings.neurons)
        form: Form = Neurons(network.architecture, count=count, spread=network.spread, generator=generator)
    else:
        form = LowRank(
            _chosen(network, settings.lora_layers),
            rank=settings.lora_r,
            alpha=settings.lora_alpha,
            group=group_of(settings.form),
            generator=generator,
            dropout=settings.lora_dropout,
        )
    return form.on(network.bench.device)


def _chosen(network: Network, layers: Sequence[str]) -> tuple[Linear, ...]:
    linears = network.linears()
    known = dict.fromkeys(one.part for one in linears)
    unknown = [one for one in layers if one not in known]
    if unknown:
        raise TrainingError(
            f"This base has no layer {unknown[0]}: it has {', '.join(known)}. Correct lora_layers in "
            "[plugins.tuning_fixed]."
        )
    return tuple(one for one in linears if not layers or one.part in layers)


def neurons_of(file: GgufFile, asked: int) -> int:
    """So many as asked for, else an eighth of what there is, as far as `STATE_BYTES` goes.

    They are whole blocks in any case, and at least one, which beside a large base may be more.
    """
    block = block_of_neurons(file)
    if asked % block:
        raise TrainingError(f"Neurons are added to this base in multiples of {block}, not {asked}.")
    if asked:
        return asked
    shape = read_architecture(file)
    # a row of gate and up each, and a column of down
    most = STATE_BYTES // (STATE_OF_ONE * 3 * shape.width * shape.layers)
    wanted = min(shape.feed_forward // SHARE_OF_NEURONS, most)
    return max(block, wanted // block * block)
