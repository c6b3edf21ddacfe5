"""Rules of the split, the closing token, and the services of a worker."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon import codec
from nightschool_daemon.jobs import EventRow, PromptRow, StoreWrite
from nightschool_daemon.learning.conversations import earlier_turns
from nightschool_daemon.learning.grouping import AnyPrompt
from nightschool_daemon.learning.measuring import MEASURED
from nightschool_daemon.learning.rendering import CachedRenderer, RenderingError, find_closing, render_example
from nightschool_daemon.learning.services import ChunkSearch, JournalStore, read_snapshot
from nightschool_daemon.learning.split import (
    SplitError,
    check_choices,
    folds_of,
    group_rows,
    held_together,
    in_order,
    kept_to_measure,
    sides_of,
)
from nightschool_hookspecs import (
    Chunk,
    Context,
    Event,
    FeedbackType,
    Message,
    PromptGroup,
    Role,
    Side,
    SideChoice,
    TrainingExample,
)
from nightschool_plugins.evaluation_split import EvaluationSplit


def row(identifier: str, group: str, side: Side | None = None, *, trained_on: bool = False) -> EventRow:
    event = Event(
        id=identifier,
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        feedback_type=FeedbackType.SUCCESS,
        input_data="q",
    )
    return EventRow(event=event, group=group, side=side, trained_on=trained_on, arrival=0)


def test_rows_of_a_group_share_its_side_and_its_history() -> None:
    rows = (row("1", "a"), row("2", "b", Side.HELD_OUT), row("3", "a", trained_on=True), row("4", "b"))
    assert group_rows(rows) == (
        PromptGroup(key="a", events=2, side=None, trained_on=True),
        PromptGroup(key="b", events=2, side=Side.HELD_OUT, trained_on=False),
    )


def said(identifier: str, *turns: str, group: str | None = "", side: Side | None = None) -> EventRow:
    """The last turn is its prompt."""
    before = tuple(Message(role=Role.USER, content=turn) for turn in turns[:-1])
    found = row(identifier, identifier if group == "" else group or "", side)
    event = replace(found.event, input_data=turns[-1], context=Context(messages=before))
    return replace(found, event=event, group=None if group is None else found.group)


@pytest.mark.parametrize(
    ("last", "goes_on"),
    [
        (said("3", "Hi!", "list", "and count"), {"1", "2"}),
        # what nothing is learned from cannot be kept out of a lesson
        (said("3", "Hi!", "list", "and count", side=Side.HELD_OUT), set()),
        (said("3", "Hi!", "list", "and count", group=None), set()),
    ],
)
def test_a_group_goes_on_where_a_conversation_may_be_learned_from(last: EventRow, goes_on: set[str]) -> None:
    groups = group_rows((said("1", "hi"), said("2", "List."), last))
    assert {one.key for one in groups if one.goes_on} == goes_on


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), min_size=20, max_size=40))
def test_no_conversation_is_lost_for_a_prompt_that_is_newly_held_out(conversations: list[list[int]]) -> None:
    """Where every turn comes as feedback, each with what was said before it."""
    rows = tuple(
        said(f"{number}/{place}", *(f"prompt {one}" for one in turns[: place + 1]), group=f"prompt {turns[place]}")
        for number, turns in enumerate(conversations)
        for place in range(len(turns))
    )
    choices = EvaluationSplit().nightschool_select_held_out(group_rows(rows), 1)
    held_out = {one.key for one in choices if one.side is Side.HELD_OUT}
    lost = [row for row in rows if row.group not in held_out and not held_out.isdisjoint(earlier_turns(row.event))]
    assert lost == []


def test_a_group_on_both_sides_is_refused() -> None:
    with pytest.raises(SplitError, match="both sides"):
        group_rows((row("1", "a", Side.HELD_OUT), row("2", "a", Side.TRAINING)))


GROUPS = (
    PromptGroup(key="new", events=1),
    PromptGroup(key="seen", events=1, trained_on=True),
    PromptGroup(key="old", events=1, side=Side.TRAINING),
)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (SideChoice(key="old", side=Side.HELD_OUT), "sides are final"),
        (SideChoice(key="seen", side=Side.HELD_OUT), "was trained on it"),
        (SideChoice(key="stranger", side=Side.TRAINING), "does not exist"),
    ],
)
def test_a_choice_that_breaks_a_rule_is_refused(choice: SideChoice, sentence: str) -> None:
    with pytest.raises(SplitError, match=sentence):
        check_choices(GROUPS, (choice,))


def test_contradicting_choices_are_refused() -> None:
    both = (SideChoice(key="new", side=Side.HELD_OUT), SideChoice(key="new", side=Side.TRAINING))
    with pytest.raises(SplitError, match="sides are final"):
        check_choices(GROUPS, both)


def test_only_new_choices_are_passed_on() -> None:
    choices = (SideChoice(key="new", side=Side.HELD_OUT), SideChoice(key="old", side=Side.TRAINING))
    accepted = check_choices(GROUPS, choices)
    assert accepted == choices[:1]
    assert sides_of(GROUPS, accepted) == {"new": Side.HELD_OUT, "old": Side.TRAINING}


# --------------------------------------------------------------------------- training by hand


def kept(groups: Sequence[PromptGroup], seed: int = 1) -> set[str]:
    choices = kept_to_measure(tuple(groups), seed)
    assert {one.key for one in choices} == {one.key for one in groups}
    return {one.key for one in choices if one.side is Side.HELD_OUT}


@pytest.mark.parametrize(("events", "apart"), [(1, 0), (99, 0), (100, 10), (159, 15), (400, 40), (5000, MEASURED)])
def test_a_training_by_hand_keeps_a_tenth_of_many_events_apart_and_learns_the_rest(events: int, apart: int) -> None:
    assert len(kept([PromptGroup(key=str(number), events=1) for number in range(events)])) == apart


def test_it_keeps_whole_groups_apart_from_which_no_conversation_goes_on() -> None:
    large = [PromptGroup(key=f"large {number}", events=30) for number in range(3)]
    open_ones = [PromptGroup(key=f"open {number}", events=1, goes_on=True) for number in range(50)]
    small = [PromptGroup(key=f"small {number}", events=3) for number in range(20)]
    found = kept([*large, *open_ones, *small])
    assert len(found) == 200 // 10 // 3
    assert all(key.startswith("small") for key in found)
    assert found != kept([*large, *open_ones, *small], seed=2)


# --------------------------------------------------------------------------- folds

FOLDABLE = (
    PromptGroup(key="a", events=1),
    PromptGroup(key="b", events=1),
    PromptGroup(key="held", events=1),
    PromptGroup(key="known", events=1, in_use=True),
)
SIDES = {"a": Side.TRAINING, "b": Side.TRAINING, "held": Side.HELD_OUT, "known": Side.TRAINING}


def test_folds_are_divided_by_the_sides_that_were_just_decided() -> None:
    seen: list[PromptGroup] = []

    def divide(groups: tuple[PromptGroup, ...]) -> tuple[tuple[str, ...], ...]:
        seen.extend(groups)
        return (("a",), ("b",), ())

    assert folds_of(FOLDABLE, SIDES, divide) == (("a",), ("b",))
    assert {group.key: group.side for group in seen} == SIDES


def test_one_fold_is_none() -> None:
    assert folds_of(FOLDABLE, SIDES, lambda _: (("a", "b"), ())) == ()


@pytest.mark.parametrize(
    ("folds", "sentence"),
    [
        ((("a",), ("held",)), "'held' into a fold"),
        ((("a",), ("known",)), "'known' into a fold"),
        ((("a",), ("stranger",)), "'stranger' into a fold"),
        ((("a", "b"), ("b",)), "twice"),
    ],
)
def test_a_division_that_would_prove_nothing_is_refused(folds: tuple[tuple[str, ...], ...], sentence: str) -> None:
    with pytest.raises(SplitError, match=sentence):
        folds_of(FOLDABLE, SIDES, lambda _: folds)


def of_group(key: str, group: str, *, in_use: bool = False) -> PromptRow:
    return PromptRow(key=key, text=key, placed=True, group=group, side=Side.TRAINING, in_use=in_use)


def near_by_first_letter(prompts: Sequence[AnyPrompt], since: int) -> list[tuple[int, int]]:
    first = [str(prompt)[0] for prompt in prompts]
    return [(low, high) for high in range(since, len(first)) for low in range(high) if first[low] == first[high]]


def test_what_is_near_across_folds_is_brought_into_one() -> None:
    """A prompt near two groups is in one of them: the trial candidate that is asked the other would learn it."""
    prompts = [of_group("x1", "a"), of_group("x2", "c"), of_group("y1", "b"), of_group("z1", "d"), of_group("y2", "e")]
    folds = (("a", "e"), ("b",), ("c",), ("d",))
    assert held_together(folds, prompts, {}, near_by_first_letter) == (("a", "e", "b", "c"), ("d",))
    assert held_together(folds, prompts, {}, lambda *_: []) == folds
    assert held_together((), prompts, {}, near_by_first_letter) == ()


def test_what_is_near_to_what_a_version_in_use_knows_is_in_no_fold() -> None:
    known = of_group("x1", "known", in_use=True)
    prompts = [known, of_group("x2", "a"), of_group("y1", "b"), of_group("z1", "c")]
    assert held_together((("a", "b"), ("c",)), prompts, {}, near_by_first_letter) == (("b",), ("c",))
    assert held_together((("a",), ("c",)), prompts, {}, near_by_first_letter) == ()


def test_groups_are_in_order_of_their_first_prompt_also_when_feedback_on_it_comes_again() -> None:
    def prompt(key: str, group: str | None) -> PromptRow:
        return PromptRow(key=key, text=key, placed=group is not None, group=group, side=None)

    prompts = (prompt("1", "b"), prompt("2", "a"), prompt("3", "b"), prompt("new", None))
    ordered = in_order((*FOLDABLE[:2], PromptGroup(key="c", events=1)), prompts, {"new": "c"})
    assert [group.key for group in ordered] == ["b", "a", "c"]


# --------------------------------------------------------------------------- rendering


class Template:
    """A chat template of a well-known kind."""

    def __init__(self, user: str, assistant: str, closing: str, *, forgets: bool = False) -> None:
        self._parts = {Role.USER: (user, ""), Role.ASSISTANT: (assistant, closing)}
        self._forgets = forgets
        self.calls = 0

    def __call__(self, messages: Sequence[Message]) -> str:
        self.calls += 1
        kept = messages[-1:] if self._forgets else messages
        return "".join(self._parts[one.role][0] + one.content + self._parts[one.role][1] for one in kept)


@pytest.mark.parametrize(
    ("template", "stops", "closing"),
    [
        (Template("<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"), [], "<end_of_turn>"),
        (Template("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"), ["<|im_end|>"], "<|im_end|>"),
        (Template("[INST] ", " [/INST] ", "</s>"), ["[INST]", "[/INST]"], "</s>"),
        (Template("USER: ", "ASSISTANT: ", "\n###END\n"), ["###END"], "\n###END"),
        (Template("<|user|>\n", "<|assistant|>\n", " <|end|>\n"), [], " <|end|>"),
    ],
)
def test_the_closing_token_is_what_stands_behind_an_answer(template: Template, stops: list[str], closing: str) -> None:
    assert find_closing(template, stops) == closing


def test_an_answer_that_nothing_closes_cannot_be_learned() -> None:
    with pytest.raises(RenderingError, match="no special token"):
        find_closing(Template("USER: ", "\nASSISTANT: ", "\n"), [])


def test_a_template_that_forgets_earlier_turns_cannot_be_learned() -> None:
    with pytest.raises(RenderingError, match="leaves earlier turns out"):
        find_closing(Template("<u>", "<a>", "</s>", forgets=True), [])


def test_each_conversation_is_rendered_once() -> None:
    template = Template("<u>", "<a>", "</s>")
    render = CachedRenderer(template)
    example = TrainingExample(
        event_id="s/1",
        messages=(Message(role=Role.USER, content="q"),),
        target="t",
        weight=2.0,
        difficulty=0.75,
        score=30.0,
    )
    text, again = (render_example(example, render, "</s>") for _ in range(2))
    assert text == again
    assert (text.event_id, text.prompt, text.completion, text.weight) == ("s/1", "<u>q", "t</s>", 2.0)
    assert (text.difficulty, text.score) == (0.75, 30.0)
    assert template.calls == 1


# --------------------------------------------------------------------------- services


def test_a_search_finds_the_chunk_with_the_same_words_first() -> None:
    chunks = (Chunk(text="how to bake bread"), Chunk(text="list all files of a directory"), Chunk(text="zzz"))
    best, *others = ChunkSearch(chunks)("files in a directory", limit=2)
    assert best.text == "list all files of a directory"
    assert len(others) <= 1
    assert best.score is not None
    assert 0 < best.score <= 1


def test_a_store_reads_its_snapshot_and_journals_every_write(tmp_path: Path) -> None:
    snapshot = tmp_path / "store.json"
    snapshot.write_text('{"stage":"1","gone":"x"}', encoding="utf-8")
    journal = tmp_path / "store.jsonl"
    store = JournalStore(read_snapshot(snapshot), journal)
    store.put("stage", "2")
    store.delete("gone")
    store.delete("never there")
    assert (store.get("stage"), store.get("gone")) == ("2", None)
    lines = journal.read_text(encoding="utf-8").splitlines()
    assert [codec.from_json(line, StoreWrite) for line in lines] == [
        StoreWrite(key="stage", value="2"),
        StoreWrite(key="gone", value=None),
    ]
    assert read_snapshot(tmp_path / "missing.json") == {}
