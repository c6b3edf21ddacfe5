"""Log-probabilities over a large vocabulary are those of a plain softmax, and so are their gradients."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from nightschool_daemon.learning import rounding
from nightschool_daemon.learning.engine import head
from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix

VOCABULARY, WIDTH = head.VOCABULARY_PIECE + 777, 64


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("targets", [1, 40, head.ROWS + 9])
def test_value_and_gradient_are_those_of_a_softmax(targets: int, cap: float | None) -> None:
    values = np.random.default_rng(0).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    data = torch.from_numpy(rounding.rounded(values, Kind.Q8_0))
    matrix = PackedMatrix(name="output.weight", data=data, kind=Kind.Q8_0, shape=(VOCABULARY, WIDTH))
    bench = Bench(device=torch.device("cpu"), dtype=torch.float32, threads=2)
    dense = bench.unpack(matrix, "test").clone()
    torch.manual_seed(0)
    hidden = torch.randn(targets, WIDTH, requires_grad=True)
    wanted, weights = torch.randint(0, VOCABULARY, (targets,)), torch.rand(targets)

    found = head.log_probabilities(hidden, wanted, matrix, bench, cap)
    (found * weights).sum().backward()
    gradient, hidden.grad = hidden.grad, None

    logits = hidden @ dense.t()
    plain = torch.log_softmax(logits if cap is None else cap * (logits / cap).tanh(), -1).gather(1, wanted[:, None])
    (plain[:, 0] * weights).sum().backward()
    torch.testing.assert_close(found, plain[:, 0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, hidden.grad, rtol=1e-4, atol=1e-4)
    exact = head.logits(hidden.detach(), matrix, bench, cap)
    torch.testing.assert_close(torch.log_softmax(exact, -1).gather(1, wanted[:, None]), plain, rtol=1e-5, atol=1e-4)


def test_no_gradient_is_computed_where_none_is_wanted() -> None:
    data = torch.from_numpy(rounding.rounded(np.ones((64, 32), np.float32), Kind.Q8_0))
    matrix = PackedMatrix(name="output.weight", data=data, kind=Kind.Q8_0, shape=(64, 32))
    bench = Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1)
    with torch.no_grad():
        found = head.log_probabilities(torch.ones(3, 32), torch.tensor([0, 1, 63]), matrix, bench, None)
    torch.testing.assert_close(found, torch.full((3,), -float(np.log(64))))
