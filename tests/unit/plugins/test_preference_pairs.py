"""Which pairs are made of answers that the model in use is asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import AnswerScore, ExamItem, GenerationError, ItemRole, Message, PreferencePair, Role
from nightschool_hookspecs.testing import FakeSample, FakeValidate
from nightschool_plugins.preference_pairs import PreferencePairs

ITEM = ExamItem(
    id="s/1",
    event_id="s/1",
    artifact_type="shell",
    role=ItemRole.GAIN,
    messages=(Message(role=Role.USER, content="list hidden files"),),
    reference="wanted",
    group="g",
)
UNKNOWN = replace(ITEM, reference=None)
"""A failed check: nobody said what would have been right."""


def prompt(number: int) -> ExamItem:
    messages = (Message(role=Role.USER, content=f"question {number}"),)
    return replace(ITEM, id=f"s/{number}", event_id=f"s/{number}", messages=messages, group=f"g{number}")


def validate(scores: Mapping[str, float], validator: str = "shell") -> FakeValidate:
    """Knows the score of each text; of the wanted one it is 100 unless told."""

    def score(item: ExamItem, answer: str) -> AnswerScore | None:
        known = {"wanted": 100.0} | dict(scores)
        return AnswerScore(score=known[answer.strip()], validator=validator)

    return FakeValidate(score)


def made(
    answers: Sequence[str], scores: Mapping[str, float], item: ExamItem = ITEM, plugin: PreferencePairs | None = None
) -> tuple[PreferencePair, ...]:
    sample = FakeSample(lambda _: answers)
    return (plugin or PreferencePairs()).nightschool_build_sampled_pairs((item,), sample, validate(scores), 1)


def shown(pairs: Sequence[PreferencePair]) -> set[tuple[str, str, float]]:
    return {(one.chosen, one.rejected, round(one.margin, 3)) for one in pairs}


def test_all_answers_and_the_wanted_one_are_ranked() -> None:
    pairs = made(["a", "b", "c"], {"a": 90, "b": 75, "c": 70})
    assert shown(pairs) == {
        ("wanted", "b", 0.25),
        ("wanted", "c", 0.3),
        ("a", "b", 0.15),
        ("a", "c", 0.2),
    }
    assert {(one.event_id, one.messages) for one in pairs} == {(ITEM.event_id, ITEM.messages)}


def test_the_wanted_answer_has_the_score_of_the_validator_and_is_never_the_worse_one() -> None:
    assert shown(made(["a", "b"], {"wanted": 60, "a": 100, "b": 20})) == {
        ("a", "b", 0.8),
        ("wanted", "b", 0.4),
    }


def test_an_answer_that_is_the_wanted_one_or_says_nothing_is_no_other() -> None:
    assert shown(made([" wanted\n", "", "  ", "a", "a "], {"a": 0})) == {("wanted", "a", 1.0)}


def test_answers_to_a_failed_check_are_ranked_among_themselves() -> None:
    assert shown(made(["parses", "breaks"], {"parses": 100, "breaks": 0}, UNKNOWN)) == {("parses", "breaks", 1.0)}


@given(st.lists(st.floats(0, 100), max_size=8), st.floats(0, 100), st.integers(1, 3))
def test_whatever_the_scores_better_stands_over_worse_with_its_gap_as_margin(
    scores: list[float], wanted: float, most: int
) -> None:
    of = {f"a{number}": score for number, score in enumerate(scores)} | {"wanted": wanted}
    plugin = PreferencePairs(samples=8, most_worse=most)
    pairs = made([f"a{number}" for number in range(len(scores))], of, plugin=plugin)
    assert all(of[one.chosen] - of[one.rejected] > plugin.smallest_gap for one in pairs)
    assert all(one.margin == (of[one.chosen] - of[one.rejected]) / 100 for one in pairs)
    assert all(one.rejected != "wanted" for one in pairs)
    assert max(Counter(one.chosen for one in pairs).values(), default=0) <= most
    assert len(set(pairs)) == len(pairs)


def test_scores_of_two_validators_are_not_compared() -> None:
    def score(item: ExamItem, answer: str) -> AnswerScore | None:
        return AnswerScore(score={"wanted": 100.0}.get(answer, 0.0), validator="sql" if answer == "SELECT" else "code")

    sample = FakeSample(lambda _: ["SELECT", "print"])
    pairs = PreferencePairs().nightschool_build_sampled_pairs((ITEM,), sample, FakeValidate(score), 1)
    assert shown(pairs) == {("wanted", "print", 1.0)}


@pytest.mark.parametrize(
    "unable", [FakeValidate(lambda _item, _answer: None), validate({"list": 0, "hidden": 0, "files": 0}, "text")]
)
def test_what_no_validator_can_score_is_not_asked(unable: FakeValidate) -> None:
    sample = FakeSample()
    assert PreferencePairs().nightschool_build_sampled_pairs((ITEM,), sample, unable, 1) == ()
    assert sample.asked == []


def test_prose_is_ranked_by_similarity_where_that_is_wanted() -> None:
    plugin = PreferencePairs(ignored_validators=())
    sample = FakeSample(lambda _: ["a"])
    pairs = plugin.nightschool_build_sampled_pairs((ITEM,), sample, validate({"a": 0}, "text"), 1)
    assert shown(pairs) == {("wanted", "a", 1.0)}


def test_an_answer_that_its_validator_hands_on_is_not_ranked() -> None:
    def score(item: ExamItem, answer: str) -> AnswerScore | None:
        return AnswerScore(score=100.0 if answer == "wanted" else 0.0, validator="text" if answer == "a" else "shell")

    sample = FakeSample(lambda _: ["a", "b"])
    pairs = PreferencePairs().nightschool_build_sampled_pairs((ITEM,), sample, FakeValidate(score), 1)
    assert shown(pairs) == {("wanted", "b", 1.0)}


def test_what_the_judge_does_not_answer_is_not_ranked_and_costs_no_other_pair() -> None:
    def score(item: ExamItem, answer: str) -> AnswerScore | None:
        if answer == "a":
            raise GenerationError("it is longer than the judge reads")
        return AnswerScore(score={"wanted": 100.0, "b": 20.0}[answer], validator="judge")

    sample = FakeSample(lambda _: ["a", "b"])
    pairs = PreferencePairs().nightschool_build_sampled_pairs((ITEM,), sample, FakeValidate(score), 1)
    assert shown(pairs) == {("wanted", "b", 0.8)}


def test_a_night_takes_so_many_prompts_and_another_night_others() -> None:
    items = tuple(prompt(number) for number in range(40))
    known = {item.messages: item for item in items}
    asked = []
    for seed in (1, 1, 2):
        sample = FakeSample()
        PreferencePairs(prompts=8).nightschool_build_sampled_pairs(items, sample, FakeValidate(), seed)
        asked.append(sample.asked)
    assert len(set(asked[0])) == 8
    assert set(asked[0]) <= set(known)
    assert asked[0] == asked[1]
    assert set(asked[0]) != set(asked[2])


def test_a_part_of_the_prompts_comes_in_the_same_order() -> None:
    """A trial candidate has fewer prompts than the candidate, and takes of them what was asked for that."""
    items = tuple(prompt(number) for number in range(40))
    whole, part = FakeSample(), FakeSample()
    PreferencePairs().nightschool_build_sampled_pairs(items, whole, FakeValidate(), 1)
    PreferencePairs().nightschool_build_sampled_pairs(items[::2], part, FakeValidate(), 1)
    kept = {item.messages for item in items[::2]}
    assert part.asked == [one for one in whole.asked if one in kept]


def test_all_prompts_are_asked_before_the_first_answer_is_scored() -> None:
    """A model that judges may not fit into memory beside the one that answers."""
    happened: list[str] = []

    def answers(messages: tuple[Message, ...]) -> list[str]:
        happened.append("asked")
        return ["a"]

    def score(item: ExamItem, answer: str) -> AnswerScore | None:
        if answer == "a":
            happened.append("scored")
        return AnswerScore(score=0.0, validator="judge")

    items = tuple(prompt(number) for number in range(3))
    PreferencePairs().nightschool_build_sampled_pairs(items, FakeSample(answers), FakeValidate(score), 1)
    assert happened == ["asked"] * 3 + ["scored"] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("samples", "max_tokens", "prompts", "failures_in_a_row", "most_worse")),
        {"temperature": 0.0},
        {"temperature": 2.5},
        {"minutes": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PreferencePairs(**wrong)  # type: ignore[arg-type]  # the point of the test
