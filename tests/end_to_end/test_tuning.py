"""Hyperparameters are searched for in a night on a real server, and what was found is used from then on."""

from pathlib import Path
from typing import Any

import pytest

from nightschool_daemon.jobs import RunDirectory, SelectResult, Step
from nightschool_hookspecs.records import TrainingResult
from support.night import TINY_SETTINGS, Night, greetings, import_tiny
from support.ollama_server import OllamaServer

SETTINGS = (
    TINY_SETTINGS.replace("[plugins]\n", '[plugins]\nenabled = ["tuning_optuna"]\n').replace(
        "learning_rate = 0.003", "learning_rate = 0.0005"
    )
    + """form = "lora"

[plugins.tuning_optuna]
fewest_examples = 12
most_trials = 4
random_trials = 2
# what is given learns too little
learning_rate = [0.0005, 0.005]
batch_size = [4, 4]
num_epochs = [8, 8]
"""
)


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    import_tiny(fresh_ollama, tiny_gguf)
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory, settings=SETTINGS)


def planned(night: Night) -> tuple[str, float]:
    """What a run would do about its hyperparameters, and the minutes that it would take."""
    found: Any = night.json("run", "--now", "--dry-run")
    return found[0]["plan"]["search"]["reason"], found[0]["minutes"]


def test_a_search_serves_the_night_and_the_nights_after_it(night: Night) -> None:
    night.drop(greetings(24))
    reason, minutes = planned(night)
    assert "at most 4 trainings on a part of the 12 examples, within 60 min" in reason
    assert minutes > 60
    done = night.learn()
    assert done.returncode == 0, done.stdout + done.stderr
    run = RunDirectory(path=night.ledger().runs.latest(1)[0].directory)
    trained = run.result(Step.TRAIN, TrainingResult)
    assert trained.search is not None
    assert trained.search.trials == 4
    assert trained.hyperparameters == trained.search.hyperparameters
    given = run.result(Step.SELECT, SelectResult).hyperparameters
    assert trained.search.hyperparameters.learning_rate > given.learning_rate
    # it is told while it goes on, and in the report
    assert trained.search.reason in done.stdout + done.stderr
    report = " ".join(night.run("report").stdout.split())
    assert f"{trained.search.reason} It learned from {trained.search.tokens} tokens in" in report
    # until there are twice as many examples it is used as it is
    night.drop(greetings(8, first=24))
    reason, minutes = planned(night)
    assert "Taken is what a search found when there were 12 events: learning_rate" in reason
    assert minutes < 60
