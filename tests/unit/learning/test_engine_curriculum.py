"""What a training learns from next: as a plugin arranges it, else as ever, and never fewer than there are."""

import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.jobs import STRETCHES, StretchMark, read_lines, write_lines
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.checkpoints import State
from nightschool_daemon.learning.engine.curriculum import (
    Curriculum,
    StretchLog,
    begun,
    evaluated,
    is_under_way,
)
from nightschool_daemon.learning.engine.examples import WATCHED_FROM, Answer, Example, divided, order_of
from nightschool_daemon.learning.engine.forms import LowRank
from nightschool_daemon.learning.engine.loop import Plan, train
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_hookspecs.records import (
    Hyperparameters,
    LearnedExample,
    Stretch,
    TrainedForm,
    TrainingMethod,
    TrainingSoFar,
)
from nightschool_hookspecs.services import TrainingError
from support.tiny_gguf import write_tiny_gguf
from support.training_jobs import keep_every_step

SETTINGS = Hyperparameters(form=TrainedForm.LORA, learning_rate=0.01, batch_size=4, num_epochs=3)
FIRST = State(start_loss=2.0)


def numbered(count: int) -> list[Example]:
    """Two of each event."""
    return [
        Example(
            prompt=(1, 270 + number),
            answers=(Answer(tokens=(264,) * (number % 3 + 1), weight=0.5),),
            group=f"g{number // 2}",
            event_id=f"a/{number // 2}",
            difficulty=number / count,
            score=50.0,
        )
        for number in range(count)
    ]


@dataclass
class Answering:
    """A plugin that says what it is told to, and keeps what it was asked."""

    stretches: Iterator[Stretch | None]
    asked: list[tuple[tuple[LearnedExample, ...], TrainingSoFar, int]] = field(default_factory=list)

    def __call__(self, *, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int) -> Stretch | None:
        self.asked.append((examples, training, seed))
        return next(self.stretches)


def answering(*places: tuple[int, ...] | None) -> Answering:
    """Stretches of these places, then nothing."""
    told = [None if one is None else Stretch(places=one, stage="told", reason="so it was") for one in places]
    return Answering(stretches=itertools.chain(told, itertools.repeat(None)))


def curriculum(count: int, arrange: Answering, settings: Hyperparameters = SETTINGS) -> Curriculum[Example]:
    return Curriculum(
        learned=numbered(count), method=TrainingMethod.SFT, settings=settings, seed=5, arrange=arrange, goes_on=True
    )


@given(count=st.integers(1, 60), epochs=st.integers(1, 5))
def test_where_nobody_arranges_an_epoch_is_one_stretch_in_its_order(count: int, epochs: int) -> None:
    settings = replace(SETTINGS, num_epochs=epochs)
    found = list(curriculum(count, answering(), settings).expected())
    assert found == [Stretch(places=order_of(count, epoch, 5), stage="") for epoch in range(epochs)]


def test_a_plugin_is_told_what_was_seen_and_which_losses_came_of_it() -> None:
    arrange = answering((0, 1, 0, 2), (3, 3, 3, 3, 9, 8), None)
    way = curriculum(10, arrange)
    state = evaluated(begun(FIRST, way.next(FIRST)), 1.5)
    state = evaluated(begun(state, way.next(state)), 1.25)
    assert way.is_through(state)
    way.next(way.next_epoch(state))
    examples, training, seeds = zip(*arrange.asked, strict=True)
    assert set(seeds) == {5}
    assert [[one.seen for one in of_call] for of_call in examples] == [
        [0] * 10,
        [2, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [2, 1, 1, 4, 0, 0, 0, 0, 1, 1],
    ]
    assert [(one.epoch, one.left, one.losses) for one in training] == [
        (1, 10, (2.0,)),
        (1, 6, (2.0, 1.5)),
        (2, 10, (2.0, 1.5, 1.25)),
    ]
    assert {(one.method, one.epochs, one.batch_size, one.goes_on) for one in training} == {
        (TrainingMethod.SFT, 3, 4, True)
    }
    assert examples[0][3] == LearnedExample(
        event_id="a/1", group="g1", tokens=3, weight=0.5, difficulty=0.3, score=50.0, seen=0
    )


def test_a_plugin_is_told_what_stands_beside_the_lesson() -> None:
    arrange = answering(None)
    way = curriculum(4, arrange)
    way = replace(way, learned=[replace(one, beside=number == 2) for number, one in enumerate(way.learned)])
    way.next(FIRST)
    ((examples, _, _),) = arrange.asked
    assert [one.beside for one in examples] == [False, False, True, False]


def test_the_rest_of_an_epoch_that_nobody_arranges_fills_it() -> None:
    way = curriculum(10, answering((9, 7, 9, 4), None))
    first, second, *_ = way.expected()
    assert second == Stretch(places=tuple(one for one in order_of(10, 0, 5) if one not in (4, 7, 9))[:6], stage="")
    assert len(first.places) + len(second.places) == 10


def test_a_stage_without_a_name_is_refused() -> None:
    way = replace(curriculum(4, answering()), arrange=lambda **_: Stretch(places=(0, 1, 2, 3), stage=""))
    with pytest.raises(TrainingError, match="a stage without a name"):
        way.next(FIRST)


@pytest.mark.parametrize(
    "places",
    [(), (*range(10), 0), (0, 1, 2), (0, 1, 2, 3, 4), (0, 1, 2, 10), (-1, 1, 2, 3)],
    ids=["nothing", "more than an epoch", "less than a batch", "half a batch", "one that is not there", "one before"],
)
def test_what_would_change_the_size_of_an_epoch_or_a_batch_is_refused(places: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError, match=r"A plugin arranged .* plugins\.disabled"):
        curriculum(10, answering(places)).next(FIRST)


def test_the_last_batch_of_an_epoch_may_be_smaller() -> None:
    way = curriculum(10, answering((0, 1, 2, 3, 4, 5, 6, 7), (8, 9)))
    assert [len(one.places) for one in itertools.islice(way.expected(), 2)] == [8, 2]


def test_a_stretch_is_remembered_by_its_events() -> None:
    """An event is new with the first of its examples."""
    way = curriculum(10, answering((0, 0, 2, 4), (1, 4, 6, 6)))
    state = begun(FIRST, way.next(FIRST))
    first = way.mark(state, 1.5)
    state = evaluated(state, 1.5)
    second = way.mark(begun(state, way.next(state)), 1.25)
    assert first == StretchMark(
        number=1,
        epoch=1,
        stage="told",
        reason="so it was",
        examples=4,
        tokens=15,
        watched_loss=1.5,
        first_seen=("a/0", "a/1", "a/2"),
    )
    assert (second.number, second.first_seen) == (2, ("a/3",))


def test_what_was_written_behind_the_checkpoint_goes(tmp_path: Path) -> None:
    way = curriculum(10, answering((0, 1, 2, 3)))
    mark = way.mark(begun(FIRST, way.next(FIRST)), 1.0)
    write_lines(tmp_path / STRETCHES, [replace(mark, number=number) for number in (1, 2, 3)])
    with (tmp_path / STRETCHES).open("a", encoding="utf-8") as stream:
        stream.write('{"number": 4')
    StretchLog(tmp_path, State(losses=(1.0, 1.0))).write(replace(mark, number=3, stage="again"))
    found = [(one.number, one.stage) for one in read_lines(tmp_path / STRETCHES, StretchMark)]
    assert found == [(1, "told"), (2, "told"), (3, "again")]


# --------------------------------------------------------------------------- in a training


@pytest.fixture
def network(tmp_path: Path) -> Network:
    torch.set_num_threads(1)
    file = write_tiny_gguf(tmp_path / "tiny.gguf", kind="F32")
    return Network(gguf_file.read(file), Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1))


def adapter(network: Network) -> LowRank:
    return LowRank(network.linears(), rank=4, alpha=8, group=1, generator=torch.Generator().manual_seed(3))


def by_chance(count: int) -> list[Example]:
    """Who learns them by heart gets worse at those that were held out."""
    chance = random.Random(5)
    return [
        Example(prompt=(1, chance.randrange(262, 350)), answers=(Answer(tokens=(chance.randrange(262, 350),)),))
        for _ in range(count)
    ]


def test_no_training_stops_before_an_epoch_saw_everything(network: Network, tmp_path: Path) -> None:
    """Though what is watched got worse long before: it was learning the easy ones."""
    settings, before = replace(SETTINGS, num_epochs=10), 6
    examples = by_chance(WATCHED_FROM)
    split = divided(examples, 7, settings)
    count = len(split.learned)
    half = tuple(place % (count // 2) for place in range(count))
    plan = Plan(
        method=TrainingMethod.SFT,
        hyperparameters=settings,
        seed=7,
        tokens_a_pass=100,
        output=tmp_path,
        signature="one",
        arrange=answering(*[half] * before),
    )
    outcome = train(network, adapter(network), examples, plan, lambda *_: None)
    watched = outcome.watched
    assert any(watched[epoch] > watched[epoch - 1] for epoch in range(split.first_judged, before))
    assert before + 1 < len(watched) < settings.num_epochs, "it stops when it gets worse behind that epoch"
    assert outcome.trained_loss == min(watched[before:])
    assert outcome.trained_loss > min(watched), "what saw only a half is not kept, however good it looked"


def test_every_stretch_is_evaluated_on_the_same_examples_and_every_epoch_has_its_steps(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_every_step(monkeypatch)
    easy, rest = (0, 1, 0, 1), (2, 3, 2, 3, 0, 1)
    arrange = answering(easy, rest, easy, rest)
    plan = Plan(
        method=TrainingMethod.SFT,
        hyperparameters=SETTINGS,
        seed=7,
        tokens_a_pass=100,
        output=tmp_path,
        signature="one",
        arrange=arrange,
    )
    reported: list[str] = []
    outcome = train(network, adapter(network), numbered(10), plan, lambda _done, _total, text: reported.append(text))
    assert outcome.steps == 3 * math.ceil(10 / 4)
    *_, (_, last, _) = arrange.asked
    marks = list(read_lines(tmp_path / STRETCHES, StretchMark))
    assert [one.watched_loss for one in marks] == list(last.losses[1:])
    assert last.losses[0] == outcome.base_loss
    assert outcome.watched[:2] == (last.losses[2], last.losses[4]), "an epoch's loss is that behind its last stretch"
    assert [(one.epoch, one.examples) for one in marks] == [(1, 4), (1, 6), (2, 4), (2, 6)]
    assert [text.split(",")[0] for text in reported] == [
        *["epoch 1 of 3 (told)"] * 3,
        *["epoch 2 of 3 (told)"] * 3,
        *["epoch 3 of 3"] * 3,
    ]
    (kept,) = (tmp_path / "checkpoints").glob("*/state.json")
    state = State(**json.loads(kept.read_text())["state"])
    assert not is_under_way(state)
    assert state.has_seen_all
    assert list(state.seen) == [1 + one for one in (6, 6, 4, 4, 0, 0, 0, 0, 0, 0)]
