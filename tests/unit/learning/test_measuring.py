"""What counts as learned, by each method."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from nightschool_daemon import codec
from nightschool_daemon.jobs import ExportResult, Losses, LossKind
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.measuring import (
    MEASURED,
    Mark,
    Measure,
    Yardstick,
    require_lesson,
    spread,
    yardstick_of,
)
from nightschool_daemon.learning.rows import Row
from nightschool_daemon.learning.variants import Variant, Variants
from nightschool_daemon.ledger import KeptLesson
from nightschool_hookspecs.records import (
    DeliveryForm,
    DeliveryPlan,
    ServerAbilities,
    TrainingMethod,
)
from nightschool_hookspecs.services import TrainingError

BETTER, WORSE, OTHER = (1, 2), (3, 4, 5), (6,)
SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")
PLAN = DeliveryPlan(form=DeliveryForm.SPLIT, version_bytes=0, shared_bytes=0, reason="test")
EXPORT = ExportResult(abilities=SERVER, plan=PLAN, files=(), touched=())

Sums = Mapping[tuple[int, ...], float]


class Networks(Variants):
    """Networks by what they make of each answer."""

    def __init__(self, sums: Mapping[Variant, Sums]) -> None:
        self._sums, self._used = sums, Variant.BASE

    def use(self, variant: Variant, export: ExportResult | None = None) -> None:
        self._used = variant

    def logprobs(self, texts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        raise NotImplementedError

    def answer_sums(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return np.array([self._sums[self._used][row.completion] for row in rows], np.float32)


def pair() -> Example:
    return Example(prompt=(9,), answers=(Answer(tokens=BETTER), Answer(tokens=WORSE)), margin=0.5)


def thumb(tokens: tuple[int, ...], *, liked: bool) -> Example:
    return Example(prompt=(9,), answers=(Answer(tokens=tokens, liked=liked),))


def measured(yardsticks: Sequence[Yardstick], base: Sums, trained: Sums, delivered: Sums) -> Losses:
    """What is left of a lesson."""
    networks = Networks({Variant.BASE: base, Variant.TRAINED: trained, Variant.DELIVERED: delivered})
    before = [one.loss(networks) for one in yardsticks]
    networks.use(Variant.TRAINED)
    marks = [
        Mark(yardstick=one, base=loss, trained=one.loss(networks)) for one, loss in zip(yardsticks, before, strict=True)
    ]
    export = Measure(variants=networks, learned=marks).of_delivered(EXPORT)
    assert export.held_in is not None
    assert (export.held_out, export.held_out_texts) == (None, 0)
    return export.held_in


def test_wanted_answers_are_learned_where_they_are_likely() -> None:
    yardstick = yardstick_of(TrainingMethod.SFT, [thumb(BETTER, liked=True), thumb(WORSE, liked=True)])
    losses = measured(
        [yardstick], {BETTER: -4.0, WORSE: -6.0}, {BETTER: -1.0, WORSE: -1.5}, {BETTER: -2.0, WORSE: -1.25}
    )
    assert losses.kind is LossKind.ANSWERS
    assert (losses.base_loss, losses.trained_loss, losses.delivered_loss) == pytest.approx((2.0, 0.5, 0.65))


def test_a_preference_is_lost_though_its_better_answer_is_likelier_than_ever() -> None:
    yardstick = yardstick_of(TrainingMethod.DPO, [pair()])
    losses = measured(
        [yardstick], {BETTER: -6.0, WORSE: -5.0}, {BETTER: -5.0, WORSE: -10.0}, {BETTER: -3.0, WORSE: -2.0}
    )
    assert losses.kind is LossKind.PAIRS
    assert (losses.base_loss, losses.trained_loss, losses.delivered_loss) == pytest.approx((1.0, -5.0, 1.0))
    assert losses.kept == pytest.approx(0)


def test_a_preference_is_kept_though_both_answers_became_less_likely() -> None:
    yardstick = yardstick_of(TrainingMethod.DPO, [pair()])
    losses = measured(
        [yardstick], {BETTER: -6.0, WORSE: -5.0}, {BETTER: -5.0, WORSE: -10.0}, {BETTER: -9.0, WORSE: -14.0}
    )
    assert losses.kept == pytest.approx(1)


def test_a_disliked_answer_is_unlearned_where_it_is_unlikely() -> None:
    thumbs = [thumb(BETTER, liked=True), thumb(WORSE, liked=False)]
    losses = measured(
        [yardstick_of(TrainingMethod.KTO, thumbs)],
        {BETTER: -6.0, WORSE: -5.0},
        {BETTER: -4.0, WORSE: -11.0},
        {BETTER: -4.0, WORSE: -7.0},
    )
    assert losses.kind is LossKind.THUMBS
    assert losses.kept == pytest.approx(4 / 8)


def test_of_two_methods_the_one_counts_of_which_less_is_left() -> None:
    both = [
        yardstick_of(TrainingMethod.SFT, [thumb(BETTER, liked=True)]),
        yardstick_of(TrainingMethod.DPO, [pair()]),
    ]
    base, trained = {BETTER: -6.0, WORSE: -5.0}, {BETTER: -2.0, WORSE: -9.0}
    assert measured(both, base, trained, {BETTER: -2.0, WORSE: -5.0}).kind is LossKind.PAIRS
    assert measured(both, base, trained, {BETTER: -6.0, WORSE: -9.0}).kind is LossKind.ANSWERS


def test_a_few_disliked_answers_among_many_liked_ones_are_measured() -> None:
    thumbs = [thumb(BETTER, liked=True)] * 1000 + [thumb(WORSE, liked=False)] * 3
    yardstick = yardstick_of(TrainingMethod.KTO, thumbs)
    assert sorted(yardstick.signs) == [-1] * 3 + [1] * (MEASURED // 2)
    assert yardstick.units == len(yardstick.rows)


@pytest.mark.parametrize("after", [2.1, math.nan, math.inf])
def test_a_training_that_made_worse_what_it_learned_from_is_told(after: float) -> None:
    with pytest.raises(TrainingError, match=r"made worse what it learned from: 2\.000 before"):
        require_lesson(LossKind.ANSWERS, 2.0, after)
    require_lesson(LossKind.ANSWERS, 2.0, 2.0)


@pytest.mark.parametrize(("delivered", "kept"), [(2.0, 1.0), (2.0009, 1.0), (2.1, 0.0), (math.nan, 0.0), (1.9, 1.0)])
def test_a_delivery_that_is_worse_is_not_whole_though_nothing_was_learned(delivered: float, kept: float) -> None:
    assert Losses(base_loss=2.0, trained_loss=2.0, delivered_loss=delivered).kept == kept


@pytest.mark.parametrize("count", [0, 1, 39, 40, 41, 1000])
def test_what_is_measured_is_spread_over_everything(count: int) -> None:
    found = spread(range(count), 40)
    assert len(set(found)) == len(found) == min(40, count)
    assert found == sorted(found)
    assert count < 2 or found[-1] >= count - 1 - count / 40


def test_what_was_measured_before_kinds_were_told_is_read_as_wanted_answers() -> None:
    losses = codec.from_json('{"base_loss": 3.0, "trained_loss": 2.0, "delivered_loss": 2.1}', Losses)
    assert losses.kind is LossKind.ANSWERS
    assert codec.from_json(codec.to_json(losses), Losses) == losses


def test_the_share_says_of_what_it_is() -> None:
    losses = Losses(base_loss=1.0, trained_loss=-5.0, delivered_loss=-4.4, kind=LossKind.PAIRS)
    assert losses.share() == "90.0% of pairs"
    assert KeptLesson(held_in=losses).sentence() == "90.0% of pairs kept"


def test_held_out_references_are_measured_beside_what_was_learned() -> None:
    """In nats a token: of the better answer two, of the other one."""
    sums = {Variant.BASE: (-6.0, -3.0), Variant.TRAINED: (-2.0, -1.0), Variant.DELIVERED: (-2.5, -2.0)}
    networks = Networks({one: {BETTER: better, OTHER: other} for one, (better, other) in sums.items()})
    references = tuple(Row(prompt=(9,), completion=one, weight=1.0) for one in (BETTER, OTHER))
    of_both = Yardstick(kind=LossKind.ANSWERS, rows=references, signs=(1, 1), units=len(BETTER) + len(OTHER))
    taught = yardstick_of(TrainingMethod.SFT, [Example(prompt=(9,), answers=(Answer(tokens=BETTER),))])
    measure = Measure(
        variants=networks,
        learned=[Mark(yardstick=taught, base=3.0, trained=1.0)],
        held_out=Mark(yardstick=of_both, base=3.0, trained=1.0),
    )
    found = measure.of_delivered(EXPORT)
    assert found.held_in == Losses(base_loss=3.0, trained_loss=1.0, delivered_loss=1.25)
    assert found.held_out == Losses(base_loss=3.0, trained_loss=1.0, delivered_loss=1.5)
    assert found.held_out_texts == 2
