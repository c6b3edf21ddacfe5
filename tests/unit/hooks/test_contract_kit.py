"""`check_plugin` finds what a plugin author may get wrong."""

import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from nightschool_hookspecs import (
    Chunk,
    Hyperparameters,
    Message,
    Role,
    TrainingJob,
    TrainingMethod,
    TrainingTrial,
    TrialEnd,
    TriedOut,
)
from nightschool_hookspecs.testing import (
    ContractError,
    FakeEmbed,
    FakeGenerate,
    FakeMeasure,
    FakeRetrieve,
    FakeStore,
    FakeTrain,
    FakeTryOut,
    check_plugin,
    sample_arguments,
)

HEADER = "from dataclasses import dataclass\nfrom nightschool_hookspecs import hookimpl\n"


def module(text: str) -> ModuleType:
    made = ModuleType("sample_plugin")
    exec(HEADER + textwrap.dedent(text), made.__dict__)  # noqa: S102 - a plugin from its text
    return made


def test_a_good_plugin_passes() -> None:
    check_plugin(module("@hookimpl\ndef nightschool_score_difficulty(event):\n    return 0.5"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "implements no hook"),
        ("@hookimpl\ndef nightschool_score_dificulty(event):\n    return 0.5", "nightschool_score_dificulty"),
        ("@hookimpl\ndef nightschool_score_difficulty(evnt):\n    return 0.5", "evnt"),
        ("@hookimpl\ndef nightschool_score_difficulty(event):\n    return 'hard'", "answered 'hard'"),
        ("@hookimpl\ndef nightschool_score_difficulty(event):\n    return 1.5", "within 0..1"),
        ("@hookimpl\ndef nightschool_validate_event(event):\n    return 'no'", "answered 'no'"),
        ("@hookimpl\ndef nightschool_register_settings():\n    return int", "dataclass type"),
        ("@dataclass\nclass S:\n    a: int\n@hookimpl\ndef nightschool_register_settings():\n    return S", "default"),
        (
            "@dataclass\nclass S:\n    a: int = 1\n@hookimpl\ndef nightschool_register_settings():\n    return S",
            "frozen",
        ),
    ],
)
def test_a_fault_is_named(text: str, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        check_plugin(module(text))


def test_fakes_answer_as_their_protocols_say() -> None:
    question = (Message(role=Role.USER, content="ls"),)
    assert FakeGenerate(["a"])(question, max_tokens=1, temperature=0.0, seed=0) == "a"
    embedded = FakeEmbed()(["ls", ""])
    assert embedded is not None
    assert len(embedded.values) == embedded.rows * embedded.columns
    assert FakeEmbed(available=False)(["ls"]) is None
    assert list(FakeMeasure()(["ls", ""], ["ls", ""]).values) == [1.0, 0.0, 0.0, 1.0]
    assert FakeRetrieve([Chunk(text="rm"), Chunk(text="ls")])("ls", limit=1) == (Chunk(text="ls"),)


def test_store_forgets() -> None:
    store = FakeStore()
    store.put("key", "1")
    assert store.get("key") == "1"
    store.delete("key")
    store.delete("key")
    assert store.get("key") is None


def test_try_out_goes_as_far_as_its_judge_lets_it() -> None:
    try_out = FakeTryOut(lambda _hyperparameters, epochs: 10 - epochs, trainings=2)
    trial = TrainingTrial(hyperparameters=Hyperparameters(num_epochs=4), title="it", marks=(1.0, 2.0, 4.0), answers=1)
    assert try_out(trial, lambda _epochs, _loss: True) == TriedOut(
        end=TrialEnd.COMPLETE, loss=6.0, score=40.0, tokens=4, measured_tokens=2, seconds=4.0
    )
    assert try_out.seconds_left() > 0
    heard: list[tuple[float, float]] = []

    def judge(epochs: float, loss: float) -> bool:
        heard.append((epochs, loss))
        return epochs < 2

    assert try_out(trial, judge) == TriedOut(end=TrialEnd.STOPPED, loss=None, tokens=2, measured_tokens=2, seconds=2.0)
    assert heard == [(1.0, 9.0), (2.0, 8.0)]
    assert try_out.seconds_left() == 0
    assert [one for one, _ in try_out.tried] == [trial, trial]


def test_train_keeps_what_it_was_asked(tmp_path: Path) -> None:
    call, *_ = sample_arguments(tmp_path)["nightschool_train_adapter"]
    job = call["job"]
    assert isinstance(job, TrainingJob)
    train = FakeTrain()
    result = train(job, method=TrainingMethod.SFT, hyperparameters=job.hyperparameters)
    assert result.adapter == job.output
    assert train.asked == [(job, TrainingMethod.SFT, job.hyperparameters)]
