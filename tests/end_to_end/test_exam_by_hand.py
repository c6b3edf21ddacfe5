"""`nightschool exam` on a real Ollama: two models, the prompts of an alias or of a file, and nothing that changes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.night import TINY, TINY_ALIAS, Night, greetings, import_tiny
from support.ollama_server import OllamaServer


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[Night]:
    """An installation whose alias was promoted once."""
    directory = tmp_path_factory.mktemp("exam")
    with OllamaServer("0.34.3", directory=directory / "ollama") as server:
        import_tiny(server, tiny_gguf)
        found = Night(directory / "night", server.url, server.models_directory)
        found.drop(greetings(60))
        done = found.learn()
        assert done.returncode == 0, done.stdout + done.stderr
        yield found


@pytest.mark.parametrize("named", [(), (TINY,), (TINY_ALIAS,)], ids=["nobody", "the base", "the alias"])
def test_the_base_is_compared_with_the_only_alias(night: Night, named: tuple[str, ...]) -> None:
    found = night.json("exam", *named)
    assert isinstance(found, dict)
    assert (found["first"], found["second"]) == (TINY, TINY_ALIAS)
    assert found["verdict"]["outcome"] == "proven"
    assert found["second_marks"]["score"] > found["first_marks"]["score"] + 30
    assert found["asked"] <= found["prompts"]
    assert found["furthest_apart"][0]["wanted"] == "hello"


def test_the_parts_may_be_turned_round_and_are_told_in_words(night: Night) -> None:
    done = night.run("exam", TINY_ALIAS, TINY)
    assert done.returncode == 0, done.stderr
    assert f"{TINY} takes the candidate's part. " in done.stdout
    assert "worse" in done.stdout
    assert "score (0 to 100)" in done.stdout


def test_prompts_of_a_file_are_asked(night: Night, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in greetings(8, first=500)))
    found = night.json("exam", TINY, f"{TINY_ALIAS}.v1", "--data", str(file))
    assert isinstance(found, dict)
    assert found["prompts"] == 8
    assert found["verdict"]["gain"] > 30


def test_nothing_is_changed_and_nothing_left_behind(night: Night) -> None:
    before = night.json("history")
    night.json("exam")
    assert night.json("history") == before
    assert not [one for one in night.state.iterdir() if one.name.startswith("nightschool-compare")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nobody:1b", "somebody:1b"), "no specialty has that name"),
        ((TINY_ALIAS, "nobody:1b"), "nobody:1b is not in Ollama"),
        ((TINY_ALIAS, f"{TINY_ALIAS}.v1"), "are the same model"),
    ],
    ids=["no specialty", "no model", "the same"],
)
def test_what_cannot_be_compared_is_told(night: Night, arguments: tuple[str, ...], told: str) -> None:
    done = night.run("exam", *arguments)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_needs_two_models_and_prompts_with_better_answers(night: Night, tmp_path: Path) -> None:
    file = tmp_path / "liked.jsonl"
    liked = [{**one, "feedback_type": "success"} for one in greetings(3)]
    for one in liked:
        del one["corrected_output"]
    file.write_text("".join(json.dumps(one) + "\n" for one in liked))
    alone = night.run("exam", TINY, "--data", str(file))
    assert "name the two models" in alone.stderr
    both = night.run("exam", TINY, TINY_ALIAS, "--data", str(file))
    assert both.returncode == 1
    assert "None of the prompts says what a better answer is" in both.stderr
