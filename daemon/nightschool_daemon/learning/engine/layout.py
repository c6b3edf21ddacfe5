"""How rows of tokens lie in a pass: one after another without padding, but for attention.

A row may branch: a prompt, and several answers that each see the prompt and not each other. So a pair of answers to
one prompt costs its prompt once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Branches:
    """A row: what all answers share, then each answer."""

    stem: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.stem) + sum(map(len, self.answers))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A pass over some rows. N tokens in all, B rows, the longest of T tokens."""

    ids: Tensor
    """Shape (N,)."""
    positions: Tensor
    """Shape (N,): the place in its own text, which for an answer goes on from the stem's end."""
    gather: Tensor | None
    """Shape (B * T,): the token at each place of the padded rows; None where no row needs padding."""
    scatter: Tensor | None
    """Shape (N,): the place of each token in the padded rows."""
    starts: Tensor
    """Shape (B + 1,), 32-bit: the first token of each row, and N."""
    rows: int
    longest: int
    visible: Tensor | None
    """Shape (B, 1, T, T): whether the token at a place sees that at another; None: all before it."""
    places: Tensor | None
    """Shape (B, T), 32-bit: the place of a token in its own text; None: as in the padded row."""
    targets: Tensor
    """Shape (M,): ids that are to be predicted."""
    sources: Tensor
    """Shape (M,): the token whose state predicts each of them."""
    answer_of: Tensor
    """Shape (M,): the number of the answer that it belongs to, counted over all rows."""
    answers: int

    def padded(self, x: Tensor) -> Tensor:
        """Tokens to rows: (N, ...) to (B, T, ...)."""
        found: Tensor = x if self.gather is None else _Padded.apply(x, self.gather, self.scatter)
        return found.view(self.rows, self.longest, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """Rows to tokens: (B, T, ...) to (N, ...)."""
        whole = x.reshape(self.rows * self.longest, *x.shape[2:])
        found: Tensor = whole if self.scatter is None else _Flat.apply(whole, self.scatter)
        return found


def lay_out(rows: Sequence[Branches], device: torch.device) -> Layout:
    """Put rows into one pass."""
    ids = [token for row in rows for part in (row.stem, *row.answers) for token in part]
    longest = max(map(len, rows))
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    is_even = all(len(row) == longest for row in rows)
    gather = scatter = None
    if not is_even:
        scatter = torch.cat([torch.arange(len(row)) + number * longest for number, row in enumerate(rows)])
        gather = torch.zeros(len(rows) * longest, dtype=torch.long)
        gather[scatter] = torch.arange(len(ids))
    branching = any(len(row.answers) > 1 for row in rows)
    visible, places = _branching_masks(rows, longest) if branching else (None, None)
    targets, sources, answer_of = _predictions(rows, starts)
    return Layout(
        ids=torch.tensor(ids, device=device),
        positions=torch.cat([_positions(row) for row in rows]).to(device),
        gather=None if gather is None else gather.to(device),
        scatter=None if scatter is None else scatter.to(device),
        starts=torch.tensor(starts, dtype=torch.int32, device=device),
        rows=len(rows),
        longest=longest,
        visible=None if visible is None else visible.to(device),
        places=None if places is None else places.to(device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        sources=torch.tensor(sources, dtype=torch.long, device=device),
        answer_of=torch.tensor(answer_of, dtype=torch.long, device=device),
        answers=sum(len(row.answers) for row in rows),
    )


def _positions(row: Branches) -> Tensor:
    stem = len(row.stem)
    return torch.cat([torch.arange(stem), *(torch.arange(len(answer)) + stem for answer in row.answers)])


def _predictions(rows: Sequence[Branches], starts: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """What is predicted, from which token, for which answer. The first token of an answer comes from the stem's end."""
    targets: list[int] = []
    sources: list[int] = []
    answer_of: list[int] = []
    number = 0
    for row, start in zip(rows, starts, strict=False):
        stem_end = start + len(row.stem) - 1
        begin = start + len(row.stem)
        for answer in row.answers:
            targets += answer
            sources += [stem_end, *range(begin, begin + len(answer) - 1)][: len(answer)]
            answer_of += [number] * len(answer)
            begin += len(answer)
            number += 1
    return targets, sources, answer_of


def _branching_masks(rows: Sequence[Branches], longest: int) -> tuple[Tensor, Tensor]:
    owner = torch.full((len(rows), longest), -1, dtype=torch.int32)
    places = torch.zeros(len(rows), longest, dtype=torch.int32)
    for number, row in enumerate(rows):
        begin = len(row.stem)
        owner[number, :begin] = 0
        for which, answer in enumerate(row.answers, start=1):
            owner[number, begin : begin + len(answer)] = which
            begin += len(answer)
        places[number, : len(row)] = _positions(row)
    order = torch.arange(longest)
    before = order[None, :, None] >= order[None, None, :]
    same = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == 0)
    # padding sees itself, so that no row of a softmax is empty
    visible = (before & same) | torch.eye(longest, dtype=torch.bool)
    return visible[:, None], places


class _Padded(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
    """Gather tokens into padded rows. Padding repeats the first token, and its gradient is dropped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: Tensor, scatter: Tensor) -> Tensor:
        ctx.scatter = scatter
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        return grad_outputs[0].index_select(0, ctx.scatter), None, None


class _Flat(torch.autograd.Function):  # type: ignore[misc]  # as above
    """Take the tokens out of padded rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scatter: Tensor) -> Tensor:
        ctx.scatter, ctx.length = scatter, x.shape[0]
        return x.index_select(0, scatter)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (gradient,) = grad_outputs
        whole = gradient.new_zeros(ctx.length, *gradient.shape[1:])
        return whole.index_copy_(0, ctx.scatter, gradient), None
