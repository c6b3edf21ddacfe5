"""Step `split`: new prompts are put into groups of near-duplicates, and groups without a side get one, for good.

For a training by hand, which no exam follows, nothing is held out but a small part on which losses are taken.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.similarity import CombinedMeasure
from nightschool_daemon.jobs import EventRow, PrepareResult, PromptRow, SplitResult, Step, read_lines
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.conversations import earlier_turns
from nightschool_daemon.learning.grouping import FindNear, NearPrompts, place, prompt_of, regroup
from nightschool_daemon.reasons import is_by_hand
from nightschool_daemon.wording import fold
from nightschool_hookspecs.records import PromptGroup, Side, SideChoice

Choose = Callable[[tuple[PromptGroup, ...]], tuple[SideChoice, ...]]
Folds = tuple[tuple[str, ...], ...]
Divide = Callable[[tuple[PromptGroup, ...]], Folds]
KNOWN = -1
"""In the place of a fold's number: a version in use knows the group."""
MEASURED_FROM = 100
"""Of fewer events a training by hand learns all."""
MEASURED_SHARE, MOST_MEASURED = 10, 40
"""Of more, one in so many is kept apart, and at most so many: on no more losses are taken (`verification.LOSS_TEXTS`).
"""


class SplitError(Exception):
    """A plugin broke a rule of the split; the message says which."""


def run(context: WorkContext) -> None:
    """Place the prompts, have the sides chosen, check them, and write `SplitResult`."""
    # the first look at the base's file: Ollama, which is asked next, says less of what is wrong with it
    open_base(context.run.result(Step.PREPARE, PrepareResult).base.gguf)
    frozen = context.run.step(Step.PREPARE)
    rows = tuple(read_lines(frozen / "events.jsonl", EventRow))
    prompts = tuple(read_lines(frozen / "prompts.jsonl", PromptRow))
    context.progress(0, 1, f"looks for near-duplicates among {len(prompts)} prompts")
    embed = open_embed(context.settings)
    near = NearPrompts.of(CombinedMeasure(context.hooks, embed), embed, context.settings)

    found = split(rows, prompts, near, chooser(context))
    groups = in_order(group_rows(regroup(rows, found.groups, found.sides)), prompts, found.groups)
    folds = held_together(folds_of(groups, found.sides, divider(context)), prompts, found.groups, near)
    context.run.finish(Step.SPLIT, replace(found, folds=folds))


def chooser(context: WorkContext) -> Choose:
    """What decides sides."""
    seed = context.info.seed
    if is_by_hand(context.info):
        return lambda groups: kept_to_measure(groups, seed)
    return lambda groups: context.hooks.select_held_out(groups=groups, seed=seed)


def divider(context: WorkContext) -> Divide:
    """What divides for cross-fitting."""
    if is_by_hand(context.info):
        return lambda _: ()
    return lambda groups: context.hooks.select_folds(groups=groups)


def kept_to_measure(groups: tuple[PromptGroup, ...], seed: int) -> tuple[SideChoice, ...]:
    """Sides of a training by hand: groups by chance, of whose prompts no conversation goes on."""
    events = sum(group.events for group in groups)
    left = min(events // MEASURED_SHARE, MOST_MEASURED) if events >= MEASURED_FROM else 0
    apart = set[str]()
    for group in random.Random(f"{seed}/apart").sample(groups, len(groups)):  # noqa: S311 - no secret
        if group.events <= left and not group.goes_on:
            apart.add(group.key)
            left -= group.events
    return tuple(
        SideChoice(key=group.key, side=Side.HELD_OUT if group.key in apart else Side.TRAINING) for group in groups
    )


def split(rows: tuple[EventRow, ...], prompts: Sequence[PromptRow], find_near: FindNear, choose: Choose) -> SplitResult:
    """Groups and sides of everything that has none. Raises `SplitError` where a choice breaks a rule."""
    placed = place(prompts, find_near)
    known = {prompt.group: prompt.side for prompt in prompts if prompt.group is not None and prompt.side is not None}
    rows = regroup(rows, placed, known)
    groups = group_rows(rows)
    choices = check_choices(groups, choose(groups))
    sides = sides_of(groups, choices)
    decided = known | sides
    return SplitResult(
        choices=choices,
        training_events=sum(side_of(row, sides) is Side.TRAINING for row in rows),
        held_out_events=sum(side_of(row, sides) is Side.HELD_OUT for row in rows),
        groups={key: group for key, group in placed.items() if group is None or group in decided},
        sides=sides,
    )


def side_of(row: EventRow, sides: Mapping[str, Side]) -> Side | None:
    """The side of a row's group; None where it is not decided, and for a row that goes to neither."""
    return sides.get(row.group) if row.group is not None else None


def group_rows(rows: tuple[EventRow, ...]) -> tuple[PromptGroup, ...]:
    """Put rows of one group together, in order of first arrival. Those that go to neither side are left out."""
    going_on = _going_on(rows)
    by_key: dict[str, list[EventRow]] = {}
    for row in rows:
        if row.group is not None:
            by_key.setdefault(row.group, []).append(row)
    return tuple(
        PromptGroup(
            key=key,
            events=len(members),
            side=_side(key, members),
            trained_on=any(member.trained_on for member in members),
            in_use=any(member.in_use for member in members),
            goes_on=any(fold(member.event.input_data) in going_on for member in members),
        )
        for key, members in by_key.items()
    )


def _going_on(rows: Iterable[EventRow]) -> frozenset[str]:
    """What was asked earlier in conversations that may be learned from."""
    open_rows = (row for row in rows if row.group is not None and row.side is not Side.HELD_OUT)
    return frozenset(text for row in open_rows for text in earlier_turns(row.event))


def check_choices(groups: tuple[PromptGroup, ...], choices: tuple[SideChoice, ...]) -> tuple[SideChoice, ...]:
    """Return the choices that are new, once each. Raises `SplitError` for one that breaks a rule."""
    known = {group.key: group for group in groups}
    accepted: dict[str, SideChoice] = {}
    for choice in choices:
        group = known.get(choice.key)
        if group is None:
            raise SplitError(f"A plugin chose a side for the group '{choice.key}', which does not exist.")
        decided = accepted[choice.key].side if choice.key in accepted else group.side
        if decided is not None and decided is not choice.side:
            raise SplitError(
                f"A plugin moved the group '{choice.key}' from {decided} to {choice.side}; sides are final."
            )
        if choice.side is Side.HELD_OUT and group.side is None and group.trained_on:
            raise SplitError(f"A plugin held out the group '{choice.key}', but a version was trained on it.")
        if group.side is None:
            accepted[choice.key] = choice
    return tuple(accepted.values())


def sides_of(groups: tuple[PromptGroup, ...], choices: tuple[SideChoice, ...]) -> dict[str, Side]:
    """The side of every group that has one, by its key."""
    decided = {group.key: group.side for group in groups if group.side is not None}
    return decided | {choice.key: choice.side for choice in choices}


def in_order(
    groups: tuple[PromptGroup, ...], prompts: Sequence[PromptRow], placed: Mapping[str, str | None]
) -> tuple[PromptGroup, ...]:
    """Groups in order of their first prompt, which stays what it is when feedback on it comes again."""
    first: dict[str | None, int] = {}
    for number, prompt in enumerate(prompts):
        first.setdefault(placed.get(prompt.key, prompt.group), number)
    return tuple(sorted(groups, key=lambda group: first.get(group.key, len(prompts))))


def folds_of(groups: tuple[PromptGroup, ...], sides: Mapping[str, Side], divide: Divide) -> Folds:
    """Folds for cross-fitting, or none. Raises `SplitError` where a division breaks a rule."""
    sided = tuple(replace(group, side=sides.get(group.key)) for group in groups)
    free = {group.key for group in sided if group.side is Side.TRAINING and not group.in_use}
    folds = tuple(fold for fold in divide(sided) if fold)
    keys = [key for fold in folds for key in fold]
    foreign = next((key for key in keys if key not in free), None)
    if foreign is not None:
        raise SplitError(
            f"A plugin put the group '{foreign}' into a fold, which is held out, known to a version in use, or not "
            "there. Its answers would prove nothing."
        )
    if len(set(keys)) < len(keys):
        raise SplitError("A plugin put a group into a fold twice.")
    return folds if len(folds) > 1 else ()


def held_together(
    folds: Folds, prompts: Sequence[PromptRow], placed: Mapping[str, str | None], find_near: FindNear
) -> Folds:
    """Folds of which none has a near-duplicate of what is in another, or of what a version in use knows.

    A prompt that is near two groups of one side is in the first, and leaves the other as near to it as it is.
    """
    grouped = [(prompt, group) for prompt in prompts if (group := placed.get(prompt.key, prompt.group)) is not None]
    home = {key: number for number, fold in enumerate(folds) for key in fold}
    home |= {group: KNOWN for prompt, group in grouped if prompt.in_use and folds}
    wanted = [(prompt, group) for prompt, group in grouped if group in home]
    near = find_near([prompt_of(prompt) for prompt, _ in wanted], 0)
    links = {(wanted[low][1], wanted[high][1]) for low, high in near}
    while any(home[one] != home[other] for one, other in links):
        for one, other in links:
            home[one] = home[other] = min(home[one], home[other])
    kept = (tuple(key for fold in folds for key in fold if home[key] == number) for number in range(len(folds)))
    found = tuple(fold for fold in kept if fold)
    return found if len(found) > 1 else ()


def _side(key: str, members: list[EventRow]) -> Side | None:
    sides = {member.side for member in members if member.side is not None}
    if len(sides) > 1:
        raise SplitError(
            f"The group '{key}' is on both sides of the split. Its events cannot be used; "
            "`nightschool doctor` checks the ledger."
        )
    return next(iter(sides), None)
