"""A night of a young specialty with all that is optional switched on at once, by the preset alone."""

from pathlib import Path

import pytest

from nightschool_daemon.jobs import RunDirectory, SelectResult, Step, read_lines
from nightschool_hookspecs.records import TrainingMethod, TrainingResult, TrainingText
from support.night import TINY, TINY_SETTINGS, Night, import_tiny
from support.ollama_server import OllamaServer

SETTINGS = (
    TINY_SETTINGS.replace("folds = 0\ngrown_events = 1\n", "folds = 2\n")
    .replace("context_tokens = 256", "context_tokens = 1024")
    .replace("num_epochs = 8", "num_epochs = 3")
    .replace("[plugins]\n", '[plugins]\npreset = "all"\n')
    + """
[plugins.training_starters]
until = 15

[plugins.replay_mixed]
# a random network ends an answer by chance alone
share = 0.15
temperature = 1.5
max_tokens = 400
least_able = 0.0

[plugins.preference_pairs]
samples = 1
temperature = 1.5
max_tokens = 400
prompts = 5
failures_in_a_row = 5

[plugins.training_dpo]
fewest_pairs = 4
"""
)
DIAGRAM = "erDiagram\n A {\n int id\n }"
OVERTAKEN = "zqxj"


def corrections(count: int) -> list[dict[str, object]]:
    """Of ER diagrams, all by one person; the first prompt was corrected otherwise before."""
    wanted = [("old", 0, OVERTAKEN, "2020-01-02T03:04:05Z")]
    wanted += [(f"d-{number}", number, DIAGRAM, "2020-02-02T03:04:05Z") for number in range(count)]
    return [
        {
            "id": identifier,
            "artifact_type": "erd",
            "model": TINY,
            "input_data": f"draw guest {number} a",
            "ai_output": "5",
            "corrected_output": answer,
            "feedback_type": "user_correction",
            "source": "test",
            "timestamp": timestamp,
            "metadata": {"user": "anna"},
        }
        for identifier, number, answer, timestamp in wanted
    ]


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    import_tiny(fresh_ollama, tiny_gguf)
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory, settings=SETTINGS)


def test_each_is_counted_for_what_it_is_and_trial_candidates_learn_as_the_candidate(night: Night) -> None:
    night.drop(corrections(12))
    done = night.learn()
    (path,) = night.run_directories()
    run = RunDirectory(path=path)
    assert run.is_done(Step.REPORT), done.stdout + done.stderr
    selected, trained = run.result(Step.SELECT, SelectResult), run.result(Step.TRAIN, TrainingResult)
    assert run.trials()
    for one in (run, *run.trials()):
        assert one.result(Step.TRAIN, TrainingResult).methods == (TrainingMethod.SFT, TrainingMethod.DPO)
        _what_stands_beside_the_lesson_is_of_no_event(one)
    answers = selected.replayed.answers
    assert (selected.material.examples, selected.starters) == (13, 2)
    assert 0 < answers <= 2
    # nothing is preferred by what was overtaken
    assert selected.sampled > 0
    assert selected.material.pairs == 12 + selected.sampled
    assert "test/old" not in selected.sources[TrainingMethod.DPO]
    assert trained.examples == 13 + 2 + answers + selected.material.pairs

    stretches = run.stretches()
    assert {"easy", "all"} <= {one.stage for one in stretches}
    assert sorted(key for one in stretches for key in one.first_seen) == sorted(selected.sources[TrainingMethod.SFT])

    report = " ".join(night.run("report").stdout.split())
    assert "learned from 13 pieces of your feedback: wanted answers, then better answers over worse ones." in report
    assert f"{answers} {'answer' if answers == 1 else 'answers'} of the base's own to general prompts" in report
    assert "2 starter examples were learned beside it." in report
    # its validator finds no diagram in it, so that it has the smallest vote
    overtaken = "something else was said of the same prompt later (`test/d-0`). It counts 20% of its weight."
    assert overtaken in report
    told = night.json("explain", "test/old")
    assert isinstance(told, dict)
    (of_run,) = told["nights"]
    assert of_run["fate"].startswith("It was learned from: wanted answers. It was first seen in epoch")
    assert of_run["suspicion"] == overtaken


def _what_stands_beside_the_lesson_is_of_no_event(run: RunDirectory) -> None:
    selected = run.result(Step.SELECT, SelectResult)
    texts = list(read_lines(run.step(Step.SELECT) / "examples.jsonl", TrainingText))
    assert sum(one.beside for one in texts) == selected.starters + selected.replayed.count > 0
    assert all(bool(one.event_id) != one.beside for one in texts)
    assert len(texts) - sum(one.beside for one in texts) == selected.material.examples
