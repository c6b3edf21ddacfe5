"""How far answers in use were from their corrections."""

import pytest

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.reporting import job
from nightschool_daemon.reporting.job import in_use_of
from nightschool_daemon.reporting.records import CorrectedAnswer
from nightschool_hookspecs.records import ExamItem, ItemRole


def corrected(version: str, text: str, *, reference: str = "ls -a") -> CorrectedAnswer:
    item = ExamItem(id=text, event_id=text, artifact_type="shell", role=ItemRole.GAIN, messages=(), reference=reference)
    return CorrectedAnswer(version=version, item=item, text=text)


def test_answers_are_scored_beside_their_corrections_by_version() -> None:
    hooks = Hooks.load(plugin_directory=None, tables={})
    newest, older = in_use_of([corrected("v2", "ls -a"), corrected("v1", "rm -r x"), corrected("v2", "rm -r x")], hooks)
    assert (newest.version, newest.answers, older.version, older.answers) == ("v2", 2, "v1", 1)
    assert older.score < newest.score == pytest.approx((100 + older.score) / 2)


def test_no_model_is_asked_for_it() -> None:
    hooks = Hooks.load(plugin_directory=None, tables={"evaluation_judge": {"enabled": True}})
    assert in_use_of([corrected("v1", "rm -r x")], hooks) == ()


def test_what_there_is_no_time_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SCORING_S", -1.0)
    hooks = Hooks.load(plugin_directory=None, tables={})
    assert in_use_of([corrected("v1", "ls")], hooks) == ()
