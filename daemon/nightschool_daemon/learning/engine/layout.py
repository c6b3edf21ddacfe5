"""How rows of tokens lie in a pass: one after another without padding, but for attention.

A row may branch: a prompt, and several answers that each see the prompt and not each other. So a pair of answers to
one prompt costs its prompt once. And what rows begin with alike, as a template or a system prompt, is there once for
all of them: a token's state depends on those before it alone. Attention has it in every row.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SUMS_SEGMENTS = ("cpu", "cuda")
"""Devices on which torch has `segment_reduce`. Metal is none."""


@dataclass(frozen=True, kw_only=True)
class Branches:
    """A row: what all answers share, then each answer."""

    stem: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.stem) + sum(map(len, self.answers))


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Tokens that stand in several rows: S of them, in P places of the padded rows."""

    tokens: Tensor
    """Shape (S,)."""
    places: Tensor
    """Shape (P,): all places of the first, then those of the next."""
    counts: Tensor
    """Shape (S,): how many places each has."""


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
    """Shape (N,): the first place of each token in the padded rows."""
    repeated: Repeated | None
    """None: every token has one place."""
    starts: Tensor
    """Shape (B + 1,), 32-bit: the first token of each row, and N, where every token has one place."""
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
        found: Tensor = x if self.gather is None else _Padded.apply(x, self.gather, self.scatter, self.repeated)
        return found.view(self.rows, self.longest, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """Rows to tokens: (B, T, ...) to (N, ...)."""
        whole = x.reshape(self.rows * self.longest, *x.shape[2:])
        found: Tensor = whole if self.scatter is None else _Flat.apply(whole, self.scatter)
        return found


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A row by the numbers of its tokens in the pass."""

    stem: list[int]
    answers: list[list[int]]

    def tokens(self) -> list[int]:
        """All of them, in the order of the padded row."""
        return [*self.stem, *(number for answer in self.answers for number in answer)]


class _Tokens:
    """The tokens of a pass, numbered as they come."""

    def __init__(self, *, shares: bool) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self._shares = shares
        self._known: dict[tuple[int, int], int] = {}
        """By the token before it and its id."""

    def line(self, row: Branches) -> _Line:
        """Number the tokens of a row; those of a stem that stand behind the same tokens in an earlier one are known."""
        stem: list[int] = []
        for place, token in enumerate(row.stem):
            behind = (stem[-1] if stem else -1, token)
            if not self._shares or behind not in self._known:
                self._known[behind] = self._add(token, place)
            stem.append(self._known[behind])
        begin = len(row.stem)
        answers = [[self._add(token, begin + place) for place, token in enumerate(answer)] for answer in row.answers]
        return _Line(stem=stem, answers=answers)

    def _add(self, token: int, position: int) -> int:
        self.ids.append(token)
        self.positions.append(position)
        return len(self.ids) - 1


def distinct(rows: Sequence[Branches]) -> int:
    """How many tokens a pass over these rows computes, where what they begin with alike is there once."""
    stems = sorted(row.stem for row in rows)
    return sum(map(len, rows)) - sum(itertools.starmap(_alike, itertools.pairwise(stems)))


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """With how many tokens both begin."""
    shorter = range(min(len(one), len(other)))
    return bisect.bisect_left(shorter, True, key=lambda place: one[: place + 1] != other[: place + 1])


def lay_out(rows: Sequence[Branches], device: torch.device, *, shares: bool) -> Layout:
    """Put rows into one pass. `shares`: what they begin with alike is there once; attention must take padded rows."""
    tokens = _Tokens(shares=shares)
    lines = [tokens.line(row) for row in rows]
    longest = max(map(len, rows))
    starts = [0, *itertools.accumulate(map(len, rows))]
    gather = scatter = repeated = None
    if starts[-1] > len(tokens.ids) or any(len(row) != longest for row in rows):
        gather, scatter, repeated = _places(lines, len(tokens.ids), longest, device)
    branching = any(len(row.answers) > 1 for row in rows)
    visible, places = _branching_masks(rows, longest) if branching else (None, None)
    targets, sources, answer_of = _predictions(rows, lines)
    return Layout(
        ids=torch.tensor(tokens.ids, device=device),
        positions=torch.tensor(tokens.positions, device=device),
        gather=gather,
        scatter=scatter,
        repeated=repeated,
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


def _places(
    lines: Sequence[_Line], count: int, longest: int, device: torch.device
) -> tuple[Tensor, Tensor, Repeated | None]:
    """Which token is at each padded place, the first place of each token, and those that have several."""
    gather, places_of = [0] * (len(lines) * longest), [list[int]() for _ in range(count)]
    for number, line in enumerate(lines):
        for place, token in enumerate(line.tokens(), start=number * longest):
            gather[place] = token
            places_of[token].append(place)
    several = [token for token, places in enumerate(places_of) if len(places) > 1]
    repeated = None
    if several:
        repeated = Repeated(
            tokens=torch.tensor(several, device=device),
            places=torch.tensor([place for token in several for place in places_of[token]], device=device),
            counts=torch.tensor([len(places_of[token]) for token in several], device=device),
        )
    scatter = [places[0] for places in places_of]
    return torch.tensor(gather, device=device), torch.tensor(scatter, device=device), repeated


def _positions(row: Branches) -> Tensor:
    stem = len(row.stem)
    return torch.cat([torch.arange(stem), *(torch.arange(len(answer)) + stem for answer in row.answers)])


def _predictions(rows: Sequence[Branches], lines: Sequence[_Line]) -> tuple[list[int], list[int], list[int]]:
    """What is predicted, from which token, for which answer. The first token of an answer comes from the stem's end."""
    targets: list[int] = []
    sources: list[int] = []
    answer_of: list[int] = []
    number = 0
    for row, line in zip(rows, lines, strict=True):
        for answer, tokens in zip(row.answers, line.answers, strict=True):
            targets += answer
            sources += [line.stem[-1], *tokens][: len(answer)]
            answer_of += [number] * len(answer)
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
    def forward(ctx: Any, x: Tensor, gather: Tensor, scatter: Tensor, repeated: Repeated | None) -> Tensor:
        ctx.scatter, ctx.repeated = scatter, repeated
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = grad_outputs
        found = gradient.index_select(0, ctx.scatter)
        if (repeated := ctx.repeated) is not None:
            # 16-bit floats would lose what many rows add
            wide = gradient.index_select(0, repeated.places).float()
            found.index_copy_(0, repeated.tokens, _sums(wide, repeated.counts).to(found.dtype))
        return found, None, None, None


def _sums(x: Tensor, counts: Tensor) -> Tensor:
    """Sums of so many rows each: (P, size), (S,) to (S, size)."""
    if x.device.type in SUMS_SEGMENTS:
        # in the order of the rows
        return torch.segment_reduce(x, "sum", lengths=counts, axis=0)
    segments = torch.arange(counts.shape[0], device=x.device).repeat_interleave(counts, output_size=x.shape[0])
    return x.new_zeros(counts.shape[0], *x.shape[1:]).index_add_(0, segments, x)


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
