"""Which method learns from which feedback."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nightschool_daemon.hooks import Hooks
from nightschool_hookspecs import (
    Hyperparameters,
    Material,
    MethodChoice,
    TrainingError,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.testing import FakeTrain
from nightschool_plugins.training_dpo import TrainingDpo

SFT, DPO, KTO = TrainingMethod.SFT, TrainingMethod.DPO, TrainingMethod.KTO
NOTHING = Material(examples=0, better_known=0, pairs=0, liked=0, disliked=0)
CORRECTIONS = Material(examples=80, better_known=80, pairs=80, liked=0, disliked=0)
FEW = replace(CORRECTIONS, pairs=10)
THUMBS = Material(examples=30, better_known=0, pairs=3, liked=30, disliked=10)
LIKED = replace(THUMBS, pairs=0, disliked=0)
DISLIKED = Material(examples=0, better_known=0, pairs=0, liked=0, disliked=10)


def asked(
    method: MethodChoice, material: Material, train: FakeTrain | None = None
) -> tuple[TrainingResult | None, FakeTrain]:
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("training_sft", "training_dpo", "training_kto"))
    train = train or FakeTrain()
    return hooks.train_adapter(job=job_of(method, material), train=train), train


def job_of(method: MethodChoice, material: Material) -> TrainingJob:
    return TrainingJob(
        base_gguf=Path("base"),
        base_digest="d",
        architecture="llama",
        dataset=Path("data"),
        output=Path("out"),
        material=material,
        method=method,
        hyperparameters=Hyperparameters(learning_rate=1e-3, num_epochs=3),
        seed=1,
    )


@pytest.mark.parametrize(
    ("method", "material", "expected"),
    [
        (MethodChoice.SFT, CORRECTIONS, (SFT,)),
        (MethodChoice.SFT, THUMBS, (SFT,)),
        (MethodChoice.DPO, CORRECTIONS, (DPO,)),
        (MethodChoice.KTO, THUMBS, (KTO,)),
        (MethodChoice.KTO, DISLIKED, (KTO,)),
        (MethodChoice.AUTO, CORRECTIONS, (SFT, DPO)),
        (MethodChoice.AUTO, FEW, (SFT,)),
        (MethodChoice.AUTO, THUMBS, (KTO,)),
        (MethodChoice.AUTO, DISLIKED, (KTO,)),
        (MethodChoice.AUTO, LIKED, (SFT,)),
        (MethodChoice.AUTO, replace(CORRECTIONS, disliked=9), (SFT, DPO)),
    ],
)
def test_the_method_follows_the_feedback(
    method: MethodChoice, material: Material, expected: tuple[TrainingMethod, ...]
) -> None:
    result, train = asked(method, material)
    assert result is not None
    assert result.methods == expected == tuple(one for _, one, _ in train.asked)


@pytest.mark.parametrize(("suggested", "batch"), [(None, 64), (Hyperparameters(batch_size=4), 4)])
def test_preferences_are_learned_in_batches_that_were_suggested(suggested: Hyperparameters | None, batch: int) -> None:
    """Of 80 pairs, what was found for many wanted answers would make two steps."""
    train = FakeTrain()
    TrainingDpo().nightschool_train_adapter(
        replace(
            job_of(MethodChoice.AUTO, CORRECTIONS), hyperparameters=Hyperparameters(batch_size=64), suggested=suggested
        ),
        train,
    )
    assert [settings.batch_size for _, _, settings in train.asked] == [64, batch]


def test_preferences_go_on_from_the_wanted_answers() -> None:
    result, train = asked(MethodChoice.AUTO, CORRECTIONS)
    (first, _, _), (second, _, settings) = train.asked
    assert result is not None
    assert first.output != second.output
    assert second.warm_start == first.output
    assert settings.learning_rate == pytest.approx(1e-4)
    assert settings.num_epochs == 1
    assert result.steps == 2


class FailsAtPairs(FakeTrain):
    """Learns wanted answers, and has no memory for pairs."""

    def __call__(self, job: TrainingJob, *, method: TrainingMethod, **rest: Any) -> TrainingResult:
        if method is DPO:
            raise TrainingError("An example of 900 tokens needs 9.1 GB of memory.")
        return super().__call__(job, method=method, **rest)


def test_what_was_learned_is_not_lost_to_what_fails_on_top() -> None:
    """A night of wanted answers, and then pairs that do not fit."""
    result, train = asked(MethodChoice.AUTO, CORRECTIONS, FailsAtPairs())
    ((job, _, _),) = train.asked
    assert result is not None
    assert (result.methods, result.adapter) == ((SFT,), job.output)
    assert result.not_learned == (
        "Which answers are better than others was not learned. An example of 900 tokens needs 9.1 GB of memory."
    )
    with pytest.raises(TrainingError, match="An example of 900 tokens"):
        asked(MethodChoice.DPO, CORRECTIONS, FailsAtPairs())


@pytest.mark.parametrize("warm_start", [False, True])
def test_both_together_go_on_from_an_earlier_night_where_the_first_does(warm_start: bool) -> None:
    class Started(FakeTrain):
        def __call__(self, job: TrainingJob, **rest: Any) -> TrainingResult:
            # the second begins from the first in any case
            return replace(super().__call__(job, **rest), warm_start=warm_start or job.requires_start)

    result, _ = asked(MethodChoice.AUTO, CORRECTIONS, Started())
    assert result is not None
    assert result.warm_start is warm_start


def test_what_one_of_both_learned_from_was_learned_from() -> None:
    class Telling(FakeTrain):
        def __call__(self, job: TrainingJob, **rest: Any) -> TrainingResult:
            learned, watched = (("a", "b"), ("c", "d")) if not job.requires_start else (("b", "c"), ("a", "e"))
            return replace(super().__call__(job, **rest), learned_events=learned, watched_events=watched)

    result, _ = asked(MethodChoice.AUTO, CORRECTIONS, Telling())
    assert result is not None
    assert result.learned_events == ("a", "b", "c")
    assert result.watched_events == ("d", "e")


@pytest.mark.parametrize(
    ("method", "said"), [(MethodChoice.DPO, "no pair of a better"), (MethodChoice.KTO, "liked or disliked by itself")]
)
def test_a_method_without_its_feedback_is_told(method: MethodChoice, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        asked(method, replace(NOTHING, examples=3))


def test_nothing_is_trained_from_nothing() -> None:
    assert asked(MethodChoice.AUTO, NOTHING)[0] is None
