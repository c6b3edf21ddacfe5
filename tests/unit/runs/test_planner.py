"""Which specialties are due, and whom a name means."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightschool_daemon.config import PromotionMode, PromotionSettings, Settings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import IncomingEvent, Ledger, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.reasons import FRESH_FEEDBACK, RETRAIN
from nightschool_daemon.runs.planner import Planner, due_key, problem_key
from nightschool_hookspecs import Event, FeedbackType, Outcome, RunEnd, Specialty, Verdict
from nightschool_hookspecs.records import Recipe
from nightschool_hookspecs.testing import sample_event
from support.run_rows import RUN_ROW, VERSION_ROW

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SHELL = Specialty(base="tiny:1b", artifact_type="shell")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def planner(ledger: Ledger) -> Planner:
    return Planner(settings=Settings(), ledger=ledger, hooks=Hooks.load(plugin_directory=None, tables={}))


def teach(ledger: Ledger, count: int, *, at: datetime = NOON, specialty: Specialty = SHELL, first: int = 0) -> None:
    """Corrections of one specialty."""
    events = [
        Event(
            id=f"{specialty}-{number}",
            timestamp=at,
            feedback_type=FeedbackType.USER_CORRECTION,
            input_data=f"prompt {number}",
            artifact_type=specialty.artifact_type,
            ai_output="a",
            corrected_output=f"b {number}",
        )
        for number in range(first, first + count)
    ]
    ledger.events.add(
        [
            IncomingEvent(event=one, base=specialty.base, answered_by=None, group=one.input_data, arrived_at=at)
            for one in events
        ]
    )


def run(
    ledger: Ledger,
    end: RunEnd,
    *,
    at: datetime,
    specialty: Specialty = SHELL,
    recipe: Recipe = Recipe.TRAINING,
    verdict: Verdict | None = None,
) -> None:
    """A run that ended without having looked at its events, or with a verdict."""
    row = replace(
        RUN_ROW, id=f"run-{at:%H%M}", specialty=specialty, reason=FRESH_FEEDBACK, started_at=at, recipe=recipe
    )
    ledger.runs.create(row)
    if verdict is not None:
        ledger.exams.store_verdict(row.id, verdict)
    ledger.runs.finish(row.id, end, "so it ended", at + timedelta(minutes=1))


def due(planner: Planner, recipe: Recipe = Recipe.TRAINING) -> list[Specialty]:
    return [one.specialty for one in planner.due(NOON + timedelta(days=1)) if one.recipe is recipe]


def test_too_little_feedback_is_not_due(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 11)
    assert due(planner) == []
    teach(ledger, 1, first=11)
    assert due(planner) == [SHELL]


def test_run_that_found_too_little_is_not_repeated_until_something_comes(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 20)
    run(ledger, RunEnd.NOT_ENOUGH, at=NOON + timedelta(hours=1))
    assert due(planner) == []
    teach(ledger, 1, at=NOON + timedelta(hours=2), first=20)
    assert due(planner) == [SHELL]


@pytest.mark.parametrize("end", [RunEnd.FAILED, RunEnd.CANCELLED])
def test_run_that_came_to_no_end_is_tried_again(planner: Planner, ledger: Ledger, end: RunEnd) -> None:
    teach(ledger, 20)
    run(ledger, end, at=NOON + timedelta(hours=1))
    assert due(planner) == [SHELL]


def test_asked_for_comes_before_fresh_feedback(planner: Planner, ledger: Ledger) -> None:
    other = Specialty(base="tiny:1b", artifact_type="erd")
    teach(ledger, 20)
    teach(ledger, 1, specialty=other)
    ledger.facts.put(due_key(other), RETRAIN)
    assert due(planner) == [other, SHELL]


def test_base_that_is_gone_learns_nothing(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 20)
    ledger.facts.put(problem_key(SHELL.base), "it was removed")
    assert due(planner) == []


def shown_to_be_open(items_needed: int | None) -> Verdict:
    """A verdict that is not enough to tell, with the prompts that it missed."""
    return Verdict(
        outcome=Outcome.NOT_ENOUGH,
        incumbent_mean=50.0,
        candidate_mean=50.0,
        gain=0.0,
        interval=(0.0, 0.0),
        p_value=1.0,
        noise=0.0,
        items=6,
        items_needed=items_needed,
        guards=(),
        reason="",
    )


def test_examples_are_due_as_soon_as_their_exam_can_prove_something(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 5)
    assert due(planner, Recipe.EXAMPLES) == []
    teach(ledger, 1, first=5)
    assert due(planner, Recipe.EXAMPLES) == [SHELL]
    assert due(planner) == []


def test_five_corrections_are_enough_where_nothing_has_to_be_proven(ledger: Ledger) -> None:
    lenient = Settings(promotion=PromotionSettings(promote=PromotionMode.PROVISIONAL))
    planner = Planner(settings=lenient, ledger=ledger, hooks=Hooks.load(plugin_directory=None, tables={}))
    teach(ledger, 4)
    assert due(planner, Recipe.EXAMPLES) == []
    teach(ledger, 1, first=4)
    assert due(planner, Recipe.EXAMPLES) == [SHELL]


def test_a_prompt_that_was_corrected_twice_is_one_question(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 5)
    teach(ledger, 5, specialty=Specialty(base=SHELL.base, artifact_type="erd"))
    ledger.events.add(
        [
            IncomingEvent(
                event=replace(sample_event(f"again-{number}"), artifact_type="shell", corrected_output=f"c {number}"),
                base=SHELL.base,
                answered_by=None,
                group="prompt 0",
                arrived_at=NOON,
            )
            for number in range(3)
        ]
    )
    assert due(planner, Recipe.EXAMPLES) == []


@pytest.mark.parametrize(
    ("verdict", "missed"),
    [
        (shown_to_be_open(2), 2),
        # it looked no better, or would take many nights: as many as a whole exam
        (shown_to_be_open(None), 6),
        (shown_to_be_open(40), 6),
        # nobody was asked
        (None, 1),
    ],
)
def test_examples_are_tried_again_when_as_much_came_as_the_last_exam_missed(
    planner: Planner, ledger: Ledger, verdict: Verdict | None, missed: int
) -> None:
    teach(ledger, 6)
    run(ledger, RunEnd.NOT_ENOUGH, at=NOON + timedelta(hours=1), recipe=Recipe.EXAMPLES, verdict=verdict)
    # a prompt that is corrected again asks nothing new
    teach(ledger, 6, at=NOON + timedelta(hours=2))
    teach(ledger, missed - 1, at=NOON + timedelta(hours=2), first=6)
    assert due(planner, Recipe.EXAMPLES) == []
    teach(ledger, 1, at=NOON + timedelta(hours=3), first=5 + missed)
    assert SHELL in due(planner, Recipe.EXAMPLES) + due(planner)
    assert planner.wants_examples(SHELL)


@pytest.mark.parametrize(("items_needed", "missed"), [(2, 2), (None, 5), (40, 5)])
def test_where_nothing_has_to_be_proven_examples_are_tried_again_as_seldom(
    ledger: Ledger, items_needed: int | None, missed: int
) -> None:
    lenient = Settings(promotion=PromotionSettings(promote=PromotionMode.PROVISIONAL))
    planner = Planner(settings=lenient, ledger=ledger, hooks=Hooks.load(plugin_directory=None, tables={}))
    teach(ledger, 5)
    verdict = shown_to_be_open(items_needed)
    run(ledger, RunEnd.NOT_ENOUGH, at=NOON + timedelta(hours=1), recipe=Recipe.EXAMPLES, verdict=verdict)
    teach(ledger, missed - 1, at=NOON + timedelta(hours=2), first=5)
    assert not planner.wants_examples(SHELL)
    teach(ledger, 1, at=NOON + timedelta(hours=3), first=4 + missed)
    assert planner.wants_examples(SHELL)


@pytest.mark.parametrize("end", [RunEnd.FAILED, RunEnd.CANCELLED])
def test_examples_that_came_to_no_end_are_tried_again(planner: Planner, ledger: Ledger, end: RunEnd) -> None:
    teach(ledger, 6)
    run(ledger, end, at=NOON + timedelta(hours=1), recipe=Recipe.EXAMPLES)
    assert due(planner, Recipe.EXAMPLES) == [SHELL]


def put_into_use(ledger: Ledger) -> None:
    """A version of the run at one o'clock was promoted."""
    ledger.versions.add(
        replace(
            VERSION_ROW,
            tag=names.version_of(SHELL, 1),
            specialty=SHELL,
            run_id="run-1300",
            state=VersionState.PROMOTED,
            created_at=NOON,
        )
    )


def test_where_a_version_was_in_use_no_examples_are_tried(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 6)
    run(ledger, RunEnd.PROMOTED, at=NOON + timedelta(hours=1))
    put_into_use(ledger)
    teach(ledger, 6, at=NOON + timedelta(hours=2), first=6)
    assert due(planner, Recipe.EXAMPLES) == []


def test_trainings_come_before_examples(planner: Planner, ledger: Ledger) -> None:
    other = Specialty(base="tiny:1b", artifact_type="erd")
    teach(ledger, 6, specialty=other)
    teach(ledger, 12)
    assert [one.specialty for one in planner.due(NOON)] == [SHELL, other]


LONG = Specialty(base="m:" + "t" * 50, artifact_type="a-type-that-has-to-be-cut")


@pytest.mark.parametrize("specialty", [SHELL, LONG])
def test_specialty_is_found_by_each_of_its_names(planner: Planner, ledger: Ledger, specialty: Specialty) -> None:
    teach(ledger, 1, specialty=specialty)
    for text in (
        names.alias_of(specialty),
        names.alias_of(specialty).upper(),
        names.version_of(specialty, 12),
        f"{specialty.base}/{specialty.artifact_type}",
        str(specialty),
        specialty.base,
    ):
        assert planner.find(text) == specialty, text
    assert planner.find("nobody:1b") is None


def test_base_with_two_types_is_no_name_of_either(planner: Planner, ledger: Ledger) -> None:
    teach(ledger, 1)
    teach(ledger, 1, specialty=Specialty(base=SHELL.base, artifact_type="erd"))
    assert planner.find(SHELL.base) is None


def test_every_specialty_and_recipe_that_gathers_evidence_is_counted_however_few_a_night_has_time_for(
    planner: Planner, ledger: Ledger
) -> None:
    assert planner.exams_of_a_season() == 1
    teach(ledger, 1)
    assert planner.exams_of_a_season() == 2
    for number in range(19):
        teach(ledger, 1, specialty=Specialty(base="tiny:1b", artifact_type=f"type {number}"))
    most = planner.settings.schedule.max_runs_per_night
    assert most < planner.exams_of_a_season() == 40
    run(ledger, RunEnd.PROMOTED, at=NOON + timedelta(hours=1))
    put_into_use(ledger)
    assert planner.exams_of_a_season() == 39
    no_examples = replace(planner.settings, training=replace(planner.settings.training, examples_from=0))
    assert replace(planner, settings=no_examples).exams_of_a_season() == 20
