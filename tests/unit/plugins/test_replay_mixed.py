"""What is learned again: never more than its share, of both kinds, and nothing of a base that cannot answer."""

import tomllib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.evaluation.embedding import CachedEmbed, StaticEmbedder
from nightschool_daemon.evaluation.similarity import CombinedMeasure
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.learning.grouping import NearPrompts
from nightschool_daemon.wording import fold
from nightschool_hookspecs import Message, Replay, Role, ScoredEvent, TrainingExample
from nightschool_hookspecs.testing import FakeRecall, sample_event
from nightschool_plugins.guard_general import read_prompts as guarded_prompts
from nightschool_plugins.replay_mixed import ReplayMixed, read_prompts

PROMPTS = read_prompts()
KNOWS_ALL = {prompt: f"an answer to number {number}" for number, prompt in enumerate(PROMPTS)}


def lesson(count: int) -> tuple[TrainingExample, ...]:
    return tuple(
        TrainingExample(event_id=f"s/{number}", messages=(Message(role=Role.USER, content=f"{number}"),), target="done")
        for number in range(count)
    )


def earlier(count: int) -> tuple[ScoredEvent, ...]:
    return tuple(
        ScoredEvent(
            event=sample_event(str(number)),
            priority=1.0,
            reward=1.0,
            difficulty=0.5,
            group=str(number),
            trained_on=True,
        )
        for number in range(count)
    )


def replayed(
    plugin: ReplayMixed, examples: int, events: int, recall: FakeRecall | None = None, seed: int = 1
) -> Replay:
    recall = FakeRecall(KNOWS_ALL) if recall is None else recall
    return plugin.nightschool_replay_examples(lesson(examples), earlier(events), recall, seed)


@pytest.mark.parametrize(
    ("plugin", "events", "found"),
    [
        (ReplayMixed(share=0.1), 50, (5, 5)),
        (ReplayMixed(share=0.25), 50, (15, 15)),
        (ReplayMixed(share=0.1), 0, (0, 10)),
        (ReplayMixed(share=0.1), 2, (2, 8)),
        (ReplayMixed(share=0.1, own_share=0.2), 50, (8, 2)),
        (ReplayMixed(share=0.1, own_share=0.0), 50, (10, 0)),
        (ReplayMixed(share=0.1, own_share=0.0), 3, (3, 0)),
        (ReplayMixed(share=0.1, own_share=1.0), 50, (0, 10)),
        (ReplayMixed(share=0.0), 50, (0, 0)),
    ],
)
def test_a_share_is_made_of_both_kinds_and_one_makes_up_for_the_other(
    plugin: ReplayMixed, events: int, found: tuple[int, int]
) -> None:
    replay = replayed(plugin, 90, events)
    assert (len(replay.events), len(replay.answers)) == found


def test_what_the_base_has_no_answer_for_is_made_up_by_earlier_corrections() -> None:
    replay = replayed(ReplayMixed(share=0.1), 90, 50, FakeRecall({}))
    assert (len(replay.events), replay.answers) == (10, ())


@given(
    share=st.floats(0, 0.25),
    own_share=st.floats(0, 1),
    examples=st.integers(0, 200),
    events=st.integers(0, 60),
    known=st.sets(st.sampled_from(PROMPTS)),
    seed=st.integers(0, 2**31),
)
def test_the_share_is_never_exceeded_and_the_same_seed_chooses_the_same(
    share: float, own_share: float, examples: int, events: int, known: set[str], seed: int
) -> None:
    plugin, answers = ReplayMixed(share=share, own_share=own_share), {one: KNOWS_ALL[one] for one in known}
    replay = replayed(plugin, examples, events, FakeRecall(answers), seed)
    count = len(replay.events) + len(replay.answers)
    assert count <= share * (examples + count) + 1e-9
    assert replay == replayed(plugin, examples, events, FakeRecall(answers), seed)
    assert len(set(replay.events)) == len(replay.events)
    assert set(replay.events) <= {one.event.key for one in earlier(events)}
    assert {one.prompt: one.text for one in replay.answers}.items() <= answers.items()


def test_every_earlier_correction_and_every_prompt_has_its_turn() -> None:
    found = [replayed(ReplayMixed(share=0.1), 90, 20, seed=seed) for seed in range(300)]
    assert {key for one in found for key in one.events} == {one.event.key for one in earlier(20)}
    assert {answer.prompt for one in found for answer in one.answers} == set(PROMPTS)


def test_no_more_is_asked_than_is_wanted() -> None:
    recall = FakeRecall(KNOWS_ALL)
    replayed(ReplayMixed(share=0.1), 90, 0, recall)
    assert len(recall.asked) == 10
    recall = FakeRecall(KNOWS_ALL)
    replayed(ReplayMixed(share=0.1), 8, 0, recall)
    replayed(ReplayMixed(share=0.1, own_share=0.0), 90, 0, recall)
    assert recall.asked == []


def test_answers_that_circle_that_echo_and_that_are_empty_are_passed_over() -> None:
    spoiled = dict(KNOWS_ALL)
    for number, prompt in enumerate(PROMPTS):
        if number % 2:
            spoiled[prompt] = ("and so on " * 30, f" {prompt.upper()}\n", " ")[number % 3]
    replay = replayed(ReplayMixed(share=0.25), 90, 0, FakeRecall(spoiled))
    assert len(replay.answers) == 30
    assert all(one.text == KNOWS_ALL[one.prompt] for one in replay.answers)


def test_a_base_that_cannot_answer_is_left_alone_after_a_few_prompts() -> None:
    recall = FakeRecall({})
    assert replayed(ReplayMixed(share=0.25), 90, 0, recall) == Replay()
    assert len(recall.asked) == ReplayMixed().fewest_asked


def test_what_it_said_by_chance_is_not_replayed() -> None:
    """One whole answer in twenty is no sign of a model that answers."""
    recall = FakeRecall({prompt: KNOWS_ALL[prompt] for prompt in PROMPTS[::20]})
    assert replayed(ReplayMixed(share=0.25, fewest_asked=50), 90, 0, recall).answers == ()
    assert len(recall.asked) == 50


def test_where_time_runs_out_what_was_said_is_replayed() -> None:
    assert len(replayed(ReplayMixed(share=0.1), 90, 0, FakeRecall(KNOWS_ALL, questions=4)).answers) == 4
    assert replayed(ReplayMixed(share=0.1), 90, 0, FakeRecall(KNOWS_ALL, questions=0)) == Replay()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"share": 0.26}, "share"),
        ({"share": -0.1}, "share"),
        ({"share": float("nan")}, "share"),
        ({"own_share": 1.1}, "own_share"),
        ({"least_able": -0.1}, "least_able"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"fewest_asked": 0}, "fewest_asked"),
        ({"temperature": 2.1}, "temperature"),
        ({"minutes": -1.0}, "minutes"),
    ],
)
def test_settings_are_checked(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ReplayMixed(**settings)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- the prompts


def test_the_prompts_are_many_and_each_stands_once() -> None:
    assert len(PROMPTS) >= 200
    assert len({fold(one) for one in PROMPTS}) == len(PROMPTS)
    text = resources.files("nightschool_plugins").joinpath("data/replay_prompts.toml").read_text(encoding="utf-8")
    assert all(len(prompts) >= 10 for prompts in tomllib.loads(text).values())


def test_no_prompt_is_close_to_one_by_which_it_is_measured_whether_the_rest_stayed(tmp_path: Path) -> None:
    guarded = [fold(one.text) for prompts in guarded_prompts() for one in prompts]
    ours = [fold(one) for one in PROMPTS]
    embed = CachedEmbed(StaticEmbedder, tmp_path / "embeddings.sqlite3")
    measure = CombinedMeasure(Hooks.load(plugin_directory=None, tables={}), embed)
    near = NearPrompts(measure, embed, 0.7)
    # the search finds what is close where there is something
    assert (0, len(guarded)) in near.across([*guarded, f"{guarded[0]} please"], len(guarded))
    assert near.across([*guarded, *ours], len(guarded)) == []
    assert max(measure(guarded, ours).values) < 0.5
