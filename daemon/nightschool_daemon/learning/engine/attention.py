"""Attention over the rows of a pass: padded, as every device takes them, or in line, as CUDA's kernels do."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

RowsInLine = Callable[[Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""Causal attention of rows that lie one behind another: queries of shape (N, heads, size), keys and values of shape
(N, key heads, size), where each row begins and the last one ends (B + 1, 32-bit), tokens of the longest row, tokens
that are seen besides the own one (-1: all before it). Queries are scaled already. Gives (N, heads, size)."""

LARGEST_TABLE = 1 << 23
"""Scores that lie in memory at a time, at most 32 MB; of longer rows attention goes block by block."""

LARGEST_HEAD = 256
"""Flash attention's kernels know no larger ones, and none whose size is no multiple of eight."""


def rows_in_line(device: torch.device, dtype: torch.dtype, head_size: int) -> RowsInLine | None:
    """Torch's attention over rows of unlike length, which needs no padding; None where it cannot be had.

    It is there for CUDA and 16-bit floats, since torch 2.11 with windows and shared key heads.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    if head_size > LARGEST_HEAD or head_size % 8:
        return None
    return _varlen() if knows_windows() else None


@functools.cache
def knows_windows() -> bool:
    """Whether this torch has attention over rows of unlike length as it is needed here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


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


def padded_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cap: float | None) -> Tensor:
    """Attention over padded rows: queries (B, T, heads, size), keys and values (B, T, key heads, size), scaled already.

    `mask` is added to the scores, shape (B or 1, 1, T, T): 0 where a token sees another, else minus infinity; None:
    each sees those before it. In the type of the queries, for of another torch keeps a copy a layer. `cap` bounds
    scores softly (Gemma 2). Gives (B, T, heads * size).
    """
    is_small = q.device.type == "cpu" and q.shape[0] * q.shape[2] * q.shape[1] ** 2 <= LARGEST_TABLE
    if cap is None and is_small:
        found: Tensor = _Attention.apply(q, k, v, mask)
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
    """`padded_attention` by whole tables of scores, which are made again on the way back.

    Torch's own kernel for CPUs goes block by block; on short rows that takes up to four times as long, most of it on
    the way back in 16-bit floats.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        key_heads = k.shape[2]
        queries, keys, values = (_by_head(one, key_heads) for one in (q, k, v))
        likely = _likelihoods(queries, keys, mask, k.shape)
        return _by_token(likely.to(v.dtype) @ values, q.shape).flatten(2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, mask = ctx.saved_tensors
        key_heads = k.shape[2]
        queries, keys, values = (_by_head(one, key_heads) for one in (q, k, v))
        gradient = _by_head(grad_outputs[0].view(q.shape), key_heads)
        likely = _likelihoods(queries, keys, mask, k.shape)
        to_values = likely.to(v.dtype).transpose(1, 2) @ gradient
        to_likely = (gradient @ values.transpose(1, 2)).float()
        to_scores = torch.ops.aten._softmax_backward_data(to_likely, likely, -1, torch.float32).to(q.dtype)
        to_queries, to_keys = to_scores @ keys, to_scores.transpose(1, 2) @ queries
        return _by_token(to_queries, q.shape), _by_token(to_keys, k.shape), _by_token(to_values, v.shape), None


def _by_head(x: Tensor, key_heads: int) -> Tensor:
    """(B, T, heads, size) as (B * key heads, heads / key heads * T, size): what shares a key head in one matrix."""
    return x.transpose(1, 2).reshape(x.shape[0] * key_heads, -1, x.shape[-1])


def _by_token(x: Tensor, shape: torch.Size) -> Tensor:
    """The way back from `_by_head`, to (B, T, heads, size)."""
    rows, length, heads, size = shape
    return x.view(rows, heads, length, size).transpose(1, 2).reshape(shape)


def _likelihoods(queries: Tensor, keys: Tensor, mask: Tensor | None, shape: torch.Size) -> Tensor:
    """What each token gives to each other, 32-bit, shape (B * key heads, groups * T, T)."""
    rows, length = shape[:2]
    if mask is None:
        mask = torch.full((length, length), -math.inf, dtype=queries.dtype).triu_(1)
    scores = queries @ keys.transpose(1, 2)
    # the mask has one head, which stands for all
    scores.view(rows, -1, length, length).add_(mask)
    return scores.softmax(-1, dtype=torch.float32)
