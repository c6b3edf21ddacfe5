"""What is exported, through the command line and as TRL reads it."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from trl.data_utils import is_conversational, maybe_convert_to_chatml, unpair_preference_dataset

from support.night import Night, greetings, thumbs


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """Nobody is asked: there is no server."""
    return Night(tmp_path / "night", "http://127.0.0.1:9", tmp_path / "models")


def exported(night: Night, form: str, *more: str) -> Path:
    file = night.directory / f"{form}.jsonl"
    done = night.run("feedback", "export", "--format", form, "--output", str(file), *more)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Wrote {len(file.read_text().splitlines())} rows to {file}.\n"
    return file


def test_trl_reads_pairs_thumbs_and_conversations(night: Night) -> None:
    night.drop([*greetings(3), *thumbs(2, first=3)])
    cache = str(night.directory / "cache")
    pairs, labels, conversations = (
        Dataset.from_json(str(exported(night, form)), cache_dir=cache) for form in ("trl", "kto", "sharegpt")
    )
    assert all(is_conversational(row) for row in (*pairs.to_list(), *labels.to_list()))
    unpaired = unpair_preference_dataset(pairs)
    assert {*unpaired.column_names} - {"margin"} == {*labels.column_names} == {"prompt", "completion", "label"}
    texts = [row["completion"][0]["content"] for row in unpaired.to_list()]
    assert texts == ["hello"] * 5 + ["5"] * 3 + ["zqxj"] * 2
    assert [row["label"] for row in labels.to_list()] == [True, False] * 2
    assert {len(maybe_convert_to_chatml(row)["messages"]) for row in conversations.to_list()} == {2}


def test_a_file_is_written_whole_or_not_at_all(night: Night) -> None:
    night.drop(greetings(3))
    file = exported(night, "alpaca")
    before = file.read_text()
    night.drop([{"id": "g-0", "source": "test", "metadata": {"deleted": True}}, *greetings(1, answer="hi", first=7)])
    assert exported(night, "alpaca", "--specialty", "tiny:1m/greeting").read_text() != before
    assert sorted(one.name for one in night.directory.iterdir() if one.suffix == ".tmp") == []
    assert [json.loads(line)["instruction"] for line in file.read_text().splitlines()] == [
        "greet guest 1",
        "greet guest 2",
        "greet guest 7",
    ]


def test_without_a_file_the_rows_are_what_is_printed(night: Night) -> None:
    night.drop([*greetings(1), {**greetings(1, first=5)[0], "artifact_type": "other"}])
    done = night.run("feedback", "export", "--format", "openai", "--alias", "tiny-nightschool:1m.greeting")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["input"] == {"messages": [{"role": "user", "content": "greet guest 0"}]}


def test_a_form_that_has_nothing_to_say_tells_what_it_needs(night: Night) -> None:
    night.drop(greetings(1))
    file = night.directory / "kto.jsonl"
    done = night.run("feedback", "export", "--format", "kto", "--output", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().endswith(
        "There is nothing to write: kto says answers that were liked or disliked by themselves."
    )
    assert not file.exists()
    unknown = night.run("feedback", "export", "--format", "trl", "--specialty", "nobody")
    assert unknown.returncode == 1
    assert "No specialty is called nobody." in unknown.stderr
