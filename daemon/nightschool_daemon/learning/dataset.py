"""Step `select`: from the specialty's events to rendered training texts and exam items.

The held-out side leaves first: nothing below that scores, selects, augments or retrieves for training
ever sees it.
"""

import functools
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.local_model import LocalModel
from nightschool_daemon.evaluation.marks import GOOD_SCORE
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    FINDINGS,
    HELD_OUT_PAIRS,
    MARKS,
    TRAJECTORIES,
    WORDINGS,
    BaseSnapshot,
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
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.beside import interleaved, of_no_event
from nightschool_daemon.learning.conversations import earlier_turns
from nightschool_daemon.learning.endings import taught_closing
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.grouping import FindNear, NearPrompts, kept_aside, regroup
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.learning.recall import KeptRecall, nobody_answers
from nightschool_daemon.learning.rendering import (
    CachedRenderer,
    Render,
    find_closing,
    render_example,
    render_label,
    render_pair,
)
from nightschool_daemon.learning.replay import bounded
from nightschool_daemon.learning.sampling import Sampling, open_sampling
from nightschool_daemon.learning.served import why_not_computed
from nightschool_daemon.learning.services import ChunkSearch, JournalStore, read_snapshot
from nightschool_daemon.learning.split import side_of
from nightschool_daemon.learning.starters import as_example
from nightschool_daemon.learning.threads import limit_threads
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_daemon.reasons import REBUILD
from nightschool_daemon.wording import fold, is_near_any
from nightschool_hookspecs.records import (
    Budget,
    Event,
    ExamItem,
    FeedbackType,
    ItemRole,
    LabelledAnswer,
    LabelledText,
    LossTrajectory,
    Material,
    Message,
    MethodChoice,
    NoiseFinding,
    OwnAnswer,
    PairText,
    Peers,
    PreferencePair,
    Recipe,
    Role,
    RunInfo,
    ScoredEvent,
    Side,
    StarterExample,
    TrainingExample,
    TrainingMethod,
    TrainingText,
)
from nightschool_hookspecs.services import (
    Embed,
    Generate,
    GenerationError,
    Measure,
    Recall,
    Retrieve,
    Store,
    TrainingError,
)

T = TypeVar("T")
P = TypeVar("P", PreferencePair, LabelledAnswer)
Made: TypeAlias = TrainingExample | PreferencePair | LabelledAnswer

MOST_WEIGHED = 32
"""Answers that are rendered to find the token that ends them."""
LARGEST_GROWTH = 3
"""Originals and variants together, as a multiple of the originals."""
DOUBTED = 0.5
"""Factor down from which nothing is preferred by an event: pairs and labels have no weights that it could lower."""
LEARNS_ANSWERS = frozenset({MethodChoice.AUTO, MethodChoice.SFT})
"""Methods by which wanted answers are learned."""


class DatasetError(Exception):
    """A plugin broke a rule of the dataset; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What the stages of the dataset work with."""

    hooks: Hooks
    info: RunInfo
    measure: Measure
    generate: Generate
    """Asks the base: of it variants are made."""
    judge: Generate
    """Asks the model that judges answers in an exam."""
    retrieve: Retrieve
    store: Store
    find_near: FindNear
    """Tells what came too close to a prompt that is kept apart from it: pairs across, of such a prompt and a text."""
    embed: Embed = no_embeddings
    sampling: Sampling | None = None
    """None: the incumbent is asked for no answers."""
    recall: Recall = nobody_answers
    method: MethodChoice = MethodChoice.AUTO
    """What is learned by: nothing stands beside a lesson that is none of wanted answers."""
    ranks: bool = True
    """Pairs of answers can be ranked: versions of the base can be computed here."""
    most_alike: int = 16
    """Events of one group of near-duplicates that are learned from."""
    trajectories: tuple[LossTrajectory, ...] = ()
    """How events were learned when they were new."""
    kept_aside: tuple[PromptRow, ...] = ()
    """Held-out prompts of the type, whatever base they were put to: each may be asked of this one too one day."""


@dataclass(frozen=True, kw_only=True)
class KeptAside:
    """Prompts that nothing may be like which is made up to be learned."""

    prompts: tuple[str, ...]
    """Folded, once each."""
    gone: tuple[str, ...]
    """Fingerprints of those whose texts are not kept."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is learned from, best first, and what is not."""

    events: tuple[ScoredEvent, ...]
    left_out: tuple[LeftOut, ...]
    noise: Mapping[str, NoiseFinding]
    """What looks wrong on the training side, by event."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The material of a run before it is rendered."""

    examples: tuple[TrainingExample, ...] = ()
    """The lesson."""
    replayed: tuple[TrainingExample, ...] = ()
    """What is learned again beside it; of no event where it is an answer of the base's own."""
    starters: tuple[TrainingExample, ...] = ()
    """What a young specialty learns beside it; of no event."""
    pairs: tuple[PreferencePair, ...] = ()
    sampled: int = 0
    """Of the pairs, those among answers that the incumbent was asked for."""
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
    aside = _kept_aside(workshop, _of_exams(rows, sides))
    lesson, overheard = _without_overheard(workshop, training, aside)
    noise = _find_noise(workshop, lesson, workshop.trajectories)
    believed = tuple(one for one in lesson if _suspicion(noise, one.event.key) is None)
    selection = _select(workshop, lesson, budget, noise)
    originals = _build_examples(workshop, selection, believed)
    apart = _apart(workshop, _variants(workshop, selection.events, originals), aside)
    valid = _still_valid(workshop, apart, selection.events, originals)
    variants = itertools.islice(valid, (LARGEST_GROWTH - 1) * len(originals))
    examples = _arrange(workshop, (*originals, *variants))
    replayed = _replayed(workshop, rows, believed, selection, examples)
    learned = (*examples, *(one for one in replayed if one.event_id))
    _require_no_leak(learned, sides)
    again = frozenset(_events_of(replayed))
    starters = _starters(workshop, rows, selection.events, originals)
    rated = _rated(selection.events, tuple(one for one in believed if _factor(noise, one.event.key) > DOUBTED), budget)
    sampled, pairs = _pairs(workshop, rated, aside)
    labels = _labels(workshop, rated, aside)
    undecided = (_left_out(row.event, _why_undecided(row)) for row in rows if side_of(row, sides) is None)
    return replace(
        _asked(workshop, training, held_out, folded),
        regression=_regression(workshop, rows, believed, folded),
        examples=examples,
        replayed=replayed,
        starters=starters,
        pairs=pairs,
        sampled=sampled,
        labels=labels,
        left_out=(*(one for one in selection.left_out if one.event_id not in again), *overheard, *undecided),
        marks=_marks(training, learned, noise),
        noise=(
            *(NoiseRow(finding=one, side=Side.TRAINING) for one in noise.values()),
            *(NoiseRow(finding=one, side=Side.HELD_OUT) for one in _find_noise(workshop, held_out, ()).values()),
        ),
        wordings=_wordings(workshop, lesson, (*examples, *replayed, *starters), pairs, labels),
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
    return replace(
        _asked(workshop, training, held_out, folded),
        regression=_regression(workshop, rows, training, folded),
        shots=_choose_shots(workshop, training, budget),
        marks=_marks(training, (), {}),
    )


def _marks(
    training: Iterable[ScoredEvent], examples: Iterable[TrainingExample], noise: Mapping[str, NoiseFinding]
) -> tuple[EventMark, ...]:
    weights = {one.event_id: one.weight for one in examples if one.parent is None}
    return tuple(
        EventMark(
            event_id=one.event.key,
            priority=one.priority,
            reward=one.reward,
            difficulty=one.difficulty,
            weight=weights.get(one.event.key),
            noise_factor=_factor(noise, one.event.key),
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
    items, of_folds = _items(workshop, held_out), _items(workshop, in_folds)
    return Dataset(
        items=items,
        ranked=_ranked(workshop, held_out, items),
        folded=gains(of_folds),
        folded_pairs=len(_ranked(workshop, in_folds, of_folds)),
    )


def _choose_shots(workshop: Workshop, training: tuple[ScoredEvent, ...], budget: Budget) -> tuple[TrainingExample, ...]:
    """The corrections that are shown, in order."""
    offered = {one.event.key: one for one in training if _is_better_known(one.event) and _objection(one.event) is None}
    keys = workshop.hooks.choose_shots(events=tuple(offered.values()), budget=budget, seed=workshop.info.seed)
    unknown = [key for key in keys if key not in offered]
    if unknown:
        raise DatasetError(f"A plugin shows the event {unknown[0]}, which was not offered to it.")
    return tuple(filter(None, (_build(workshop, offered[key]) for key in dict.fromkeys(keys))))


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
    difficulties = [workshop.hooks.score_difficulty(event=row.event) for row in wanted]
    peers = _peers(wanted, difficulties, rows)
    return tuple(map(functools.partial(_scored, workshop), wanted, difficulties, peers))


def _scored(workshop: Workshop, row: EventRow, difficulty: float, peers: Peers) -> ScoredEvent:
    reward = workshop.hooks.score_reward(
        event=row.event, difficulty=difficulty, peers=peers, now=workshop.info.started_at
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
    )


def _peers(wanted: Sequence[EventRow], difficulties: Sequence[float], rows: Iterable[EventRow]) -> list[Peers]:
    """What the reward of each wanted event needs to know of the others.

    What nothing can be learned from, as a disliked answer, crowds nothing out and is not counted among near-duplicates.
    """
    learnable = [_objection(row.event) is None for row in wanted]
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


def _select(
    workshop: Workshop, training: tuple[ScoredEvent, ...], budget: Budget, noise: Mapping[str, NoiseFinding]
) -> Selection:
    """Choose. What cannot be chosen still shows where answers fail."""
    objections = {one.event.key: _objection(one.event) or _suspicion(noise, one.event.key) for one in training}
    objections |= _repetitions([one for one in training if objections[one.event.key] is None], workshop.most_alike)
    learnable = {one.event.key: one for one in training if objections[one.event.key] is None}
    keys = workshop.hooks.select_events(
        events=tuple(learnable.values()),
        others=_others((one for one in training if _suspicion(noise, one.event.key) is None), learnable),
        budget=budget,
        embed=workshop.embed,
        seed=workshop.info.seed,
    )
    unknown = [key for key in keys if key not in learnable]
    if unknown:
        raise DatasetError(f"A plugin selected the event {unknown[0]}, which was not offered to it.")
    chosen = dict.fromkeys(keys)
    return Selection(
        events=tuple(learnable[key] for key in chosen),
        left_out=tuple(
            LeftOut(event_id=key, reason=objection or "it did not fit into this night's budget")
            for key, objection in objections.items()
            if key not in chosen
        ),
        noise=noise,
    )


def _others(training: Iterable[ScoredEvent], known: Collection[str]) -> tuple[ScoredEvent, ...]:
    """The rest of what was said of answers on the training side."""
    return tuple(one for one in training if one.event.key not in known and _is_usable(one.event))


def _repetitions(learnable: Sequence[ScoredEvent], most: int) -> dict[str, str | None]:
    """Why some of many near-duplicates wait: a night's lesson must not be one thing over and over."""
    ranked = sorted(learnable, key=lambda one: -one.priority)
    places = Counter[str]()
    waiting: dict[str, str | None] = {}
    for one in ranked:
        places[one.group] += 1
        if places[one.group] > most:
            waiting[one.event.key] = f"{most} near-duplicates of it are learned from"
    return waiting


def _objection(event: Event) -> str | None:
    """Why nothing can be learned from an event; None where something can."""
    if event.metadata.deleted:
        return "it was withdrawn"
    if event.metadata.weak:
        return "it is a weak signal, which is no target by itself"
    if not (event.target or "").strip():
        return "it has no answer worth learning"
    return None


# --------------------------------------------------------------------------- noise


def _find_noise(
    workshop: Workshop, events: tuple[ScoredEvent, ...], trajectories: tuple[LossTrajectory, ...]
) -> dict[str, NoiseFinding]:
    """What looks wrong in the feedback of one side, by event, gravest first."""
    present = {one.event.key: one for one in events if not one.event.metadata.deleted}
    known = tuple(one for one in trajectories if one.event_id in present)
    offered = workshop.hooks.find_noise(
        events=tuple(present.values()), trajectories=known, measure=workshop.measure, embed=workshop.embed
    )
    found: dict[str, NoiseFinding] = {}
    for one in sorted((one for of_plugin in offered for one in of_plugin), key=lambda one: one.factor):
        _require_finding(one, present)
        found.setdefault(one.event_id, one)
    return found


def _require_finding(finding: NoiseFinding, present: Mapping[str, ScoredEvent]) -> None:
    foreign = next((key for key in (finding.event_id, finding.contradicts) if key and key not in present), None)
    if foreign is not None:
        raise DatasetError(f"A plugin found noise in the event {foreign}, which was not offered to it.")
    if not 0 <= finding.factor <= 1:
        raise DatasetError(f"A plugin gave the event {finding.event_id} the factor {finding.factor}, not one of 0..1.")


def _factor(noise: Mapping[str, NoiseFinding], key: str) -> float:
    finding = noise.get(key)
    return 1.0 if finding is None else finding.factor


def _suspicion(noise: Mapping[str, NoiseFinding], key: str) -> str | None:
    """Why an event is taken for noise altogether; None: it is learned from, by whatever weight."""
    finding = noise.get(key)
    return f"it looks wrong: {finding.reason}" if finding is not None and finding.factor == 0 else None


# --------------------------------------------------------------------------- examples


def _build_examples(
    workshop: Workshop, selection: Selection, believed: tuple[ScoredEvent, ...]
) -> tuple[TrainingExample, ...]:
    others = _others(believed, {one.event.key for one in selection.events})
    factors = dict(
        workshop.hooks.select_negatives(
            events=selection.events,
            others=others,
            measure=workshop.measure,
            embed=workshop.embed,
            seed=workshop.info.seed,
        )
    )
    built = filter(None, (_build(workshop, scored) for scored in selection.events))
    return tuple(
        _weighted(one, factors.get(one.event_id, 1.0) * _factor(selection.noise, one.event_id)) for one in built
    )


def _build(workshop: Workshop, scored: ScoredEvent) -> TrainingExample | None:
    event = scored.event
    chunks = workshop.hooks.retrieve_context(event=event, query=event.input_data, retrieve=workshop.retrieve)
    example = workshop.hooks.build_example(event=scored, chunks=chunks)
    if example is None:
        return None
    return replace(
        example,
        event_id=event.key,
        group=scored.group,
        difficulty=scored.difficulty,
        parent=None,
        prompt=event.input_data,
        chunks=chunks,
        score=None if event.ai_output is None else event.validation_score,
        artifact_type=_artifact_type(workshop, event),
        tests=event.metadata.tests,
        schema=event.metadata.schema,
    )


def _weighted(example: TrainingExample, factor: float) -> TrainingExample:
    weight = example.weight * factor
    if not (math.isfinite(weight) and weight > 0):
        raise DatasetError(f"A plugin gave the example of {example.event_id} the weight {weight}; it must be above 0.")
    return replace(example, weight=weight)


def _variants(
    workshop: Workshop, events: Iterable[ScoredEvent], originals: tuple[TrainingExample, ...]
) -> list[TrainingExample]:
    """Variants of known parents, each in the group of its parent and with its score.

    Of each plugin one in turn, as room is scarce.
    """
    parents = {example.event_id: example for example in originals}
    offered = workshop.hooks.augment_examples(
        examples=originals, generate=workshop.generate, measure=workshop.measure, seed=workshop.info.seed
    )
    scored = {one.event.key: one for one in events}
    with_other_chunks = [
        variant for one in originals if one.chunks for variant in _vary_context(workshop, scored[one.event_id], one)
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
        artifact_type=parent.artifact_type,
        tests=parent.tests,
        schema=parent.schema,
    )
    return _weighted(replace(common, weight=min(variant.weight, parent.weight)), 1.0)


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
        item = _bare_item(workshop, scored[key], parents[key])
        return _passes(workshop, replace(item, reference=None if answer == wanted else wanted), answer)

    return (variant for variant in variants if is_valid(variant.event_id, variant.target))


def _passes(workshop: Workshop, item: ExamItem, answer: str) -> bool:
    """Whether a validator finds an answer good, or none looks at its kind."""
    try:
        found = workshop.hooks.validate_answer(
            item=item, answer=answer, measure=workshop.measure, generate=workshop.judge
        )
    except GenerationError:
        # a model was to judge it and did not, as none does for a plan
        return True
    return found is None or found.score > GOOD_SCORE


def _vary_context(workshop: Workshop, scored: ScoredEvent, example: TrainingExample) -> Iterator[TrainingExample]:
    offered = workshop.hooks.vary_context(
        example=example, retrieve=workshop.retrieve, measure=workshop.measure, seed=workshop.info.seed
    )
    for chunks in offered:
        built = workshop.hooks.build_example(event=scored, chunks=chunks)
        if built is not None and built.messages != example.messages:
            yield replace(example, messages=built.messages, chunks=chunks, parent=example.event_id)


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


def _rated(
    selected: tuple[ScoredEvent, ...], believed: tuple[ScoredEvent, ...], budget: Budget
) -> tuple[ScoredEvent, ...]:
    """What preferences are made of: the selected events, and the newest disliked answers, which are no targets.

    In order of arrival, as the latest event speaks for its group.
    """
    disliked = [one for one in believed if _is_dislike(one.event)]
    rated = {one.event.key for one in (*selected, *disliked[-budget.events :])}
    return tuple(one for one in believed if one.event.key in rated)


def _pairs(
    workshop: Workshop, events: tuple[ScoredEvent, ...], aside: KeptAside
) -> tuple[int, tuple[PreferencePair, ...]]:
    """The pairs in random order, and how many of them are among answers that the incumbent was asked for.

    Of two with the same texts the sampled one counts, as its margin was measured; what the feedback itself says the
    other way round is not learned.
    """
    offered, placed = (
        _placed(workshop, events, _preferences_apart(workshop, events, made, aside))
        for made in (_offered_pairs(workshop, events), _sampled_pairs(workshop, events))
    )
    contradicted = {(one.messages, one.rejected, one.chosen) for one in offered}
    sampled = _once([[one for one in placed if _texts(one) not in contradicted]], _texts)
    return len(sampled), _shuffled(workshop, _once([sampled, offered], _texts))


def _texts(pair: PreferencePair) -> tuple[tuple[Message, ...], str, str]:
    return pair.messages, pair.chosen, pair.rejected


def _labels(workshop: Workshop, events: tuple[ScoredEvent, ...], aside: KeptAside) -> tuple[LabelledAnswer, ...]:
    labels = _once(workshop.hooks.label_answers(events=events), lambda one: (one.messages, one.answer))
    _require_offered(labels, events)
    return _shuffled(workshop, _placed(workshop, events, _preferences_apart(workshop, events, labels, aside)))


def _placed(workshop: Workshop, events: Iterable[ScoredEvent], made: Sequence[P]) -> list[P]:
    """With the prompt and the group of the event that each was made of."""
    prompts = _prompts(workshop, events, made)
    return [_as_asked(one, prompts[one.event_id]) for one in made]


def _shuffled(workshop: Workshop, made: Sequence[P]) -> tuple[P, ...]:
    order = random.Random(f"{workshop.info.seed}/preferences")  # noqa: S311 - no secret
    return tuple(order.sample(made, len(made)))


def _sampled_pairs(workshop: Workshop, events: tuple[ScoredEvent, ...]) -> list[PreferencePair]:
    """Pairs among answers of the incumbent to the prompts that could count in an exam, were they not learned from."""
    if workshop.sampling is None:
        return []
    items = tuple(item for item in _items(workshop, events) if item.role is ItemRole.GAIN)
    offered = workshop.hooks.build_sampled_pairs(
        items=items,
        sample=workshop.sampling.sample,
        validate=workshop.sampling.validate,
        seed=workshop.info.seed,
    )
    pairs = [pair for of_plugin in offered for pair in of_plugin]
    _require_offered(pairs, events)
    return pairs


def _offered_pairs(workshop: Workshop, events: tuple[ScoredEvent, ...]) -> list[PreferencePair]:
    pairs = _once(workshop.hooks.build_preference_pairs(events=events), lambda one: one)
    _require_offered(pairs, events)
    return pairs


def _require_offered(made: Iterable[PreferencePair | LabelledAnswer], events: Iterable[ScoredEvent]) -> None:
    known = frozenset(one.event.key for one in events)
    foreign = [one.event_id for one in made if one.event_id not in known]
    if foreign:
        raise DatasetError(f"A plugin made a preference of the event {foreign[0]}, which was not offered to it.")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What an event's answer stands behind, wherever it is learned from or examined."""

    conversation: tuple[Message, ...]
    """As it was recorded."""
    messages: tuple[Message, ...]
    """As the examples have it, with the retrieved texts."""
    group: str


def _prompts(
    workshop: Workshop, events: Iterable[ScoredEvent], made: Iterable[PreferencePair | LabelledAnswer]
) -> dict[str, Prompt]:
    """Of the events that something was made of, by their keys."""
    asked = {one.event_id for one in made}
    return {one.event.key: _prompt(workshop, one) for one in events if one.event.key in asked}


def _prompt(workshop: Workshop, scored: ScoredEvent) -> Prompt:
    conversation = scored.event.conversation
    built = _build_prompt(workshop, scored)
    messages = conversation if built is None else built.messages
    return Prompt(conversation=conversation, messages=messages, group=scored.group)


def _build_prompt(workshop: Workshop, scored: ScoredEvent) -> TrainingExample | None:
    """The example of an event for its prompt's sake: of a disliked answer, from which none is made, as if liked."""
    if _is_dislike(scored.event):
        scored = replace(scored, event=replace(scored.event, feedback_type=FeedbackType.SUCCESS))
    return _build(workshop, scored)


def _as_asked(one: P, prompt: Prompt) -> P:
    """With the prompt that examples and exam items of its event have; one that a plugin made by itself stays."""
    messages = prompt.messages if one.messages == prompt.conversation else one.messages
    return replace(one, messages=messages, group=prompt.group)


def _is_dislike(event: Event) -> bool:
    return _is_usable(event) and event.feedback_type.is_dislike and event.target is None


def _is_usable(event: Event) -> bool:
    """Neither withdrawn nor half-hearted."""
    return not (event.metadata.deleted or event.metadata.weak)


def _once(offered: Iterable[Iterable[T]], key: Callable[[T], object]) -> list[T]:
    """What all plugins offer; of equal ones the first."""
    found: dict[object, T] = {}
    for of_plugin in offered:
        for one in of_plugin:
            found.setdefault(key(one), one)
    return list(found.values())


# --------------------------------------------------------------------------- replay


def _replayed(
    workshop: Workshop,
    rows: tuple[EventRow, ...],
    believed: tuple[ScoredEvent, ...],
    selection: Selection,
    lesson: tuple[TrainingExample, ...],
) -> tuple[TrainingExample, ...]:
    """What is learned again beside the lesson. Nothing where it is none of wanted answers, nor in a rebuild."""
    if not lesson or workshop.method not in LEARNS_ANSWERS or workshop.info.reason == REBUILD:
        return ()
    earlier = _earlier(rows, believed, selection)
    replay = workshop.hooks.replay_examples(
        examples=lesson, earlier=tuple(earlier.values()), recall=workshop.recall, seed=workshop.info.seed
    )
    unknown = [key for key in replay.events if key not in earlier]
    if unknown:
        raise DatasetError(f"A plugin replays the event {unknown[0]}, which was not offered to it.")
    built = filter(None, (_build(workshop, earlier[key]) for key in dict.fromkeys(replay.events)))
    own = (of_no_event(one.prompt, one.text, lesson) for one in _far_answers(workshop, replay.answers, rows))
    kept = bounded(lesson, (*(_weighted(one, _factor(selection.noise, one.event_id)) for one in built), *own))
    order = random.Random(f"{workshop.info.seed}/replay")  # noqa: S311 - no secret
    return tuple(order.sample(kept, len(kept)))


def _earlier(rows: Iterable[EventRow], believed: Iterable[ScoredEvent], selection: Selection) -> dict[str, ScoredEvent]:
    """What could be forgotten, by its key: what the incumbent has learned, and tonight's lesson has nothing of.

    The latest one of a group speaks for it: an earlier one may say what was corrected since.
    """
    inherited = frozenset(row.event.key for row in rows if row.inherited)
    learned = frozenset(one.group for one in selection.events)
    latest = {
        one.group: one
        for one in believed
        if one.group not in learned and _is_better_known(one.event) and _objection(one.event) is None
    }
    return {one.event.key: one for one in latest.values() if one.event.key in inherited}


def _far_answers(workshop: Workshop, answers: Iterable[OwnAnswer], rows: Iterable[EventRow]) -> Iterator[OwnAnswer]:
    """Answers to prompts that are close to none of the specialty's, on whatever side.

    Learned from, they would give the exam away, or teach again what was corrected.
    """
    asked = {fold(one.prompt): one for one in answers if one.text.strip()}
    close = _close(workshop, _kept_aside(workshop, (row.event for row in rows)), asked)
    return (one for text, one in asked.items() if text not in close)


# --------------------------------------------------------------------------- starter examples


def _starters(
    workshop: Workshop,
    rows: Sequence[EventRow],
    selected: Iterable[ScoredEvent],
    originals: Iterable[TrainingExample],
) -> tuple[TrainingExample, ...]:
    """What is learned beside a young specialty's own examples. Nothing in a rebuild, nor where these are not learned.

    A trial candidate counts the events that it is asked too, so that it learns as much as the one that it stands for.
    """
    if workshop.method not in LEARNS_ANSWERS or workshop.info.reason == REBUILD:
        return ()
    kinds = {one.event.key: _artifact_type(workshop, one.event) for one in selected}
    accepted = Counter(_artifact_type(workshop, row.event) for row in rows if _objection(row.event) is None)
    own: dict[str, list[TrainingExample]] = {}
    for one in originals:
        own.setdefault(kinds[one.event_id], []).append(one)
    return tuple(
        as_example(starter, examples)
        for kind, examples in own.items()
        for starter in _offered_starters(workshop, rows, kind, accepted[kind])[: len(examples)]
    )


def _offered_starters(
    workshop: Workshop, rows: Iterable[EventRow], artifact_type: str, accepted: int
) -> Sequence[StarterExample]:
    """Those whose prompts are close to none of the specialty's, on whatever side.

    Learned from, they would give the exam away, or say something else than its owner has said.
    """
    offered = workshop.hooks.offer_examples(artifact_type=artifact_type, accepted=accepted)
    for one in offered:
        if not (0 < one.weight <= 1 and one.answer.strip()):
            raise DatasetError(
                f"A plugin offers the starter example '{one.prompt[:60]}' with the weight {one.weight} and "
                f"{len(one.answer)} characters of an answer; it must have one, and a weight above 0 and at most 1."
            )
    starters = _once([offered], lambda one: fold(one.prompt))
    close = _close(workshop, _kept_aside(workshop, (row.event for row in rows)), {fold(one.prompt) for one in starters})
    return [one for one in starters if fold(one.prompt) not in close]


def _artifact_type(workshop: Workshop, event: Event) -> str:
    return event.artifact_type or workshop.info.specialty.artifact_type


# --------------------------------------------------------------------------- what would give the exam away


def _kept_aside(workshop: Workshop, events: Iterable[Event]) -> KeptAside:
    """The prompts of these events, and those of the type that are held out."""
    held_out = [one.text for one in workshop.kept_aside if one.text is not None]
    return KeptAside(
        prompts=tuple(dict.fromkeys(map(fold, (*(event.input_data for event in events), *held_out)))),
        gone=tuple(one.fingerprint for one in workshop.kept_aside if one.fingerprint is not None),
    )


def _of_exams(rows: Iterable[EventRow], sides: dict[str, Side]) -> Iterator[Event]:
    """Events that are held out or may yet be; nobody asks what bridges the sides."""
    return (row.event for row in rows if row.group is not None and side_of(row, sides) is not Side.TRAINING)


def _close(workshop: Workshop, aside: KeptAside, texts: Collection[str]) -> frozenset[str]:
    """Which of some folded texts are near-duplicates of a prompt that is kept aside."""
    asked, offered = aside.prompts, sorted(texts)
    pairs = workshop.find_near((*asked, *offered), len(asked)) if asked and offered else ()
    like_gone = (text for text in offered if is_near_any(text, aside.gone))
    return frozenset(like_gone).union(offered[high - len(asked)] for _, high in pairs)


def _without_overheard(
    workshop: Workshop, training: tuple[ScoredEvent, ...], aside: KeptAside
) -> tuple[tuple[ScoredEvent, ...], tuple[LeftOut, ...]]:
    """Events in whose conversations no prompt of the exam was put before, and those in which one was."""
    close = _close(workshop, aside, {text for one in training for text in earlier_turns(one.event)})
    overheard = {one.event.key for one in training if not close.isdisjoint(earlier_turns(one.event))}
    reason = "its conversation has a prompt in it that is close to one that is kept for the exam"
    return (
        tuple(one for one in training if one.event.key not in overheard),
        tuple(_left_out(one.event, reason) for one in training if one.event.key in overheard),
    )


def _apart(workshop: Workshop, variants: Sequence[TrainingExample], aside: KeptAside) -> Iterator[TrainingExample]:
    """The variants that ask no near-duplicate of a prompt of the exam."""
    close = _close(workshop, aside, {text for one in variants for text in _asked_texts(one)})
    return (one for one in variants if close.isdisjoint(_asked_texts(one)))


def _preferences_apart(
    workshop: Workshop, events: Iterable[ScoredEvent], made: Sequence[P], aside: KeptAside
) -> list[P]:
    """The same of preferences, as far as plugins made up what they ask."""
    own = {one.event.key: one for one in events}
    made_up = [_made_up(workshop, one, own[one.event_id]) for one in made]
    close = _close(workshop, aside, frozenset(itertools.chain.from_iterable(made_up)))
    return [one for one, texts in zip(made, made_up, strict=True) if close.isdisjoint(texts)]


def _asked_texts(made: Made) -> tuple[str, ...]:
    """What is asked, with and without retrieved texts around it: who changes the one may forget the other."""
    prompts = [made.prompt] if isinstance(made, TrainingExample) else []
    return tuple(fold(text) for text in (*prompts, *(one.content for one in made.messages[-1:])))


def _made_up(workshop: Workshop, made: Made, scored: ScoredEvent) -> tuple[str, ...]:
    """What is asked in the place of an event's own prompt. One that has the event's words among others is another."""
    own = fold(scored.event.input_data)
    others = tuple(text for text in _asked_texts(made) if text != own)
    if not others:
        return ()
    built = _built_again(workshop, made, scored)
    return others if built is None else tuple(text for text in others if text != fold(built.messages[-1].content))


def _built_again(workshop: Workshop, made: Made, scored: ScoredEvent) -> TrainingExample | None:
    """What the event's own prompt looks like with the texts around it that were retrieved for what was made of it."""
    if isinstance(made, TrainingExample):
        return workshop.hooks.build_example(event=scored, chunks=made.chunks)
    return _build_prompt(workshop, scored)


def _wordings(
    workshop: Workshop,
    events: Iterable[ScoredEvent],
    examples: Iterable[TrainingExample],
    pairs: Iterable[PreferencePair],
    labels: Iterable[LabelledAnswer],
) -> tuple[Wording, ...]:
    """What each method reads as a prompt, and is no event's own: earlier turns, what was made up, what has no event.

    What was made up is in the group of its original. An earlier turn asks something else, so it has a group of its own.
    """
    own = {one.event.key: one for one in events}
    read = ((TrainingMethod.SFT, examples), (TrainingMethod.DPO, pairs), (TrainingMethod.KTO, labels))
    found = (
        Wording(event_id=one.event_id, group=group, text=text, method=method)
        for method, made in read
        for one in made
        for text, group in _read_beside(workshop, one, own.get(one.event_id))
    )
    return tuple(dict.fromkeys(found))


def _read_beside(workshop: Workshop, made: Made, scored: ScoredEvent | None) -> Iterator[tuple[str, str]]:
    """Texts and their groups."""
    made_up = _asked_texts(made) if scored is None else _made_up(workshop, made, scored)
    yield from ((text, made.group) for text in made_up)
    if scored is not None:
        yield from ((text, "") for text in earlier_turns(scored.event))


# --------------------------------------------------------------------------- exam items


def exam_items(workshop: Workshop, held_out: Sequence[EventRow]) -> tuple[ExamItem, ...]:
    """What an exam asks of events that nothing is learned from."""
    return _items(workshop, _score(workshop, held_out, held_out))


def _items(workshop: Workshop, held_out: tuple[ScoredEvent, ...]) -> tuple[ExamItem, ...]:
    """One item a group: equal prompts would count one ability several times over."""
    of_group: dict[str, ExamItem] = {}
    for item in filter(None, (_item(workshop, scored) for scored in held_out)):
        present = of_group.get(item.group)
        # the latest event speaks for its group, but never in the place of one that knows more
        if present is None or _knows(item) >= _knows(present):
            of_group[item.group] = item
    return tuple(of_group.values())


def _regression(
    workshop: Workshop, rows: Sequence[EventRow], believed: Iterable[ScoredEvent], folded: frozenset[str]
) -> tuple[ExamItem, ...]:
    """The latest correction of each group that the incumbent inherited: others it could not forget.

    Of groups that it did not, the candidate itself is asked what it learns tonight. So the guards see it where trial
    candidates prove the recipe, and where a version that knew them was taken back. Nobody is asked what is taken
    for noise or not learned from for its conversation.
    """
    inherited = frozenset(row.event.key for row in rows if row.inherited)
    # what was promoted and taken back is learned anew; a rebuild learns nothing, it has the lesson that there is
    returning = frozenset(row.group for row in rows if row.in_use and not row.inherited and row.group is not None)
    lesson = frozenset[str]() if workshop.info.reason == REBUILD else folded | returning
    asked = [one for one in believed if one.event.is_correction and (one.event.key in inherited or one.group in lesson)]
    items = filter(None, (_item(workshop, one) for one in asked))
    return tuple({item.group: _as_learned(item, inherited) for item in items}.values())


def _as_learned(item: ExamItem, inherited: frozenset[str]) -> ExamItem:
    if item.event_id in inherited:
        return replace(item, role=ItemRole.LEARNED)
    # a trial candidate is asked the same under the event's own name
    return replace(item, id=f"lesson/{item.id}", role=ItemRole.LESSON)


def gains(items: Iterable[ExamItem]) -> int:
    """How many items count for or against a candidate."""
    return sum(item.role is ItemRole.GAIN for item in items)


def _ranked(
    workshop: Workshop, held_out: tuple[ScoredEvent, ...], items: tuple[ExamItem, ...]
) -> tuple[PreferencePair, ...]:
    """A pair of a better and a worse answer to each prompt that was answered twice and of which no item counts.

    Both must be answers that were given, and to that prompt: what a plugin makes up to learn from proves nothing.
    """
    if not workshop.ranks:
        return ()
    known = frozenset(item.group for item in items if item.role is ItemRole.GAIN)
    events = tuple(one for one in held_out if one.group not in known and not one.event.metadata.deleted)
    given: dict[str, set[str | None]] = {}
    for one in events:
        given.setdefault(one.group, set()).update((one.event.ai_output, one.event.corrected_output))
    scored = {one.event.key: one for one in events}
    pairs = [
        one
        for one in _offered_pairs(workshop, events)
        if {one.chosen, one.rejected} <= given[scored[one.event_id].group]
        and not _made_up(workshop, one, scored[one.event_id])
    ]
    return tuple({one.group: one for one in _placed(workshop, events, pairs)}.values())


def _knows(item: ExamItem) -> tuple[bool, bool]:
    """How much an item can show, to be compared."""
    return item.role is ItemRole.GAIN, item.reference is not None


def _item(workshop: Workshop, scored: ScoredEvent) -> ExamItem | None:
    event = scored.event
    if _is_dislike(event) and event.ai_output:
        return _item_without_reference(workshop, scored, event.ai_output)
    if _objection(event) is not None:
        return None
    example = _build(workshop, scored)
    if example is None:
        return None
    return replace(_bare_item(workshop, scored, example), role=_role(event), reference=example.target)


def _item_without_reference(workshop: Workshop, scored: ScoredEvent, bad: str) -> ExamItem | None:
    """What failed a check that a validator here makes too counts: passing it is a gain. Other dislikes only guard."""
    example = _build_prompt(workshop, scored)
    if example is None:
        return None
    item = _bare_item(workshop, scored, example)
    if scored.event.feedback_type is FeedbackType.VALIDATION_FAILURE and not _passes(workshop, item, bad):
        return replace(item, role=ItemRole.GAIN)
    return replace(item, disliked=bad)


def _bare_item(workshop: Workshop, scored: ScoredEvent, example: TrainingExample) -> ExamItem:
    """The prompt alone."""
    event = scored.event
    return ExamItem(
        id=event.key,
        event_id=event.key,
        artifact_type=_artifact_type(workshop, event),
        role=ItemRole.GUARD,
        messages=example.messages,
        group=scored.group,
        tests=event.metadata.tests,
        schema=event.metadata.schema,
    )


def _role(event: Event) -> ItemRole:
    """A liked answer says that it was good, not that another is worse: it can only guard."""
    return ItemRole.GAIN if _is_better_known(event) else ItemRole.GUARD


def _is_better_known(event: Event) -> bool:
    """Whether it says what a better answer is."""
    return event.is_correction or event.metadata.demonstration or event.metadata.preference


# --------------------------------------------------------------------------- in the worker


def _workshop(context: WorkContext, rows: tuple[EventRow, ...], found: SplitResult, base: BaseSnapshot) -> Workshop:
    directory = context.run.step(Step.SELECT)
    training = [row.event for row in rows if side_of(row, found.sides) is Side.TRAINING]
    prompts = read_lines(context.run.step(Step.PREPARE) / "prompts.jsonl", PromptRow)
    snapshot = read_snapshot(context.run.step(Step.PREPARE) / "store.json")
    embed = open_embed(context.settings)
    measure = CombinedMeasure(context.hooks, embed)
    library, exam = OllamaLibrary(context.settings.ollama), context.settings.exam
    return Workshop(
        hooks=context.hooks,
        info=context.info,
        measure=measure,
        sampling=open_sampling(context, measure),
        generate=LocalModel(library, base.pin, exam),
        judge=LocalModel(library, exam.judge_model or base.pin, exam),
        retrieve=ChunkSearch([chunk for event in training for chunk in event.context.chunks]),
        store=JournalStore(snapshot, directory / "store.jsonl"),
        find_near=NearPrompts(measure, embed, context.settings.similarity.near_duplicate).across,
        embed=embed,
        recall=KeptRecall(context.settings, base, context.progress),
        method=context.settings.training.method,
        most_alike=context.settings.similarity.max_near_duplicates,
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
        # the network of some bases cannot be computed here, and plugins may train them
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
    better_known = frozenset(row.event.key for row in rows if _is_better_known(row.event))
    return Material(
        examples=len(dataset.examples),
        better_known=sum(one.event_id in better_known for one in dataset.examples),
        pairs=len(dataset.pairs),
        liked=sum(one.liked for one in dataset.labels),
        disliked=sum(not one.liked for one in dataset.labels),
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
        sampled=dataset.sampled,
        hyperparameters=workshop.hooks.suggest_hyperparameters(
            specialty=workshop.info.specialty,
            examples=len(dataset.examples),
            store=workshop.store,
            seed=workshop.info.seed,
        ),
        closing=closing,
        sources={
            TrainingMethod.SFT: _events_of((*dataset.examples, *dataset.replayed)),
            TrainingMethod.DPO: _events_of(dataset.pairs),
            TrainingMethod.KTO: _events_of(dataset.labels),
        },
        left_out=dataset.left_out,
        shots=_events_of(dataset.shots),
        replayed=replayed_of(dataset),
        starters=len(dataset.starters),
    )


def replayed_of(dataset: Dataset) -> Replayed:
    """What is learned again."""
    events = _events_of(dataset.replayed)
    return Replayed(events=events, answers=len(dataset.replayed) - len(events))


def _events_of(of_events: Iterable[TrainingExample | PreferencePair | LabelledAnswer]) -> tuple[str, ...]:
    """Their events; an answer of the base's own has none."""
    return tuple(dict.fromkeys(one.event_id for one in of_events if one.event_id))


def _left_out(event: Event, reason: str) -> LeftOut:
    return LeftOut(event_id=event.key, reason=reason)
