"""Log-probabilities of wanted tokens over a large vocabulary, without its logits ever lying in memory at once.

A token's log-probability depends on its own hidden state alone, so the gradient is one vector a token. It is taken
in the forward pass, where the logits are at hand; the backward pass only scales it.

The head is unpacked piece by piece and gone through once, as flash attention goes through its keys (Dao et al. 2022,
arXiv 2205.14135): the highest logit so far, the sum of the likelihoods and the expected row of the head are carried
along, and are scaled anew where a piece has a higher logit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix

VOCABULARY_PIECE = 8192
"""Rows of the head that are unpacked at a time."""
SMALLEST_PIECE = 512
"""So many are unpacked together in any case: products of fewer are slow."""
MOST_LOGITS = 1 << 22
"""Logits that are in memory at the same time, 17 MB; with many predictions smaller pieces go together."""


def log_probabilities(hidden: Tensor, targets: Tensor, matrix: PackedMatrix, bench: Bench, cap: float | None) -> Tensor:
    """Log-probability of each target in nats, shape (M,), from hidden states of shape (M, width).

    `cap` bounds the logits softly (Gemma 2): `cap * tanh(logits / cap)`.
    """
    found: Tensor = _LogProbabilities.apply(hidden, targets, matrix, bench, cap)
    return found


def logits(hidden: Tensor, matrix: PackedMatrix, bench: Bench, cap: float | None) -> Tensor:
    """All logits of a few positions, 32-bit, shape (M, vocabulary)."""
    found = torch.empty(hidden.shape[0], matrix.shape[0], device=hidden.device)
    for start, piece in pieces(matrix, VOCABULARY_PIECE):
        found[:, start : start + piece.shape[0]] = hidden @ bench.unpack(piece, "head").t()
    return _capped(found, cap)


def rows_a_piece(predictions: int) -> int:
    """How many rows of the head are unpacked at a time for so many predictions."""
    return max(SMALLEST_PIECE, min(VOCABULARY_PIECE, MOST_LOGITS // max(1, predictions)))


def pieces(matrix: PackedMatrix, rows: int) -> Iterator[tuple[int, PackedMatrix]]:
    """The head in parts of so many rows, each with where it begins."""
    for start in range(0, matrix.shape[0], rows):
        yield start, matrix.slice(start, min(matrix.shape[0], start + rows))


class _LogProbabilities(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, matrix: PackedMatrix, bench: Bench, cap: float | None
    ) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        sums = _Sums(hidden, targets, matrix, cap, bench, wants_gradient=wants_gradient)
        for start, piece in pieces(matrix, rows_a_piece(hidden.shape[0])):
            sums.add(start, bench.unpack(piece, "head"))
        if wants_gradient:
            ctx.save_for_backward(sums.gradient().to(hidden.dtype))
        return sums.log_probabilities()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0][:, None].to(gradient.dtype), None, None, None, None


class _Sums:
    """What is carried along over the pieces, in 32-bit floats; M predictions.

    The wanted token is kept out of all sums. Its logit is taken by 32-bit products, for those of 16 bits are rounded to
    three digits, and what an answer is preferred by is a sum of differences of them. And where it is all but certain,
    its row of the head and the expected one cancel each other out, so that a rounded likelihood would be all that is
    left of the gradient.
    """

    def __init__(
        self,
        hidden: Tensor,
        targets: Tensor,
        matrix: PackedMatrix,
        cap: float | None,
        bench: Bench,
        *,
        wants_gradient: bool,
    ) -> None:
        self._hidden, self._targets, self._cap, self._bench = hidden, targets, cap, bench
        self._rows = matrix.rows(targets)
        """Of the head, those of the wanted tokens: (M, width)."""
        self._wanted = _capped((hidden.float() * self._rows).sum(-1, keepdim=True), cap)
        self._highest = self._wanted.clone()
        """Of the logits so far, (M, 1). All sums are relative to it."""
        self._others = torch.zeros_like(self._highest)
        """Likelihoods of all other tokens so far, (M, 1)."""
        self._expected = torch.zeros_like(self._rows) if wants_gradient else None
        """Their rows of the head, each by its likelihood and what a cap leaves of it, (M, width)."""

    def add(self, start: int, rows: Tensor) -> None:
        """Take in the piece of the head that begins at `start`, unpacked: (rows, width)."""
        table = _capped(self._logits(rows), self._cap)
        slope = None if self._expected is None else _slope(table, self._cap)
        _forget(table, self._targets - start)
        highest = torch.maximum(self._highest, table.amax(dim=1, keepdim=True))
        shrunk, self._highest = (self._highest - highest).exp_(), highest
        likely = table.sub_(highest).exp_()
        self._others = self._others * shrunk + likely.sum(dim=1, keepdim=True)
        if self._expected is not None:
            if slope is not None:
                likely.mul_(slope)
            self._expected.mul_(shrunk).add_(self._in_type(rows.dtype, likely) @ rows)

    def _logits(self, rows: Tensor) -> Tensor:
        """Of a piece, in 32 bits, in scratch memory: in new memory much of the time would go into its first touch."""
        products = self._bench.scratch("logits", (self._hidden.shape[0], rows.shape[0]), rows.dtype)
        return self._in_type(torch.float32, torch.mm(self._hidden, rows.t(), out=products))

    def _in_type(self, dtype: torch.dtype, table: Tensor) -> Tensor:
        """A table in a type, where that is another in the place of the last one of that type."""
        return table if table.dtype is dtype else self._bench.copied(table, "logits", dtype)

    def log_probabilities(self) -> Tensor:
        """Of the wanted tokens, (M,)."""
        return (self._wanted - self._highest - self._total().log())[:, 0]

    def gradient(self) -> Tensor:
        """What these change with the hidden states, (M, width): the wanted row of the head less the expected one."""
        if self._expected is None:
            raise ValueError("no gradient was wanted")
        slope = _slope(self._wanted, self._cap)
        own = self._others if slope is None else self._others * slope
        return (own * self._rows - self._expected) / self._total()

    def _total(self) -> Tensor:
        return self._others + (self._wanted - self._highest).exp()


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    """The logits softly bounded, in their place."""
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def _slope(bounded: Tensor, cap: float | None) -> Tensor | None:
    """What bounded logits change with those before; None: they are the same."""
    return None if cap is None else bounded.div(cap).square_().neg_().add_(1)


def _forget(table: Tensor, columns: Tensor) -> None:
    """Take a token a row out of the table, where its column is within it."""
    within = (columns >= 0) & (columns < table.shape[1])
    places = columns.clamp(0, table.shape[1] - 1)[:, None]
    table.scatter_(1, places, table.gather(1, places).masked_fill_(within[:, None], -torch.inf))
