"""What is done about feedback that looks wrong: it weighs less, it is told, and the exam stays what it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from nightschool_daemon.config import TrainingSettings
from nightschool_daemon.jobs import EventRow
from nightschool_daemon.learning.dataset import Dataset, Rendered, build_dataset
from nightschool_daemon.learning.workshop import DatasetError
from nightschool_hookspecs import (
    Budget,
    Event,
    FeedbackType,
    ItemRole,
    LossTrajectory,
    Message,
    Metadata,
    NoiseFinding,
    Replay,
    Role,
    ScoredEvent,
    Side,
    TrainingExample,
    hookimpl,
)
from nightschool_hookspecs.testing import sample_trajectory
from support.workshops import NOW, workshop_of

PLAIN = (
    "reward_plain",
    "difficulty_length",
    "similarity_edit",
    "selection_priority",
    "negatives_plain",
    "training_sft",
)
LOSSES = (sample_trajectory("dropdir/a", 2.0, 1.0), sample_trajectory("dropdir/held", 2.0, 1.0))


@dataclass
class Finds:
    """Finds what it was told to find in what it is shown, and keeps what that was."""

    findings: Sequence[NoiseFinding]

    def __post_init__(self) -> None:
        self.shown: list[tuple[tuple[str, ...], tuple[LossTrajectory, ...]]] = []

    @hookimpl
    def nightschool_find_noise(
        self, events: tuple[ScoredEvent, ...], trajectories: tuple[LossTrajectory, ...]
    ) -> tuple[NoiseFinding, ...]:
        self.shown.append((tuple(one.event.key for one in events), trajectories))
        return tuple(one for one in self.findings if one.event_id in self.shown[-1][0])


class FindsNothing:
    @hookimpl
    def nightschool_find_noise(self) -> None:
        return None


class ReplaysAll:
    @hookimpl
    def nightschool_replay_examples(self, earlier: tuple[ScoredEvent, ...]) -> Replay:
        return Replay(events=tuple(one.event.key for one in earlier))


class Varies:
    """Says each prompt in other words."""

    @hookimpl
    def nightschool_augment_examples(self, examples: tuple[TrainingExample, ...]) -> tuple[TrainingExample, ...]:
        return tuple(
            replace(
                one,
                messages=(Message(role=Role.USER, content=f"please: {one.messages[-1].content}"),),
                parent=one.event_id,
            )
            for one in examples
        )


def finding(name: str, factor: float, reason: str = "others want something else") -> NoiseFinding:
    return NoiseFinding(event_id=f"dropdir/{name}", factor=factor, reason=reason)


def row(name: str, *, group: str = "", kind: FeedbackType = FeedbackType.USER_CORRECTION, **metadata: Any) -> EventRow:
    event = Event(
        id=name,
        timestamp=NOW,
        feedback_type=kind,
        input_data=f"question {name}",
        artifact_type="shell",
        ai_output="bad",
        corrected_output="good" if kind is FeedbackType.USER_CORRECTION else None,
        metadata=Metadata(**metadata),
    )
    return EventRow(event=event, group=group or name, side=None, trained_on=False, arrival=0)


def built(
    rows: Sequence[EventRow],
    *plugins: object,
    built_in: Sequence[str] = PLAIN,
    events: int = 100,
    doubted: float = TrainingSettings().doubted,
) -> Dataset:
    workshop = replace(workshop_of(built_in, plugins), trajectories=LOSSES, doubted=doubted)
    sides = {one.group or "": Side.HELD_OUT if one.group == "held" else Side.TRAINING for one in rows}
    return build_dataset(workshop, tuple(rows), sides, Budget(events=events, tokens=100_000))


def weights(dataset: Dataset) -> dict[str, float]:
    return {one.event_id.removeprefix("dropdir/"): one.weight for one in dataset.examples}


def test_what_looks_wrong_weighs_less_and_its_mark_says_so() -> None:
    rows = [row("a"), row("b"), row("c")]
    usual = weights(built(rows))
    dataset = built(rows, Finds([finding("a", 0.25), finding("b", 1.0)]))
    assert weights(dataset) == {"a": pytest.approx(usual["a"] / 4), "b": usual["b"], "c": usual["c"]}
    marks = {one.event_id.removeprefix("dropdir/"): one for one in dataset.marks}
    assert {key: one.weight for key, one in marks.items()} == weights(dataset)
    assert {key: one.noise_factor for key, one in marks.items()} == {"a": 0.25, "b": 1.0, "c": 1.0}
    assert [(one.finding.event_id, one.side) for one in dataset.noise] == [
        ("dropdir/a", Side.TRAINING),
        ("dropdir/b", Side.TRAINING),
    ]


def test_what_is_refused_is_not_asked_as_if_it_had_been_learned() -> None:
    """To have unlearned a wrong correction is nothing forgotten, and the one before it is what is learned tonight."""
    known = replace(row("a"), inherited=True)
    taken_back = [replace(row(name, group="g"), in_use=True) for name in ("b", "c")]
    dataset = built([known, *taken_back], Finds([finding("a", 0.0), finding("c", 0.0)]))
    assert [(item.event_id, item.role) for item in dataset.regression] == [("dropdir/b", ItemRole.LESSON)]
    doubted = built([known, *taken_back], Finds([finding("a", 0.1), finding("c", 0.1)]))
    assert [(item.event_id, item.role) for item in doubted.regression] == [
        ("dropdir/a", ItemRole.LEARNED),
        ("dropdir/c", ItemRole.LESSON),
    ]


def test_the_factor_of_hard_negatives_counts_besides() -> None:
    failed = row("a", kind=FeedbackType.VALIDATION_FAILURE)
    failed = replace(failed, event=replace(failed.event, corrected_output="good"))
    assert weights(built([failed], Finds([finding("a", 0.5)])))["a"] == weights(built([failed]))["a"] / 2


def test_nothing_is_learned_from_what_has_the_factor_zero() -> None:
    dataset = built([row("a"), row("b")], Finds([finding("a", 0.0, "it is nonsense")]))
    assert list(weights(dataset)) == ["b"]
    assert [one.reason for one in dataset.left_out] == ["it looks wrong: it is nonsense"]


@pytest.mark.parametrize(
    ("factor", "is_preferred"), [(1.0, True), (0.51, True), (0.5, False), (0.2, False), (0.0, False)]
)
def test_nothing_is_preferred_by_what_counts_half_or_less(factor: float, is_preferred: bool) -> None:
    """A pair and a label have no weight that would be lowered."""
    rows = [row("a"), row("b"), row("thumb", kind=FeedbackType.EXPLICIT_NEGATIVE)]
    preferences = (*PLAIN, "preference_corrections", "preference_thumbs")
    dataset = built(rows, Finds([finding("a", factor), finding("thumb", factor)]), built_in=preferences)
    doubted = ["dropdir/a"] if is_preferred else []
    assert sorted(one.event_id for one in dataset.pairs) == [*doubted, "dropdir/b"]
    assert [one.event_id for one in dataset.labels] == (["dropdir/thumb"] if is_preferred else [])


@pytest.mark.parametrize(
    ("doubted", "factor", "is_preferred"), [(0.2, 0.3, True), (0.2, 0.2, False), (0.0, 0.01, True)]
)
def test_from_which_factor_on_something_is_preferred_is_a_setting(
    doubted: float, factor: float, is_preferred: bool
) -> None:
    preferences = (*PLAIN, "preference_corrections")
    dataset = built([row("a")], Finds([finding("a", factor)]), built_in=preferences, doubted=doubted)
    assert bool(dataset.pairs) == is_preferred


def test_a_doubted_answer_is_nobodys_worse_one() -> None:
    """Nor its prompt one to which answers of the model in use are ranked by it."""
    rows = [
        row("good", group="g"),
        replace(
            one := row("bad", group="g"), event=replace(one.event, corrected_output="worse", input_data="question good")
        ),
    ]
    preferences = (*PLAIN, "preference_corrections")
    texts = {one.chosen for one in built(rows, Finds([finding("bad", 0.3)]), built_in=preferences).pairs}
    assert texts == {"good"}
    assert {"good", "worse"} <= {one.chosen for one in built(rows, built_in=preferences).pairs}


@pytest.mark.parametrize("newest", [1, 2])
def test_what_is_doubted_takes_no_place_of_another_dislike(newest: int) -> None:
    rows = [row(f"{number}", kind=FeedbackType.EXPLICIT_NEGATIVE) for number in range(3)]
    doubted = Finds([finding(f"{number}", 0.2) for number in range(3 - newest, 3)])
    labels = built(rows, doubted, built_in=(*PLAIN, "preference_thumbs"), events=3 - newest).labels
    assert len(labels) == 3 - newest


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.0])
def test_what_is_learned_again_weighs_less_too(factor: float) -> None:
    old = replace(row("old", weight=0.1), trained_on=True, inherited=True)
    rows = [old, *(row(f"{number}") for number in range(6))]
    (usual,) = built(rows, ReplaysAll(), events=5).replayed
    again = built(rows, ReplaysAll(), Finds([finding("old", factor)]), events=5).replayed
    expected = [("dropdir/old", usual.weight * factor)] if factor else []
    assert [(one.event_id, one.weight) for one in again] == expected


def test_variants_weigh_as_little_as_what_they_were_made_of_and_are_known_as_such() -> None:
    dataset = built([row("a"), row("b")], Varies(), Finds([finding("a", 0.25)]))
    assert len(dataset.examples) == 4
    lightest = {
        key: min(one.weight for one in dataset.examples if one.event_id == key)
        for key in map("dropdir/{}".format, "ab")
    }
    assert {one.weight / lightest[one.event_id] for one in dataset.examples} == {1.0}
    assert lightest["dropdir/a"] == pytest.approx(lightest["dropdir/b"] / 4)
    rendered = Rendered.of(dataset, lambda messages: messages[-1].content, "<end>").examples
    assert all(one.variant == one.prompt.startswith("please") for one in rendered)


@dataclass
class VariesAnew:
    """Builds its variants from nothing, of one weight."""

    weight: float

    @hookimpl
    def nightschool_augment_examples(self, examples: tuple[TrainingExample, ...]) -> tuple[TrainingExample, ...]:
        return tuple(
            TrainingExample(
                event_id="",
                messages=(Message(role=Role.USER, content=f"please: {one.messages[-1].content}"),),
                target=one.target,
                weight=self.weight,
                parent=one.event_id,
            )
            for one in examples
        )


@pytest.mark.parametrize(("weight", "left"), [(100.0, 0.15), (1.0, 0.15), (0.05, 0.05)])
def test_a_variant_that_is_built_anew_weighs_no_more_than_what_it_was_made_of(weight: float, left: float) -> None:
    doubted = Finds([finding("a", 0.5)])
    original, variant = built([row("a", weight=0.2)], VariesAnew(weight), doubted).examples
    assert [original.weight, variant.weight] == pytest.approx([0.15, left])
    assert (variant.event_id, variant.difficulty) == (original.event_id, original.difficulty)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_variant_that_would_be_unlearned_fails_the_step(weight: float) -> None:
    with pytest.raises(DatasetError, match="it must be above 0"):
        built([row("a")], VariesAnew(weight))


def test_no_variant_has_a_vote() -> None:
    """Else who was augmented most would be right."""
    rows = [
        replace(one, event=replace(one.event, input_data="list all", corrected_output=answer))
        for one, answer in [
            (row("a", group="g", user="anna"), "ls --all"),
            (row("b", group="g", user="ben"), "rm x"),
        ]
    ]
    alone = built(rows, built_in=(*PLAIN, "noise_agreement"))
    varied = built(rows, Varies(), built_in=(*PLAIN, "noise_agreement"))
    assert (len(alone.examples), len(varied.examples)) == (2, 4)
    assert {one.finding.event_id: one.finding.factor for one in alone.noise} == {"dropdir/a": 1.0, "dropdir/b": 1.0}
    assert varied.noise == alone.noise


def test_of_several_findings_the_gravest_counts() -> None:
    first, second = Finds([finding("a", 0.5), finding("b", 0.3)]), Finds([finding("a", 0.4), finding("b", 0.9)])
    dataset = built([row("a"), row("b")], first, FindsNothing(), second)
    assert [(one.finding.event_id, one.finding.factor) for one in dataset.noise] == [
        ("dropdir/b", 0.3),
        ("dropdir/a", 0.4),
    ]


def test_all_of_the_training_side_is_looked_at_but_what_was_withdrawn() -> None:
    rows = [
        row("a"),
        row("thumb", kind=FeedbackType.EXPLICIT_NEGATIVE),
        row("weak", weak=True),
        row("gone", deleted=True),
        row("held"),
    ]
    looks = Finds([])
    built(rows, looks)
    assert looks.shown == [
        (("dropdir/a", "dropdir/thumb", "dropdir/weak"), LOSSES[:1]),
        (("dropdir/held",), ()),
    ]


def test_what_is_held_out_is_told_and_asked_all_the_same() -> None:
    rows = [row("a"), row("held"), row("held2", group="held")]
    dataset = built(rows, Finds([finding("held2", 0.0)]))
    assert [(one.finding.event_id, one.side) for one in dataset.noise] == [("dropdir/held2", Side.HELD_OUT)]
    assert dataset.items == built(rows).items
    assert [one.event_id for one in dataset.items] == ["dropdir/held2"]
    assert weights(dataset) == weights(built(rows))


def test_what_is_held_out_has_no_vote() -> None:
    """Beside an answer on the training side stand many that contradict it, in the exam."""
    rows = [
        replace(one, event=replace(one.event, input_data="list all", corrected_output=answer))
        for one, answer in [(row("a"), "ls"), *((row(f"{number}", group="held"), "rm x") for number in range(9))]
    ]
    dataset = built(rows, built_in=(*PLAIN, "noise_agreement"))
    assert [one for one in dataset.noise if one.side is Side.TRAINING] == []
    assert weights(dataset) == weights(built(rows))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (finding("b", 0.5), "was not offered"),
        (replace(finding("a", 0.5), contradicts="dropdir/held"), "was not offered"),
        (finding("a", 1.5), r"the factor 1\.5"),
        (finding("a", -0.1), r"the factor -0\.1"),
    ],
)
def test_a_plugin_that_breaks_a_rule_fails_the_step(found: NoiseFinding, sentence: str) -> None:
    class Finds:
        @hookimpl
        def nightschool_find_noise(self) -> tuple[NoiseFinding, ...]:
            return (found,)

    with pytest.raises(DatasetError, match=sentence):
        built([row("a"), row("held")], Finds())
