"""Step `select`: from the specialty's events to rendered training texts and exam items.

The held-out side leaves first: nothing below that scores, selects, augments or retrieves for training
ever sees it.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.local_model import LocalModel
from nightschool_daemon.evaluation.similarity import CombinedMeasure
from nightschool_daemon.jobs import (
    FINDINGS,
    HELD_OUT_PAIRS,
    MARKS,
    TRAJECTORIES,
    WORDINGS,
    BaseSnapshot,
    Choice,
    EventMark,
    EventRow,
    LeftOut,
    NoiseRow,
    PrepareResult,
    PromptRow,
    Replayed,
    SelectResult,
    SplitResult,
    Step,
    Wording,
    read_lines,
    write_lines,
)
from nightschool_daemon.learning.apart import (
    KeptAside,
    Made,
    of_exams,
    set_aside,
    variants_apart,
    without_overheard,
    wordings_of,
)
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.beside import interleaved
from nightschool_daemon.learning.building import build_one, retrieved_for, weighted
from nightschool_daemon.learning.corrections import kept_scores
from nightschool_daemon.learning.endings import taught_closing
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.grouping import NearPrompts, kept_aside, regroup
from nightschool_daemon.learning.items import bare_item, gains, items_of, passes, regression_items
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.learning.noise import factor_of, find_noise, suspicion
from nightschool_daemon.learning.preferences import build_labels, build_pairs, origins_of, ranked_pairs, rated_events
from nightschool_daemon.learning.recall import KeptRecall
from nightschool_daemon.learning.rendering import (
    CachedRenderer,
    Render,
    find_closing,
    render_example,
    render_label,
    render_pair,
)
from nightschool_daemon.learning.replay import choose_replayed
from nightschool_daemon.learning.sampling import open_sampling
from nightschool_daemon.learning.served import why_not_computed
from nightschool_daemon.learning.services import ChunkSearch, JournalStore, read_snapshot
from nightschool_daemon.learning.split import side_of
from nightschool_daemon.learning.starters import choose_starters
from nightschool_daemon.learning.threads import limit_threads
from nightschool_daemon.learning.trainable import require_trainable
from nightschool_daemon.learning.workshop import DatasetError, Selection, TrainingSide, Workshop
from nightschool_daemon.learning.worth import as_left_out, is_better_known, is_usable, objection_to
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_daemon.reasons import OVER_BUDGET
from nightschool_hookspecs.records import (
    Budget,
    Chunk,
    Event,
    ExamItem,
    ItemRole,
    LabelledAnswer,
    LabelledText,
    LossTrajectory,
    Material,
    Message,
    NoiseFinding,
    PairText,
    Peers,
    PreferencePair,
    Recipe,
    Role,
    ScoredEvent,
    Side,
    TrainingExample,
    TrainingMethod,
    TrainingText,
)
from nightschool_hookspecs.services import Retrieve, TrainingError

MOST_WEIGHED = 32
"""Answers that are rendered to find the token that ends them."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The material of a run before it is rendered."""

    examples: tuple[TrainingExample, ...] = ()
    """The lesson."""
    learnable: int = 0
    """As `Material` has it."""
    replayed: tuple[TrainingExample, ...] = ()
    """What is learned again beside it; of no event where it is an answer of the base's own."""
    starters: tuple[TrainingExample, ...] = ()
    """What a young specialty learns beside it; of no event."""
    pairs: tuple[PreferencePair, ...] = ()
    labels: tuple[LabelledAnswer, ...] = ()
    items: tuple[ExamItem, ...]
    ranked: tuple[PreferencePair, ...] = ()
    """Held-out pairs of prompts of which no item says what was wanted."""
    regression: tuple[ExamItem, ...] = ()
    """Corrections that a version has learned, or is to learn tonight though trial candidates are asked them."""
    folded: int = 0
    """Items that would count, of what trial candidates are asked."""
    folded_pairs: int = 0
    left_out: tuple[LeftOut, ...] = ()
    marks: tuple[EventMark, ...] = ()
    """What each event of the training side was worth."""
    noise: tuple[NoiseRow, ...] = ()
    """What looks wrong, of each side the gravest first."""
    shots: tuple[TrainingExample, ...] = ()
    """What a candidate of examples shows, in order."""
    wordings: tuple[Wording, ...] = ()
    """What is read as a prompt, and is no event's own."""


def run(context: WorkContext) -> None:
    """Build the dataset, have its prompts rendered, and write `SelectResult`."""
    found = context.run.result(Step.SPLIT, SplitResult)
    sides = dict(found.sides)
    rows = regroup(tuple(read_lines(context.run.step(Step.PREPARE) / "events.jsonl", EventRow)), found.groups, sides)
    base = context.run.result(Step.PREPARE, PrepareResult).base
    file = open_base(base.gguf)
    if context.info.recipe is Recipe.TRAINING:
        # Ollama loads the base to render the prompts, and says less of what is wrong with it
        require_trainable(file, context.settings.training.engine)
    is_computed = why_not_computed(context.settings, file) is None
    workshop = replace(_workshop(context, rows, found, base), ranks=is_computed)
    settings = context.settings.training
    folded = frozenset(key for fold in found.folds for key in fold)
    if context.info.recipe is Recipe.EXAMPLES:
        budget = Budget(events=settings.max_shots, tokens=settings.max_shot_tokens)
        dataset = build_shown(workshop, rows, sides, budget, folded)
    else:
        budget = Budget(events=settings.max_events, tokens=settings.max_tokens)
        dataset = build_dataset(workshop, rows, sides, budget, folded)
    http = OllamaHttp(context.settings.ollama)
    try:
        rendered = _rendered(context, http, base.pin, dataset, file if is_computed else None)
    finally:
        http.close()
    _write(context, dataset, rendered)
    context.run.finish(Step.SELECT, result_of(workshop, dataset, rows, rendered.closing))


def build_dataset(
    workshop: Workshop,
    rows: tuple[EventRow, ...],
    sides: dict[str, Side],
    budget: Budget,
    folded: frozenset[str] = frozenset(),
) -> Dataset:
    """Build everything that needs no server. `folded`: groups that trial candidates are asked."""
    training, held_out = (_of_side(workshop, rows, sides, one) for one in (Side.TRAINING, Side.HELD_OUT))
    aside = set_aside(workshop, of_exams(rows, sides))
    side = _training_side(workshop, training, aside)
    selection = _select(workshop, side, budget)
    originals = _build_examples(workshop, selection.events, side)
    apart = variants_apart(workshop, _variants(workshop, selection.events, originals), aside)
    valid = _still_valid(workshop, apart, selection.events, originals)
    variants = itertools.islice(valid, round((workshop.max_growth - 1) * len(originals)))
    examples = _arrange(workshop, (*originals, *variants))
    replayed = choose_replayed(workshop, rows, side, selection, examples)
    learned = (*examples, *(one for one in replayed if one.event_id))
    _require_no_leak(learned, sides)
    again = frozenset(events_of(replayed))
    starters = choose_starters(workshop, rows, selection.events, originals)
    trusted = tuple(one for one in side.believed if factor_of(side.noise, one.event.key) > workshop.doubted)
    rated = rated_events(selection.events, trusted, budget)
    pairs = build_pairs(workshop, rated, aside)
    labels = build_labels(workshop, rated, aside)
    undecided = (as_left_out(row.event, _why_undecided(row)) for row in rows if side_of(row, sides) is None)
    return replace(
        _asked(workshop, side.all, held_out, folded),
        regression=regression_items(workshop, rows, side.believed, folded),
        examples=examples,
        learnable=selection.learnable,
        replayed=replayed,
        starters=starters,
        pairs=pairs,
        labels=labels,
        left_out=(*(one for one in selection.left_out if one.event_id not in again), *side.left_out, *undecided),
        marks=_marks(side.all, learned, side.noise, _choices(selection)),
        noise=(
            *(NoiseRow(finding=one, side=Side.TRAINING) for one in side.noise.values()),
            *(NoiseRow(finding=one, side=Side.HELD_OUT) for one in find_noise(workshop, held_out, ()).values()),
        ),
        wordings=wordings_of(workshop, side.learnable, (*examples, *replayed, *starters), pairs, labels),
    )


def build_shown(
    workshop: Workshop,
    rows: tuple[EventRow, ...],
    sides: dict[str, Side],
    budget: Budget,
    folded: frozenset[str] = frozenset(),
) -> Dataset:
    """The same for a candidate of examples: nothing is selected or varied, as nothing is trained."""
    training, held_out = (_of_side(workshop, rows, sides, one) for one in (Side.TRAINING, Side.HELD_OUT))
    side = _training_side(workshop, training, set_aside(workshop, of_exams(rows, sides)))
    return replace(
        _asked(workshop, side.all, held_out, folded),
        regression=regression_items(workshop, rows, side.believed, folded),
        shots=_choose_shots(workshop, side.believed, budget),
        left_out=side.left_out,
        marks=_marks(side.all, (), side.noise, {}),
    )


def _training_side(workshop: Workshop, training: tuple[ScoredEvent, ...], aside: KeptAside) -> TrainingSide:
    learnable, overheard = without_overheard(workshop, training, aside)
    noise = find_noise(workshop, learnable, workshop.trajectories)
    return TrainingSide(
        all=training,
        learnable=learnable,
        believed=tuple(one for one in learnable if suspicion(noise, one.event.key) is None),
        left_out=overheard,
        noise=noise,
    )


def questions_of(
    workshop: Workshop, held_out: Sequence[EventRow]
) -> tuple[tuple[ExamItem, ...], tuple[PreferencePair, ...]]:
    """What an exam asks of events that nothing is learned from, and the pairs of answers that it has ranked."""
    scored = _score(workshop, held_out, held_out)
    items = items_of(workshop, scored)
    return items, ranked_pairs(workshop, scored, items)


def _choices(selection: Selection) -> Mapping[str, Choice]:
    places = enumerate(zip(selection.events, selection.scores, strict=True), start=1)
    return {one.event.key: Choice(place=place, of=selection.learnable, score=score) for place, (one, score) in places}


def _marks(
    training: Iterable[ScoredEvent],
    examples: Iterable[TrainingExample],
    noise: Mapping[str, NoiseFinding],
    choices: Mapping[str, Choice],
) -> tuple[EventMark, ...]:
    weights = {one.event_id: one.weight for one in examples if one.parent is None}
    return tuple(
        EventMark(
            event_id=one.event.key,
            priority=one.priority,
            reward=one.reward,
            difficulty=one.difficulty,
            weight=weights.get(one.event.key),
            noise_factor=factor_of(noise, one.event.key),
            choice=choices.get(one.event.key),
        )
        for one in training
    )


def _asked(
    workshop: Workshop,
    training: tuple[ScoredEvent, ...],
    held_out: tuple[ScoredEvent, ...],
    folded: frozenset[str],
) -> Dataset:
    """What an exam has of it, whatever the candidate is made of."""
    in_folds = tuple(one for one in training if one.group in folded)
    items, of_folds = items_of(workshop, held_out), items_of(workshop, in_folds)
    return Dataset(
        items=items,
        ranked=ranked_pairs(workshop, held_out, items),
        folded=gains(of_folds),
        folded_pairs=len(ranked_pairs(workshop, in_folds, of_folds)),
    )


def _choose_shots(workshop: Workshop, training: tuple[ScoredEvent, ...], budget: Budget) -> tuple[TrainingExample, ...]:
    """The corrections that are shown, in order."""
    offered = {one.event.key: one for one in training if is_better_known(one.event) and objection_to(one.event) is None}
    keys = workshop.hooks.choose_shots(events=tuple(offered.values()), budget=budget, seed=workshop.info.seed)
    unknown = [key for key in keys if key not in offered]
    if unknown:
        raise DatasetError(f"A plugin shows the event {unknown[0]}, which was not offered to it.")
    return tuple(filter(None, (build_one(workshop, offered[key]) for key in dict.fromkeys(keys))))


def _why_undecided(row: EventRow) -> str:
    if row.group is None:
        return "its prompt is close to one that is learned from and to one that is kept for the exam"
    return "too few events to hold any out for an exam"


# --------------------------------------------------------------------------- selection


def _of_side(
    workshop: Workshop, rows: tuple[EventRow, ...], sides: dict[str, Side], side: Side
) -> tuple[ScoredEvent, ...]:
    return _score(workshop, [row for row in rows if side_of(row, sides) is side], rows)


def _score(workshop: Workshop, wanted: Sequence[EventRow], rows: Sequence[EventRow]) -> tuple[ScoredEvent, ...]:
    chunks = [retrieved_for(workshop, row.event) for row in wanted]
    asked = (row.event.with_chunks(found) for row, found in zip(wanted, chunks, strict=True))
    difficulties = [workshop.hooks.score_difficulty(event=event) for event in asked]
    peers = _peers(wanted, difficulties, rows)
    corrections = workshop.score_corrections([row.event for row in wanted])
    return tuple(map(functools.partial(_scored, workshop), wanted, chunks, difficulties, peers, corrections))


def _scored(
    workshop: Workshop,
    row: EventRow,
    chunks: tuple[Chunk, ...],
    difficulty: float,
    peers: Peers,
    correction_score: float | None,
) -> ScoredEvent:
    reward = workshop.hooks.score_reward(
        event=row.event,
        difficulty=difficulty,
        peers=peers,
        now=workshop.info.started_at,
        correction_score=correction_score,
    )
    if not math.isfinite(reward.priority):
        raise DatasetError(f"A plugin gave the event {row.event.key} a reward that is no finite number.")
    return ScoredEvent(
        event=row.event,
        priority=reward.priority,
        reward=reward.reward,
        difficulty=difficulty,
        group=row.group or "",
        trained_on=row.trained_on,
        is_fresh=not row.looked_at,
        chunks=chunks,
        correction_score=correction_score,
    )


def _peers(wanted: Sequence[EventRow], difficulties: Sequence[float], rows: Iterable[EventRow]) -> list[Peers]:
    """What the reward of each wanted event needs to know of the others.

    What nothing can be learned from, as a disliked answer, crowds nothing out and is not counted among near-duplicates.
    """
    learnable = [objection_to(row.event) is None for row in wanted]
    of_type = Counter(row.event.artifact_type for row in rows)
    of_group = Counter(row.group for row in itertools.compress(wanted, learnable))
    of_all = Peers(
        count_of_type=0,
        mean_count=_mean(of_type),
        mean_count_of_group=_mean(of_group),
        difficulties=tuple(sorted(itertools.compress(difficulties, learnable))),
    )
    return [
        replace(of_all, count_of_type=of_type[row.event.artifact_type], count_of_group=max(1, of_group[row.group]))
        for row in wanted
    ]


def _mean(counts: Counter[str | None]) -> float:
    return counts.total() / len(counts) if counts else 0.0


def _select(workshop: Workshop, side: TrainingSide, budget: Budget) -> Selection:
    """Choose. What cannot be chosen still shows where answers fail."""
    events = side.learnable
    objections = {one.event.key: objection_to(one.event) or suspicion(side.noise, one.event.key) for one in events}
    objections |= _repetitions([one for one in events if objections[one.event.key] is None], workshop.most_alike)
    learnable = {one.event.key: one for one in events if objections[one.event.key] is None}
    scored = workshop.hooks.select_events(
        events=tuple(learnable.values()),
        others=_others(side, learnable),
        budget=budget,
        embed=workshop.embed,
        seed=workshop.info.seed,
    )
    unknown = [key for key, _ in scored if key not in learnable]
    if unknown:
        raise DatasetError(f"A plugin selected the event {unknown[0]}, which was not offered to it.")
    chosen: dict[str, float | None] = {}
    for key, score in scored[: budget.events]:
        chosen.setdefault(key, score)
    return Selection(
        events=tuple(learnable[key] for key in chosen),
        scores=tuple(chosen.values()),
        learnable=len(learnable),
        left_out=tuple(
            LeftOut(event_id=key, reason=objection or OVER_BUDGET)
            for key, objection in objections.items()
            if key not in chosen
        ),
    )


def _others(side: TrainingSide, known: Collection[str]) -> tuple[ScoredEvent, ...]:
    """The rest of what was said of answers, as far as it is believed."""
    return tuple(one for one in side.believed if one.event.key not in known and is_usable(one.event))


def _repetitions(learnable: Sequence[ScoredEvent], most: int) -> dict[str, str | None]:
    """Why some of many near-duplicates wait: a night's lesson must not be one thing over and over."""
    # of equal ones the latest, which says what is wanted now: they are in order of arrival
    ranked = [*reversed(learnable)]
    ranked.sort(key=lambda one: -one.priority)
    places = Counter[str]()
    waiting: dict[str, str | None] = {}
    for one in ranked:
        places[one.group] += 1
        if places[one.group] > most:
            waiting[one.event.key] = f"{most} near-duplicates of it are learned from"
    return waiting


# --------------------------------------------------------------------------- examples


def _build_examples(
    workshop: Workshop, events: tuple[ScoredEvent, ...], side: TrainingSide
) -> tuple[TrainingExample, ...]:
    others = _others(side, {one.event.key for one in events})
    factors = dict(
        workshop.hooks.select_negatives(
            events=events, others=others, measure=workshop.measure, embed=workshop.embed, seed=workshop.info.seed
        )
    )
    built = filter(None, (build_one(workshop, scored) for scored in events))
    harder = (replace(one, hardness=factors.get(one.event_id, 1.0)) for one in built)
    return tuple(weighted(one, one.hardness * factor_of(side.noise, one.event_id)) for one in harder)


def _variants(
    workshop: Workshop, events: Iterable[ScoredEvent], originals: tuple[TrainingExample, ...]
) -> list[TrainingExample]:
    """Variants of known parents, each in the group of its parent and with its score.

    Those come first at which the model fails, and of each plugin one in turn, as room is scarce.
    """
    parents = {example.event_id: example for example in originals}
    hard_first = tuple(sorted(originals, key=lambda one: -one.hardness))
    offered = workshop.hooks.augment_examples(
        examples=hard_first, generate=workshop.generate, measure=workshop.measure, seed=workshop.info.seed
    )
    scored = {one.event.key: one for one in events}
    with_other_chunks = [
        variant for one in hard_first if one.chunks for variant in _vary_context(workshop, scored[one.event_id], one)
    ]
    return [
        _as_its_parent(variant, parents[variant.parent])
        for turn in itertools.zip_longest(*offered, with_other_chunks)
        for variant in turn
        if variant is not None and variant.parent in parents
    ]


def _as_its_parent(variant: TrainingExample, parent: TrainingExample) -> TrainingExample:
    """With what a variant has in common with its original, than which it counts no more."""
    common = replace(
        variant,
        event_id=parent.event_id,
        group=parent.group,
        difficulty=parent.difficulty,
        score=parent.score,
        hardness=parent.hardness,
        artifact_type=parent.artifact_type,
        tests=parent.tests,
        schema=parent.schema,
    )
    return weighted(replace(common, weight=min(variant.weight, parent.weight)), 1.0)


def _still_valid(
    workshop: Workshop,
    variants: Iterable[TrainingExample],
    events: Iterable[ScoredEvent],
    originals: Iterable[TrainingExample],
) -> Iterator[TrainingExample]:
    """The variants whose answers a validator finds good, or that none looks at.

    An answer that is its original's is looked at by itself, once for all that have it; another one is measured by that.
    """
    scored = {one.event.key: one for one in events}
    parents = {example.event_id: example for example in originals}

    @functools.cache
    def is_valid(key: str, answer: str) -> bool:
        wanted = parents[key].target
        item = bare_item(workshop, scored[key], parents[key])
        return passes(workshop, replace(item, reference=None if answer == wanted else wanted), answer)

    return (variant for variant in variants if is_valid(variant.event_id, variant.target))


def _vary_context(workshop: Workshop, scored: ScoredEvent, example: TrainingExample) -> Iterator[TrainingExample]:
    offered = workshop.hooks.vary_context(
        example=example,
        retrieve=_search_of(workshop, scored.event),
        measure=workshop.measure,
        seed=workshop.info.seed,
    )
    for chunks in offered:
        built = workshop.hooks.build_example(event=scored, chunks=chunks)
        if built is not None and built.messages != example.messages:
            yield replace(example, messages=built.messages, chunks=chunks, parent=example.event_id)


def _search_of(workshop: Workshop, event: Event) -> Retrieve:
    """`Retrieve` by whoever fetches the texts of the event's prompt: a variant is to find what a question would."""

    def search(query: str, *, limit: int) -> tuple[Chunk, ...]:
        return workshop.hooks.retrieve_context(event=event, query=query, retrieve=workshop.retrieve)[:limit]

    return search


def _arrange(workshop: Workshop, examples: tuple[TrainingExample, ...]) -> tuple[TrainingExample, ...]:
    arranged = workshop.hooks.arrange_examples(examples=examples, store=workshop.store, seed=workshop.info.seed)
    added = Counter(arranged) - Counter(examples)
    if added:
        raise DatasetError(f"A plugin of the curriculum added an example of {next(iter(added)).event_id}.")
    return arranged


def _require_no_leak(examples: Iterable[TrainingExample], sides: dict[str, Side]) -> None:
    for example in examples:
        if sides.get(example.group) is not Side.TRAINING:
            raise DatasetError(
                f"The example of {example.event_id} is not on the training side. Nothing was trained; "
                "please report this, a plugin may have changed its group."
            )


# --------------------------------------------------------------------------- in the worker


def _workshop(context: WorkContext, rows: tuple[EventRow, ...], found: SplitResult, base: BaseSnapshot) -> Workshop:
    directory = context.run.step(Step.SELECT)
    training = [row.event for row in rows if side_of(row, found.sides) is Side.TRAINING]
    prompts = read_lines(context.run.step(Step.PREPARE) / "prompts.jsonl", PromptRow)
    snapshot = read_snapshot(context.run.step(Step.PREPARE) / "store.json")
    embed = open_embed(context.settings)
    measure = CombinedMeasure(context.hooks, embed)
    library, exam = OllamaLibrary(context.settings.ollama), context.settings.exam
    judge = LocalModel(library, exam.judge_model or base.pin, exam)
    return Workshop(
        hooks=context.hooks,
        info=context.info,
        measure=measure,
        sampling=open_sampling(context, measure),
        generate=LocalModel(library, base.pin, exam),
        judge=judge,
        score_corrections=kept_scores(context, measure, judge),
        retrieve=ChunkSearch([chunk for event in training for chunk in event.context.chunks]),
        store=JournalStore(snapshot, directory / "store.jsonl"),
        find_near=NearPrompts.of(measure, embed, context.settings).across,
        embed=embed,
        recall=KeptRecall(context.settings, base, context.progress),
        method=context.settings.training.method,
        most_alike=context.settings.similarity.max_near_duplicates,
        max_growth=context.settings.training.max_growth,
        doubted=context.settings.training.doubted,
        trajectories=_trajectories(context),
        kept_aside=kept_aside(prompts, found.groups, found.sides),
    )


def _trajectories(context: WorkContext) -> tuple[LossTrajectory, ...]:
    """What the daemon froze; none where it froze none, as for a plan."""
    file = context.run.step(Step.PREPARE) / TRAJECTORIES
    return tuple(read_lines(file, LossTrajectory)) if file.is_file() else ()


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The material as the model will see it."""

    examples: tuple[TrainingText, ...] = ()
    pairs: tuple[PairText, ...] = ()
    labels: tuple[LabelledText, ...] = ()
    closing: str = ""

    @classmethod
    def of(cls, dataset: Dataset, render: Render, closing: str) -> "Rendered":
        """Have every prompt rendered."""
        lesson, *beside = (
            [render_example(one, render, closing) for one in part]
            for part in (dataset.examples, dataset.replayed, dataset.starters)
        )
        return cls(
            examples=interleaved(lesson, *([replace(one, beside=True) for one in part] for part in beside)),
            pairs=tuple(render_pair(one, render, closing) for one in dataset.pairs),
            labels=tuple(render_label(one, render, closing) for one in dataset.labels),
            closing=closing,
        )

    def write(self, directory: Path) -> None:
        """Leave the files that a training reads."""
        write_lines(directory / "examples.jsonl", self.examples)
        write_lines(directory / "pairs.jsonl", self.pairs)
        write_lines(directory / "labels.jsonl", self.labels)


def _rendered(
    context: WorkContext, http: OllamaHttp, pin: str, dataset: Dataset, computed: GgufFile | None
) -> Rendered:
    """`computed`: the base, where its network can be computed here."""
    if not (dataset.examples or dataset.pairs or dataset.labels):
        return Rendered()
    render = CachedRenderer(lambda messages: http.render(pin, messages))
    stops = [value for key, value in http.show(pin).modelfile.parameters if key.lower() == "stop"]
    closing = find_closing(render, stops)
    # a trial candidate ends its answers as the one that it stands for
    decided = context.run.result(Step.SPLIT, SplitResult).closing
    if decided:
        closing = decided
    elif computed is not None:
        closing = _taught(context, closing, dataset, render, computed)
    counter = itertools.count()
    parts = (dataset.examples, dataset.replayed, dataset.starters, dataset.pairs, dataset.labels)
    total = sum(map(len, parts))

    def counted(messages: Sequence[Message]) -> str:
        context.progress(next(counter), total, "Ollama renders the prompts")
        return render(messages)

    return Rendered.of(dataset, counted, closing)


def _taught(context: WorkContext, closing: str, dataset: Dataset, render: Render, file: GgufFile) -> str:
    """The token with which answers end, of those that the base was taught to end with."""
    limit_threads(context.settings.training.threads)
    digest = context.run.result(Step.PREPARE, PrepareResult).base.weights_digest
    tokens = load_tokens(file, digest, context.settings.state_directory / "cache")
    answers = [
        *((one.messages, one.target) for one in dataset.examples),
        *((one.messages, one.chosen) for one in dataset.pairs),
        *((one.messages, one.answer) for one in dataset.labels if one.liked),
    ]
    shown = [render(messages) + answer for messages, answer in answers[:MOST_WEIGHED]]
    context.progress(0, 1, "see with which token the base ends answers")
    try:
        found = taught_closing(file, tokens, closing, shown, context.settings.exam.context_tokens)
    except TrainingError as error:
        # where examples are shown nobody has asked yet whether the network can be computed, and nobody needs to
        context.note(f"Answers end with {closing.strip()}, as in the template. {error}")
        return closing
    if found != closing:
        context.note(f"Answers end with {found}: this base was never taught to end one with {closing.strip()}.")
    return found


def _write(context: WorkContext, dataset: Dataset, rendered: Rendered) -> None:
    directory = context.run.step(Step.SELECT)
    rendered.write(directory)
    write_lines(directory / "shots.jsonl", [turn for shot in dataset.shots for turn in _turns(shot)])
    write_lines(directory / "items.jsonl", dataset.items)
    write_lines(directory / HELD_OUT_PAIRS, dataset.ranked)
    write_lines(directory / MARKS, dataset.marks)
    write_lines(directory / FINDINGS, dataset.noise)
    write_lines(directory / WORDINGS, dataset.wordings)
    write_lines(directory / "regression.jsonl", dataset.regression)


def _turns(shot: TrainingExample) -> tuple[Message, Message]:
    """A question and its answer as they would stand in a conversation."""
    return shot.messages[-1], Message(role=Role.ASSISTANT, content=shot.target)


def material_of(dataset: Dataset, rows: Iterable[EventRow]) -> Material:
    """How much there is to learn from."""
    better_known = frozenset(row.event.key for row in rows if is_better_known(row.event))
    return Material(
        examples=len(dataset.examples),
        better_known=sum(one.event_id in better_known for one in dataset.examples),
        pairs=len(dataset.pairs),
        liked=sum(one.liked for one in dataset.labels),
        disliked=sum(not one.liked for one in dataset.labels),
        learnable=dataset.learnable,
    )


def result_of(workshop: Workshop, dataset: Dataset, rows: Iterable[EventRow], closing: str) -> SelectResult:
    """What the step leaves."""
    return SelectResult(
        material=material_of(dataset, rows),
        variants=sum(example.parent is not None for example in dataset.examples),
        items=gains(dataset.items),
        guard_items=sum(item.role is ItemRole.GUARD for item in dataset.items),
        folded=dataset.folded,
        pairs=len(dataset.ranked),
        folded_pairs=dataset.folded_pairs,
        sampled=sum(one.sampled for one in dataset.pairs),
        hyperparameters=workshop.hooks.suggest_hyperparameters(
            specialty=workshop.info.specialty,
            examples=len(dataset.examples),
            store=workshop.store,
            seed=workshop.info.seed,
        ),
        closing=closing,
        sources={
            TrainingMethod.SFT: events_of((*dataset.examples, *dataset.replayed)),
            TrainingMethod.DPO: events_of(dataset.pairs),
            TrainingMethod.KTO: events_of(dataset.labels),
        },
        left_out=dataset.left_out,
        shots=events_of(dataset.shots),
        replayed=replayed_of(dataset),
        starters=len(dataset.starters),
    )


def replayed_of(dataset: Dataset) -> Replayed:
    """What is learned again."""
    events = events_of(dataset.replayed)
    return Replayed(events=events, answers=len(dataset.replayed) - len(events))


def events_of(of_events: Iterable[Made]) -> tuple[str, ...]:
    """Their events, each once."""
    return tuple(dict.fromkeys(key for one in of_events for key in origins_of(one)))
