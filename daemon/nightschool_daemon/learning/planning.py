"""Job `plan`: what a training would take on this machine, and what each form of delivery would cost.

The stages are those of a run, but nothing is pinned, no model is loaded, and what trains only plans. So prompts are put
into ChatML here, where a run has Ollama render them: they are about as long.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nightschool_daemon import codec
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.jobs import EventRow, Job, Step, read_lines
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.corrections import kept_scores
from nightschool_daemon.learning.dataset import Dataset, Rendered, build_dataset, events_of, material_of
from nightschool_daemon.learning.defaults import settled_for, settled_to_begin
from nightschool_daemon.learning.delivery import Expected, ExportError, absent, chosen
from nightschool_daemon.learning.engine import machine, memory
from nightschool_daemon.learning.engine.examples import Answer, Example, divided
from nightschool_daemon.learning.engine.footprint import STATE_OF_ONE
from nightschool_daemon.learning.engine.forms import Neurons
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.grouping import NearPrompts
from nightschool_daemon.learning.items import gains
from nightschool_daemon.learning.loadable import device_for, loaded_bytes, parameters_of, require_memory
from nightschool_daemon.learning.loading import Tokens, load_tokens
from nightschool_daemon.learning.packed_route import read_examples, ready
from nightschool_daemon.learning.peft_route import TOKENS_A_PASS, rough_seconds
from nightschool_daemon.learning.probing import probed
from nightschool_daemon.learning.rows import require_asked
from nightschool_daemon.learning.searching import foreseen, taken, untrained
from nightschool_daemon.learning.served import why_not_computed
from nightschool_daemon.learning.services import ChunkSearch, JournalStore, read_snapshot
from nightschool_daemon.learning.split import (
    check_choices,
    chooser,
    divider,
    folds_of,
    group_rows,
    side_of,
    sides_of,
)
from nightschool_daemon.learning.threads import limit_threads
from nightschool_daemon.learning.trainable import route_of, without_what_it_cannot
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.learning.workshop import Workshop
from nightschool_daemon.plans import DeliveryCost, MemoryPlan, PlannedTraining, PlanRequest, Route, TrainingPlan
from nightschool_daemon.reasons import OTHER_KIND, is_by_hand
from nightschool_hookspecs.records import (
    Budget,
    Hyperparameters,
    Material,
    Message,
    MethodChoice,
    Side,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.services import GenerationError, TrainingError

ASSUMED_EXAMPLES, ASSUMED_TOKENS = 100, 128
"""What is planned for where no data are given; a third of an example is its answer."""
CLOSING = "<|im_end|>"
REST_BYTES = 2_000_000_000
"""Libraries and activations of that route: a rule of thumb."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What would be learned from."""

    material: Material
    hyperparameters: Hyperparameters
    candidates: frozenset[str]
    """Events that may be learned from."""
    sources: Mapping[TrainingMethod, frozenset[str]]
    """Those of them that a method learns from."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why one gives no example."""
    replayed: int = 0
    """Examples that are learned again beside them."""
    starters: int = 0
    """Starter examples that are learned beside them."""
    held_out: int
    """Prompts that an exam would ask, or events to be measured on."""
    folded: int = 0
    """Prompts that it would ask of trial candidates."""
    folds: int = 0
    assumed: str | None

    def learned_by(self, methods: Collection[TrainingMethod]) -> frozenset[str]:
        """Events that these methods learn from."""
        return frozenset().union(*(self.sources.get(one, ()) for one in methods))

    def left_out_by(self, methods: Collection[TrainingMethod]) -> Counter[str]:
        """Reason -> events that they do not."""
        learned = self.learned_by(methods)
        return Counter(self.reasons.get(key, OTHER_KIND) for key in (self.candidates | self.reasons.keys()) - learned)


def run(context: WorkerContext) -> None:
    """Plan, and leave `TrainingPlan`."""
    directory = context.run.step(Job.PLAN)
    request = codec.from_json((directory / "request.json").read_bytes(), PlanRequest)
    limit_threads(context.settings.training.threads)
    file = open_base(request.gguf)
    data = _data_of(context, request, file) if request.has_events else _assumed(context, request)
    rehearsal = Rehearsal(context=context, file=file, digest=request.weights_digest, assumed=data.assumed is not None)
    notes: list[str] = []
    job = without_what_it_cannot(
        _job(context, request, data, file), file, context.settings.training.engine, notes.append
    )
    search = None if data.folds else foreseen(context, job, file, _store(context))
    if search is not None:
        job = taken(job, search)
    problem, not_learned = _rehearsed(context, rehearsal, job)
    methods = {one.method for one in rehearsal.found} or set(TrainingMethod)
    plan = TrainingPlan(
        base=request.base,
        architecture=file.architecture,
        parameters=parameters_of(file),
        file_bytes=sum(one.bytes for one in file.tensors.values()),
        route=rehearsal.route,
        passed_over=machine.passed_over(),
        assumed=data.assumed,
        events=len(data.learned_by(methods)),
        replayed=data.replayed,
        starters=data.starters,
        held_out=data.held_out,
        folded=data.folded,
        folds=data.folds,
        events_left_out=dict(data.left_out_by(methods)),
        search=search,
        trainings=tuple(rehearsal.found),
        not_learned=" ".join(filter(None, (*notes, not_learned))),
        problem=problem,
        loaded_bytes=request.loaded_bytes,
        is_examined=not is_by_hand(context.info),
    )
    context.run.finish(Job.PLAN, plan if problem is not None else _with_deliveries(plan, context, file, rehearsal))


# --------------------------------------------------------------------------- what is learned from


def _assumed(context: WorkerContext, request: PlanRequest) -> Data:
    """Where no data are given."""
    method = TrainingMethod.SFT if request.method is MethodChoice.AUTO else TrainingMethod(request.method.value)
    count = ASSUMED_EXAMPLES
    events = frozenset(map(str, range(count)))
    material = Material(
        examples=count if method is TrainingMethod.SFT else 0,
        better_known=0,
        pairs=count if method is TrainingMethod.DPO else 0,
        liked=count // 2 if method is TrainingMethod.KTO else 0,
        disliked=count // 2 if method is TrainingMethod.KTO else 0,
        learnable=count,
    )
    return Data(
        material=material,
        hyperparameters=context.hooks.suggest_hyperparameters(
            specialty=context.info.specialty, examples=count, store=_store(context), seed=context.info.seed
        ),
        candidates=events,
        sources={method: events},
        held_out=0,
        assumed=f"{count} examples of {ASSUMED_TOKENS} tokens, a third of them the answer, as no data were named",
    )


def _data_of(context: WorkerContext, request: PlanRequest, file: GgufFile) -> Data:
    """The dataset that a run would build of the events, in `dataset/`."""
    directory = context.run.step(Job.PLAN)
    rows = tuple(read_lines(context.run.step(Step.PREPARE) / "events.jsonl", EventRow))
    groups = group_rows(rows)
    sides = sides_of(groups, check_choices(groups, chooser(context)(groups)))
    folds = folds_of(groups, sides, divider(context))
    training = [row.event for row in rows if side_of(row, sides) is Side.TRAINING]
    measure = CombinedMeasure(context.hooks, no_embeddings)
    workshop = Workshop(
        hooks=context.hooks,
        info=context.info,
        measure=measure,
        generate=_asks_nobody,
        judge=_asks_nobody,
        score_corrections=kept_scores(context, measure, _asks_nobody),
        retrieve=ChunkSearch([chunk for event in training for chunk in event.context.chunks]),
        store=_store(context),
        find_near=NearPrompts.of(measure, no_embeddings, context.settings).across,
        recall=_stand_ins,
        method=request.method,
        ranks=why_not_computed(context.settings, file) is None,
        most_alike=context.settings.similarity.max_near_duplicates,
        max_growth=context.settings.training.max_growth,
        doubted=context.settings.training.doubted,
    )
    budget = Budget(events=context.settings.training.max_events, tokens=context.settings.training.max_tokens)
    dataset = build_dataset(workshop, rows, sides, budget, frozenset(key for fold in folds for key in fold))
    (directory / "dataset").mkdir()
    Rendered.of(dataset, _chat_ml(request.system), CLOSING).write(directory / "dataset")
    return Data(
        material=material_of(dataset, rows),
        hyperparameters=context.hooks.suggest_hyperparameters(
            specialty=context.info.specialty,
            examples=len(dataset.examples),
            store=workshop.store,
            seed=context.info.seed,
        ),
        candidates=frozenset(event.key for event in training) - frozenset(events_of(dataset.replayed)),
        sources={
            TrainingMethod.SFT: frozenset(events_of(dataset.examples)),
            TrainingMethod.DPO: frozenset(events_of(dataset.pairs)),
            TrainingMethod.KTO: frozenset(events_of(dataset.labels)),
        },
        reasons={one.event_id: one.reason for one in reversed(dataset.left_out)},
        replayed=len(dataset.replayed),
        starters=len(dataset.starters),
        held_out=_kept_apart(context, dataset, rows, sides),
        folded=dataset.folded + dataset.folded_pairs,
        folds=len(folds) if dataset.folded or dataset.folded_pairs else 0,
        assumed=None,
    )


def _kept_apart(context: WorkerContext, dataset: Dataset, rows: Iterable[EventRow], sides: Mapping[str, Side]) -> int:
    """Prompts that would count in an exam, or the events that a training by hand is measured on."""
    if is_by_hand(context.info):
        return sum(side_of(row, sides) is Side.HELD_OUT for row in rows)
    return gains(dataset.items) + len(dataset.ranked)


def _store(context: WorkerContext) -> JournalStore:
    """What plugins keep for the specialty. What they write now is forgotten with the plan."""
    snapshot = read_snapshot(context.run.step(Step.PREPARE) / "store.json")
    return JournalStore(snapshot, context.run.step(Job.PLAN) / "store.jsonl")


def _asks_nobody(messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
    raise GenerationError("A plan asks no model.")


def _stand_ins(prompts: Sequence[str], *, max_tokens: int, temperature: float, minutes: float) -> Iterator[str | None]:
    """`Recall` of a plan: in place of each answer a text of about half the tokens that it may have."""
    # short numbers, each of which is a token or two with the space before it
    return itertools.repeat(" ".join(map(str, range(1, max(2, max_tokens // 4)))), len(prompts))


def _chat_ml(system: str | None) -> Callable[[Sequence[Message]], str]:
    """What stands around the turns of a conversation in most templates, or as much."""

    def render(messages: Sequence[Message]) -> str:
        turns = [(one.role.value, one.content) for one in messages]
        if system and (not turns or turns[0][0] != "system"):
            turns.insert(0, ("system", system))
        return (
            "".join(f"<|im_start|>{role}\n{content}{CLOSING}\n" for role, content in turns) + "<|im_start|>assistant\n"
        )

    return render


# --------------------------------------------------------------------------- the trainings


@dataclass(kw_only=True)
class Rehearsal:
    """`Train` for the training plugins: plans what they ask for, and trains nothing."""

    context: WorkerContext
    file: GgufFile
    digest: str
    assumed: bool
    found: list[PlannedTraining] = field(default_factory=list)
    expected: Expected | None = None
    """What the last of them touches."""
    route: Route | None = None

    def __call__(self, job: TrainingJob, *, method: TrainingMethod, hyperparameters: Hyperparameters) -> TrainingResult:
        settings = settled_for(job, hyperparameters, self.file, self.context.settings)
        self.route = route_of(self.file, self.context.settings.training.engine, method, settings)
        examples, left_out = self._examples(job, method, settings)
        if not self.assumed:
            require_asked((len(one.prompt) for one in examples), self.file, job.context)
        context = self.file.number("context_length")
        # what it must begin from changes nothing of what it takes, and was perhaps not trained yet
        task = replace(job, warm_start=None, requires_start=False) if job.requires_start else job
        planner = self._packed if self.route is Route.PACKED else self._by_rule_of_thumb
        decided, parameters = planner(task, method, settings, examples)
        if self.expected is not None and self.expected.neurons:
            settings = replace(settings, neurons=self.expected.neurons)
        self.found.append(
            PlannedTraining(
                method=method,
                hyperparameters=replace(settings, batch_size=min(settings.batch_size, len(examples))),
                examples=len(examples),
                left_out=left_out,
                beyond_context=sum(one.longest > context for one in examples) if context else 0,
                tokens=sum(map(len, examples)),
                longest=max(map(len, examples)),
                parameters=parameters,
                memory=decided,
            )
        )
        return replace(untrained(job, method), examples=len(examples), left_out=left_out, seconds=decided.seconds)

    def _examples(
        self, job: TrainingJob, method: TrainingMethod, settings: Hyperparameters
    ) -> tuple[list[Example], int]:
        if self.assumed:
            return [_example(method, number) for number in range(ASSUMED_EXAMPLES)], 0
        return read_examples(job, method, self._tokens, settings.max_length)

    @functools.cached_property
    def _tokens(self) -> Tokens:
        return load_tokens(self.file, self.digest, self.context.settings.state_directory / "cache")

    def _packed(
        self, job: TrainingJob, method: TrainingMethod, settings: Hyperparameters, examples: list[Example]
    ) -> tuple[MemoryPlan, int]:
        task = ready(self.file, job, method, settings, examples, arrange=self.context.hooks.arrange_stretch)
        decided = task.fitted()
        task.form.freeze_below(decided.trained_from)
        self.expected = Expected(
            settings=settings,
            trained_from=decided.trained_from,
            neurons=task.form.count if isinstance(task.form, Neurons) else 0,
        )
        return decided, task.form.size()

    def _by_rule_of_thumb(
        self, job: TrainingJob, _method: TrainingMethod, settings: Hyperparameters, examples: list[Example]
    ) -> tuple[MemoryPlan, int]:
        self.expected = Expected(settings=settings)
        trained = self.expected.lora_parameters(self.file)
        decided = rough_memory(
            self.file,
            trained=trained,
            seconds=rough_seconds(
                self.file, settings.num_epochs * sum(map(len, divided(examples, job.seed, settings).learned))
            ),
        )
        require_memory(decided.peak_bytes, decided.available_bytes)
        return decided, trained


def rough_memory(file: GgufFile, *, trained: int, seconds: float) -> MemoryPlan:
    """What a training of so many parameters through transformers takes, by rules of thumb."""
    return MemoryPlan(
        tokens_a_pass=TOKENS_A_PASS,
        checkpointed=0,
        layers=file.number("block_count") or 0,
        peak_bytes=loaded_bytes(file) + trained * STATE_OF_ONE + REST_BYTES,
        available_bytes=memory.allowed_bytes(device_for(file)),
        seconds=seconds,
        is_rough=True,
    )


def _example(method: TrainingMethod, number: int) -> Example:
    """One whose prompt begins like no other's: what prompts have in common would be computed once."""
    answer = ASSUMED_TOKENS // 3
    answers = 2 if method is TrainingMethod.DPO else 1
    return Example(
        prompt=(number, *(0,) * (ASSUMED_TOKENS - answer - 1)),
        answers=tuple(Answer(tokens=(0,) * answer) for _ in range(answers)),
    )


def _job(context: WorkerContext, request: PlanRequest, data: Data, file: GgufFile) -> TrainingJob:
    directory = context.run.step(Job.PLAN)
    brought = context.settings.training.start_from
    job = TrainingJob(
        base_gguf=request.gguf,
        base_digest=request.weights_digest,
        architecture=file.architecture,
        dataset=directory / "dataset",
        output=directory / "output",
        material=data.material,
        method=request.method,
        hyperparameters=data.hyperparameters,
        seed=context.info.seed,
        context=context.settings.exam.context_tokens,
        warm_start=request.learned or (brought.expanduser() if brought is not None else None),
        requires_start=request.learned is None,
        is_rehearsal=True,
    )
    return replace(job, hyperparameters=settled_to_begin(job, file, context.settings))


def _rehearsed(context: WorkerContext, rehearsal: Rehearsal, job: TrainingJob) -> tuple[str | None, str]:
    """Have the plugins ask for their trainings.

    Returns why it cannot be trained, None where it can; and what would not be learned, as `TrainingResult.not_learned`.
    """
    try:
        found = context.hooks.train_adapter(job=job, train=rehearsal)
    except TrainingError as error:
        return str(error), ""
    if found is None:
        problem = (
            f"There is nothing in the data that the method '{job.method}' learns from. Corrections and liked "
            "answers are what a model learns from."
        )
        return problem, ""
    return None, found.not_learned


# --------------------------------------------------------------------------- the delivery


def _with_deliveries(plan: TrainingPlan, context: WorkerContext, file: GgufFile, rehearsal: Rehearsal) -> TrainingPlan:
    if rehearsal.expected is None:
        return plan
    server = probed(context, context.run.step(Job.PLAN), plan.base, plan.architecture)
    narrow, wide = (rehearsal.expected.target(file, server, widest=widest) for widest in (False, True))
    least, most = (context.hooks.choose_delivery(target=target) for target in (narrow, wide))
    taken, why, problem = None, "", None
    try:
        decision = chosen(least, context.settings.delivery, narrow)
        taken, why = decision.plan.form, decision.why
    except ExportError as error:
        problem = str(error)
    widest = {one.form: one for one in most}
    return replace(
        plan,
        server=server.version,
        deliveries=tuple(
            DeliveryCost(
                form=one.form,
                least_bytes=one.version_bytes,
                most_bytes=widest.get(one.form, one).version_bytes,
                shared_bytes=one.shared_bytes,
                reason=one.reason,
                is_chosen=one.form is taken,
            )
            for one in least
        ),
        not_delivered=tuple(absent(least, narrow)),
        why_delivery=why,
        delivery_problem=problem,
    )
