"""The dataset: what leaves for the exam never trains, and no plugin can break its rules."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool_daemon.config import TrainingSettings
from nightschool_daemon.jobs import Choice, EventRow, PromptRow, Replayed
from nightschool_daemon.learning.dataset import (
    Dataset,
    Rendered,
    build_dataset,
    build_shown,
    material_of,
    replayed_of,
    result_of,
)
from nightschool_daemon.learning.items import NO_ANSWERS, gains
from nightschool_daemon.learning.rendering import render_example
from nightschool_daemon.learning.sampling import Sampling
from nightschool_daemon.learning.searching import item_of
from nightschool_daemon.learning.starters import as_example
from nightschool_daemon.learning.workshop import DatasetError, Workshop
from nightschool_daemon.reasons import ASKED, BY_HAND, REBUILD
from nightschool_daemon.wording import fingerprint_of
from nightschool_hookspecs import (
    AnswerScore,
    Budget,
    Chunk,
    Context,
    Event,
    ExamItem,
    FeedbackType,
    Generate,
    GenerationError,
    ItemRole,
    LabelledAnswer,
    Matrix,
    Measure,
    Message,
    Metadata,
    MethodChoice,
    OwnAnswer,
    Peers,
    PreferencePair,
    Recall,
    Replay,
    Retrieve,
    Role,
    Sample,
    ScoredEvent,
    Side,
    StarterExample,
    Store,
    TrainingExample,
    TrainingMethod,
    hookimpl,
)
from nightschool_hookspecs.testing import (
    FakeEmbed,
    FakeGenerate,
    FakeMeasure,
    FakeRecall,
    FakeSample,
    FakeValidate,
)
from support.workshops import NOW, workshop_of

PLAIN = (
    "reward_plain",
    "difficulty_length",
    "similarity_edit",
    "selection_priority",
    "negatives_plain",
    "curriculum_shuffle",
    "preference_corrections",
    "preference_thumbs",
)
ROOMY = Budget(events=1000, tokens=1_000_000)


class BuildsPlainly:
    """Question and target, and the chunks' texts before the question."""

    @hookimpl
    def nightschool_build_example(self, event: ScoredEvent, chunks: tuple[Chunk, ...]) -> TrainingExample | None:
        text = "\n".join([*(chunk.text for chunk in chunks), event.event.input_data])
        messages = (Message(role=Role.USER, content=text),)
        return TrainingExample(event_id="to be set", messages=messages, target=event.event.target or "")


def workshop(*plugins: object, built_in: Sequence[str] = PLAIN) -> Workshop:
    return workshop_of(built_in, (BuildsPlainly(), *plugins))


def row(
    identifier: str,
    kind: FeedbackType = FeedbackType.USER_CORRECTION,
    *,
    group: str | None = None,
    metadata: Metadata | None = None,
    answer: str | None = "bad",
    corrected: str | None = "good",
) -> EventRow:
    event = Event(
        id=identifier,
        timestamp=NOW,
        feedback_type=kind,
        input_data=f"question {identifier}",
        artifact_type="shell",
        ai_output=answer,
        corrected_output=corrected if kind is FeedbackType.USER_CORRECTION else None,
        metadata=metadata or Metadata(),
    )
    return EventRow(event=event, group=group or identifier, side=None, trained_on=False, arrival=0)


def build(rows: Sequence[EventRow], held_out: Sequence[str] = (), *plugins: object) -> Dataset:
    sides = {one.group or "": Side.HELD_OUT if one.group in held_out else Side.TRAINING for one in rows}
    return build_dataset(workshop(*plugins), tuple(rows), sides, ROOMY)


def learned(dataset: Dataset) -> set[str]:
    return {example.event_id for example in dataset.examples}


@given(st.lists(st.tuples(st.sampled_from(FeedbackType), st.integers(0, 6)), max_size=15), st.sets(st.integers(0, 6)))
@settings(deadline=None)
def test_no_held_out_group_is_ever_learned_from(kinds: list[tuple[FeedbackType, int]], held_out: set[int]) -> None:
    rows = [row(str(index), kind, group=f"g{group}") for index, (kind, group) in enumerate(kinds)]
    groups = {f"g{group}" for group in held_out}
    dataset = build(rows, sorted(groups))
    of_event = {f"dropdir/{one.event.id}": one.group for one in rows}
    assert not {of_event[key] for key in learned(dataset)} & groups
    assert not {of_event[one.event_id] for one in dataset.pairs} & groups
    assert not {of_event[one.event_id] for one in dataset.labels} & groups
    assert {item.group for item in dataset.items} <= groups
    assert len({item.group for item in dataset.items}) == len(dataset.items)


def test_corrections_count_and_thumbs_guard() -> None:
    rows = [row("1"), row("2", FeedbackType.SUCCESS), row("3", FeedbackType.EXPLICIT_NEGATIVE)]
    dataset = build(rows, ["1", "2", "3"])
    assert {item.id: (item.role, item.reference, item.disliked) for item in dataset.items} == {
        "dropdir/1": (ItemRole.GAIN, "good", None),
        "dropdir/2": (ItemRole.GUARD, "bad", None),
        "dropdir/3": (ItemRole.GUARD, None, "bad"),
    }


class SeesFailures:
    """Knows a bad answer of shell commands by itself, and says so of the others' too."""

    @hookimpl
    def nightschool_validate_answer(self, item: ExamItem, answer: str) -> AnswerScore:
        return AnswerScore(score=0.0 if answer in ("bad", *NO_ANSWERS) else 100.0, validator="sees")


def test_a_failed_check_is_an_item_without_reference_where_a_validator_sees_the_failure() -> None:
    failed = row("1", FeedbackType.VALIDATION_FAILURE, metadata=Metadata(tests="assert True", schema="{}"))
    unseen = row("2", FeedbackType.VALIDATION_FAILURE, answer="fine")
    weak = row("3", FeedbackType.VALIDATION_FAILURE, metadata=Metadata(weak=True))
    held_out = ["1", "2", "3"]
    item, guard = build([failed, unseen, weak], held_out, SeesFailures()).items
    assert (item.id, item.role, item.reference) == ("dropdir/1", ItemRole.GAIN, None)
    assert (item.tests, item.schema) == ("assert True", "{}")
    assert item.messages[-1].content == "question 1"
    assert (guard.id, guard.role, guard.disliked) == ("dropdir/2", ItemRole.GUARD, "fine")


@pytest.mark.parametrize("answer", ["echo 'open", "ls -l"])
def test_a_failed_check_that_whoever_answers_nothing_passes_only_guards(answer: str) -> None:
    """An apology parses as a command: six of them would prove a model that makes no commands any more."""
    rows = [row("1", FeedbackType.VALIDATION_FAILURE, answer=answer)]
    (item,) = build_dataset(
        workshop(built_in=(*PLAIN, "evaluation_shell")), tuple(rows), {"1": Side.HELD_OUT}, ROOMY
    ).items
    assert (item.role, item.reference, item.disliked) == (ItemRole.GUARD, None, answer)


def test_corrections_that_the_incumbent_inherited_are_asked_again_once_a_group() -> None:
    rows = [
        row("1", group="g"),
        row("2", group="g"),
        row("3"),
        row("4", FeedbackType.SUCCESS),
        row("held out"),
    ]
    # a version that was discarded learned "3"
    known = [replace(one, trained_on=one.event.id in "1234", inherited=one.event.id in "124") for one in rows]
    dataset = build(known, ["held out"])
    assert [(item.id, item.role, item.reference) for item in dataset.regression] == [
        ("dropdir/2", ItemRole.LEARNED, "good")
    ]
    assert [item.id for item in dataset.items] == ["dropdir/held out"]


def test_what_trial_candidates_are_asked_shows_whether_the_candidate_is_sound() -> None:
    rows = (row("1"), row("2"), row("3", FeedbackType.SUCCESS), row("4"))
    known = tuple(replace(one, inherited=one.event.id == "4") for one in rows)
    sides = {one.group or "": Side.TRAINING for one in rows}
    dataset = build_dataset(workshop(), known, sides, ROOMY, frozenset({"1", "2", "3"}))
    # a liked answer counts for nothing, and is put to trial candidates as a guard
    assert dataset.folded == 2
    assert dataset.items == ()
    assert [(item.id, item.event_id, item.role) for item in dataset.regression] == [
        ("lesson/dropdir/1", "dropdir/1", ItemRole.LESSON),
        ("lesson/dropdir/2", "dropdir/2", ItemRole.LESSON),
        ("dropdir/4", "dropdir/4", ItemRole.LEARNED),
    ]
    assert learned(dataset) == {"dropdir/1", "dropdir/2", "dropdir/3", "dropdir/4"}


def test_what_was_promoted_and_taken_back_shows_whether_the_candidate_is_sound() -> None:
    rows = (row("1"), row("2"), row("3"))
    known = tuple(replace(one, in_use=one.event.id in "12", inherited=one.event.id == "1") for one in rows)
    dataset = build_dataset(workshop(), known, {one.group or "": Side.TRAINING for one in rows}, ROOMY)
    assert [(item.id, item.role) for item in dataset.regression] == [
        ("dropdir/1", ItemRole.LEARNED),
        ("lesson/dropdir/2", ItemRole.LESSON),
    ]


def test_a_rebuild_has_no_lesson_that_could_show_anything() -> None:
    rows = (row("1"), row("2"), row("3"))
    known = tuple(replace(one, in_use=one.event.id in "12", inherited=one.event.id == "1") for one in rows)
    at_work = workshop()
    rebuilding = replace(at_work, info=replace(at_work.info, reason=REBUILD))
    sides = {one.group or "": Side.TRAINING for one in rows}
    dataset = build_dataset(rebuilding, known, sides, ROOMY, frozenset({"3"}))
    assert [(item.id, item.role) for item in dataset.regression] == [("dropdir/1", ItemRole.LEARNED)]


def test_a_dislike_gives_way_to_whatever_knows_more() -> None:
    kinds = [FeedbackType.SUCCESS, FeedbackType.EXPLICIT_NEGATIVE]
    rows = [row(str(number), kind, group="g") for number, kind in enumerate(kinds)]
    assert [item.id for item in build(rows, ["g"]).items] == ["dropdir/0"]
    assert [item.id for item in build(rows[::-1], ["g"]).items] == ["dropdir/0"]


def test_a_group_sends_one_item_and_a_correction_goes_first() -> None:
    rows = [
        row("1", FeedbackType.SUCCESS, group="g"),
        row("2", group="g"),
        row("3", group="g"),
        row("4", FeedbackType.SUCCESS, group="g"),
    ]
    assert [item.id for item in build(rows, ["g"]).items] == ["dropdir/3"]


def test_what_is_left_out_has_a_reason() -> None:
    rows = [
        row("learned"),
        row("weak", metadata=Metadata(weak=True)),
        row("withdrawn", metadata=Metadata(deleted=True)),
        row("negative", FeedbackType.EXPLICIT_NEGATIVE),
        row("empty", corrected="  "),
    ]
    dataset = build(rows)
    assert learned(dataset) == {"dropdir/learned"}
    assert {one.event_id.removeprefix("dropdir/") for one in dataset.left_out} == {
        "weak",
        "withdrawn",
        "negative",
        "empty",
    }


def test_an_event_without_a_side_waits() -> None:
    rows = (row("1"), row("2"))
    dataset = build_dataset(workshop(), rows, {"1": Side.TRAINING}, ROOMY)
    assert learned(dataset) == {"dropdir/1"}
    assert [one.event_id for one in dataset.left_out] == ["dropdir/2"]


def test_the_budget_leaves_out_with_a_reason() -> None:
    rows = tuple(row(str(index)) for index in range(5))
    sides = {one.group or "": Side.TRAINING for one in rows}
    dataset = build_dataset(workshop(), rows, sides, Budget(events=2, tokens=1_000_000))
    assert len(dataset.examples) == 2
    assert {one.reason for one in dataset.left_out} == {"it did not fit into this night's budget"}


def test_what_could_be_learned_is_counted_whatever_a_night_takes() -> None:
    """Without what has no answer worth learning, and without what is held out."""
    disliked = row("disliked", FeedbackType.EXPLICIT_NEGATIVE)
    withdrawn = row("withdrawn", metadata=Metadata(deleted=True))
    rows = (*(row(str(index)) for index in range(5)), disliked, withdrawn, row("exam"))
    sides = {one.group or "": Side.TRAINING for one in rows} | {"exam": Side.HELD_OUT}
    for budget in (Budget(events=2, tokens=1_000_000), ROOMY):
        dataset = build_dataset(workshop(), rows, sides, budget)
        assert material_of(dataset, rows).learnable == 5


def test_hard_negatives_weigh_more() -> None:
    failed = row("2")
    failed = replace(failed, event=replace(failed.event, feedback_type=FeedbackType.VALIDATION_FAILURE))
    weights = {example.event_id: example.weight for example in build([row("1"), failed]).examples}
    assert weights == {"dropdir/1": 1.0, "dropdir/2": 1.5}


class Listening:
    """Embeds and measures as the fakes do, and keeps every text that it is given."""

    def __init__(self) -> None:
        self.texts: set[str] = set()

    def embed(self, texts: Sequence[str]) -> Matrix | None:
        self.texts.update(texts)
        return FakeEmbed()(texts)

    def measure(self, left: Sequence[str], right: Sequence[str]) -> Matrix:
        self.texts.update(left, right)
        return FakeMeasure()(left, right)


def asked(one: EventRow, prompt: str) -> EventRow:
    return replace(one, event=replace(one.event, input_data=prompt))


def test_what_selects_and_weighs_never_sees_the_held_out_side() -> None:
    training = (
        asked(row("1"), "count all lines of one"),
        asked(row("2"), "count all lines of two"),
        asked(row("3", FeedbackType.SUCCESS), "count all lines of three"),
    )
    held_out = (
        asked(row("4"), "count all lines of four"),
        asked(row("5", FeedbackType.VALIDATION_FAILURE), "count all lines of five"),
    )
    sides = {"1": Side.TRAINING, "2": Side.TRAINING, "3": Side.TRAINING, "4": Side.HELD_OUT, "5": Side.HELD_OUT}
    listening = Listening()
    shop = replace(
        workshop(built_in=(*PLAIN, "selection_active", "negatives_hard")),
        measure=listening.measure,
        embed=listening.embed,
    )
    beside = build_dataset(shop, (*training, *held_out), sides, ROOMY)
    # two failures, and two thirds of the words shared with each; the one that was held out as near pulls nothing
    assert {one.event_id: one.weight for one in beside.examples} == {
        "dropdir/1": pytest.approx(1 + 0.5 * (1 + 2 / 3)),
        "dropdir/2": pytest.approx(1 + 0.5 * (1 + 2 / 3)),
        "dropdir/3": pytest.approx(1 + 0.5 * (2 / 3 + 2 / 3)),
    }
    assert listening.texts == {one.event.input_data for one in training}
    assert build_dataset(shop, training, sides, ROOMY).examples == beside.examples


def test_lone_thumbs_are_labels() -> None:
    rows = [row("1"), row("2", FeedbackType.SUCCESS), row("3", FeedbackType.EXPLICIT_NEGATIVE)]
    assert {one.event_id: one.liked for one in build(rows).labels} == {"dropdir/2": True, "dropdir/3": False}


def test_the_newest_disliked_answers_fit_the_budget() -> None:
    rows = [row(str(number), FeedbackType.EXPLICIT_NEGATIVE) for number in range(5)]
    sides = {one.group or "": Side.TRAINING for one in rows}
    dataset = build_dataset(workshop(), tuple(rows), sides, Budget(events=2, tokens=1000))
    assert {one.event_id for one in dataset.labels} == {"dropdir/3", "dropdir/4"}


def test_a_label_of_an_event_that_was_not_offered_is_refused() -> None:
    class Invents:
        @hookimpl
        def nightschool_label_answers(self) -> tuple[LabelledAnswer, ...]:
            return (LabelledAnswer(event_id="dropdir/held", messages=(), answer="x", liked=True),)

    with pytest.raises(DatasetError, match="dropdir/held, which was not offered"):
        build([row("1"), row("held")], ["held"], Invents())


def test_disliked_answers_are_the_worse_side_of_pairs() -> None:
    liked = row("1", FeedbackType.SUCCESS, answer="fine")
    disliked = row("2", FeedbackType.EXPLICIT_NEGATIVE, answer="awful")
    disliked = replace(disliked, event=replace(disliked.event, input_data="question 1"))
    dataset = build([liked, disliked])
    assert [(pair.chosen, pair.rejected) for pair in dataset.pairs] == [("fine", "awful")]
    assert learned(dataset) == {"dropdir/1"}


def two_thumbs(number: int, group: str | None = None) -> list[EventRow]:
    """A liked and a disliked answer to one prompt."""
    kinds = {"fine": FeedbackType.EXPLICIT_POSITIVE, "awful": FeedbackType.EXPLICIT_NEGATIVE}
    group = group or f"g{number}"
    rows = [row(f"{number}-{answer}", kind, group=group, answer=answer) for answer, kind in kinds.items()]
    return [replace(one, event=replace(one.event, input_data=f"question {number}")) for one in rows]


def test_held_out_pairs_count_where_no_item_says_what_was_wanted() -> None:
    rows = [
        *two_thumbs(1),
        *two_thumbs(2),
        *two_thumbs(3),
        row("a correction", group="g2"),
        row("lone", FeedbackType.EXPLICIT_NEGATIVE),
    ]
    dataset = build(rows, ["g1", "g2", "lone"])
    assert [(one.group, one.chosen, one.rejected) for one in dataset.ranked] == [("g1", "fine", "awful")]
    assert [one.messages[0].content for one in dataset.ranked] == ["question 1"]
    assert [one.group for one in dataset.pairs] == ["g3"]
    assert gains(dataset.items) == 1


def test_a_group_sends_one_pair() -> None:
    dataset = build([*two_thumbs(1, "g"), *two_thumbs(2, "g")], ["g"])
    assert len(dataset.ranked) == 1


def test_a_pair_of_withdrawn_feedback_is_not_ranked() -> None:
    liked, disliked = two_thumbs(1)
    withdrawn = replace(disliked, event=replace(disliked.event, metadata=Metadata(deleted=True)))
    assert build([liked, withdrawn], ["g1"]).ranked == ()


def test_what_a_plugin_makes_up_to_learn_from_is_not_ranked() -> None:
    class Worsens:
        @hookimpl
        def nightschool_build_preference_pairs(self, events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...]:
            answers = ((one.event, one.event.ai_output or "") for one in events)
            return tuple(
                PreferencePair(event_id=event.key, messages=event.conversation, chosen=text, rejected=f"{text}!")
                for event, text in answers
            )

    rows = [row("1", FeedbackType.EXPLICIT_POSITIVE), row("2", FeedbackType.EXPLICIT_POSITIVE)]
    dataset = build(rows, ["1"], Worsens())
    assert dataset.ranked == ()
    assert [one.rejected for one in dataset.pairs] == ["bad!"]


def test_given_answers_to_a_prompt_that_a_plugin_made_up_are_not_ranked() -> None:
    class Rewords:
        @hookimpl(wrapper=True)
        def nightschool_build_preference_pairs(
            self,
        ) -> Generator[None, list[tuple[PreferencePair, ...]], list[tuple[PreferencePair, ...]]]:
            messages = (Message(role=Role.USER, content="in other words"),)
            of_plugins = yield
            return [*of_plugins, *(tuple(replace(one, messages=messages) for one in made) for made in of_plugins)]

    dataset = build([*two_thumbs(1), *two_thumbs(2)], ["g1"], Rewords())
    assert [one.messages[0].content for one in dataset.ranked] == ["question 1"]
    assert {one.messages[0].content for one in dataset.pairs} == {"question 2", "in other words"}


def test_where_nothing_can_be_ranked_no_pair_counts() -> None:
    rows, sides = two_thumbs(1), {"g1": Side.HELD_OUT}
    unable = replace(workshop(), ranks=False)
    assert build_dataset(unable, tuple(rows), sides, ROOMY).ranked == ()


def test_pairs_that_trial_candidates_are_to_rank_are_counted() -> None:
    rows = [*two_thumbs(1), *two_thumbs(2), row("3")]
    sides = {one.group or "": Side.TRAINING for one in rows}
    dataset = build_dataset(workshop(), tuple(rows), sides, ROOMY, frozenset({"g1", "3"}))
    assert (dataset.folded, dataset.folded_pairs, dataset.ranked) == (1, 1, ())


def test_preferences_have_the_prompts_of_examples_and_items() -> None:
    """The texts that were retrieved for an event stand in whatever is made of it."""

    class Retrieves:
        @hookimpl
        def nightschool_retrieve_context(self, event: Event) -> tuple[Chunk, ...]:
            return (Chunk(text=f"known of {event.id}"),)

    kinds = {"1": FeedbackType.USER_CORRECTION, "2": FeedbackType.SUCCESS, "3": FeedbackType.EXPLICIT_NEGATIVE}
    rows = [row(identifier, kind) for identifier, kind in kinds.items()]
    dataset, examined = build(rows, (), Retrieves()), build(rows, list(kinds), Retrieves())
    items = {one.event_id: one.messages for one in examined.items}
    made: list[TrainingExample | PreferencePair | LabelledAnswer]
    made = [*dataset.examples, *dataset.pairs, *dataset.labels]
    assert {type(one).__name__ for one in made} == {"TrainingExample", "PreferencePair", "LabelledAnswer"}
    assert all(one.messages == items[one.event_id] for one in made)
    assert all(one.group == one.event_id.removeprefix("dropdir/") for one in made)
    assert items["dropdir/3"][0].content == "known of 3\nquestion 3"


def test_a_prompt_that_a_plugin_made_for_a_preference_stays() -> None:
    own = (Message(role=Role.USER, content="in other words"),)

    class Rewords:
        @hookimpl
        def nightschool_label_answers(self) -> tuple[LabelledAnswer, ...]:
            return (LabelledAnswer(event_id="dropdir/1", messages=own, answer="x", liked=True),)

    assert [one.messages for one in build([row("1")], (), Rewords()).labels] == [own]


# --------------------------------------------------------------------------- answers of the incumbent


SAMPLES = (*PLAIN, "preference_pairs")


def liked_and_disliked() -> list[EventRow]:
    """Two answers to one prompt."""
    rows = [
        row("l", FeedbackType.EXPLICIT_POSITIVE, group="g", answer="who"),
        row("d", FeedbackType.EXPLICIT_NEGATIVE, group="g", answer="ps"),
    ]
    return [replace(one, event=replace(one.event, input_data="question")) for one in rows]


def test_a_pair_is_learned_from_both_of_its_events() -> None:
    rows = tuple(liked_and_disliked())
    dataset = build(rows)
    assert texts(dataset.pairs) == {("who", "ps", 0.0)}
    found = result_of(workshop(), dataset, rows, "")
    assert found.sources[TrainingMethod.DPO] == ("dropdir/l", "dropdir/d")


@pytest.mark.parametrize(
    "other", [row("d", metadata=Metadata(deleted=True)), row("d", group="h")], ids=["withdrawn", "held out"]
)
def test_no_pair_has_a_worse_answer_of_an_event_that_was_not_offered(other: EventRow) -> None:
    class Reaches:
        @hookimpl
        def nightschool_build_preference_pairs(self, events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...]:
            return tuple(
                PreferencePair(
                    event_id=one.event.key,
                    messages=one.event.conversation,
                    chosen="x",
                    rejected="y",
                    worse_event_id=other.event.key,
                )
                for one in events
            )

    with pytest.raises(DatasetError, match="dropdir/d, which was not offered"):
        build([row("t"), other], ["h"], Reaches())


def sampling(shop: Workshop, sample: FakeSample) -> Workshop:
    """Answers are scored by the words that they share with the wanted one."""
    return replace(shop, sampling=Sampling(sample=sample, validate=FakeValidate()))


def sampled(rows: Sequence[EventRow], held_out: Sequence[str], sample: FakeSample, *plugins: object) -> Dataset:
    """What is built where the incumbent may be asked."""
    sides = {one.group or "": Side.HELD_OUT if one.group in held_out else Side.TRAINING for one in rows}
    return build_dataset(sampling(workshop(*plugins, built_in=SAMPLES), sample), tuple(rows), sides, ROOMY)


def texts(pairs: Sequence[PreferencePair]) -> set[tuple[str, str, float]]:
    return {(one.chosen, one.rejected, round(one.margin, 3)) for one in pairs}


def says(*answers: str) -> FakeSample:
    return FakeSample(lambda _: answers)


@given(st.lists(st.tuples(st.sampled_from(FeedbackType), st.integers(0, 6)), max_size=12), st.sets(st.integers(0, 6)))
@settings(deadline=None)
def test_no_held_out_prompt_is_put_to_the_incumbent(kinds: list[tuple[FeedbackType, int]], held_out: set[int]) -> None:
    rows = [row(str(index), kind, group=f"g{group}") for index, (kind, group) in enumerate(kinds)]
    sample = FakeSample()
    dataset = sampled(rows, [f"g{group}" for group in held_out], sample, SeesFailures())
    asked = {messages[-1].content for messages in sample.asked}
    of_training = {one.event.input_data for one in rows if one.group not in {f"g{group}" for group in held_out}}
    assert asked <= of_training
    assert len(sample.asked) == len(asked)
    assert not {one.group for one in dataset.pairs} & {f"g{group}" for group in held_out}


@pytest.mark.parametrize("first", ["1", "9"], ids=["selected first", "selected last"])
def test_what_could_count_in_an_exam_is_asked_once_a_group(first: str) -> None:
    rows = [
        row(first, group="g"),
        row("2", group="g"),
        row("3", FeedbackType.SUCCESS),
        row("4", FeedbackType.EXPLICIT_NEGATIVE),
        row("5", FeedbackType.VALIDATION_FAILURE),
        row("6", metadata=Metadata(weak=True)),
        row("7", metadata=Metadata(deleted=True)),
    ]
    sample = FakeSample()
    sampled(rows, [], sample, SeesFailures())
    # a liked answer says nothing against another one, and of a disliked one nobody knows what would be better
    assert sorted(messages[-1].content for messages in sample.asked) == ["question 2", "question 5"]


def test_what_the_incumbent_answers_wrongly_is_the_worse_side_of_pairs() -> None:
    dataset = sampled([row("1", answer="older", corrected="ls -a src")], [], says("rm src", "dir"))
    assert texts(dataset.pairs) == {
        ("ls -a src", "older", 0.0),
        ("ls -a src", "rm src", 0.75),
        ("ls -a src", "dir", 1.0),
        ("rm src", "dir", 0.25),
    }
    assert {one.group for one in dataset.pairs} == {"1"}
    assert {one.rejected for one in dataset.pairs if not one.sampled} == {"older"}


def test_of_two_equal_pairs_the_one_whose_margin_was_measured_counts() -> None:
    dataset = sampled([row("1", answer="bad", corrected="good")], [], says("bad"))
    assert texts(dataset.pairs) == {("good", "bad", 1.0)}


def test_the_margin_of_a_correction_is_what_its_validator_finds_it_better_and_it_was_not_sampled() -> None:
    (answered,) = rows = (row("1"),)
    rows = (replace(answered, event=replace(answered.event, validation_score=20.0)),)

    def looks(events: Sequence[Event]) -> list[float | None]:
        return [90.0 for _ in events]

    shop = replace(workshop(), score_corrections=looks)
    dataset = build_dataset(shop, rows, {"1": Side.TRAINING}, ROOMY)
    assert texts(dataset.pairs) == {("good", "bad", 0.7)}
    assert result_of(shop, dataset, rows, "").sampled == 0


def test_what_the_feedback_says_the_other_way_round_is_not_learned() -> None:
    rows = [
        row("1", FeedbackType.EXPLICIT_NEGATIVE, group="g", answer="right word"),
        row("2", FeedbackType.EXPLICIT_POSITIVE, group="g", answer="another"),
        row("3", group="g", answer=None, corrected="right word wanted"),
    ]
    rows = [replace(one, event=replace(one.event, input_data="question")) for one in rows]
    dataset = sampled(rows, [], says("right word", "another", "wanted"))
    pairs = {(one.chosen, one.rejected) for one in dataset.pairs}
    assert ("another", "right word") in pairs
    assert ("right word", "another") not in pairs
    assert ("right word", "wanted") in pairs


def test_sampled_pairs_have_the_prompts_of_examples() -> None:
    chunks = (Chunk(text="ls lists files"),)
    dataset = sampled([asking("1", "which tool?", chunks=chunks)], [], says("none"))
    (example,) = dataset.examples
    assert len(dataset.pairs) == 2
    assert {one.messages for one in dataset.pairs} == {example.messages}


def test_answers_of_the_incumbent_are_not_ranked_in_the_exam() -> None:
    """Not even where they are, to the letter, answers that were given."""
    offered: list[list[str]] = []

    class Turns:
        @hookimpl
        def nightschool_build_sampled_pairs(self, items: tuple[ExamItem, ...]) -> tuple[PreferencePair, ...]:
            offered.append([one.group for one in items])
            return tuple(
                PreferencePair(event_id=one.event_id, messages=one.messages, chosen="awful", rejected="fine")
                for one in items
            )

    rows = [*two_thumbs(1), *two_thumbs(2), row("3"), row("4")]
    dataset = sampled(rows, ["g1", "4"], says("awful", "fine"), Turns())
    assert [(one.group, one.chosen, one.rejected) for one in dataset.ranked] == [("g1", "fine", "awful")]
    assert offered == [["3"]]
    assert {one.group for one in dataset.pairs} == {"g2", "3"}


def test_nobody_is_asked_where_a_training_is_only_planned() -> None:
    class Samples:
        @hookimpl
        def nightschool_build_sampled_pairs(self) -> tuple[PreferencePair, ...]:
            raise AssertionError

    rows, sides = (row("1"),), {"1": Side.TRAINING}
    planned = build_dataset(workshop(Samples(), built_in=SAMPLES), rows, sides, ROOMY)
    assert [one.sampled for one in planned.pairs] == [False]


def test_a_sampled_pair_of_an_event_that_was_not_offered_is_refused() -> None:
    class Invents:
        @hookimpl
        def nightschool_build_sampled_pairs(self, sample: Sample) -> tuple[PreferencePair, ...]:
            return (PreferencePair(event_id="dropdir/held", messages=(), chosen="x", rejected="y"),)

    with pytest.raises(DatasetError, match="dropdir/held, which was not offered"):
        sampled([row("1"), row("held")], ["held"], FakeSample(), Invents())


# --------------------------------------------------------------------------- what a reward knows of the others


class WeighsByPriority:
    """An example weighs what its event is worth."""

    @hookimpl
    def nightschool_build_example(self, event: ScoredEvent) -> TrainingExample:
        return TrainingExample(
            event_id=event.event.key, messages=event.event.conversation, target="good", weight=event.priority
        )


def weighed(rows: Sequence[EventRow]) -> dict[str, float]:
    """What each event weighs by the optional reward."""
    shop = workshop(WeighsByPriority(), built_in=("reward_plain", "reward_enhanced", *PLAIN[1:]))
    sides = {one.group or "": Side.TRAINING for one in rows}
    examples = build_dataset(shop, tuple(rows), sides, ROOMY).examples
    return {one.event_id.removeprefix("dropdir/"): one.weight for one in examples}


def test_each_of_many_near_duplicates_weighs_less_than_an_event_of_its_own() -> None:
    found = weighed([*(row(str(number), group="g") for number in range(9)), row("a"), row("b")])
    assert found["a"] == found["b"]
    # sqrt((11 / 3) / 9) and sqrt(11 / 3)
    assert [found["a"] / found[str(number)] for number in range(9)] == pytest.approx([3] * 9)


def test_disliked_answers_to_its_prompt_take_nothing_from_a_correction() -> None:
    disliked = [row(str(number), FeedbackType.EXPLICIT_NEGATIVE, group="g") for number in range(9)]
    found = weighed([*disliked, row("a", group="g"), row("b")])
    assert found["a"] == found["b"]


def test_a_hard_event_among_easy_ones_weighs_more_than_its_difficulty_makes_it() -> None:
    hard = row("hard")
    hard = replace(hard, event=replace(hard.event, input_data="x" * 5000))
    found = weighed([*(row(str(number)) for number in range(7)), hard])
    # difficulty 0.6 of the hard one, next to nothing of the others; four events a bin: sqrt(4) and sqrt(4 / 7)
    assert found["hard"] / found["0"] == pytest.approx((1 + 1.5 * 0.6) * 7**0.5, rel=0.01)


def test_a_reward_knows_its_own_side_alone() -> None:
    seen: dict[str, Peers] = {}

    class Sees:
        @hookimpl
        def nightschool_score_reward(self, event: Event, peers: Peers) -> None:
            seen[event.id] = peers

        @hookimpl
        def nightschool_score_difficulty(self, event: Event) -> float:
            return float(event.id) / 10

    rows = [row("3", group="g"), row("1", group="g"), row("2"), row("5", FeedbackType.EXPLICIT_NEGATIVE), row("9")]
    build(rows, ["9"], Sees())
    of_training = Peers(count_of_type=5, mean_count=5.0, mean_count_of_group=1.5, difficulties=(0.1, 0.2, 0.3))
    assert seen == {
        "1": replace(of_training, count_of_group=2),
        "2": of_training,
        "3": replace(of_training, count_of_group=2),
        "5": of_training,
        "9": replace(of_training, mean_count_of_group=1.0, difficulties=(0.9,)),
    }


# --------------------------------------------------------------------------- what is learned again


@dataclass(frozen=True)
class Replays:
    """Replays these answers, and of what is offered the given share, or these events."""

    answers: tuple[OwnAnswer, ...] = ()
    share: float = 1.0
    events: tuple[str, ...] | None = None

    @hookimpl
    def nightschool_replay_examples(self, earlier: tuple[ScoredEvent, ...], recall: Recall) -> Replay:
        offered = tuple(one.event.key for one in earlier)
        said = recall([one.prompt for one in self.answers], max_tokens=9, temperature=0.0, minutes=9.0)
        whole = (OwnAnswer(prompt=one.prompt, text=text) for one, text in zip(self.answers, said, strict=True) if text)
        events = offered[: round(self.share * len(offered))] if self.events is None else self.events
        return Replay(events=events, answers=tuple(whole))


KEPT = "show every line of the log that has an error in it"


def own(*prompts: str) -> tuple[OwnAnswer, ...]:
    return tuple(OwnAnswer(prompt=prompt, text=f"said to {prompt}") for prompt in prompts)


def replaying(
    rows: Sequence[EventRow],
    replays: Replays,
    held_out: Sequence[str] = (),
    *,
    events: int = 1000,
    method: MethodChoice = MethodChoice.SFT,
    reason: str = "test",
) -> Dataset:
    shop = workshop(replays)
    recall = FakeRecall({one.prompt: one.text for one in replays.answers})
    shop = replace(shop, recall=recall, method=method, info=replace(shop.info, reason=reason))
    sides = {one.group: Side.HELD_OUT if one.group in held_out else Side.TRAINING for one in rows if one.group}
    return build_dataset(shop, tuple(rows), sides, Budget(events=events, tokens=1_000_000))


def known(identifier: str, kind: FeedbackType = FeedbackType.USER_CORRECTION, *, group: str | None = None) -> EventRow:
    """What the incumbent has learned. It is chosen last: its source gives it little weight."""
    return replace(row(identifier, kind, group=group, metadata=Metadata(weight=0.1)), trained_on=True, inherited=True)


def fresh(count: int) -> list[EventRow]:
    return [row(f"fresh {number}") for number in range(count)]


def test_what_the_incumbent_has_learned_and_the_night_has_no_room_for_is_learned_again() -> None:
    dataset = replaying([known("old"), *fresh(6)], Replays(), events=4)
    (again,) = dataset.replayed
    assert (again.event_id, again.target, again.group) == ("dropdir/old", "good", "old")
    assert "dropdir/old" not in learned(dataset)
    assert {one.event_id for one in dataset.left_out} == {"dropdir/fresh 4", "dropdir/fresh 5"}
    assert {one.event_id: one.weight for one in dataset.marks}["dropdir/old"] == again.weight


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param(replace(known("old"), inherited=False), id="a version that was discarded learned it"),
        pytest.param(known("old", FeedbackType.SUCCESS), id="a liked answer, which corrects nothing"),
        pytest.param(known("old", group="fresh 0"), id="its prompt is in the lesson"),
        pytest.param(replace(known("old"), group=None), id="close to both sides"),
    ],
)
def test_what_cannot_be_forgotten_is_not_offered(left_out: EventRow) -> None:
    assert replaying([left_out, *fresh(6)], Replays(), events=5).replayed == ()


def test_the_latest_correction_of_a_prompt_speaks_for_it() -> None:
    earlier, later = known("earlier", group="g"), known("later", group="g")
    (again,) = replaying([earlier, later, *fresh(6)], Replays(), events=6).replayed
    assert again.event_id == "dropdir/later"
    # what is said now is not learned yet, and what it replaces must not come back
    assert replaying([earlier, replace(later, inherited=False), *fresh(6)], Replays(), events=6).replayed == ()


def test_answers_of_the_base_are_learned_beside_the_lesson_and_are_of_no_event() -> None:
    dataset = replaying(fresh(6), Replays(own("sing", "dance")))
    assert {(one.event_id, one.group, one.messages[0].content, one.target) for one in dataset.replayed} == {
        ("", "", "sing", "said to sing"),
        ("", "", "dance", "said to dance"),
    }
    assert learned(dataset) == {one.event.key for one in fresh(6)}
    assert len(dataset.marks) == 6
    assert replayed_of(dataset) == Replayed(events=(), answers=2)
    assert material_of(dataset, fresh(6)).examples == 6
    rendered = Rendered.of(dataset, lambda messages: messages[-1].content, "<end>").examples
    assert [one.beside for one in rendered] == [False, False, True, False, False, False, True, False]
    assert {one.event_id for one in rendered if one.beside} == {""}


@pytest.mark.parametrize(
    "near",
    [
        KEPT,
        f"{KEPT.capitalize()}!",
        KEPT.replace("every", "each"),
    ],
)
@pytest.mark.parametrize("side", [Side.HELD_OUT, Side.TRAINING, None])
def test_no_own_answer_stands_behind_a_prompt_of_the_specialty(near: str, side: Side | None) -> None:
    """It would give the exam away, or teach again what was corrected."""
    aside = asking("aside", KEPT, group=None if side is None else "aside")
    rows = [*fresh(6), replace(aside, group=None) if side is None else aside]
    held_out = ["aside"] if side is Side.HELD_OUT else []
    dataset = replaying(rows, Replays(own("sing", near)), held_out)
    assert [one.prompt for one in dataset.replayed] == ["sing"]


@given(
    lesson=st.integers(0, 12),
    old=st.integers(0, 12),
    answers=st.integers(0, 12),
    share=st.floats(0, 1),
    held_out=st.sets(st.integers(0, 11)),
)
@settings(deadline=None, max_examples=30)
def test_replay_takes_nothing_from_the_lesson_and_is_a_quarter_at_most(
    lesson: int, old: int, answers: int, share: float, held_out: set[int]
) -> None:
    rows = [*(known(f"old {number}") for number in range(old)), *fresh(lesson)]
    aside = [f"fresh {number}" for number in held_out]
    replays = Replays(own(*(f"sing song {number}" for number in range(answers))), share)
    events = max(1, lesson // 2)
    dataset = replaying(rows, replays, aside, events=events)
    without = replaying(rows, Replays(share=0.0), aside, events=events)
    assert (dataset.examples, dataset.items, dataset.pairs) == (without.examples, without.items, without.pairs)
    assert 4 * len(dataset.replayed) <= len(dataset.replayed) + len(dataset.examples)
    assert {one.group for one in dataset.replayed}.isdisjoint(aside)
    assert dataset == replaying(rows, replays, aside, events=events)


@pytest.mark.parametrize("method", MethodChoice)
def test_only_who_learns_wanted_answers_replays_any(method: MethodChoice) -> None:
    found = replaying(fresh(6), Replays(own("sing")), method=method).replayed
    assert len(found) == (method in (MethodChoice.SFT, MethodChoice.AUTO))


def test_a_rebuild_replays_nothing_as_it_learns_nothing() -> None:
    assert replaying(fresh(6), Replays(own("sing")), reason=REBUILD).replayed == ()


def test_an_event_that_was_not_offered_is_not_replayed() -> None:
    with pytest.raises(DatasetError, match="dropdir/held, which was not offered"):
        replaying([row("held"), *fresh(6)], Replays(events=("dropdir/held",)), ["held"])


def test_hyperparameters_are_those_of_the_lesson() -> None:
    """Few examples are learned in more epochs: what is replayed must not take some away."""
    asked: list[int] = []

    class Suggests:
        @hookimpl
        def nightschool_suggest_hyperparameters(self, examples: int) -> None:
            asked.append(examples)

    rows = tuple(fresh(6))
    shop = workshop(Replays(own("sing")), Suggests())
    shop = replace(shop, recall=FakeRecall({"sing": "la"}))
    dataset = build_dataset(shop, rows, {one.group or "": Side.TRAINING for one in rows}, ROOMY)
    found = result_of(shop, dataset, rows, "")
    assert asked == [6]
    assert found.material.examples == 6
    assert found.replayed_share == pytest.approx(1 / 7)
    assert found.sources[TrainingMethod.SFT] == tuple(one.event_id for one in dataset.examples)


# --------------------------------------------------------------------------- plugins that break a rule


@dataclass(frozen=True)
class Augments:
    parent: str | None
    times: int = 1

    @hookimpl
    def nightschool_augment_examples(
        self, examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
    ) -> tuple[TrainingExample, ...]:
        return tuple(
            replace(example, group="forged", score=99.0, parent=self.parent, target=f"variant {number}")
            for example in examples
            for number in range(self.times)
        )


def test_of_many_near_duplicates_the_best_are_learned_and_of_equal_ones_the_latest() -> None:
    """Which says what is wanted now."""
    rows = [row(str(number), group="g") for number in range(4)] + [row("alone")]
    liked = replace(rows[1].event, metadata=Metadata(weight=2.0))
    rows[1] = replace(rows[1], event=liked)
    shop = replace(workshop(), most_alike=2)
    dataset = build_dataset(shop, tuple(rows), {"g": Side.TRAINING, "alone": Side.TRAINING}, ROOMY)
    assert learned(dataset) == {"dropdir/1", "dropdir/3", "dropdir/alone"}
    assert {one.event_id: one.reason for one in dataset.left_out} == {
        "dropdir/0": "2 near-duplicates of it are learned from",
        "dropdir/2": "2 near-duplicates of it are learned from",
    }


def test_an_event_close_to_both_sides_is_neither_learned_nor_asked() -> None:
    bridge = replace(row("bridge"), group=None)
    dataset = build_dataset(workshop(), (row("t"), row("h"), bridge), {"t": Side.TRAINING, "h": Side.HELD_OUT}, ROOMY)
    assert learned(dataset) == {"dropdir/t"}
    assert [item.event_id for item in dataset.items] == ["dropdir/h"]
    assert [(one.event_id, one.reason[:24]) for one in dataset.left_out] == [
        ("dropdir/bridge", "its prompt is close to o")
    ]


def test_a_variant_stays_in_the_group_of_its_parent() -> None:
    dataset = build([row("1")], [], Augments(parent="dropdir/1"))
    assert sorted((one.target, one.group) for one in dataset.examples) == [("good", "1"), ("variant 0", "1")]


def test_examples_and_their_variants_say_by_what_an_answer_is_scored() -> None:
    """A search for hyperparameters may have answers to them scored, and reads no event."""
    rows = [row("1", metadata=Metadata(tests="assert f", schema="CREATE TABLE t"))]
    dataset = build(rows, [], Augments(parent="dropdir/1"))
    assert len(dataset.examples) == 2
    for one in dataset.examples:
        assert (one.artifact_type, one.tests, one.schema) == ("shell", "assert f", "CREATE TABLE t")
        text = render_example(one, lambda messages: messages[-1].content, "</s>")
        assert (text.artifact_type, text.tests, text.schema) == ("shell", "assert f", "CREATE TABLE t")


def test_what_a_search_has_answered_is_judged_as_the_exam_judges() -> None:
    """By what was asked, without the template in which the model sees it."""
    (one,) = build([row("1")]).examples
    text = render_example(one, lambda _messages: "<|im_start|>user\nquestion 1<|im_end|>", "</s>")
    item = item_of(text, "</s>")
    assert (item.messages, item.reference) == (one.messages, "good")


@pytest.mark.parametrize("parent", [None, "dropdir/nobody"])
def test_a_variant_without_a_known_parent_is_refused(parent: str | None) -> None:
    assert len(build([row("1")], [], Augments(parent=parent)).examples) == 1


@pytest.mark.parametrize(("most", "examples"), [(3.0, 12), (1.5, 6), (1.0, 4)])
def test_a_training_set_grows_no_larger_than_is_wanted(most: float, examples: int) -> None:
    """By default to three times its size."""
    assert TrainingSettings().max_growth == 3.0
    rows = tuple(row(str(index)) for index in range(4))
    sides = {one.group or "": Side.TRAINING for one in rows}
    wanted = replace(workshop(Augments(parent="dropdir/1", times=50)), max_growth=most)
    assert len(build_dataset(wanted, rows, sides, ROOMY).examples) == examples


class FailsAt:
    """A model that fails most near one event."""

    @hookimpl
    def nightschool_select_negatives(self, events: tuple[ScoredEvent, ...]) -> tuple[tuple[str, float], ...]:
        return tuple((one.event.key, 1.5 if one.event.id == "2" else 1.1) for one in events)


class VariesEach:
    """Says as many variants as may be of each example in turn."""

    @hookimpl
    def nightschool_augment_examples(self, examples: tuple[TrainingExample, ...]) -> tuple[TrainingExample, ...]:
        return tuple(replace(one, target=f"{number}", parent=one.event_id) for one in examples for number in range(8))


def test_where_room_is_scarce_variants_are_made_of_what_the_model_fails_at() -> None:
    dataset = build([row(str(number)) for number in range(4)], [], FailsAt(), VariesEach())
    assert {one.event_id for one in variants_of(dataset)} == {"dropdir/2"}
    assert {one.event_id: one.hardness for one in dataset.examples} == {
        "dropdir/0": 1.1,
        "dropdir/1": 1.1,
        "dropdir/2": 1.5,
        "dropdir/3": 1.1,
    }


@dataclass(frozen=True)
class SaysAnew:
    """Asks each text in place of the first example's question. `forgets`: to say so in `prompt` too."""

    texts: tuple[str, ...]
    forgets: bool = False

    @hookimpl
    def nightschool_augment_examples(self, examples: tuple[TrainingExample, ...]) -> tuple[TrainingExample, ...]:
        example = examples[0]
        return tuple(
            replace(
                example,
                messages=(Message(role=Role.USER, content=text),),
                prompt=example.prompt if self.forgets else text,
                parent=example.event_id,
            )
            for text in self.texts
        )


def asking(identifier: str, question: str, *, group: str | None = None, chunks: tuple[Chunk, ...] = ()) -> EventRow:
    asked = row(identifier, group=group)
    return replace(asked, event=replace(asked.event, input_data=question, context=Context(chunks=chunks)))


LEARNED = asking("t", "list all files in the directory src")
KEPT_ASIDE = asking("h", "show every line of the log that has an error in it")


def variants_of(dataset: Dataset) -> list[TrainingExample]:
    return [example for example in dataset.examples if example.parent is not None]


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("show all files of the directory src", True),
        ("show every line of the log that has an error in it", False),
        ("Show every line of the log that has an error in it!", False),
        ("show each line of the log that has an error in it", False),
    ],
)
def test_a_variant_that_came_close_to_a_prompt_of_the_exam_is_refused(text: str, kept: bool, forgets: bool) -> None:
    dataset = build([LEARNED, KEPT_ASIDE], ["h"], SaysAnew((text,), forgets))
    assert [one.messages[-1].content for one in variants_of(dataset)] == ([text] if kept else [])
    assert learned(dataset) == {"dropdir/t"}


def test_variants_may_be_close_to_each_other_and_to_what_is_learned() -> None:
    alike = ("list all files of the directory src", "list all files of the directory src now")
    dataset = build([LEARNED, KEPT_ASIDE], ["h"], SaysAnew(alike))
    assert {one.prompt for one in variants_of(dataset)} == set(alike)
    assert variants_of(build([LEARNED, KEPT_ASIDE], [], SaysAnew((KEPT_ASIDE.event.input_data,))))


def test_a_variant_is_kept_from_all_that_may_be_asked_one_day() -> None:
    """Held-out prompts of other bases, those whose feedback is gone, those without a side yet."""
    said = KEPT_ASIDE.event.input_data
    of_other_base = PromptRow(key="p", text=said, placed=True, group="g", side=Side.HELD_OUT)
    gone = replace(of_other_base, text=None, fingerprint=fingerprint_of(said, b""))
    shop, sides = workshop(SaysAnew((said,))), {"t": Side.TRAINING}
    assert variants_of(build_dataset(shop, (LEARNED,), sides, ROOMY))
    assert variants_of(build_dataset(shop, (LEARNED, replace(KEPT_ASIDE, group=None)), sides, ROOMY))
    assert not variants_of(build_dataset(shop, (LEARNED, KEPT_ASIDE), sides, ROOMY))
    for one in (of_other_base, gone):
        assert not variants_of(build_dataset(replace(shop, kept_aside=(one,)), (LEARNED,), sides, ROOMY))


@pytest.mark.parametrize("text", [KEPT_ASIDE.event.input_data, "show each line of the log that has an error in it"])
def test_a_preference_whose_prompt_a_plugin_made_up_is_kept_from_the_exam_too(text: str) -> None:
    class Rewords:
        @hookimpl
        def nightschool_label_answers(self) -> tuple[LabelledAnswer, ...]:
            messages = (Message(role=Role.USER, content=text),)
            return (LabelledAnswer(event_id="dropdir/t", messages=messages, answer="x", liked=True),)

        @hookimpl
        def nightschool_build_preference_pairs(self, events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...]:
            messages = (Message(role=Role.USER, content=text),)
            pair = PreferencePair(event_id="dropdir/t", messages=messages, chosen="x", rejected="y")
            # of the exam's events it makes none
            return (pair,) if any(one.event.id == "t" for one in events) else ()

    dataset = build([LEARNED, KEPT_ASIDE], ["h"], Rewords())
    assert (dataset.labels, [pair.chosen for pair in dataset.pairs]) == ((), ["good"])
    alone = build([LEARNED], [], Rewords())
    assert ([one.answer for one in alone.labels], {pair.chosen for pair in alone.pairs}) == (["x"], {"x", "good"})


def said_before(one: EventRow, *turns: str) -> EventRow:
    messages = tuple(
        Message(role=role, content=text) for turn in turns for role, text in ((Role.USER, turn), (Role.ASSISTANT, "so"))
    )
    return replace(one, event=replace(one.event, context=Context(messages=messages)))


def test_a_conversation_in_which_a_prompt_of_the_exam_was_put_is_not_learned_from() -> None:
    """It shows what was answered then."""
    overheard = said_before(asking("o", "and now count them"), "hello", KEPT_ASIDE.event.input_data.upper())
    greeted = said_before(asking("g", "count the files"), "hello")
    dataset = build([LEARNED, overheard, greeted, KEPT_ASIDE], ["h"])
    assert learned(dataset) == {"dropdir/t", "dropdir/g"}
    assert {one.event_id for one in dataset.pairs} == {"dropdir/t", "dropdir/g"}
    assert [(one.event_id, one.reason[:20]) for one in dataset.left_out] == [("dropdir/o", "its conversation has")]
    assert learned(build([LEARNED, overheard, greeted])) == {"dropdir/t", "dropdir/g", "dropdir/o"}


@pytest.mark.parametrize(("why", "purpose"), [(ASKED, "for the exam"), (BY_HAND, "apart, to measure on it")])
def test_what_a_prompt_is_kept_for_is_told_as_it_is(why: str, purpose: str) -> None:
    overheard = said_before(asking("o", "and now count them"), KEPT_ASIDE.event.input_data)
    shop = workshop()
    shop = replace(shop, info=replace(shop.info, reason=why))
    sides = {"t": Side.TRAINING, "o": Side.TRAINING, "h": Side.HELD_OUT}
    (left_out,) = build_dataset(shop, (LEARNED, overheard, KEPT_ASIDE), sides, ROOMY).left_out
    assert left_out.reason == f"its conversation has a prompt in it that is close to one that is kept {purpose}"


def test_what_is_not_learned_from_for_its_conversation_is_not_asked_either() -> None:
    overheard = replace(said_before(asking("o", "and now count them"), KEPT_ASIDE.event.input_data), inherited=True)
    assert build([LEARNED, overheard, KEPT_ASIDE], ["h"]).regression == ()
    assert [item.event_id for item in build([LEARNED, overheard]).regression] == ["dropdir/o"]


def test_what_is_not_learned_from_is_not_shown_either() -> None:
    class ShowsAll:
        @hookimpl
        def nightschool_choose_shots(self, events: tuple[ScoredEvent, ...]) -> tuple[str, ...]:
            return tuple(one.event.key for one in events)

    overheard = replace(said_before(asking("o", "and now count them"), KEPT_ASIDE.event.input_data), inherited=True)
    sides = {"t": Side.TRAINING, "o": Side.TRAINING, "h": Side.HELD_OUT}
    dataset = build_shown(workshop(ShowsAll()), (LEARNED, overheard, KEPT_ASIDE), sides, ROOMY)
    assert [one.event_id for one in dataset.shots] == ["dropdir/t"]
    assert [one.event_id for one in dataset.left_out] == ["dropdir/o"]
    assert dataset.regression == ()


def test_what_is_read_as_a_prompt_beside_those_of_events_is_written_down() -> None:
    """So that nothing like it is held out later."""
    greeted = said_before(asking("u", "count the files"), "Hello!")
    own = (Message(role=Role.USER, content="In other words"),)

    class Rewords:
        @hookimpl
        def nightschool_label_answers(self) -> tuple[LabelledAnswer, ...]:
            return (LabelledAnswer(event_id="dropdir/u", messages=own, answer="x", liked=True),)

    dataset = build([LEARNED, greeted], [], SaysAnew(("show all files of src",)), Rewords())
    assert {(one.text, one.group, one.event_id, one.method) for one in dataset.wordings} == {
        ("show all files of src", "t", "dropdir/t", TrainingMethod.SFT),
        ("hello", "", "dropdir/u", TrainingMethod.SFT),
        ("hello", "", "dropdir/u", TrainingMethod.DPO),
        ("hello", "", "dropdir/u", TrainingMethod.KTO),
        ("in other words", "u", "dropdir/u", TrainingMethod.KTO),
    }


@pytest.mark.parametrize("forgets", [False, True])
def test_who_says_more_than_an_event_asks_something_else(forgets: bool) -> None:
    """What has the event's own words in it is written down too, and kept from the exam."""
    said = "please list all files in the directory src now"
    dataset = build([LEARNED, KEPT_ASIDE], ["h"], SaysAnew((said,), forgets))
    assert [(one.text, one.event_id) for one in dataset.wordings] == [(said, "dropdir/t")]


def test_a_preference_that_says_more_than_its_event_is_kept_from_the_exam() -> None:
    short = asking("t", "list")
    exam = asking("h", "list all hidden files")

    class SaysMore:
        @hookimpl
        def nightschool_label_answers(self) -> tuple[LabelledAnswer, ...]:
            messages = (Message(role=Role.USER, content=exam.event.input_data),)
            return (LabelledAnswer(event_id="dropdir/t", messages=messages, answer="x", liked=True),)

    assert build([short, exam], ["h"], SaysMore()).labels == ()
    assert len(build([short], [], SaysMore()).labels) == 1


def test_retrieved_texts_around_a_prompt_make_no_other_prompt_of_it() -> None:
    disliked = row("2", FeedbackType.EXPLICIT_NEGATIVE)
    with_texts = replace(disliked, event=replace(disliked.event, context=Context(chunks=TEXTS)))
    rows = [asking("1", "which tool?", chunks=TEXTS), with_texts]
    dataset = sampled(rows, [], says("bad", "good"), Reverses())
    assert len(variants_of(dataset)) == 1
    assert any(one.sampled for one in dataset.pairs)
    assert dataset.labels
    assert dataset.wordings == ()


@pytest.mark.parametrize("count", [1, 3])
def test_variants_of_all_plugins_share_the_room(count: int) -> None:
    def says(name: str) -> SaysAnew:
        return SaysAnew(tuple(f"{name} {number}" for number in range(9)))

    dataset = build([LEARNED], [], *(says(name) for name in ("one", "other", "third")[:count]))
    # plugins that were registered last are asked first
    expected = {1: {"one 0", "one 1"}, 3: {"third 0", "other 0"}}
    assert {one.prompt for one in variants_of(dataset)} == expected[count]


class Answers:
    """Varies the answer, or leaves it."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers

    @hookimpl
    def nightschool_augment_examples(self, examples: tuple[TrainingExample, ...]) -> tuple[TrainingExample, ...]:
        return tuple(
            replace(one, parent=one.event_id, prompt=f"{one.prompt} {number}", target=answer or one.target)
            for one in examples
            for number, answer in enumerate(self.answers)
        )


class Looks:
    """A validator that keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str | None]] = []

    @hookimpl
    def nightschool_validate_answer(self, item: ExamItem, answer: str) -> AnswerScore:
        self.asked.append((answer, item.reference, item.tests))
        return AnswerScore(score=0.0 if "wrong" in answer else 100.0, validator="looks")


def test_a_variant_whose_answer_does_not_validate_is_dropped() -> None:
    looks = Looks()
    right = row("1", corrected="right", metadata=Metadata(tests="assert True"))
    wrong = row("2", corrected="wrong")
    dataset = build([right, wrong], [], Answers("", "", "wrong too", "other"), looks)
    assert {(one.event_id, one.target) for one in variants_of(dataset)} == {
        ("dropdir/1", "right"),
        ("dropdir/1", "other"),
        ("dropdir/2", "other"),
    }
    # by itself where it is the original's, once; another one by the original's
    assert set(looks.asked) == {
        ("right", None, "assert True"),
        ("other", "right", "assert True"),
        ("wrong too", "right", "assert True"),
        ("wrong", None, None),
        ("other", "wrong", None),
        ("wrong too", "wrong", None),
    }
    assert len(looks.asked) == len(set(looks.asked))
    assert learned(dataset) == {"dropdir/1", "dropdir/2"}


@pytest.mark.parametrize(
    ("score", "is_relative", "kept"),
    [(50.0, True, True), (49.0, True, False), (70.0, False, False), (71.0, False, True)],
)
def test_a_variant_as_good_as_its_original_by_a_relative_score_is_learned_from(
    score: float, is_relative: bool, kept: bool
) -> None:
    class Scores:
        @hookimpl
        def nightschool_validate_answer(self) -> AnswerScore:
            return AnswerScore(score=score, validator="scores", is_relative=is_relative)

    dataset = build([row("1")], [], Answers("other"), Scores())
    assert [one.target for one in variants_of(dataset)] == ["other"] * kept


class AsksAModel:
    """A validator that has a model judge."""

    @hookimpl
    def nightschool_validate_answer(self, answer: str, generate: Generate) -> AnswerScore:
        messages = (Message(role=Role.USER, content=answer),)
        return AnswerScore(score=float(generate(messages, max_tokens=5, temperature=0, seed=0)), validator="asks")


def stays_away(messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
    raise GenerationError("Nobody is there.")


def test_it_is_the_judge_who_says_whether_a_variant_is_right() -> None:
    shop = replace(workshop(Answers("", "other"), AsksAModel()), judge=FakeGenerate(["100", "0"]))
    dataset = build_dataset(shop, (row("1"),), {"1": Side.TRAINING}, ROOMY)
    assert [one.target for one in variants_of(dataset)] == ["good"]


def test_where_the_judge_stays_away_nobody_has_looked() -> None:
    """As in a plan, which asks no model: the night goes on, and a failed check shows no gain."""
    shop = replace(workshop(Answers(""), AsksAModel()), judge=stays_away)
    failed = row("h", FeedbackType.VALIDATION_FAILURE)
    failed = replace(failed, event=replace(failed.event, input_data=KEPT_ASIDE.event.input_data))
    dataset = build_dataset(shop, (LEARNED, failed), {"t": Side.TRAINING, "h": Side.HELD_OUT}, ROOMY)
    assert [one.target for one in variants_of(dataset)] == ["good"]
    assert [(item.role, item.disliked) for item in dataset.items] == [(ItemRole.GUARD, "bad")]


@pytest.mark.parametrize(("answer", "variants"), [("ls -l", 1), ("echo 'open", 0)])
def test_an_answer_that_a_built_in_validator_cannot_parse_is_not_said_again(answer: str, variants: int) -> None:
    shop = workshop(Answers(""), built_in=(*PLAIN, "evaluation_text", "evaluation_shell"))
    rows = (row("1", corrected=answer),)
    assert len(variants_of(build_dataset(shop, rows, {"1": Side.TRAINING}, ROOMY))) == variants


def test_what_cannot_be_chosen_is_shown_to_those_who_look_for_failures() -> None:
    """Of the training side alone, and nothing that was withdrawn or half-hearted."""
    seen: dict[str, tuple[set[str], set[str]]] = {}

    class Sees:
        @hookimpl
        def nightschool_select_events(self, events: tuple[ScoredEvent, ...], others: tuple[ScoredEvent, ...]) -> None:
            seen["select"] = ({one.event.id for one in events}, {one.event.id for one in others})

        @hookimpl
        def nightschool_select_negatives(
            self, events: tuple[ScoredEvent, ...], others: tuple[ScoredEvent, ...]
        ) -> None:
            seen["negatives"] = ({one.event.id for one in events}, {one.event.id for one in others})

    negative = FeedbackType.EXPLICIT_NEGATIVE
    rows = (
        row("learned"),
        row("too much"),
        row("disliked", negative),
        row("weak", negative, metadata=Metadata(weak=True)),
        row("withdrawn", negative, metadata=Metadata(deleted=True)),
        row("disliked in the exam", negative),
    )
    sides = {one.group or "": Side.TRAINING for one in rows} | {"disliked in the exam": Side.HELD_OUT}
    build_dataset(workshop(Sees()), rows, sides, Budget(events=1, tokens=1000))
    assert seen == {
        "select": ({"learned", "too much"}, {"disliked"}),
        "negatives": ({"learned"}, {"too much", "disliked"}),
    }


TEXTS = (Chunk(text="ls lists files"), Chunk(text="wc counts lines"))


# --------------------------------------------------------------------------- starter examples


@dataclass(frozen=True)
class Offers:
    """Offers these examples of every type, and keeps what it is asked."""

    starters: tuple[StarterExample, ...]
    asked: list[tuple[str, int]] = field(default_factory=list)

    @hookimpl
    def nightschool_offer_examples(self, artifact_type: str, accepted: int) -> tuple[StarterExample, ...]:
        self.asked.append((artifact_type, accepted))
        return self.starters


def starters(*prompts: str, weight: float = 0.5, language: str = "") -> tuple[StarterExample, ...]:
    return tuple(StarterExample(prompt=one, answer=f"to {one}", weight=weight, language=language) for one in prompts)


UNLIKE = ("draw a cat", "count to ten", "sing the blues", "boil two eggs", "paint it black")


def test_starter_examples_stand_beside_little_feedback_and_are_never_more() -> None:
    rows = (row("1"), row("2", FeedbackType.SUCCESS), row("3", FeedbackType.EXPLICIT_NEGATIVE), row("held"))
    sides = {one.group or "": Side.HELD_OUT if one.group == "held" else Side.TRAINING for one in rows}
    offers = Offers(starters(*UNLIKE))
    shop = workshop(offers)
    dataset = build_dataset(shop, rows, sides, ROOMY)
    assert [one.prompt for one in dataset.starters] == ["draw a cat", "count to ten"]
    assert [one.messages for one in dataset.starters] == [
        (Message(role=Role.USER, content=prompt),) for prompt in UNLIKE[:2]
    ]
    # the disliked one has no answer worth learning, the one of the exam has
    assert offers.asked == [("shell", 3)]
    without = build_dataset(workshop(), rows, sides, ROOMY)
    assert replace(dataset, starters=(), wordings=()) == without
    # so that nothing like them is held out later
    assert [(one.event_id, one.group, one.text) for one in dataset.wordings] == [
        ("", "", "draw a cat"),
        ("", "", "count to ten"),
    ]
    found = result_of(shop, dataset, rows, "")
    assert found.starters == 2
    assert replace(found, starters=0) == result_of(workshop(), without, rows, "")


def test_a_trial_candidate_learns_as_many_as_the_one_that_it_stands_for() -> None:
    rows = tuple(row(str(number)) for number in range(8))
    offers = Offers(starters(*UNLIKE))
    of_fold = {one.group or "": Side.HELD_OUT if number < 2 else Side.TRAINING for number, one in enumerate(rows)}
    counts = [
        len(build_dataset(workshop(offers), rows, sides, ROOMY).starters)
        for sides in (dict.fromkeys(of_fold, Side.TRAINING), of_fold)
    ]
    assert counts == [5, 5]
    assert offers.asked == [("shell", 8)] * 2


@pytest.mark.parametrize("side", [*Side, None])
def test_no_starter_example_is_close_to_any_prompt_of_the_specialty(side: Side | None) -> None:
    close = ("show every line of the log that has an error in it", "Show each line of the log that has an error in it!")
    learned = row("learned"), row("too")
    sides = {"learned": Side.TRAINING, "too": Side.TRAINING} | ({"h": side} if side else {})
    offers = Offers(starters(*close, "draw a cat"))
    dataset = build_dataset(workshop(offers), (*learned, KEPT_ASIDE), sides, ROOMY)
    assert [one.prompt for one in dataset.starters] == ["draw a cat"]
    assert len(build_dataset(workshop(offers), learned, sides, ROOMY).starters) == 2


def test_of_equal_prompts_the_first_offer_counts() -> None:
    twice = (*starters("draw a cat"), *starters("Draw  a cat", weight=0.1))
    (found,) = build([row("1"), row("2")], [], Offers(twice)).starters
    assert found.target == "to draw a cat"


def test_a_specialty_has_none_without_feedback_of_its_own_nor_where_no_answers_are_learned() -> None:
    offers = Offers(starters("draw a cat"))
    assert build([row("1", FeedbackType.EXPLICIT_NEGATIVE)], [], offers).starters == ()
    shop = workshop(offers)
    rebuild = replace(shop, info=replace(shop.info, reason=REBUILD))
    by_pairs = replace(shop, method=MethodChoice.DPO)
    for other in (rebuild, by_pairs):
        assert build_dataset(other, (row("1"),), {"1": Side.TRAINING}, ROOMY).starters == ()
    assert offers.asked == []


def test_a_pooled_specialty_has_them_by_the_types_of_its_feedback() -> None:
    of_types = [("1", "erd"), ("2", "workflows"), ("3", "workflows")]
    rows = [
        replace(one, event=replace(one.event, artifact_type=kind))
        for one, kind in ((row(key), kind) for key, kind in of_types)
    ]
    offers = Offers(starters(*UNLIKE))
    assert len(build(rows, [], offers).starters) == 3
    assert sorted(offers.asked) == [("erd", 1), ("workflows", 2)]


@pytest.mark.parametrize(
    ("answers", "fenced"),
    [
        (("```sh\nls\n```", "```\nls\n```", "ls"), True),
        (("```sh\nls\n```", "ls"), False),
        (("ls",), False),
    ],
)
def test_an_answer_stands_in_a_fence_where_most_of_the_own_ones_do(answers: tuple[str, ...], fenced: bool) -> None:
    rows = [row(str(number), corrected=answer) for number, answer in enumerate(answers)]
    found = build(rows, [], Offers(starters("draw a cat", language="bash"))).starters[0]
    assert found.target == ("```bash\nto draw a cat\n```" if fenced else "to draw a cat")
    assert build(rows, [], Offers(starters("draw a cat"))).starters[0].target == "to draw a cat"


@given(
    lengths=st.lists(st.tuples(st.integers(1, 3000), st.floats(0.01, 9)), min_size=1, max_size=12),
    answer=st.integers(1, 3000),
    weight=st.floats(0.001, 1),
)
def test_no_starter_example_counts_more_in_the_loss_than_its_share_of_the_mean_own_one(
    lengths: list[tuple[int, float]], answer: int, weight: float
) -> None:
    own = [TrainingExample(event_id="e", messages=(), target="x" * size, weight=one) for size, one in lengths]
    made = as_example(StarterExample(prompt="p", answer="y" * answer, weight=weight), own)
    mean_pull = sum(one.weight * len(one.target) for one in own) / len(own)
    mean_weight = sum(one.weight for one in own) / len(own)
    assert 0 < made.weight * len(made.target) <= weight * mean_pull * (1 + 1e-9)
    assert made.weight <= weight * mean_weight * (1 + 1e-9)


def test_they_are_spread_over_the_training_and_marked_as_no_part_of_the_lesson() -> None:
    dataset = build([row(str(number)) for number in range(4)], [], Offers(starters(*UNLIKE[:2])))
    texts = Rendered.of(dataset, lambda messages: messages[-1].content, "<end>").examples
    assert [one.beside for one in texts] == [False, True, False, False, True, False]
    assert [one.completion for one in texts if one.beside] == ["to draw a cat<end>", "to count to ten<end>"]
    assert {one.event_id for one in texts if one.beside} == {""}


class Reverses:
    @hookimpl
    def nightschool_vary_context(self, example: TrainingExample) -> tuple[tuple[Chunk, ...], ...]:
        return (example.chunks[::-1], example.chunks)


def test_a_variant_with_other_chunks_is_built_as_its_original_was() -> None:
    rows = [asking("1", "which tool?", chunks=TEXTS), asking("2", "which other one?")]
    dataset = build(rows, [], Reverses())
    (variant,) = variants_of(dataset)
    (original,) = (one for one in dataset.examples if one.event_id == "dropdir/1" and one.parent is None)
    assert original.messages[-1].content == "ls lists files\nwc counts lines\nwhich tool?"
    shown = (Message(role=Role.USER, content="wc counts lines\nls lists files\nwhich tool?"),)
    assert variant == replace(original, messages=shown, chunks=TEXTS[::-1], parent="dropdir/1")


class Exchanges:
    """The texts for what its search finds by another question."""

    @hookimpl
    def nightschool_vary_context(self, retrieve: Retrieve) -> tuple[tuple[Chunk, ...], ...]:
        return (retrieve("another question", limit=1),)


class Fetches:
    """Texts of an index of its own."""

    @hookimpl
    def nightschool_retrieve_context(self, event: Event, query: str) -> tuple[Chunk, ...]:
        return tuple(Chunk(text=f"{event.id}: {query}, {number}") for number in range(2))


def test_who_fetches_texts_for_a_prompt_does_so_for_its_variants_too() -> None:
    (variant,) = variants_of(build([asking("1", "which tool?")], [], Exchanges(), Fetches()))
    assert variant.chunks == (Chunk(text="1: another question, 0"),)


@dataclass(frozen=True, kw_only=True)
class FetchesOne:
    """A long text for each prompt, whatever came with it."""

    text: str = "x" * 5000
    fetched: list[str] = field(default_factory=list)
    offered: list[ScoredEvent] = field(default_factory=list)

    @hookimpl
    def nightschool_retrieve_context(self, event: Event) -> tuple[Chunk, ...]:
        self.fetched.append(event.id)
        return (Chunk(text=self.text),)

    @hookimpl
    def nightschool_select_events(self, events: tuple[ScoredEvent, ...]) -> None:
        self.offered.extend(events)


def test_what_is_retrieved_is_fetched_once_and_counts_in_the_difficulty() -> None:
    kinds = {"1": FeedbackType.USER_CORRECTION, "2": FeedbackType.SUCCESS, "3": FeedbackType.EXPLICIT_NEGATIVE}
    brought = Context(chunks=TEXTS)
    rows = [row(key, kind) for key, kind in kinds.items()]
    rows += [replace(one, event=replace(one.event, id=f"{one.event.id}h"), group=f"{one.group}h") for one in rows]
    rows = [replace(one, event=replace(one.event, context=brought)) for one in rows]
    withdrawn = row("4", metadata=Metadata(deleted=True))
    fetches = FetchesOne()
    dataset = build([*rows, withdrawn], ["1h", "2h", "3h"], fetches)
    assert sorted(fetches.fetched) == ["1", "1h", "2", "2h", "3", "3h"]
    assert {item.messages[-1].content[:5] for item in dataset.items} == {"xxxxx"}
    # 0.4 for half of what is hard to read before the prompt, and a little for the prompt
    assert {round(one.difficulty, 2) for one in dataset.marks} == {0.0, 0.2}
    assert {round(one.difficulty, 2) for one in dataset.examples} == {0.2}
    assert {one.event.context for one in fetches.offered} == {brought}


def test_what_is_retrieved_counts_in_the_tokens_of_a_night() -> None:
    rows, sides = tuple(row(key) for key in "12"), dict.fromkeys("12", Side.TRAINING)
    budget = Budget(events=1000, tokens=2500)
    counts = [len(build_dataset(workshop(*plugins), rows, sides, budget).examples) for plugins in ((), (FetchesOne(),))]
    # 5,000 characters are 1,667 tokens
    assert counts == [2, 1]


def test_an_example_says_what_was_asked_and_what_was_retrieved() -> None:
    (example,) = build([asking("1", "which tool?", chunks=TEXTS)]).examples
    assert (example.prompt, example.chunks) == ("which tool?", TEXTS)


def test_an_example_knows_how_the_models_own_answer_was_scored_and_is_no_harder_for_it() -> None:
    """Difficulty is a factor of the reward, where the score counts already: only a curriculum mixes the two."""
    scored, unscored, shown = row("1"), row("2"), row("3", answer=None)
    rows = [
        replace(one, event=replace(one.event, validation_score=score))
        for one, score in ((scored, 12.0), (unscored, None), (shown, 12.0))
    ]
    dataset = build(rows, [], Augments(parent="dropdir/1"))
    assert {one.event_id: one.score for one in dataset.examples} == {
        "dropdir/1": 12.0,
        "dropdir/2": None,
        "dropdir/3": None,
    }
    assert len({*(one.difficulty for one in dataset.examples), *(one.difficulty for one in dataset.marks)}) == 1
    assert {one.score for one in variants_of(dataset)} == {12.0}


@dataclass(frozen=True, kw_only=True)
class Selects:
    """What it is told to."""

    answer: tuple[str, ...] | tuple[tuple[str, float], ...]

    @hookimpl
    def nightschool_select_events(self) -> tuple[str, ...] | tuple[tuple[str, float], ...]:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ((("dropdir/2", 0.9), ("dropdir/0", 0.5), ("dropdir/2", 0.1)), (0.9, 0.5)),
        (("dropdir/2", "dropdir/0", "dropdir/2"), (None, None)),
    ],
)
def test_of_what_is_chosen_its_place_is_known_and_the_score_where_the_plugin_tells_it(
    answer: tuple[str, ...] | tuple[tuple[str, float], ...], scores: tuple[float | None, ...]
) -> None:
    dataset = build([row(str(number)) for number in range(3)], [], Selects(answer=answer))
    first, second = (Choice(place=place, of=3, score=score) for place, score in enumerate(scores, start=1))
    assert {one.event_id: one.choice for one in dataset.marks} == {
        "dropdir/0": second,
        "dropdir/1": None,
        "dropdir/2": first,
    }


class SelectsAStranger:
    @hookimpl
    def nightschool_select_events(self, events: tuple[ScoredEvent, ...], budget: Budget, seed: int) -> tuple[str, ...]:
        return ("dropdir/held",)


class AddsToTheCurriculum:
    @hookimpl
    def nightschool_arrange_examples(
        self, examples: tuple[TrainingExample, ...], store: Store, seed: int
    ) -> tuple[TrainingExample, ...]:
        return examples + examples


class WeighsNothing:
    @hookimpl
    def nightschool_select_negatives(
        self, events: tuple[ScoredEvent, ...], measure: Measure, seed: int
    ) -> tuple[tuple[str, float], ...]:
        return tuple((f"dropdir/{one.event.id}", 0.0) for one in events)


@pytest.mark.parametrize(
    ("plugin", "sentence"),
    [
        (SelectsAStranger(), "was not offered"),
        (AddsToTheCurriculum(), "added an example"),
        (WeighsNothing(), "must be above 0"),
        (Offers(starters("draw a cat", weight=1.5)), "the starter example 'draw a cat' with the weight 1.5"),
        (Offers(starters("draw a cat", weight=0.0)), "a weight above 0 and at most 1"),
        (Offers((StarterExample(prompt="draw a cat", answer=" "),)), "it must have one"),
    ],
)
def test_a_plugin_that_breaks_a_rule_fails_the_step(plugin: object, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        build([row("1"), row("held")], ["held"], plugin)
