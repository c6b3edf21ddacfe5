"""What a run would do, told from the ledger and a real server before anything is done."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from nightschool_daemon.config import OllamaSettings, PluginSettings, Settings, StateSettings, TrainingSettings
from nightschool_daemon.jobs import RunDirectory, Step
from nightschool_daemon.learning.peft_files import WEIGHTS
from nightschool_daemon.ledger import IncomingEvent, Ledger, VersionRow, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.plans import TrainingPlan
from nightschool_daemon.runs.errors import RunRefused
from nightschool_daemon.runs.estimate import _minutes, estimate
from nightschool_hookspecs.records import DeliveryForm, Event, FeedbackType, RunEnd, Specialty, TrainedForm
from support.memory_ollama import MemoryOllama
from support.night import TINY, import_tiny
from support.ollama_server import OllamaServer
from support.run_rows import RUN_ROW
from support.step_results import SELECTED, TRAINED

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
GREETING = Specialty(base=TINY, artifact_type="greeting")
LEARNED, FRESH = range(20), range(20, 50)
VERSION = VersionRow(
    tag=names.version_of(GREETING, 1),
    specialty=GREETING,
    number=1,
    run_id="first",
    form=DeliveryForm.FUSED,
    tag_digest="",
    weights_digest="",
    base_tag_digest="",
    base_weights_digest="",
    state=VersionState.PROMOTED,
    created_at=NOW,
    files=(),
)


def correction(number: int) -> IncomingEvent:
    event = Event(
        id=f"{number:03}",
        source="test",
        timestamp=NOW,
        feedback_type=FeedbackType.USER_CORRECTION,
        input_data=f"greet guest number {number} of {number * number + 7}",
        artifact_type="greeting",
        ai_output="go away",
        corrected_output=f"hello {number}",
    )
    return IncomingEvent(event=event, base=TINY, answered_by=None, group=str(number), arrived_at=NOW)


@pytest.mark.parametrize("serves", [True, False], ids=["in use", "not in use"])
def test_what_the_model_in_use_has_learned_is_learned_again_and_gone_on_from(
    tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path, serves: bool
) -> None:
    weights = import_tiny(fresh_ollama, tiny_gguf)
    settings = Settings(
        ollama=OllamaSettings(host=fresh_ollama.url, models_directory=fresh_ollama.models_directory),
        state=StateSettings(directory=tmp_path / "state"),
        # more was learned before than a lesson holds
        training=TrainingSettings(threads=1, max_events=15),
        plugins=PluginSettings(enabled=("replay_mixed",)),
        plugin_tables={"replay_mixed": {"share": 0.2, "own_share": 0.0}},
    )
    version = replace(
        VERSION,
        weights_digest=weights,
        base_tag_digest=fresh_ollama.tags()[TINY],
        base_weights_digest=weights,
    )
    ollama, ledger = OllamaHttp(settings.ollama), Ledger.open(tmp_path / "ledger.sqlite3")
    ollama.create(CreateRequest(model=version.tag, files={"tiny.gguf": weights}, system="a version"))
    learned = [correction(number) for number in LEARNED]
    ledger.events.add([*learned, *(correction(number) for number in FRESH)])
    ledger.versions.add(replace(version, tag_digest=fresh_ollama.tags()[version.tag]))
    lora = RunDirectory(path=tmp_path / version.run_id)
    lora.step(Step.TRAIN).mkdir(parents=True)
    (lora.step(Step.TRAIN) / WEIGHTS).touch()
    lora.finish(Step.TRAIN, replace(TRAINED, adapter=lora.step(Step.TRAIN)))
    ledger.runs.create(replace(RUN_ROW, id=version.run_id, specialty=GREETING, directory=lora.path))
    ledger.events.mark_trained(GREETING, version.run_id, [one.event for one in learned], version.tag)
    if serves:
        ollama.copy(version.tag, names.alias_of(GREETING))
    planned = estimate(GREETING, settings=settings, ledger=ledger, ollama=ollama, now=NOW).plan
    ollama.close()
    ledger.close()
    assert (planned.replayed > 0) is serves
    assert (planned.trainings[0].hyperparameters.form is TrainedForm.LORA) is serves


def test_how_long_a_run_waited_for_approval_is_no_time_that_it_took(tmp_path: Path) -> None:
    """It counts as finished when it was approved, days later."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    night = RunDirectory(path=tmp_path / "night")
    for step, result in ((Step.SELECT, SELECTED), (Step.TRAIN, TRAINED), (Step.JUDGE, {})):
        night.step(step).mkdir(parents=True)
        night.finish(step, result)
    ledger.runs.create(replace(RUN_ROW, specialty=GREETING, directory=night.path, started_at=NOW))
    ledger.runs.begin_step(RUN_ROW.id, Step.JUDGE, "", NOW)
    ledger.runs.finish_step(RUN_ROW.id, Step.JUDGE, "", NOW + timedelta(minutes=10))
    ledger.runs.finish(RUN_ROW.id, RunEnd.PROMOTED, "approved", NOW + timedelta(days=3))
    planned = SimpleNamespace(trainings=[SimpleNamespace(examples=1)], search=None, asked=1)
    found = _minutes(GREETING, ledger, cast(TrainingPlan, planned), Settings())
    ledger.close()
    assert found == (10, True)


def test_a_replaced_base_whose_pin_is_gone_is_to_be_pulled_under_its_own_name(tmp_path: Path, tiny_gguf: Path) -> None:
    ollama = MemoryOllama(tmp_path / "models", tiny_gguf, TINY)
    settings = Settings(ollama=ollama.settings, state=StateSettings(directory=tmp_path / "state"))
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    ledger.events.add([correction(number) for number in FRESH])
    digest = ollama.tags()[0].digest
    ledger.versions.add(replace(VERSION, tag_digest=digest, base_tag_digest="0123456789abcdef"))
    told = rf"^{TINY} holds {VERSION.tag}, .* is gone .*base-0123456789ab\)\. `ollama pull {TINY}` brings the base back"
    with pytest.raises(RunRefused, match=told):
        estimate(GREETING, settings=settings, ledger=ledger, ollama=ollama, now=NOW)
    ledger.close()
