"""Hard negatives: what lies near groups of failures weighs more, by a bounded factor."""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool_hookspecs import Event, FeedbackType, Matrix, Measure, ScoredEvent
from nightschool_hookspecs.testing import FakeEmbed, FakeMeasure, matrix
from nightschool_plugins import negatives_hard
from nightschool_plugins.negatives_hard import NegativesHard

LIKED, CORRECTED = FeedbackType.SUCCESS, FeedbackType.USER_CORRECTION


def scored(
    identifier: str,
    text: str,
    kind: FeedbackType = CORRECTED,
    *,
    group: str | None = None,
    answer: str | None = "bad",
    corrected: str | None = "good",
    score: float | None = None,
    trained_on: bool = False,
    artifact_type: str = "shell",
) -> ScoredEvent:
    event = Event(
        id=identifier,
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        feedback_type=kind,
        input_data=text,
        artifact_type=artifact_type,
        ai_output=answer,
        corrected_output=corrected if kind is CORRECTED else None,
        validation_score=score,
    )
    return ScoredEvent(
        event=event, priority=0.0, reward=0.0, difficulty=0.5, group=group or identifier, trained_on=trained_on
    )


def factors(
    events: Sequence[ScoredEvent],
    plugin: NegativesHard | None = None,
    measure: Measure | None = None,
    others: Sequence[ScoredEvent] = (),
) -> dict[str, float]:
    found = (plugin or NegativesHard()).nightschool_select_negatives(
        tuple(events), tuple(others), measure or FakeMeasure(), FakeEmbed()
    )
    assert found is not None
    assert len(dict(found)) == len(found)
    return {key.removeprefix("dropdir/"): factor for key, factor in found}


@pytest.mark.parametrize(
    ("event", "factor"),
    [
        (scored("1", "q"), 1.5),
        (scored("1", "q", FeedbackType.EXPLICIT_NEGATIVE), 1.5),
        (scored("1", "q", FeedbackType.VALIDATION_FAILURE), 1.5),
        (scored("1", "q", LIKED, score=70.0), 1.5),
        (scored("1", "q", LIKED, score=71.0), None),
        (scored("1", "q", LIKED), None),
        (scored("1", "q", answer=None), None),
        (scored("1", "q", answer="Yes", corrected="yes.", artifact_type="other"), None),
        (scored("1", "q", trained_on=True), 1 + 0.5 * math.log2(1.5)),
    ],
)
def test_what_a_failure_is(event: ScoredEvent, factor: float | None) -> None:
    assert factors([event]) == ({} if factor is None else {"1": pytest.approx(factor)})


def test_failures_at_one_prompt_are_a_group_and_pull_together() -> None:
    events = [scored(name, "q", group="g") for name in "abc"] + [scored("liked", "q", LIKED, group="g")]
    # log2(1 + 3) = 2, for what was liked there too
    assert factors(events) == dict.fromkeys(["a", "b", "c", "liked"], 2.0)


def test_kin_weigh_more_by_their_similarity_and_strangers_do_not() -> None:
    events = [
        scored("failed", "a b c d"),
        scored("near", "a b c e", LIKED),
        scored("half", "a b c d e f g h", LIKED),
        scored("far", "a x y z", LIKED),
    ]
    # shared words: 3 of 5, 4 of 8, 1 of 7
    assert factors(events) == {"failed": 1.5, "near": pytest.approx(1 + 0.5 * 0.6), "half": pytest.approx(1.25)}


def test_failures_near_each_other_add_up_to_a_bound() -> None:
    two = [scored("1", "a b c"), scored("2", "a b c d")]
    assert factors(two) == {"1": pytest.approx(1 + 0.5 * 1.75), "2": pytest.approx(1 + 0.5 * 1.75)}
    crowd = [scored(f"{number:02}", "a b c") for number in range(12)]
    assert factors(crowd) == {one.event.id: 3.0 for one in crowd}


def test_failures_from_which_nothing_is_learned_pull_too() -> None:
    events = [scored("near", "a b c e", LIKED), scored("far", "v w x y", LIKED)]
    disliked = [scored("disliked", "a b c d", FeedbackType.EXPLICIT_NEGATIVE)]
    assert factors(events) == {}
    # shared words: 3 of 5; what is not selected has no example that could weigh more
    assert factors(events, others=disliked) == {"near": pytest.approx(1 + 0.5 * 0.6)}
    own = [scored("liked", "a b c d", LIKED, group="disliked")]
    assert factors(own, others=disliked) == {"liked": 1.5}


class Counting:
    """Measures as the fake does, and keeps how many pairs it was asked for at once."""

    def __init__(self) -> None:
        self.pairs: list[int] = []

    def __call__(self, left: Sequence[str], right: Sequence[str]) -> Matrix:
        self.pairs.append(len(left) * len(right))
        return FakeMeasure()(left, right)


@pytest.mark.parametrize("at_once", [1, 250, 2**22])
def test_only_the_nearest_groups_are_measured(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives_hard, "COSINES_AT_ONCE", at_once)
    counting = Counting()
    events = [scored(f"{number:03}", f"word{number} word{number % 7}") for number in range(100)]
    factors(events, NegativesHard(candidates=5), counting)
    assert counting.pairs == [5] * 100


def test_without_candidates_nothing_is_measured() -> None:
    counting = Counting()
    assert factors([scored("1", "q"), scored("2", "q")], NegativesHard(candidates=0), counting) == {"1": 1.5, "2": 1.5}
    assert counting.pairs == []


def test_the_nearest_by_their_vectors_are_the_candidates() -> None:
    vectors = {"q": (1.0, 0.0), "near": (0.8, 0.6), "far": (0.0, 1.0)}
    asked: list[str] = []

    def measure(left: Sequence[str], right: Sequence[str]) -> Matrix:
        asked.extend(right)
        return matrix([[1.0] * len(right) for _ in left], columns=len(right))

    events = (scored("1", "q"), scored("2", "far", LIKED), scored("3", "near", LIKED))
    NegativesHard(candidates=1).nightschool_select_negatives(
        events, (), measure, lambda texts: matrix([vectors[text] for text in texts], columns=2)
    )
    assert asked == ["near"]


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from("abcd"), max_size=4).map(" ".join), st.sampled_from(FeedbackType), st.booleans()
        ),
        max_size=20,
    ),
    st.randoms(),
)
@settings(deadline=None)
def test_factors_are_bounded_and_do_not_depend_on_the_order_of_arrival(
    rows: list[tuple[str, FeedbackType, bool]], chance: random.Random
) -> None:
    events = [
        scored(f"{number:02}", text, kind, trained_on=known, group=f"g{number % 12}")
        for number, (text, kind, known) in enumerate(rows)
    ]
    found = factors(events)
    assert all(1 < factor <= 3 for factor in found.values())
    assert factors(chance.sample(events, len(events))) == found


def test_without_an_embedding_model_there_is_no_opinion() -> None:
    without = FakeEmbed(available=False)
    assert NegativesHard().nightschool_select_negatives((scored("1", "q"),), (), FakeMeasure(), without) is None


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"per_failure": -1.0}, "per_failure"),
        ({"per_failure": math.inf}, "per_failure"),
        ({"learned": 1.5}, "learned and lowest_similarity"),
        ({"lowest_similarity": math.nan}, "learned and lowest_similarity"),
        ({"lowest_score": 101.0}, "lowest_score"),
        ({"candidates": -1}, "candidates"),
        ({"largest": 0.5}, "largest"),
        ({"largest": math.inf}, "largest"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NegativesHard(**changed)  # type: ignore[arg-type]
