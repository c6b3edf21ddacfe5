"""Attention over the rows of a pass: padded, as every device takes them, or in line, as CUDA's kernels do."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from nightschool_daemon.learning.engine.packed import Bench

RowsInLine = Callable[[Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""Causal attention of rows that lie one behind another: queries of shape (N, heads, size), keys and values of shape
(N, key heads, size), where each row begins and the last one ends (B + 1, 32-bit), tokens of the longest row, tokens
that are seen besides the own one (-1: all before it). Queries are scaled already. Gives (N, heads, size)."""

QUERIES = 256
"""Tokens of a row that ask at a time. Fixed, so that what a row gives does not depend on the others of its pass."""
LARGEST_TABLE = 1 << 21
"""Scores that are computed at a time, 8 MB, but those of one key head at least."""

LARGEST_HEAD = 256
"""Flash attention's kernels know no larger ones, and none whose size is no multiple of eight."""


def rows_in_line(device: torch.device, dtype: torch.dtype, head_size: int) -> RowsInLine | None:
    """Torch's attention over rows of unlike length, which needs no padding; None where it cannot be had.

    It is there for CUDA and ROCm and 16-bit floats, since torch 2.11 with windows and shared key heads, and not for all
    of their GPUs: it is tried.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    if head_size > LARGEST_HEAD or head_size % 8:
        return None
    return _varlen() if knows_windows() and runs(device, dtype, head_size) else None


@functools.cache
def knows_windows() -> bool:
    """Whether this torch has attention over rows of unlike length as it is needed here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


@functools.cache
def runs(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether it goes forth and back: rows of one and three tokens, two heads on a key head, then with a window."""
    attend = _varlen()
    try:
        starts = torch.tensor([0, 1, 4], dtype=torch.int32, device=device)
        q, k = (torch.ones(4, heads, head_size, device=device, dtype=dtype, requires_grad=True) for heads in (2, 1))
        for before in (-1, 1):
            with torch.enable_grad():
                found = attend(q, k, k, starts, 3, before).sum()
            # a kernel's failure shows where its result is read
            float(torch.autograd.grad(found, [k])[0].sum())
    except RuntimeError:
        return False
    return True


def _varlen() -> RowsInLine:
    from torch.nn.attention.varlen import varlen_attn

    def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, before: int) -> Tensor:
        found = varlen_attn(
            q,
            k,
            v,
            starts,
            starts,
            longest,
            longest,
            scale=1.0,
            window_size=(before, 0),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        # a pair where the log-sum-exp is asked for too
        return cast("Tensor", found)

    return attend


def scratch_bytes(groups: int, longest: int, size: int) -> int:
    """Scratch memory of `padded_attention`: scores, likelihoods, their gradient, one of these in 16 bits, and copies.

    `groups`: heads that share a key head; `longest`: tokens of a row; `size`: of a head.
    """
    asking = groups * min(QUERIES, longest)
    table = max(LARGEST_TABLE, asking * longest)
    # as many rows ask, and are seen, as their tables leave room for
    rows = max(1, LARGEST_TABLE // max(1, asking * longest))
    return (3 * 4 + 2) * table + 4 * rows * (asking + longest) * size


def padded_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cap: float | None, bench: Bench) -> Tensor:
    """Attention over padded rows: queries (B, T, heads, size), keys and values (B, T, key heads, size), scaled already.

    `mask` is added to the scores, shape (B or 1, 1, T, T): 0 where a token sees another, else minus infinity; None:
    each sees those before it. In the type of the queries, for of another torch keeps a copy a layer. `cap` bounds
    scores softly (Gemma 2). Gives (B, T, heads * size).
    """
    if cap is None and q.device.type == "cpu" and q.dtype is torch.bfloat16:
        found: Tensor = _Attention.apply(q, k, v, mask, bench)
        return found
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    if cap is not None:
        k, v = (one.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for one in (k, v))
        mixed = _capped(q, k, v, mask, cap)
    else:
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0, enable_gqa=q.shape[1] != k.shape[1]
        )
    return mixed.transpose(1, 2).flatten(2)


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cap: float) -> Tensor:
    scores = (q @ k.transpose(-1, -2)).float()
    scores = cap * (scores / cap).tanh()
    if mask is None:
        mask = torch.full(scores.shape[-2:], -math.inf, device=q.device).triu_(1)
    return (scores + mask).softmax(-1).to(q.dtype) @ v


class _Attention(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
    """`padded_attention` in 16 bits on CPUs, by tables of scores that are made again on the way back.

    There torch's own kernel takes up to three times as long for short rows, most of it on the way back. As it does,
    this computes scores, likelihoods and their gradient in 32 bits, and products of them in the type of the rows. The
    tables lie in scratch memory: in new memory most of the time would go into its first touch.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bench: Bench) -> Tensor:
        queries, keys, values = (_by_head(one, k.shape[2]) for one in (q, k, v))
        ctx.save_for_backward(queries, keys, values, mask)
        ctx.shapes, ctx.bench = (q.shape, k.shape), bench
        found = torch.empty_like(queries)
        for piece in _pieces(queries, mask):
            likely = bench.copied(piece.likelihoods(queries, keys, bench), "narrow", v.dtype)
            found[piece.heads, :, piece.asking] = piece.by_query(likely @ piece.seen_of(values))
        return _by_token(found, q.shape).flatten(2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        queries, keys, values, mask = ctx.saved_tensors
        of_queries, of_keys = ctx.shapes
        bench, dtype = ctx.bench, queries.dtype
        gradients = _by_head(grad_outputs[0].view(of_queries), of_keys[2])
        to_queries = torch.empty_like(queries)
        to_keys, to_values = (torch.zeros_like(keys, dtype=torch.float32) for _ in range(2))
        for piece in _pieces(queries, mask):
            likely = piece.likelihoods(queries, keys, bench)
            gradient = piece.asking_of(gradients)
            narrow = bench.copied(likely, "narrow", dtype)
            piece.seen_of(to_values).add_(narrow.transpose(1, 2) @ gradient)
            to_likely = piece.products(gradients, values, bench)
            to_scores = bench.scratch("gradients", likely.shape, torch.float32)
            torch.ops.aten._softmax_backward_data.out(to_likely, likely, -1, torch.float32, grad_input=to_scores)
            narrow = bench.copied(to_scores, "narrow", dtype)
            to_queries[piece.heads, :, piece.asking] = piece.by_query(narrow @ piece.seen_of(keys))
            piece.seen_of(to_keys).add_(narrow.transpose(1, 2) @ piece.asking_of(queries))
        return (
            _by_token(to_queries, of_queries),
            _by_token(to_keys.to(dtype), of_keys),
            _by_token(to_values.to(dtype), of_keys),
            None,
            None,
        )


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Some key heads of some rows, and the tokens that ask at a time; tokens behind these are seen by none of them."""

    heads: slice
    """Of `B * key heads`."""
    asking: slice
    mask: Tensor
    """To be added to their scores: shape (key heads of the piece or 1, 1, asking, seen)."""

    def asking_of(self, x: Tensor) -> Tensor:
        """(B * key heads, groups, T, size) to (heads, groups * asking, size)."""
        return x[self.heads, :, self.asking].flatten(1, 2)

    def seen_of(self, x: Tensor) -> Tensor:
        """Keys or values of (B * key heads, 1, T, size) to (heads, seen, size), without a copy."""
        return x[self.heads, 0, : self.asking.stop]

    def by_query(self, x: Tensor) -> Tensor:
        """(heads, groups * asking, size) to (heads, groups, asking, size)."""
        return x.unflatten(1, (-1, self.mask.shape[-2]))

    def products(self, asking: Tensor, seen: Tensor, bench: Bench) -> Tensor:
        """Of each token that asks with each that is seen, 32-bit, shape (heads, groups * asking, seen).

        Good until the next call.
        """
        left = bench.copied(asking[self.heads, :, self.asking], "asking", torch.float32).flatten(1, 2)
        right = bench.copied(self.seen_of(seen), "seen", torch.float32)
        found = bench.scratch("products", (*left.shape[:2], right.shape[1]), torch.float32)
        return torch.bmm(left, right.transpose(1, 2), out=found)

    def likelihoods(self, queries: Tensor, keys: Tensor, bench: Bench) -> Tensor:
        """What each token gives to each other, in the shape of `products`. Good until the next call."""
        scores = self.products(queries, keys, bench)
        self.by_query(scores).add_(self.mask)
        found = bench.scratch("likelihoods", scores.shape, torch.float32)
        return torch.softmax(scores, -1, out=found)


def _pieces(queries: Tensor, mask: Tensor | None) -> Iterator[_Piece]:
    """All tokens of all rows, in tables of at most `LARGEST_TABLE` scores, but of one key head at least."""
    count, groups, length, _ = queries.shape
    for start in range(0, length, QUERIES):
        asking = slice(start, min(length, start + QUERIES))
        size = asking.stop - start
        at_once = max(1, LARGEST_TABLE // (groups * size * asking.stop))
        if mask is None:
            part = torch.full((1, 1, size, asking.stop), -math.inf).triu_(1 + start)
        else:
            part = mask[:, :, asking, : asking.stop]
        if part.shape[0] > 1:
            # that of a row is for all its key heads
            part = part.repeat_interleave(count // part.shape[0], dim=0)
        for first in range(0, count, at_once):
            heads = slice(first, min(count, first + at_once))
            yield _Piece(heads=heads, asking=asking, mask=part[heads] if part.shape[0] > 1 else part)


def _by_head(x: Tensor, key_heads: int) -> Tensor:
    """(B, T, heads, size) as (B * key heads, heads / key heads, T, size): those that share a key head together."""
    rows, length, heads, size = x.shape
    return x.transpose(1, 2).reshape(rows * key_heads, heads // key_heads, length, size)


def _by_token(x: Tensor, shape: torch.Size) -> Tensor:
    """The way back from `_by_head`, to (B, T, heads, size)."""
    rows, length, heads, size = shape
    return x.view(rows, heads, length, size).transpose(1, 2).reshape(shape)
