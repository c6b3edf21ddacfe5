"""Which runs a night begins."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon import night
from nightschool_daemon.config import DeliverySettings, FeedbackSettings, Settings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.installation import Installation
from nightschool_daemon.intake import Intake
from nightschool_daemon.ledger import FILE_NAME, IncomingEvent, Ledger
from nightschool_daemon.runs import Runs, SilentListener
from nightschool_hookspecs.records import Event, FeedbackType, Recipe, Specialty
from support.memory_ollama import MemoryOllama

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
BASE = "tiny:1b"
SHELL = Specialty(base=BASE, artifact_type="shell")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    gguf = tmp_path / "base.gguf"
    gguf.touch()
    ollama = MemoryOllama(tmp_path / "models", gguf, BASE)
    ledger, hooks = Ledger.open(tmp_path / FILE_NAME), Hooks.load(plugin_directory=None, tables={})
    settings = Settings(
        ollama=ollama.settings,
        state=StateSettings(directory=tmp_path),
        feedback=FeedbackSettings(directory=tmp_path / "feedback"),
        # no disk has so much: each run ends before it begins to work
        delivery=DeliverySettings(min_free_gb=1e9),
    )
    yield Installation(
        settings=settings,
        ledger=ledger,
        hooks=hooks,
        ollama=ollama,
        runs=Runs(settings=settings, ledger=ledger, hooks=hooks, ollama=ollama, clock=lambda: NOON),
        intake=Intake(settings=settings.feedback, hooks=hooks, ledger=ledger, default_base={}),
    )
    ollama.close()
    ledger.close()


def correct(ledger: Ledger, count: int) -> None:
    events = [
        Event(
            id=f"{number}",
            timestamp=NOON,
            feedback_type=FeedbackType.USER_CORRECTION,
            input_data=f"prompt {number}",
            artifact_type="shell",
            ai_output="a",
            corrected_output=f"b {number}",
        )
        for number in range(count)
    ]
    ledger.events.add(
        [IncomingEvent(event=one, base=BASE, answered_by=None, group=one.id, arrived_at=NOON) for one in events]
    )


@pytest.mark.parametrize(
    ("corrections", "recipes"),
    [(5, []), (6, [Recipe.EXAMPLES]), (11, [Recipe.EXAMPLES]), (12, [Recipe.EXAMPLES, Recipe.TRAINING])],
)
def test_a_night_tries_examples_before_there_is_enough_to_train(
    installation: Installation, corrections: int, recipes: list[Recipe]
) -> None:
    correct(installation.ledger, corrections)
    reports = night.run_due(installation, SilentListener(), clock=lambda: NOON, may_go_on=lambda: True)
    assert [one.run.recipe for one in reports] == recipes


def test_what_status_says_is_due_can_be_asked_for_though_a_training_has_used_it(installation: Installation) -> None:
    ledger = installation.ledger
    correct(ledger, 6)
    rows = ledger.events.of_specialty(SHELL, with_unassigned=True)
    ledger.events.mark_batched(SHELL, "earlier", [one.event for one in rows])
    assert [one.wants_examples for one in installation.runs.specialties()] == [True]
    assert night.asked_for(installation, None) == (SHELL,)
    reports = night.run_if_fresh(installation, SHELL, SilentListener(), NOON)
    assert [one.run.recipe for one in reports] == [Recipe.EXAMPLES]
