"""`nightschool exam` on a real Ollama: two models, the prompts of an alias or of a file, and nothing that changes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from support.night import TINY, TINY_ALIAS, Night, greetings, import_tiny, thumbs
from support.ollama_server import OllamaServer

BRIEF = "Be brief."


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[Night]:
    """An installation whose alias was promoted once."""
    directory = tmp_path_factory.mktemp("exam")
    with OllamaServer("0.34.3", directory=directory / "ollama") as server:
        import_tiny(server, tiny_gguf)
        found = Night(directory / "night", server.url, server.models_directory)
        found.drop(greetings(60))
        # taught: what a model of a million weights makes of another system prompt differs from machine to machine
        found.drop([{**one, "context": {"system": BRIEF}} for one in greetings(30, first=100)])
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
    assert found["answers"][0]["wanted"] == "hello"


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


def test_a_file_needs_two_models(night: Night, tmp_path: Path) -> None:
    alone = night.run("exam", TINY, "--data", str(written(tmp_path / "prompts.jsonl", greetings(3))))
    assert alone.returncode == 2
    assert alone.stderr == "--data: name the two models that are to be compared on it.\n"


def written(file: Path, events: Sequence[Mapping[str, object]]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in events))
    return file


PLAIN = {
    "prompts.txt": "greet guest 700\n\ngreet guest 701\n",
    "prompts.jsonl": f'"greet guest 700"\n{{"prompt": "greet guest 701", "system": "{BRIEF}"}}\n',
    "prompts.json": '["greet guest 700", "greet guest 701"]',
}


@pytest.mark.parametrize("name", PLAIN)
def test_prompts_alone_are_answered_side_by_side(night: Night, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(PLAIN[name])
    found = night.json("exam", TINY, f"{TINY_ALIAS}.v1", "--data", str(file))
    assert isinstance(found, dict)
    assert found["verdict"] is None
    assert [one["prompt"] for one in found["answers"]] == ["greet guest 700", "greet guest 701"]
    assert [one["second"] for one in found["answers"]] == ["hello", "hello"]
    assert {one["first_score"] for one in found["answers"]} == {None}


def test_thumbs_of_a_file_are_ranked_by_a_version_too(night: Night, tmp_path: Path) -> None:
    file = written(tmp_path / "thumbs.jsonl", thumbs(8, first=900))
    found = night.json("exam", TINY, f"{TINY_ALIAS}.v1", "--data", str(file))
    assert isinstance(found, dict)
    assert (found["pairs"], found["not_ranked"]) == (8, "")
    assert found["verdict"]["gain"] > 30


def test_liked_answers_alone_give_no_verdict_which_is_told(night: Night, tmp_path: Path) -> None:
    liked = [{**one, "feedback_type": "success", "corrected_output": None} for one in greetings(3)]
    done = night.run("exam", TINY, TINY_ALIAS, "--data", str(written(tmp_path / "liked.jsonl", liked)))
    assert done.returncode == 0, done.stderr
    assert "There is no verdict" in done.stdout
    assert "hello" in done.stdout
    assert "score" not in done.stdout


def test_feedback_with_a_slip_is_not_taken_for_prompts(night: Night, tmp_path: Path) -> None:
    slip = [{**one, "feedback_type": "user_corection"} for one in greetings(2)]
    done = night.run("exam", TINY, TINY_ALIAS, "--data", str(written(tmp_path / "slip.jsonl", slip)))
    assert done.returncode == 1
    assert "user_corection" in done.stderr


PREFERS_HELLO = """
from nightschool_hookspecs import AnswerScore, hookimpl


@hookimpl(tryfirst=True)
def nightschool_validate_answer(item, answer):
    better = (answer.strip() == "hello") - (item.reference.strip() == "hello")
    return AnswerScore(score=50.0 + 50.0 * better, validator="polite", is_relative=True)
"""


def test_who_compares_answers_has_a_verdict_on_prompts_alone(night: Night, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"greet guest {number}\n" for number in range(700, 708)))
    night.add_plugin("polite", PREFERS_HELLO)
    try:
        found = night.json("exam", TINY, f"{TINY_ALIAS}.v1", "--data", str(file))
    finally:
        (night.plugins / "polite.py").unlink()
    assert isinstance(found, dict)
    assert found["verdict"]["outcome"] == "proven"
    assert (found["first_marks"]["score"], found["second_marks"]["score"]) == (0.0, 100.0)


def test_two_models_are_compared_on_a_specialty_that_is_young_and_names_neither(
    tmp_path: Path, tiny_gguf: Path, fresh_ollama: OllamaServer
) -> None:
    for name in (TINY, "one:1m"):
        import_tiny(fresh_ollama, tiny_gguf, name)
    import_tiny(fresh_ollama, tiny_gguf, "other:1m", system="Speak like a pirate.")
    young = Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)
    young.drop(greetings(7))
    young.run("status")
    nobody = young.run("exam", "one:1m", "other:1m")
    assert "no specialty has that name" in nobody.stderr
    found = young.json("exam", "one:1m", "other:1m", "--on", TINY_ALIAS)
    assert isinstance(found, dict)
    assert (found["what"], found["prompts"]) == ("all", 7)
    assert "all feedback is asked" in young.run("exam", "one:1m", "other:1m", "--on", TINY_ALIAS).stdout


def test_thumbs_alone_are_ranked(tmp_path: Path, tiny_gguf: Path, fresh_ollama: OllamaServer) -> None:
    import_tiny(fresh_ollama, tiny_gguf, TINY)
    import_tiny(fresh_ollama, tiny_gguf, "other:1m", system="Speak like a pirate.")
    young = Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)
    file = written(tmp_path / "thumbs.jsonl", thumbs(8))
    found = young.json("exam", TINY, "other:1m", "--data", str(file))
    assert isinstance(found, dict)
    assert found["pairs"] == 8
    assert found["verdict"]["items"] == 8
    assert found["not_ranked"] == ""
