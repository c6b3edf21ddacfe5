"""Hyperparameters are searched for in a night on a real server, and what was found is used from then on."""

import json
from pathlib import Path

import pytest

from nightschool_daemon.jobs import RunDirectory, SelectResult, Step
from nightschool_hookspecs.records import Hyperparameters, TrainingResult
from support.night import TINY_SETTINGS, Night, greetings, import_tiny
from support.ollama_server import OllamaServer

SETTINGS = (
    TINY_SETTINGS.replace("folds = 0\ngrown_events = 1\n", "folds = 2\n")
    .replace("[plugins]\n", '[plugins]\nenabled = ["tuning_optuna"]\n')
    .replace("learning_rate = 0.003", "learning_rate = 0.0005")
    + """form = "lora"

[plugins.tuning_optuna]
fewest_examples = 16
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


def planned(night: Night) -> str:
    """What a run would do."""
    return json.dumps(night.json("run", "--now", "--dry-run"))


def trained_by(directory: RunDirectory) -> Hyperparameters | None:
    return directory.result(Step.TRAIN, TrainingResult).hyperparameters


def test_a_search_serves_the_night_its_trial_candidates_and_the_nights_after_it(night: Night) -> None:
    night.drop(greetings(16))
    assert "at most 4 trainings on a part of the 16 examples" in planned(night)
    done = night.learn()
    assert done.returncode == 0, done.stdout + done.stderr
    first = RunDirectory(path=night.ledger().runs.latest(1)[0].directory)
    search = first.result(Step.TRAIN, TrainingResult).search
    assert search is not None
    assert search.trials == 4
    assert search.reason in done.stdout + done.stderr
    assert trained_by(first) == search.hyperparameters
    # the trial candidates of cross-fitting are of the same recipe, and search for none of their own
    trials = first.trials()
    assert trials
    for trial in trials:
        assert trial.result(Step.SELECT, SelectResult).hyperparameters == search.hyperparameters
        assert (trained_by(trial), trial.result(Step.TRAIN, TrainingResult).search) == (search.hyperparameters, None)
    assert search.reason in " ".join(night.run("report").stdout.split())
    # until there are twice as many examples it is used as it is
    night.drop(greetings(4, first=16))
    assert "Taken is what a search on 16 examples found" in planned(night)
