"""Log-probabilities of wanted tokens over a large vocabulary, without its logits ever lying in memory at once.

A token's log-probability depends on its own hidden state alone, so the gradient is one vector a token. It is taken
in the forward pass, where the logits are at hand; the backward pass only scales it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix

ROWS = 256
"""Predictions whose logits are in memory at the same time: 268 MB over 262,144 tokens."""
LOGIT_BYTES = 256 * 2**20
"""Bound of that memory; with a large vocabulary fewer predictions go together."""
FEWEST_ROWS = 16
"""So many go together in any case: the head is unpacked anew for each such part."""
VOCABULARY_PIECE = 8192
"""Rows of the head that are unpacked at a time."""


def log_probabilities(hidden: Tensor, targets: Tensor, matrix: PackedMatrix, bench: Bench, cap: float | None) -> Tensor:
    """Log-probability of each target in nats, shape (M,), from hidden states of shape (M, width).

    `cap` bounds the logits softly (Gemma 2): `cap * tanh(logits / cap)`.
    """
    found: Tensor = _LogProbabilities.apply(hidden, targets, matrix, bench, cap)
    return found


def logits(hidden: Tensor, matrix: PackedMatrix, bench: Bench, cap: float | None) -> Tensor:
    """All logits of a few positions, 32-bit, shape (M, vocabulary)."""
    found = torch.empty(hidden.shape[0], matrix.shape[0], device=hidden.device)
    for start in range(0, matrix.shape[0], VOCABULARY_PIECE):
        piece = matrix.slice(start, min(matrix.shape[0], start + VOCABULARY_PIECE))
        found[:, start : start + piece.shape[0]] = hidden @ bench.unpack(piece, "head").t()
    return found if cap is None else found.div_(cap).tanh_().mul_(cap)


def rows_at_once(vocabulary: int) -> int:
    """How many predictions share one table of logits."""
    return max(FEWEST_ROWS, min(ROWS, LOGIT_BYTES // (4 * vocabulary)))


class _LogProbabilities(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, matrix: PackedMatrix, bench: Bench, cap: float | None
    ) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        found = torch.empty(hidden.shape[0], device=hidden.device)
        gradient = torch.empty_like(hidden) if wants_gradient else None
        step = rows_at_once(matrix.shape[0])
        for start in range(0, hidden.shape[0], step):
            part = slice(start, min(hidden.shape[0], start + step))
            table = logits(hidden[part], matrix, bench, cap)
            wanted = targets[part, None]
            if bench.dtype is not torch.float32:
                table.scatter_(1, wanted, _exact(hidden[part], targets[part], matrix, cap)[:, None])
            slope = None if cap is None or gradient is None else table.div(cap).square_().neg_().add_(1)
            highest = table.amax(dim=1, keepdim=True)
            found[part] = (table.gather(1, wanted) - highest)[:, 0]
            # from here on the table holds likelihoods, up to the factor 1 / total
            total = table.sub_(highest).exp_().sum(dim=1, keepdim=True)
            found[part] -= total.log()[:, 0]
            if gradient is not None:
                gradient[part] = _gradient(table, wanted, total, slope, matrix, bench).to(hidden.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return found

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0][:, None].to(gradient.dtype), None, None, None, None


def _exact(hidden: Tensor, targets: Tensor, matrix: PackedMatrix, cap: float | None) -> Tensor:
    """Logits of the wanted tokens by 32-bit products, shape (M,).

    Those of 16 bits are rounded to three digits, and what an answer is preferred by is a sum of differences of them.
    """
    found = (hidden.float() * matrix.rows(targets)).sum(-1)
    return found if cap is None else cap * (found / cap).tanh()


def _gradient(
    table: Tensor, wanted: Tensor, total: Tensor, slope: Tensor | None, matrix: PackedMatrix, bench: Bench
) -> Tensor:
    """What the log-probabilities change with the hidden states: the wanted row of the head less the expected one.

    The part of each piece of the vocabulary is rounded to the bench's type before it is summed up in 32 bits.
    """
    table.scatter_add_(1, wanted, -total)
    if slope is not None:
        table.mul_(slope)
    found = torch.zeros(table.shape[0], matrix.shape[1], device=table.device)
    for start in range(0, matrix.shape[0], VOCABULARY_PIECE):
        piece = matrix.slice(start, min(matrix.shape[0], start + VOCABULARY_PIECE))
        found += table[:, start : start + piece.shape[0]].to(bench.dtype) @ bench.unpack(piece, "head")
    return found / -total
