"""Answers that do not fit their questions resist: real losses of a real training of the tiny model tell them."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nightschool_daemon.jobs import RunDirectory, Step
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.curriculum import Arrange, nobody_arranges
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_daemon.runs.trajectories import trajectories_of
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod, TrainingText
from nightschool_plugins.noise_agreement import NoiseAgreement
from support.training_jobs import fine_tune, staged, training_job, unheard

SETTINGS = Hyperparameters(
    form=TrainedForm.LORA, learning_rate=0.005, batch_size=8, num_epochs=10, lora_r=8, lora_alpha=16, max_length=64
)
ANSWERS = {"cat": "meow", "dog": "woof", "cow": "moo", "bee": "buzz"}
QUESTIONS, WRONG = 36, 4
LEVELS = (0.1, 0.5, 0.9)


@pytest.mark.parametrize("arrange", [nobody_arranges, staged(evaluations=1)], ids=["shuffled", "by stages"])
def test_wrong_answers_are_told_from_right_ones_by_how_they_were_learned(
    tiny_gguf: Path, tmp_path: Path, arrange: Arrange
) -> None:
    torch.set_num_threads(1)
    animals = [list(ANSWERS)[number % len(ANSWERS)] for number in range(QUESTIONS)]
    wrong = set(random.Random(1).sample(range(QUESTIONS), WRONG))
    texts = [
        TrainingText(
            event_id=f"e/{number}",
            prompt=f"what says {animal} {number}?\n",
            # what another animal says
            completion=f"{ANSWERS[animals[number + 1 - QUESTIONS] if number in wrong else animal]}<|im_end|>",
            difficulty=LEVELS[number // len(ANSWERS) % len(LEVELS)],
        )
        for number, animal in enumerate(animals)
    ]
    (tmp_path / "cache" / "tokenizers").mkdir(parents=True)
    file = gguf_file.read(tiny_gguf)
    tokens = load_tokens(file, sha256_of(tiny_gguf), tmp_path / "cache")
    run = RunDirectory(path=tmp_path / "run")
    job = training_job(run.step(Step.TRAIN), tiny_gguf, SETTINGS, texts=texts)
    job = replace(job, output=run.step(Step.TRAIN))
    fine_tune(file, tokens, job, TrainingMethod.SFT, SETTINGS, unheard, arrange=arrange)
    learned = list(trajectories_of(run, "r"))
    is_staged = arrange is not nobody_arranges
    assert (len({one.points[0].stretch for one in learned}) > 1) == is_staged, "some come later"
    told = NoiseAgreement(fewest_learned=6).stubbornness(learned)
    assert len(told) > 0.9 * QUESTIONS
    scores = dict.fromkeys((one.event_id for one in texts), 0.0) | told
    # probability that a wrong answer resisted more than a right one: the area under the curve; 0.5 is chance
    pairs = [
        scores[f"e/{one}"] > scores[f"e/{other}"] for one in wrong for other in range(QUESTIONS) if other not in wrong
    ]
    assert sum(pairs) / len(pairs) > 0.9
