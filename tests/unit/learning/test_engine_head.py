"""Log-probabilities over a large vocabulary are those of a plain softmax, and so are their gradients."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nightschool_daemon.learning import rounding
from nightschool_daemon.learning.engine import head
from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix

VOCABULARY, WIDTH = head.VOCABULARY_PIECE + 777, 64


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("targets", [1, 40, head.MOST_LOGITS // head.VOCABULARY_PIECE + 9])
def test_value_and_gradient_are_those_of_a_softmax(targets: int, cap: float | None) -> None:
    matrix = random_head()
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


def random_head() -> PackedMatrix:
    values = np.random.default_rng(0).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    data = torch.from_numpy(rounding.rounded(values, Kind.Q8_0))
    return PackedMatrix(name="output.weight", data=data, kind=Kind.Q8_0, shape=(VOCABULARY, WIDTH))


@pytest.mark.parametrize("cap", [None, 5.0])
def test_products_of_16_bits_are_near_those_of_32(cap: float | None) -> None:
    matrix, found = random_head(), []
    states = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    wanted = torch.arange(20) * 400
    for dtype in (torch.float32, torch.bfloat16):
        bench = Bench(device=torch.device("cpu"), dtype=dtype, threads=1)
        hidden = states.to(dtype).requires_grad_()
        values = head.log_probabilities(hidden, wanted, matrix, bench, cap)
        values.sum().backward()
        assert hidden.grad is not None
        assert hidden.grad.dtype is dtype
        found.append((values.detach(), hidden.grad.float().flatten()))
    (exact, gradient), (rounded, rounded_gradient) = found
    assert rounded.dtype is torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.15)
    assert float(torch.nn.functional.cosine_similarity(rounded_gradient, gradient, dim=0)) > 0.999


class Tables(TorchDispatchMode):  # type: ignore[misc]  # torch is not read by mypy
    """Notes the largest tensor of its type that comes to lie in memory, and how many of its size do."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = {one.data_ptr() for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)}
        found = func(*args, **kwargs)
        if isinstance(found, torch.Tensor) and found.data_ptr() not in known:
            self.made[found.numel()] = self.made.get(found.numel(), 0) + 1
        return found


@pytest.mark.parametrize(("cap", "wants_gradient", "tables"), [(None, True, 1), (5.0, False, 1), (5.0, True, 2)])
def test_no_more_logits_lie_in_memory_than_those_of_a_piece(
    cap: float | None, wants_gradient: bool, tables: int
) -> None:
    """A second table of them where they are capped and learned from."""
    bench, matrix = Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1), random_head()
    hidden = torch.randn(9, WIDTH, requires_grad=wants_gradient)
    with Tables() as counted:
        head.log_probabilities(hidden, torch.arange(9), matrix, bench, cap)
    of_piece = 9 * head.VOCABULARY_PIECE
    assert max(one for one in counted.made if one % 9 == 0) == of_piece
    assert counted.made[of_piece] == tables


@given(predictions=st.integers(0, 1 << 20))
def test_logits_in_memory_are_bounded(predictions: int) -> None:
    rows = head.rows_a_piece(predictions)
    assert head.SMALLEST_PIECE <= rows <= head.VOCABULARY_PIECE
    assert rows == head.SMALLEST_PIECE or rows * predictions <= head.MOST_LOGITS


def test_where_the_wanted_token_is_all_but_certain_its_gradient_is_no_rounding() -> None:
    """The wanted row and the expected one cancel each other out to a thousandth."""
    matrix = random_head()
    bench = Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1)
    dense = bench.unpack(matrix, "test").clone()
    wanted = torch.arange(8) * 100
    states = (dense[wanted] * 0.28).bfloat16()
    exact = states.float().requires_grad_()
    plain = torch.log_softmax(exact @ dense.t(), -1).gather(1, wanted[:, None])[:, 0]
    plain.sum().backward()
    likelihood = plain.detach().exp()
    assert float(likelihood.min()) > 0.5
    assert float(likelihood.max()) < 1 - 1e-6
    rounded = states.clone().requires_grad_()
    head.log_probabilities(rounded, wanted, matrix, replace(bench, dtype=torch.bfloat16), None).sum().backward()
    assert exact.grad is not None
    assert rounded.grad is not None
    difference = (rounded.grad.float() - exact.grad).norm(dim=1) / exact.grad.norm(dim=1)
    assert float(difference.max()) < 0.1


def test_nothing_to_predict_has_no_loss_and_no_gradient() -> None:
    hidden = torch.zeros(0, WIDTH, requires_grad=True)
    bench = Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1)
    found = head.log_probabilities(hidden, torch.zeros(0, dtype=torch.long), random_head(), bench, None)
    found.sum().backward()
    assert found.shape == (0,)
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, WIDTH)


def test_no_gradient_is_computed_where_none_is_wanted() -> None:
    data = torch.from_numpy(rounding.rounded(np.ones((64, 32), np.float32), Kind.Q8_0))
    matrix = PackedMatrix(name="output.weight", data=data, kind=Kind.Q8_0, shape=(64, 32))
    bench = Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1)
    with torch.no_grad():
        found = head.log_probabilities(torch.ones(3, 32), torch.tensor([0, 1, 63]), matrix, bench, None)
    torch.testing.assert_close(found, torch.full((3,), -float(np.log(64))))


@pytest.mark.parametrize("cap", [None, 40.0])
def test_the_rounding_of_16_bit_logits_is_not_that_of_log_probabilities(cap: float | None) -> None:
    """Logits of a real model lie far from 0 together, where 16 bits tell apart steps of an eighth of a nat."""
    values = (0.3 * np.random.default_rng(0).standard_normal((VOCABULARY, WIDTH)) + 1).astype(np.float32)
    data = torch.from_numpy(rounding.rounded(values, Kind.Q8_0))
    matrix = PackedMatrix(name="output.weight", data=data, kind=Kind.Q8_0, shape=(VOCABULARY, WIDTH))
    states = (0.1 * torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(0)) + 0.5).bfloat16()
    wanted = torch.arange(200) * 40
    exact, rounded = (
        head.log_probabilities(
            states.to(dtype), wanted, matrix, Bench(device=torch.device("cpu"), dtype=dtype, threads=1), cap
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert float((rounded - exact).square().mean().sqrt()) < 0.02
