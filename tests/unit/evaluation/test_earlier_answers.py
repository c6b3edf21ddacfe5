"""Answers to guards that are kept from night to night."""

from dataclasses import replace
from pathlib import Path

import pytest

from nightschool_daemon.config import ExamSettings
from nightschool_daemon.evaluation import answer_files
from nightschool_daemon.evaluation.earlier_answers import EarlierAnswers, Question
from nightschool_daemon.evaluation.local_model import pinned_options
from nightschool_hookspecs import Message, ModelAnswer, Role, Tool, ToolCall

TOOL = Tool(name="get_weather", description="The weather.", parameters={"city": "string"})
ASKED = Question(
    messages=(Message(role=Role.USER, content="How is the weather?"),),
    options=pinned_options(ExamSettings(), 0),
    tools=(TOOL,),
    think=False,
    server="0.34.3",
)
SAID = ModelAnswer(
    text="", tool_calls=(ToolCall(name="get_weather", arguments={"city": "Paris", "days": 2}),), tokens=9
)


def test_an_answer_is_found_again_by_its_model_and_the_whole_question(tmp_path: Path) -> None:
    EarlierAnswers(tmp_path / "guards").keep("a", ASKED, SAID)
    earlier = EarlierAnswers(tmp_path / "guards")
    assert earlier.find("a", ASKED) == SAID
    assert earlier.find("b", ASKED) is None
    for other in (
        replace(ASKED, think=True),
        replace(ASKED, tools=()),
        replace(ASKED, messages=()),
        replace(ASKED, server="0.35.0"),
    ):
        assert earlier.find("a", other) is None
    assert earlier.find("a", replace(ASKED, options=replace(ASKED.options, temperature=0.7))) is None


def test_a_file_that_the_disk_tore_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": 5}\n')
    earlier = EarlierAnswers(tmp_path)
    assert earlier.find("a", ASKED) is None
    earlier.keep("a", ASKED, SAID)
    assert EarlierAnswers(tmp_path).find("a", ASKED) == SAID


def test_models_that_were_long_not_asked_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_files, "MOST_MODELS", 2)
    for model in ("a", "b", "c"):
        EarlierAnswers(tmp_path).keep(model, ASKED, SAID)
    assert len(list(tmp_path.iterdir())) == 2
    assert EarlierAnswers(tmp_path).find("c", ASKED) == SAID
