"""What validators make of corrections: each is looked at once, and kept."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from nightschool_daemon.learning import corrections
from nightschool_daemon.learning.corrections import KeptScores
from nightschool_hookspecs import AnswerScore, Event, ExamItem, FeedbackType, GenerationError, Message, Metadata, Role
from nightschool_hookspecs.testing import sample_event

CORRECTION = replace(
    sample_event(), corrected_output="def f(:", feedback_type=FeedbackType.USER_CORRECTION, artifact_type="python"
)


@dataclass(kw_only=True)
class Validator:
    """Says of each text what a table has, else nothing, and remembers what it was shown."""

    scores: dict[str, float | AnswerScore | Exception] = field(default_factory=lambda: {"def f(:": 0.0})
    shown: list[tuple[ExamItem, str]] = field(default_factory=list)

    def __call__(self, item: ExamItem, answer: str) -> AnswerScore | None:
        self.shown.append((item, answer))
        found = self.scores.get(answer)
        if isinstance(found, Exception):
            raise found
        if found is None or isinstance(found, AnswerScore):
            return found
        return AnswerScore(score=found, validator="test")


@pytest.fixture
def night(tmp_path: Path) -> Callable[..., KeptScores]:
    """What a night has: a validator of its own, and the file of all nights."""

    def begin(validator: Validator, *, validators: str = "the same") -> KeptScores:
        return KeptScores(
            tmp_path / "cache" / "corrections.json",
            validators=validators,
            validate=validator,
            artifact_type="shell",
            progress=lambda *_: None,
        )

    return begin


def test_a_validator_is_shown_what_the_correction_is_by_itself(night: Callable[..., KeptScores]) -> None:
    validator = Validator()
    event = replace(CORRECTION, artifact_type=None, metadata=Metadata(tests="assert f()", schema="{}"))
    assert night(validator)([event]) == [0.0]
    ((item, answer),) = validator.shown
    assert (answer, item.reference, item.tests, item.schema) == ("def f(:", None, "assert f()", "{}")
    assert (item.artifact_type, item.messages[-1]) == ("shell", Message(role=Role.USER, content=event.input_data))


@pytest.mark.parametrize(
    "event",
    [
        replace(CORRECTION, corrected_output=None, feedback_type=FeedbackType.SUCCESS),
        replace(CORRECTION, corrected_output=None, feedback_type=FeedbackType.EXPLICIT_NEGATIVE),
        replace(CORRECTION, metadata=Metadata(deleted=True)),
        replace(CORRECTION, corrected_output=" "),
    ],
)
def test_nobody_looks_at_what_is_no_correction_to_be_learned(night: Callable[..., KeptScores], event: Event) -> None:
    validator = Validator()
    assert night(validator)([event]) == [None]
    assert not validator.shown


def test_each_is_looked_at_once_whatever_the_nights(night: Callable[..., KeptScores]) -> None:
    first, second = Validator(), Validator()
    unknown = replace(CORRECTION, corrected_output="something else")
    before = night(first)([CORRECTION, unknown, replace(CORRECTION, id="again")])
    another = replace(CORRECTION, input_data="another question")
    after = night(second)([another, unknown, CORRECTION])
    assert (before, after) == ([0.0, None, 0.0], [0.0, None, 0.0])
    # what nobody could tell anything of may be told by another machine
    assert (len(first.shown), len(second.shown)) == (2, 2)


def test_what_was_looked_at_before_a_validator_broke_stays(night: Callable[..., KeptScores]) -> None:
    breaks = replace(CORRECTION, corrected_output="something that breaks it")
    with pytest.raises(ZeroDivisionError):
        night(Validator(scores={"def f(:": 0.0, "something that breaks it": ZeroDivisionError()}))([CORRECTION, breaks])
    validator = Validator()
    assert night(validator)([CORRECTION]) == [0.0]
    assert not validator.shown


@pytest.mark.parametrize(
    "changed",
    [
        {"corrected_output": "def g(:"},
        {"artifact_type": "code_prototype"},
        {"metadata": Metadata(tests="assert f()")},
        {"metadata": Metadata(schema="{}")},
    ],
)
def test_what_was_changed_is_looked_at_anew(night: Callable[..., KeptScores], changed: dict[str, Any]) -> None:
    validator = Validator()
    night(Validator())([CORRECTION])
    night(validator)([replace(CORRECTION, **changed)])
    assert len(validator.shown) == 1


def test_other_validators_look_anew(night: Callable[..., KeptScores]) -> None:
    validator = Validator(scores={"def f(:": 30.0})
    night(Validator())([CORRECTION])
    assert night(validator, validators="others")([CORRECTION]) == [30.0]


def test_where_a_model_was_to_judge_and_did_not_it_is_asked_again(night: Callable[..., KeptScores]) -> None:
    away = Validator(scores={"def f(:": GenerationError("the model is away")})
    assert night(away)([CORRECTION]) == [None]
    assert night(Validator())([CORRECTION]) == [0.0]


def test_what_ran_out_of_time_is_looked_at_again_another_night(night: Callable[..., KeptScores]) -> None:
    busy = Validator(scores={"def f(:": AnswerScore(score=0.0, validator="test", is_out_of_time=True)})
    assert night(busy)([CORRECTION]) == [None]
    assert night(Validator(scores={"def f(:": 100.0}))([CORRECTION]) == [100.0]


def test_of_many_those_are_kept_that_were_asked_last(
    night: Callable[..., KeptScores], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrections, "MOST_KEPT", 2)
    first, second, third = (replace(CORRECTION, input_data=f"question {number}") for number in range(3))
    night(Validator())([first, second])
    night(Validator())([first, third])
    validator = Validator()
    assert night(validator)([first, third, second]) == [0.0, 0.0, 0.0]
    assert [item.messages[-1].content for item, _ in validator.shown] == ["question 1"]


def test_a_file_that_cannot_be_read_is_begun_anew(night: Callable[..., KeptScores], tmp_path: Path) -> None:
    night(Validator())([CORRECTION])
    (tmp_path / "cache" / "corrections.json").write_text('{"scores": ', encoding="utf-8")
    validator = Validator()
    assert night(validator)([CORRECTION]) == [0.0]
    assert len(validator.shown) == 1
