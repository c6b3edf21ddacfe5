"""What stands beside a lesson is learned from, and the lesson alone is watched and measured."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon import codec
from nightschool_daemon.learning.engine.examples import WATCHED_FROM, Answer, Example, divided
from nightschool_daemon.learning.measuring import yardstick_of
from nightschool_daemon.learning.rows import FILES, Row, fitting, learned_texts
from nightschool_hookspecs.records import Hyperparameters, TrainingMethod, TrainingText
from nightschool_hookspecs.services import TrainingError


@given(
    beside=st.lists(st.booleans(), min_size=1, max_size=120),
    seed=st.integers(0, 2**31),
    epochs=st.integers(1, 12),
    size=st.sampled_from([1, 8]),
)
def test_what_stands_beside_it_is_learned_from_and_never_watched(
    beside: list[bool], seed: int, epochs: int, size: int
) -> None:
    examples = [
        Example(prompt=(number,), answers=(Answer(tokens=(1,)),), beside=one) for number, one in enumerate(beside)
    ]
    split = divided(examples, seed, Hyperparameters(num_epochs=epochs, batch_size=size))
    assert not any(one.beside for one in split.watched)
    assert [one for one in split.learned if one.beside] == [one for one in examples if one.beside]
    assert split.held == (beside.count(False) >= WATCHED_FROM and epochs > split.first_judged)
    assert {*split.learned, *split.watched} == set(examples)


def test_how_much_is_learned_is_measured_on_the_lesson() -> None:
    examples = [
        Example(prompt=(number,), answers=(Answer(tokens=(1, 2)),), beside=number % 2 == 0) for number in range(10)
    ]
    yardstick = yardstick_of(TrainingMethod.SFT, examples)
    assert [row.prompt for row in yardstick.rows] == [(1,), (3,), (5,), (7,), (9,)]
    assert yardstick.units == 10


def test_a_lesson_that_does_not_fit_is_not_made_up_for_by_what_stands_beside_it() -> None:
    rows = [
        Row(prompt=(1,) * 30, completion=(2,), weight=1.0),
        Row(prompt=(1,), completion=(2,), weight=1.0, beside=True),
    ]
    assert fitting(rows, 31) == (rows, 0)
    with pytest.raises(TrainingError, match="No example fits"):
        fitting(rows, 30)


def test_texts_to_be_measured_on_are_those_of_the_lesson(tmp_path: Path) -> None:
    texts = [
        TrainingText(event_id="s/1", prompt="a", completion="b"),
        TrainingText(event_id="", prompt="c", completion="d", beside=True),
    ]
    lines = "".join(f"{codec.to_json(one)}\n" for one in texts)
    (tmp_path / FILES[TrainingMethod.SFT]).write_text(lines, encoding="utf-8")
    assert learned_texts(tmp_path, [TrainingMethod.SFT]) == texts[:1]
