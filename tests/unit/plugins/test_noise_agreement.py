"""Noise: who contradicts those that ask the same weighs less, and nobody else does."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool_hookspecs import (
    Chunk,
    Context,
    Event,
    FeedbackType,
    LossPoint,
    LossTrajectory,
    Matrix,
    Message,
    Metadata,
    NoiseFinding,
    Role,
    ScoredEvent,
    variants,
)
from nightschool_hookspecs.testing import FakeMeasure, matrix, sample_trajectory
from nightschool_plugins import noise_agreement
from nightschool_plugins.noise_agreement import NoiseAgreement

LIKED, DISLIKED = FeedbackType.EXPLICIT_POSITIVE, FeedbackType.EXPLICIT_NEGATIVE
CORRECTED = FeedbackType.USER_CORRECTION
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
WORTH = {CORRECTED: 1.5, LIKED: 0.4, DISLIKED: -1.0}
RIGHT, WRONG = "ls --all", "rm file"


def said(
    identifier: str,
    answer: str,
    kind: FeedbackType = CORRECTED,
    *,
    by: str | None = None,
    day: int = 0,
    prompt: str = "list every file",
    bad: str = "nothing",
    group: str = "g",
    context: Context | None = None,
    metadata: Metadata | None = None,
) -> ScoredEvent:
    """What somebody wants; of a dislike, what they do not."""
    event = Event(
        id=identifier,
        timestamp=NOON + timedelta(days=day),
        feedback_type=kind,
        input_data=prompt,
        artifact_type="shell",
        ai_output=bad if kind is CORRECTED else answer,
        corrected_output=answer if kind is CORRECTED else None,
        context=context or Context(),
        metadata=metadata or Metadata(user=by),
    )
    priority = WORTH[kind]
    return ScoredEvent(event=event, priority=priority, reward=0.0, difficulty=0.5, group=group, trained_on=False)


def crowd(*answers: str, prompt: str = "list every file") -> list[ScoredEvent]:
    """Corrections, each of another person at the same time."""
    return [said(f"{number}", answer, by=f"person {number}", prompt=prompt) for number, answer in enumerate(answers)]


def found(
    events: Sequence[ScoredEvent],
    trajectories: Sequence[LossTrajectory] = (),
    plugin: NoiseAgreement | None = None,
) -> dict[str, NoiseFinding]:
    plugin = plugin or NoiseAgreement()
    findings = plugin.nightschool_find_noise(tuple(events), tuple(trajectories), FakeMeasure())
    assert len({one.event_id for one in findings}) == len(findings)
    return {one.event_id.removeprefix("dropdir/"): one for one in findings}


def factors(*arguments: Any) -> dict[str, float]:
    """Of what weighs less."""
    return {key: one.factor for key, one in found(*arguments).items() if one.factor < 1}


# --------------------------------------------------------------------------- by votes


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        # doubts of 2/3, 3/4, 4/5 and 9/10 and more
        ((RIGHT, RIGHT, WRONG), {"2": 1 - 0.8 * (1 / 6) / 0.4}),
        ((RIGHT, RIGHT, RIGHT, WRONG), {"3": 0.5}),
        ((WRONG, RIGHT, RIGHT, RIGHT, RIGHT), {"0": 0.4}),
        ((*[RIGHT] * 9, WRONG), {"9": 0.2}),
        ((*[RIGHT] * 20, WRONG), {"20": 0.2}),
        # nobody is in the majority, or all agree
        ((RIGHT, WRONG), {}),
        ((RIGHT, WRONG, "echo done", "true"), {}),
        ((RIGHT, RIGHT, RIGHT), {}),
        ((RIGHT, "ls  --all\n"), {}),
    ],
)
def test_who_stands_against_many_that_agree_weighs_less(answers: tuple[str, ...], left: dict[str, float]) -> None:
    assert factors(crowd(*answers)) == pytest.approx(left)


def test_where_there_is_as_much_for_as_against_it_both_are_shown_and_keep_their_weight() -> None:
    both = found(crowd(RIGHT, WRONG))
    assert {key: (one.factor, one.contradicts) for key, one in both.items()} == {
        "0": (1.0, "dropdir/1"),
        "1": (1.0, "dropdir/0"),
    }
    assert both["0"].reason == "another one wants something else for the same question"
    # a third of a doubt is none worth telling
    assert list(found(crowd(RIGHT, RIGHT, WRONG))) == ["2"]
    assert found(crowd(RIGHT, WRONG), (), NoiseAgreement(shown_from=0.6)) == {}


def test_of_a_question_with_many_answers_none_is_doubted() -> None:
    assert found(crowd(RIGHT, WRONG, "echo done", "true")) == {}
    # two agree, and stand against the fifth with two others against them
    assert found(crowd(RIGHT, RIGHT, WRONG, "echo done", "true"), (), NoiseAgreement(shown_from=0.51)) == {}
    assert list(factors(crowd(RIGHT, RIGHT, RIGHT, RIGHT, WRONG, "true"))) == ["4", "5"]


def test_a_finding_names_who_says_otherwise_and_how_many() -> None:
    (one,) = found(crowd(RIGHT, RIGHT, WRONG)).values()
    assert one.reason == "2 others want something else for the same question"
    assert one.contradicts in ("dropdir/0", "dropdir/1")


def test_votes_have_weights() -> None:
    weighty = [replace(one, priority=6.0) for one in crowd(RIGHT, WRONG)[:1]]
    assert factors([*weighty, *crowd(RIGHT, WRONG)[1:]]) == {"1": pytest.approx(1 - 0.8 * 0.3 / 0.4)}


@pytest.mark.parametrize(("least_vote", "left"), [(0.375, {"1": pytest.approx(1 - 0.8 * 0.3 / 0.4)}), (1.5, {})])
def test_what_is_worth_nothing_was_said_all_the_same(least_vote: float, left: dict[str, float]) -> None:
    valued, worthless = crowd(RIGHT, WRONG)
    events = [valued, replace(worthless, priority=0.0)]
    assert factors(events, (), NoiseAgreement(least_vote=least_vote)) == left


@pytest.mark.parametrize(
    ("similarity", "doubt"),
    [
        (0.0, 3 / 4),
        (0.3, 3 / 4),
        # they conflict by three quarters: so much of 3 votes and a quarter, and three quarters of a vote agree with it
        (0.375, 0.75 * 3.25 / (0.75 * 3.25 + 1.75)),
        (0.45, None),
        (0.6, None),
    ],
)
def test_answers_conflict_as_far_as_they_are_unlike(similarity: float, doubt: float | None) -> None:
    def measure(left: Sequence[str], right: Sequence[str]) -> Matrix:
        return matrix([[1.0 if one == other else similarity for other in right] for one in left], columns=len(right))

    events = tuple(crowd(RIGHT, RIGHT, RIGHT, WRONG))
    findings = NoiseAgreement().nightschool_find_noise(events, (), measure)
    expected = [] if doubt is None else [pytest.approx(1 - 0.8 * (doubt - 0.5) / 0.4)]
    assert [one.factor for one in findings if one.factor < 1] == expected


@pytest.mark.parametrize(
    "other",
    [
        {"group": "h"},
        {"prompt": "list every file of /etc"},
        {"prompt": "list not every file"},
        {"prompt": "list every file before Monday"},
        {"context": Context(system="Be brief.")},
        {"context": Context(messages=(Message(role=Role.USER, content="I mean on Windows."),))},
        {"context": Context(chunks=(Chunk(text="ls is an alias"),))},
        {"metadata": Metadata(user="x", fim_suffix=" | wc")},
    ],
)
def test_who_asks_something_else_contradicts_nobody(other: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"by": "x"} | other
    assert factors([*crowd(RIGHT, RIGHT, RIGHT), said("x", WRONG, **fields)]) == {}


def test_who_asks_the_same_in_other_words_is_heard() -> None:
    events = [*crowd(RIGHT, RIGHT, prompt="please show every file"), said("x", WRONG, by="x")]
    assert factors(events) == {"x": pytest.approx(2 / 3)}


@pytest.mark.parametrize("metadata", [Metadata(weak=True, user="x"), Metadata(tags=("confirmed",), user="x")])
def test_weak_signals_have_no_voice_and_what_is_confirmed_is_right(metadata: Metadata) -> None:
    doubted = said("x", WRONG, metadata=metadata)
    assert "x" not in factors([*crowd(RIGHT, RIGHT, RIGHT), doubted])


def test_a_confirmed_event_keeps_its_vote() -> None:
    events = [*crowd(RIGHT, RIGHT), said("x", WRONG, by="x", metadata=Metadata(user="x", tags=("confirmed",)))]
    assert factors(events) == {}
    assert factors([*events, said("y", RIGHT, by="y"), said("z", WRONG, by="z")]) == {"z": pytest.approx(0.8)}


# --------------------------------------------------------------------------- changes of mind


def test_a_later_correction_supersedes_and_is_never_doubted_for_it() -> None:
    events = [said(f"{day}", RIGHT, by="anna", day=day) for day in range(5)] + [said("new", WRONG, by="anna", day=9)]
    # five times a quarter against one: nothing yet; it grows as it is said again
    assert factors(events) == {}
    again = [*events, said("newer", WRONG, by="anna", day=10)]
    assert factors(again) == dict.fromkeys("01234", pytest.approx(1 - 0.8 * (2 / 3.25 - 0.5) / 0.4))
    assert {one.reason for one in found(again).values()} == {"something else was said of the same prompt later"}
    assert {one.contradicts for one in found(again).values()} == {"dropdir/newer"}


def test_of_two_corrections_of_a_prompt_the_older_is_outdated() -> None:
    assert factors([said("old", RIGHT, by="anna"), said("new", WRONG, by="anna", day=1)]) == {"old": pytest.approx(0.4)}


@pytest.mark.parametrize(
    "later",
    [
        said("new", WRONG, by="somebody else", day=1),
        said("new", WRONG, by=None, day=1),
        said("new", WRONG, by="anna", day=1, prompt="please list every file"),
        said("new", WRONG, LIKED, by="anna", day=1),
        said("new", WRONG, day=1, metadata=Metadata(user="anna", clock_flag=True)),
        said("new", WRONG, by="anna"),
    ],
)
def test_only_a_later_correction_of_the_same_prompt_by_the_same_person_supersedes(later: ScoredEvent) -> None:
    assert "old" not in factors([said("old", RIGHT, by="anna"), later])


def test_a_correction_supersedes_whether_or_not_the_answer_that_it_corrects_came_with_it() -> None:
    bare = said("new", WRONG, by="anna", day=1)
    bare = replace(bare, event=replace(bare.event, ai_output=None))
    assert factors([said("old", RIGHT, by="anna"), bare]) == {"old": pytest.approx(0.4)}


def test_what_was_learned_and_corrected_since_is_outdated_however_alike_both_are() -> None:
    events = [
        said("old", "tar -x a b c d", by="anna"),
        said("new", "tar -xz a b c d", by="anna", bad="tar -x a b c d", day=1),
    ]
    assert factors(events) == {"old": pytest.approx(0.4)}


@pytest.mark.parametrize("nobody", [None, ""])
def test_who_does_not_say_who_they_are_overtakes_nobody(nobody: str | None) -> None:
    """Or the last voice were always right, whoever it is of."""
    three = [said(f"{day}", answer, by=nobody, day=day) for day, answer in enumerate((RIGHT, WRONG, "echo done"))]
    assert factors(three) == {}
    ten = [said(f"{day}", RIGHT, by=nobody, day=day) for day in range(10)]
    assert factors([*ten, said("wrong", WRONG, by=nobody, day=10)]) == {"wrong": pytest.approx(0.2)}


# --------------------------------------------------------------------------- thumbs


def test_a_liked_answer_that_is_corrected_or_disliked_elsewhere_is_doubted() -> None:
    liked = said("liked", "ls", LIKED, by="x")
    corrected = [liked, said("1", "ls --all", bad="ls", by="y", prompt="please list every file")]
    # 1.5 against 0.4, though both answers are alike
    assert factors(corrected) == {"liked": pytest.approx(1 - 0.8 * (1.5 / 1.9 - 0.5) / 0.4)}
    disliked = found([liked, said("1", "ls", DISLIKED, by="y", prompt="please list every file")])
    assert disliked["liked"].reason == "the same answer to the same question was corrected or disliked elsewhere"
    assert found([liked, said("1", "rm", DISLIKED, by="y")]) == {}


def test_a_dislike_of_what_is_wanted_is_shown() -> None:
    one = found([*crowd(RIGHT, RIGHT), said("thumb", RIGHT, DISLIKED, by="x")])["thumb"]
    assert one.factor == pytest.approx(1 - 0.8 * (3 / 4 - 0.5) / 0.4)
    assert "disliked" in one.reason


def test_a_choice_between_two_good_answers_speaks_against_neither() -> None:
    preferred = said("1", "ls --all", bad="ls", by="y", metadata=Metadata(user="y", preference=True))
    assert factors([said("liked", "ls --all now", LIKED, by="x"), preferred]) == {}


# --------------------------------------------------------------------------- by losses


def learned(levels: dict[str, float], training: str = "r", epochs: int = 3) -> list[LossTrajectory]:
    return [sample_trajectory(f"dropdir/{key}", *[level] * epochs, training=training) for key, level in levels.items()]


OTHERS = {f"other{number:02}": math.exp(-number / 20) for number in range(40)}
"""A training's losses."""
STRANGERS = [said(key, RIGHT, group=key) for key in OTHERS]


def test_where_two_stand_against_each_other_the_one_that_was_harder_to_learn_is_doubted() -> None:
    events = [*crowd(RIGHT, WRONG), *STRANGERS]
    plugin = NoiseAgreement(stubborn_from=99.0)
    easy, hard = learned(OTHERS | {"0": 0.2, "1": 1.0}), learned(OTHERS | {"0": 1.0, "1": 0.2})
    assert list(factors(events, easy, plugin)) == ["1"]
    assert list(factors(events, hard, plugin)) == ["0"]
    assert found(events, easy, plugin)["1"].reason.endswith("which was easier to learn")
    assert factors(events, easy, NoiseAgreement(trust_in_losses=0.0, stubborn_from=99.0)) == {}


def test_losses_of_few_say_nothing() -> None:
    few = learned({key: OTHERS[key] for key in list(OTHERS)[:17]} | {"0": 0.2, "1": 8.0})
    assert factors([*crowd(RIGHT, WRONG), *STRANGERS], few) == {}
    assert "1" in factors([*crowd(RIGHT, WRONG), *STRANGERS], few, NoiseAgreement(fewest_learned=19))


def test_losses_of_two_trainings_are_not_compared() -> None:
    calm, rough = learned(OTHERS), learned({f"x{key}": 20 * loss for key, loss in OTHERS.items()}, "other")
    scores = NoiseAgreement().stubbornness([*calm, *rough])
    for key in OTHERS:
        assert scores[f"dropdir/{key}"] == pytest.approx(scores[f"dropdir/x{key}"])


def test_a_lone_event_is_shown_where_its_loss_stays_high_and_keeps_its_weight() -> None:
    events = [*STRANGERS, said("lone", WRONG, group="lone")]
    one = found(events, learned(OTHERS | {"lone": 9.0}))["lone"]
    assert (one.factor, one.contradicts) == (1.0, None)
    assert found(events, learned(OTHERS | {"lone": 1.0})) == {}


def test_what_is_known_by_heart_has_no_outliers() -> None:
    by_heart = dict.fromkeys(OTHERS, 1e-9) | {"lone": 2e-4}
    assert found([*STRANGERS, said("lone", WRONG, group="lone")], learned(by_heart)) == {}


# --------------------------------------------------------------------------- by losses under a curriculum


def taken(key: str, *points: tuple[int, int, float]) -> LossTrajectory:
    """By stretch, how often seen, and loss."""
    return LossTrajectory(
        event_id=f"dropdir/{key}",
        training="r",
        points=tuple(LossPoint(stretch=stretch, seen=seen, loss=loss) for stretch, seen, loss in points),
    )


EASY = [
    taken(f"easy{number}", (1, 0, 2.0 + number / 50), (2, 1, 0.5), (3, 2, 0.1 + number / 500)) for number in range(30)
]
HARD = [taken(f"hard{number}", (3, 0, 3.0 + number / 50)) for number in range(30)]
"""Those that a curriculum comes to in its last stretch, in which the easy ones are known by heart."""


def test_what_a_curriculum_comes_to_late_is_compared_with_what_came_as_late() -> None:
    scores = NoiseAgreement().stubbornness([*EASY, *HARD, taken("wrong", (3, 0, 30.0))])
    assert len(scores) == 61
    assert scores["dropdir/wrong"] >= 2.0
    assert max(score for key, score in scores.items() if key != "dropdir/wrong") < 2.0
    # by their bare losses all hard ones would stand out as it does
    bare = [replace(one, points=(LossPoint(stretch=1, seen=0, loss=one.points[-1].loss),)) for one in (*EASY, *HARD)]
    assert min(NoiseAgreement().stubbornness(bare)[one.event_id] for one in HARD) > max(
        score for key, score in scores.items() if "hard" in key
    )


def test_what_few_were_learned_like_is_no_evidence() -> None:
    few = [*EASY, *HARD[:19], taken("mixed", (1, 0, 2.0), (3, 7, 30.0))]
    scores = NoiseAgreement().stubbornness(few)
    assert not any("hard" in key for key in scores)
    assert abs(scores["dropdir/mixed"]) < 1, "what it has in common with others counts alone"
    assert NoiseAgreement().stubbornness(HARD[:19]) == {}
    assert len(NoiseAgreement().stubbornness(HARD[:20])) == 20


LEARNED = st.lists(st.lists(st.floats(0.01, 50), min_size=3, max_size=3), min_size=20, max_size=40)


@given(LEARNED)
@settings(deadline=None)
def test_without_a_curriculum_it_is_the_robust_score_of_the_mean_over_the_epochs(losses: list[list[float]]) -> None:
    known = [sample_trajectory(f"{number:02}", *of_event) for number, of_event in enumerate(losses)]
    means = [math.fsum(map(math.log, of_event)) / 3 for of_event in losses]
    spread = max(0.25, float(scipy.stats.median_abs_deviation(means)) * 1.4826)
    middle = sorted(means)[(len(means) - 1) // 2 : len(means) // 2 + 1]
    expected = [max(-3.0, min(3.0, (one - math.fsum(middle) / len(middle)) / spread)) for one in means]
    scores = NoiseAgreement().stubbornness(known)
    assert [scores[f"{number:02}"] for number in range(len(losses))] == pytest.approx(expected, abs=1e-9)


@given(LEARNED, st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
@settings(deadline=None)
def test_how_far_a_training_was_makes_nothing_look_wrong(losses: list[list[float]], ease: list[float]) -> None:
    """A stretch in which everything is easier by the same share changes no score."""
    plain = [sample_trajectory(f"{number:02}", *of_event) for number, of_event in enumerate(losses)]
    eased = [
        sample_trajectory(f"{number:02}", *(loss * share for loss, share in zip(of_event, ease, strict=True)))
        for number, of_event in enumerate(losses)
    ]
    plugin = NoiseAgreement()
    assert plugin.stubbornness(eased) == pytest.approx(plugin.stubbornness(plain), abs=1e-6)


# --------------------------------------------------------------------------- properties

RULES = st.lists(
    st.tuples(
        st.sampled_from([RIGHT, WRONG, "echo done", "ls", ""]),
        st.sampled_from([CORRECTED, LIKED, DISLIKED]),
        st.sampled_from([None, "anna", "ben"]),
        st.integers(0, 3),
        st.sampled_from(["list every file", "please list every file", "list no file"]),
        st.sampled_from(["g", "h"]),
        st.sampled_from([math.nan, 0.0, 1e-9, 0.5, 3.0, 1e6]),
    ),
    max_size=24,
)
Rows = list[tuple[str, FeedbackType, str | None, int, str, str, float]]


def built(rows: Rows) -> tuple[list[ScoredEvent], list[LossTrajectory]]:
    events = [
        said(f"{number:02}", answer, kind, by=by, day=day, prompt=prompt, group=group)
        for number, (answer, kind, by, day, prompt, group, _) in enumerate(rows)
    ]
    losses = [sample_trajectory(one.event.key, row[-1], 1.0) for one, row in zip(events, rows, strict=True)]
    return events, losses


@given(RULES, st.randoms())
@settings(deadline=None)
def test_factors_are_in_range_and_do_not_depend_on_the_order_of_arrival(rows: Rows, chance: random.Random) -> None:
    events, losses = built(rows)
    plugin = NoiseAgreement(fewest_learned=2)
    findings = found(events, losses, plugin)
    assert all(0.2 <= one.factor <= 1 for one in findings.values())
    known = {one.event.key for one in events}
    assert all(one.contradicts is None or one.contradicts in known for one in findings.values())
    assert all(one.reason for one in findings.values())
    shuffled = found(chance.sample(events, len(events)), chance.sample(losses, len(losses)), plugin)
    assert shuffled == findings


@given(RULES)
@settings(deadline=None)
def test_a_lone_event_keeps_its_weight(rows: Rows) -> None:
    events, losses = built(rows)
    apart = [replace(one, group=str(number)) for number, one in enumerate(events)]
    assert all(one.factor == 1 for one in found(apart, losses, NoiseAgreement(fewest_learned=2)).values())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "x"]), st.integers(0, 3)), max_size=24))
@settings(deadline=None)
def test_a_clean_pool_loses_no_weight(rows: list[tuple[str, str | None, int]]) -> None:
    """Whoever asks the same wants the same."""
    events = [
        said(f"{number:02}", f"answer {group}", by=by, day=day, prompt=f"question {group}", group=group)
        for number, (group, by, day) in enumerate(rows)
    ]
    assert factors(events) == {}


@given(RULES)
@settings(deadline=None)
def test_the_last_correction_of_a_prompt_is_not_doubted_for_what_its_author_said_before(rows: Rows) -> None:
    events, losses = built([(answer, kind, "anna", 0, "list every file", "g", loss) for answer, kind, *_, loss in rows])
    dated = [
        replace(one, event=replace(one.event, timestamp=NOON + timedelta(hours=hour)))
        for hour, one in enumerate(events)
    ]
    last = said("last", "wc --lines", by="anna", day=30)
    assert factors([*dated, last], losses, NoiseAgreement(fewest_learned=2)).get("last", 1.0) == 1.0


def test_of_a_question_with_a_hundred_answers_the_weightiest_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(left: Sequence[str], right: Sequence[str]) -> Matrix:
        asked.append(len(left) * len(right))
        return FakeMeasure()(left, right)

    monkeypatch.setattr(noise_agreement, "MOST_VOICES", 8)
    events = crowd(*(f"answer{number}" for number in range(100)))
    assert NoiseAgreement().nightschool_find_noise(tuple(events), (), measure) == ()
    assert asked == [64]


@dataclass
class Counts:
    """A pattern that keeps how long the texts were that it went over."""

    pattern: re.Pattern[str]

    def __post_init__(self) -> None:
        self.lengths: list[int] = []

    def sub(self, by: str, text: str) -> str:
        self.lengths.append(len(text))
        return self.pattern.sub(by, text)


def test_an_answer_is_read_once_a_voice_and_no_further_than_it_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = Counts(variants.SENTENCE)
    monkeypatch.setattr(variants, "SENTENCE", sentences)
    wordings = [f"list every file {number * 'please '}" for number in range(1, 21)]
    events = [
        said(f"{number}", f"answer {number} " * 2000, by=f"{number}", prompt=prompt)
        for number, prompt in enumerate(wordings)
    ]
    NoiseAgreement().nightschool_find_noise(tuple(events), (), FakeMeasure())
    assert sentences.lengths == [noise_agreement.LONGEST_ANSWER] * 20


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lowest_factor": -0.1}, "lowest_factor"),
        ({"outdated": 1.1}, "outdated"),
        ({"outdated": 0.0}, "outdated"),
        ({"shown_from": math.nan}, "shown_from"),
        ({"certain_from": 0.5}, "certain_from"),
        ({"certain_from": math.nan}, "certain_from"),
        ({"contrary": 0.6}, "contrary must be below alike"),
        ({"alike": 1.5}, "contrary must be below alike"),
        ({"trust_in_losses": math.inf}, "trust_in_losses"),
        ({"least_vote": 0.0}, "least_vote"),
        ({"least_vote": math.nan}, "least_vote"),
        ({"fewest_learned": 1}, "fewest_learned"),
        ({"smallest_spread": 0.0}, "smallest_spread and stubborn_from"),
        ({"stubborn_from": 0.0}, "smallest_spread and stubborn_from"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NoiseAgreement(**changed)  # type: ignore[arg-type]
