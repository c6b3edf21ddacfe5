"""Groups of near-duplicate prompts: never on both sides, whatever comes in whatever order."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from nightschool_daemon.evaluation.embedding import CachedEmbed, StaticEmbedder
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.intake.assignment import group_of
from nightschool_daemon.jobs import EventRow, PromptRow
from nightschool_daemon.learning.duplicates import FIRST, WINDOW
from nightschool_daemon.learning.grouping import AnyPrompt, FindNear, Gone, NearPrompts, kept_aside, place, regroup
from nightschool_daemon.learning.split import Choose, split
from nightschool_daemon.ledger import IncomingEvent, Ledger
from nightschool_daemon.wording import fingerprint_of, fold
from nightschool_hookspecs import Event, FeedbackType, PromptGroup, Side, SideChoice, Specialty

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DATA = Path(__file__).parents[2] / "data" / "nl2bash"
LOWEST = 0.8
SECRET = b"a secret of sixteen bytes or more"


def prompt(key: str, group: str | None = None, side: Side | None = None, *, placed: bool | None = None) -> PromptRow:
    decided = side is not None if placed is None else placed
    return PromptRow(key=key, text=key, placed=decided, group=group if decided else key, side=side)


def near(*pairs: tuple[AnyPrompt, AnyPrompt]) -> FindNear:
    """Says of these pairs that they are near."""
    known = {frozenset(pair) for pair in pairs}

    def find(prompts: Sequence[AnyPrompt], since: int) -> Iterable[tuple[int, int]]:
        pairs = [(low, high) for high in range(since, len(prompts)) for low in range(high)]
        return [(low, high) for low, high in pairs if frozenset((prompts[low], prompts[high])) in known]

    return find


def test_new_prompts_that_are_near_form_a_group_named_by_the_first() -> None:
    found = place([prompt("a"), prompt("b"), prompt("c")], near(("a", "c")))
    assert found == {"a": "a", "b": "b", "c": "a"}


def test_a_new_prompt_joins_the_group_that_is_there() -> None:
    known = prompt("old", "g", Side.HELD_OUT)
    assert place([known, prompt("new")], near(("old", "new"))) == {"new": "g"}


def test_a_prompt_between_two_undecided_groups_makes_them_one() -> None:
    found = place([prompt("a"), prompt("b"), prompt("c")], near(("a", "c"), ("b", "c")))
    assert found == {"a": "a", "b": "a", "c": "a"}


def test_an_undecided_group_follows_a_later_prompt_onto_its_side() -> None:
    known = prompt("old", "g", Side.TRAINING)
    assert place([known, prompt("a"), prompt("b")], near(("a", "b"), ("old", "b"))) == {"a": "g", "b": "g"}


SIDED = (prompt("t", "training", Side.TRAINING), prompt("h", "held out", Side.HELD_OUT))


def test_a_prompt_that_bridges_the_sides_goes_to_neither() -> None:
    found = place([*SIDED, prompt("bridge"), prompt("free")], near(("t", "bridge"), ("h", "bridge")))
    assert found == {"bridge": None, "free": "free"}


def test_a_prompt_that_bridges_connects_nothing_else() -> None:
    found = place([*SIDED, prompt("x"), prompt("bridge")], near(("t", "bridge"), ("h", "bridge"), ("x", "bridge")))
    assert found == {"x": "x", "bridge": None}
    earlier = prompt("bridge", None, None, placed=True)
    assert place([*SIDED, earlier, prompt("x")], near(("x", "bridge"))) == {"x": "x"}


def test_a_chain_breaks_where_it_would_tie_the_sides_together() -> None:
    found = place([*SIDED, prompt("b"), prompt("c")], near(("t", "b"), ("b", "c"), ("c", "h")))
    assert found == {"b": "training", "c": None}


def gone(key: str, group: str, side: Side, text: str) -> PromptRow:
    """A prompt whose events are gone."""
    return replace(prompt(key, group, side), text=None, fingerprint=fingerprint_of(text, SECRET))


def test_a_prompt_is_told_from_what_is_gone_by_its_fingerprint() -> None:
    known = gone("digest", "g", Side.TRAINING, "count the lines of every file below this directory")
    near_it = prompt("count the lines of each file below this directory")
    assert place([known, near_it, prompt("draw a cat")], metrics()) == {near_it.key: "g", "draw a cat": "draw a cat"}
    held = prompt("count the lines of each fiel below this directory", "held out", Side.HELD_OUT)
    assert place([known, held, near_it], metrics()) == {near_it.key: None}


def test_held_out_are_prompts_of_all_bases_and_those_that_just_came_to_be() -> None:
    prompts = (
        *SIDED,
        prompt("new"),
        prompt("joins"),
        prompt("bridge", placed=True),
        gone("x", "g", Side.HELD_OUT, "x"),
    )
    placed = {"new": "new", "joins": "held out", "bridge": None}
    assert [one.key for one in kept_aside(prompts, placed, {})] == ["h", "joins", "x"]
    assert [one.key for one in kept_aside(prompts, placed, {"new": Side.HELD_OUT})] == ["h", "new", "joins", "x"]
    # of a trial candidate's split
    assert [one.key for one in kept_aside(prompts, placed, {"training": Side.HELD_OUT})] == ["t", "h", "joins", "x"]


def test_rows_take_over_what_was_found_and_decided_ones_stay() -> None:
    rows = (row("1", "p"), row("2", "q"), row("3", "g", Side.TRAINING), row("4", None))
    found = regroup(rows, {"p": "g", "q": None, "g": "another"}, {"g": Side.TRAINING})
    assert [(one.group, one.side) for one in found] == [
        ("g", Side.TRAINING),
        (None, None),
        ("g", Side.TRAINING),
        (None, None),
    ]


def row(identifier: str, group: str | None, side: Side | None = None) -> EventRow:
    event = Event(id=identifier, timestamp=NOW, feedback_type=FeedbackType.SUCCESS, input_data=identifier)
    return EventRow(event=event, group=group, side=side, trained_on=False, arrival=0)


def chooses(*choices: SideChoice) -> Choose:
    return lambda _groups: choices


def test_a_group_is_remembered_only_once_it_has_a_side() -> None:
    rows, prompts = (row("1", "a"), row("2", "b")), (prompt("a"), prompt("b"), prompt("of another base"))
    nothing = split(rows, prompts, near(), chooses())
    assert (nothing.groups, nothing.sides) == ({}, {})
    assert [len(prompts), nothing.training_events] == [3, 0]
    held = (SideChoice(key="a", side=Side.HELD_OUT),)
    some = split(rows, prompts, near(("a", "of another base")), chooses(*held))
    assert some.groups == {"a": "a", "of another base": "a"}
    assert (some.sides, some.held_out_events) == ({"a": Side.HELD_OUT}, 1)


def test_a_group_that_only_another_base_decided_holds_here_too() -> None:
    elsewhere = prompt("p of another base", "g", Side.TRAINING)
    asked: list[tuple[PromptGroup, ...]] = []

    def choose(groups: tuple[PromptGroup, ...]) -> tuple[SideChoice, ...]:
        asked.append(groups)
        return ()

    found = split((row("1", "p"),), (elsewhere, prompt("p")), near(("p", elsewhere.key)), choose)
    assert asked == [(PromptGroup(key="g", events=1, side=Side.TRAINING),)]
    assert (found.groups, found.sides, found.training_events) == ({"p": "g"}, {"g": Side.TRAINING}, 1)


# --------------------------------------------------------------------------- nights upon nights


def metrics() -> NearPrompts:
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("similarity_edit", "similarity_bleu"))
    return NearPrompts(CombinedMeasure(hooks, no_embeddings), no_embeddings, LOWEST, SECRET)


def steps(one: str, other: str) -> list[str]:
    """From a text to another of as many words, a word at a time: each is near its neighbours, the ends are not."""
    left, right = one.split(), other.split()
    return [" ".join([*right[:place], *left[place:]]) for place in range(len(left) + 1)]


POOL = (
    *steps(
        "find all regular files named core below the home directory and remove each of them right now",
        "print every symbolic link that points at nothing within /usr/local then count these broken ones twice",
    ),
    "Find all regular files named core below the home directory, and remove each of them right now!",
    "find all regular flies named core below the home directory and remove each of them right now",
    "print every symbolic link that points at nothing within /usr/local then count these broken ones thrice",
    "archive the logs of last week",
    "archive the logs of last month",
    "Archive the logs of last week.",
    "",
)
BASES = ("tiny:1b", "small:3b", None)


def test_the_search_finds_every_near_pair_of_the_pool() -> None:
    texts = list(dict.fromkeys(fold(text) for text in POOL))
    measure = CombinedMeasure(
        Hooks.load(plugin_directory=None, tables={}, built_in=("similarity_edit", "similarity_bleu")), no_embeddings
    )
    pairs = [(i, j) for j in range(len(texts)) for i in range(j)]
    measured = {
        (i, j) for i, j in pairs if measure([min(texts[i], texts[j])], [max(texts[i], texts[j])]).values[0] >= LOWEST
    }
    by_edits = {(i, j) for i, j in pairs if Levenshtein.normalized_similarity(texts[i], texts[j]) >= LOWEST}
    assert len(measured) > 10
    # of those with few edits only the ones that are slips of the pen
    assert measured <= set(metrics()(texts, 0)) <= measured | by_edits


def by_default(directory: Path) -> NearPrompts:
    """As an installation is configured that changes nothing, without Ollama."""
    embed = CachedEmbed(StaticEmbedder, directory / "vectors.sqlite3")
    return NearPrompts(CombinedMeasure(Hooks.load(plugin_directory=None, tables={}), embed), embed, 0.85, SECRET)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("list all hidden files in the current directory", "list all hiddne files in the current directory"),
        ("show disk usage of the home directory", "show disk usgae of teh home directory"),
    ],
)
def test_a_slip_of_the_pen_makes_no_other_prompt_by_the_metrics_that_are_asked_by_default(
    one: str, other: str, tmp_path: Path
) -> None:
    assert by_default(tmp_path)([one, other], 1) == [(0, 1)]
    assert by_default(tmp_path).across([one, other], 1) == [(0, 1)]


def real_prompts() -> list[str]:
    """Descriptions of shell commands, once each."""
    lines = (DATA / "descriptions.txt").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(map(fold, lines)))


def test_a_thousand_strangers_that_are_gone_leave_a_new_prompt_free() -> None:
    """Though all are out of one book: of hundreds one or two may be said in the words of one that is gone."""
    texts = Random(1).sample(real_prompts(), 1300)
    old, new = texts[:1000], texts[1000:]
    alike = cdist(new, old, scorer=Levenshtein.normalized_similarity).max(axis=1)
    strangers = [text for text, most in zip(new, alike, strict=True) if most < 0.7]
    known = [gone(text, f"group {text}", Side(Random(text).choice(list(Side))), text) for text in old]
    found = place([*known, *map(prompt, strangers)], by_edits())
    assert len(strangers) > 200
    # some are near each other
    assert sum(found[text] not in strangers for text in strangers) < 0.01 * len(strangers)


def test_who_asks_again_what_is_gone_is_known_among_a_thousand() -> None:
    old = [text for text in Random(1).sample(real_prompts(), 1000) if len(text) > 40]
    known = [gone(text, f"group {text}", Side.TRAINING, text) for text in old]
    again = {with_slips(text): f"group {text}" for text in old[:200]}
    found = place([*known, *map(prompt, again)], by_edits())
    assert not [text for text in again if found[text] == text]
    # a few are as near to another one that is gone
    assert sum(found[text] == group for text, group in again.items()) >= 0.98 * len(again)


def with_slips(text: str) -> str:
    """Two letters swapped at the third and at the last word."""
    words = text.split()
    for place_of in (2, -1):
        word = words[place_of % len(words)]
        words[place_of % len(words)] = word[:-2] + word[-2:][::-1]
    return " ".join(words)


def by_edits() -> NearPrompts:
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("similarity_edit",))
    return NearPrompts(CombinedMeasure(hooks, no_embeddings), no_embeddings, 0.85, SECRET)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(POOL), min_size=2, max_size=5), st.data())
def test_across_are_the_pairs_of_one_from_each_list_also_of_what_is_gone(texts: list[str], data: st.DataObject) -> None:
    folded = [fold(text) for text in texts]
    prompts: list[AnyPrompt] = [
        Gone(fingerprint=fingerprint_of(text, SECRET)) if data.draw(st.booleans()) else text for text in folded
    ]
    since, near_by = data.draw(st.integers(0, len(texts))), metrics()
    pairs = near_by(prompts, 0)
    assert near_by(prompts, since) == [(low, high) for low, high in pairs if high >= since]
    assert near_by.across(prompts, since) == [(low, high) for low, high in pairs if low < since <= high]
    # of each two on their own the answer is the same
    alone = [
        (low, high) for low, high in combinations(range(len(prompts)), 2) if near_by([prompts[low], prompts[high]], 1)
    ]
    assert alone == pairs


def test_of_a_crowd_of_which_much_is_gone_every_new_prompt_is_near_what_is_known() -> None:
    texts = [f"count the lines of every file below directory {number}" for number in range(300)]
    folded: list[AnyPrompt] = [
        text if place % 2 else Gone(fingerprint=fingerprint_of(text, SECRET)) for place, text in enumerate(texts)
    ]
    for pairs in (by_edits()(folded, 100), by_edits().across(folded, 100)):
        assert {high for low, high in pairs if low < 100} == set(range(100, 300))
        assert len(pairs) < 200 * 2 * (WINDOW + FIRST)


CROWDS = [
    ("what is {} percent of 640 euros", "wat is 37 percnt of 640 euro"),
    ("convert {} degrees celsius to fahrenheit, please", "conver 37 degres celsius to farenheit please"),
]


@pytest.mark.parametrize(("pattern", "held_out"), CROWDS)
def test_what_is_held_out_is_found_behind_a_crowd_that_is_learned_from(pattern: str, held_out: str) -> None:
    measure = CombinedMeasure(Hooks.load(plugin_directory=None, tables={}), no_embeddings)
    near_by = NearPrompts(measure, no_embeddings, 0.85, SECRET)
    crowd = [prompt(pattern.format(number), pattern, Side.TRAINING) for number in range(100, 189)]
    asked = prompt(pattern.format(37))
    assert place([*crowd, prompt(held_out, "held out", Side.HELD_OUT), asked], near_by)[asked.key] in ("held out", None)
    texts = [one.key for one in crowd]
    assert (len(texts), len(texts) + 1) in near_by.across([*texts, held_out, asked.key], len(texts) + 1)


def test_what_is_held_out_is_looked_for_by_itself() -> None:
    """Whoever looks names the nearest alone."""

    def nearest(prompts: Sequence[AnyPrompt], since: int) -> Iterable[tuple[int, int]]:
        return [(0, high) for high in range(since, len(prompts))]

    assert place([*SIDED, prompt("bridge")], nearest) == {"bridge": None}


class Nights(RuleBasedStateMachine):
    """Prompts come to two bases, nights are held, and whoever chooses sides chooses at random."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.ledger = Ledger.open(Path(self.directory.name) / "ledger.sqlite3")
        self.find_near = metrics()
        self.sides: dict[tuple[str, str], Side] = {}
        self.count = 0

    @rule(text=st.sampled_from(POOL), base=st.sampled_from(BASES))
    def a_prompt_comes(self, text: str, base: str | None) -> None:
        self.count += 1
        event = Event(
            id=str(self.count), timestamp=NOW, feedback_type=FeedbackType.SUCCESS, input_data=text,
            artifact_type="shell", ai_output=f"answer {self.count}",
        )  # fmt: skip
        incoming = IncomingEvent(event=event, base=base, answered_by=None, group=group_of(event), arrived_at=NOW)
        self.ledger.events.add([incoming])

    @rule(base=st.sampled_from(BASES[:2]), random=st.randoms(use_true_random=False))
    def a_night_is_held(self, base: str, random: Random) -> None:
        def choose(groups: tuple[PromptGroup, ...]) -> tuple[SideChoice, ...]:
            free = [group.key for group in groups if group.side is None and random.random() < 0.7]
            return tuple(SideChoice(key=key, side=random.choice(list(Side))) for key in free)

        rows = self.ledger.events.of_specialty(Specialty(base=base, artifact_type="shell"), with_unassigned=True)
        found = split(rows, self.ledger.events.prompts("shell"), self.find_near, choose)
        self.ledger.events.set_sides("shell", found.choices, found.groups)
        after = self.ledger.events.of_specialty(Specialty(base=base, artifact_type="shell"), with_unassigned=True)
        expected = {one.event.id: found.sides.get(one.group or "") for one in regroup(rows, found.groups, found.sides)}
        assert {one.event.id: one.side for one in after} == expected

    @invariant()
    def no_near_pair_is_on_both_sides_and_no_side_changes(self) -> None:
        if not hasattr(self, "ledger"):
            return
        prompts = [one for one in self.ledger.events.prompts("shell") if one.side is not None]
        texts: list[AnyPrompt] = [fold(one.text or "") for one in prompts]
        for low, high in self.find_near(texts, 0):
            assert prompts[low].side is prompts[high].side, (texts[low], texts[high])
        sides = {("shell", one.key): one.side for one in prompts if one.side is not None}
        assert self.sides.items() <= sides.items()
        self.sides = sides

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.directory.cleanup()


Nights.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestNights = Nights.TestCase
