"""Step `split`: groups of prompts that have no side yet get one, for good."""

from nightschool_daemon.evaluation.context import WorkContext
from nightschool_daemon.jobs import EventRow, PrepareResult, SplitResult, Step, read_lines
from nightschool_daemon.learning.base_file import open_base
from nightschool_hookspecs.records import PromptGroup, Side, SideChoice


class SplitError(Exception):
    """A plugin broke a rule of the split; the message says which."""


def run(context: WorkContext) -> None:
    """Have the sides chosen, check them, and write `SplitResult`."""
    # the first look at the base's file: Ollama, which is asked next, says less of what is wrong with it
    open_base(context.run.result(Step.PREPARE, PrepareResult).base.gguf)
    rows = tuple(read_lines(context.run.step(Step.PREPARE) / "events.jsonl", EventRow))
    groups = group_rows(rows)
    choices = check_choices(groups, context.hooks.select_held_out(groups=groups, seed=context.info.seed))
    sides = sides_of(groups, choices)
    context.run.finish(
        Step.SPLIT,
        SplitResult(
            choices=choices,
            training_events=sum(sides.get(row.group) is Side.TRAINING for row in rows),
            held_out_events=sum(sides.get(row.group) is Side.HELD_OUT for row in rows),
        ),
    )


def group_rows(rows: tuple[EventRow, ...]) -> tuple[PromptGroup, ...]:
    """Put rows of equal prompts together, in order of first arrival."""
    by_key: dict[str, list[EventRow]] = {}
    for row in rows:
        by_key.setdefault(row.group, []).append(row)
    return tuple(
        PromptGroup(
            key=key,
            events=len(members),
            side=_side(key, members),
            trained_on=any(member.trained_on for member in members),
        )
        for key, members in by_key.items()
    )


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


def _side(key: str, members: list[EventRow]) -> Side | None:
    sides = {member.side for member in members if member.side is not None}
    if len(sides) > 1:
        raise SplitError(
            f"The group '{key}' is on both sides of the split. Its events cannot be used; "
            "`nightschool doctor` checks the ledger."
        )
    return next(iter(sides), None)
