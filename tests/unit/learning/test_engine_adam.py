"""The optimiser: as torch's own computes it, and without torch's compiler."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightschool_daemon.learning.engine.adam import Adam
from nightschool_daemon.learning.engine.examples import Example
from nightschool_daemon.learning.engine.loop import GRADIENT_NORM, gradients_of
from nightschool_daemon.learning.engine.trajectories import PassLoss

TRAINED = """
import sys
from pathlib import Path
import torch
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import machine
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.loop import Plan, train
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.packed_route import make_form
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod

network = Network(gguf_file.read(Path(sys.argv[1])), machine.bench(torch.float32))
network.computed_twice = range(1)
settings = Hyperparameters(form=TrainedForm.LORA, num_epochs=1, batch_size=2, learning_rate=0.01, lora_dropout=0.1)
plan = Plan(
    method=TrainingMethod.SFT,
    hyperparameters=settings,
    seed=0,
    tokens_a_pass=64,
    output=Path(sys.argv[2]),
    signature="",
)
examples = [Example(prompt=(1, 2, 3), answers=(Answer(tokens=(4, 5)),)) for _ in range(4)]
assert train(network, make_form(network, settings, 0), examples, plan, lambda *_: None).steps == 2
print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""


@given(seed=st.integers(0, 1000), rates=st.lists(st.floats(1e-6, 0.1), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_steps_as_the_optimiser_of_torch(seed: int, rates: list[float]) -> None:
    torch.manual_seed(seed)
    ours, theirs = ([one.clone().requires_grad_() for one in made(seed)] for _ in range(2))
    adam, peer = Adam(ours), torch.optim.Adam(theirs, foreach=False)
    for rate in rates:
        gradients = [torch.randn_like(one) for one in ours]
        give(ours, gradients)
        give(theirs, gradients)
        peer.param_groups[0]["lr"] = rate
        adam.step(rate)
        peer.step()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)
        assert left.grad is None


def made(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]


def give(parameters: list[Tensor], gradients: list[Tensor]) -> None:
    for one, gradient in zip(parameters, gradients, strict=True):
        one.grad = gradient.clone()


def test_what_got_no_gradient_stays() -> None:
    moved, still = made(0)
    before = still.clone()
    adam = Adam([moved, still])
    moved.grad = torch.ones_like(moved)
    adam.step(0.1)
    assert torch.equal(still, before)
    assert float(adam.moments()["1.step"]) == 0


def test_goes_on_from_what_another_remembered() -> None:
    first, second = ([one.clone() for one in made(3)] for _ in range(2))
    whole, begun = Adam(first), Adam(second)
    for number in range(4):
        if number == 2:
            resumed = Adam(second)
            resumed.remember(begun.moments())
            begun = resumed
        for parameters, adam in ((first, whole), (second, begun)):
            give(parameters, [torch.full_like(one, number + 1.0) for one in parameters])
            adam.step(0.05)
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("lost", ["0.exp_avg", "1.step"])
def test_what_is_remembered_of_other_parameters_is_refused(lost: str) -> None:
    adam = Adam(made(0))
    kept = adam.moments()
    del kept[lost]
    with pytest.raises(ValueError, match="other parameters"):
        adam.remember(kept)
    with pytest.raises(ValueError, match="other parameters"):
        Adam([torch.zeros(2, 2)]).remember(adam.moments())


def test_a_training_loads_no_compiler(tiny_gguf: Path, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", TRAINED, str(tiny_gguf), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


class Steep:
    """Passes whose gradients are what a test says they are."""

    def __init__(self, *passes: tuple[float, float]) -> None:
        self._numbers = torch.zeros(2, requires_grad=True)
        self._passes = passes

    def named(self) -> Mapping[str, Tensor]:
        return {"two": self._numbers}

    def losses(self, batch: Sequence[Example]) -> Iterator[PassLoss]:
        for one in self._passes:
            yield PassLoss(total=(self._numbers * torch.tensor(one)).sum(), answers=())

    def learning(self) -> AbstractContextManager[None]:
        return nullcontext()

    def loss_before(self) -> float:
        return 0.0

    def watched_loss(self) -> float:
        return 0.0


def test_gradients_are_clipped_as_one_vector_over_all_passes_of_a_batch() -> None:
    learner = Steep((30.0, 0.0), (0.0, 40.0))
    gradients_of(learner, ())
    (numbers,) = learner.named().values()
    assert numbers.grad is not None
    torch.testing.assert_close(numbers.grad, torch.tensor([0.6, 0.8]) * GRADIENT_NORM)


def test_gradients_that_are_short_enough_stay_as_they_are() -> None:
    learner = Steep((0.1, 0.0), (0.2, 0.4))
    gradients_of(learner, ())
    (numbers,) = learner.named().values()
    assert numbers.grad is not None
    torch.testing.assert_close(numbers.grad, torch.tensor([0.1 + 0.2, 0.4]))
