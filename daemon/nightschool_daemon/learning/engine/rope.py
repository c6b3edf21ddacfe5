"""Rotary position embedding as llama.cpp turns it (`ggml_compute_forward_rope`, YaRN: arXiv 2309.00071)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nightschool_daemon.learning.engine.architecture import Pairing, Rope, Scaling


def table(rope: Rope, positions: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cosine and sine for every position, each of shape (positions, dimensions / 2), 32-bit.

    `factors` divides the angles one by one: the file's `rope_freqs` or `rope_factors_short`.
    """
    half = rope.dimensions // 2
    exponents = torch.arange(half, dtype=torch.float64) * (-2.0 / rope.dimensions)
    frequencies = torch.pow(torch.tensor(rope.base, dtype=torch.float64), exponents)
    if factors is not None:
        frequencies = frequencies / factors.cpu().double()
    scale = rope.attention_factor
    if rope.scaling is Scaling.YARN:
        mix = _ramp(rope, half)
        frequencies = frequencies / rope.factor * (1 - mix) + frequencies * mix
        scale *= _yarn_magnitude(rope)
    else:
        frequencies = frequencies / rope.factor
    # on the CPU: GPUs are slow with 64-bit floats
    angles = positions.cpu().double()[:, None] * frequencies
    device = positions.device
    return (angles.cos() * scale).float().to(device), (angles.sin() * scale).float().to(device)


def _ramp(rope: Rope, half: int) -> Tensor:
    """Share of the unstretched angle, by dimension: 1 where waves are short, 0 where they are long."""

    def corrected(rotations: float) -> float:
        return rope.dimensions * math.log(rope.original_context / (rotations * 2 * math.pi)) / (2 * math.log(rope.base))

    low = max(0.0, math.floor(corrected(rope.beta_fast)))
    high = min(rope.dimensions - 1.0, math.ceil(corrected(rope.beta_slow)))
    ramp = (torch.arange(half, dtype=torch.float64) - low) / max(0.001, high - low)
    return 1 - ramp.clamp(0, 1)


def _yarn_magnitude(rope: Rope) -> float:
    """Temperature of the attention (YaRN, section 3.4), relative to what the model was trained with."""
    if rope.factor <= 1:
        return 1.0
    log = math.log(rope.factor)
    return (0.1 * log + 1) / (0.1 * rope.yarn_log_multiplier * log + 1)


def turned(x: Tensor, cosine: Tensor, sine: Tensor, pairing: Pairing) -> Tensor:
    """Rotate heads of shape (tokens, heads, size); `cosine` and `sine` have a row a token."""
    found: Tensor = _Turned.apply(x, cosine, sine, pairing)
    return found


class _Turned(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
    """The way back of a rotation is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor, pairing: Pairing) -> Tensor:
        ctx.pairing = pairing
        ctx.save_for_backward(cosine, sine)
        return _turned(x, cosine, sine, pairing)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turned(grad_outputs[0], cosine, -sine, ctx.pairing), None, None, None


def _turned(x: Tensor, cosine: Tensor, sine: Tensor, pairing: Pairing) -> Tensor:
    half = cosine.shape[-1]
    found = torch.empty_like(x)
    if pairing is Pairing.HALVES:
        first, second = slice(half), slice(half, 2 * half)
    else:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    part = x.float()
    left, right = part[..., first], part[..., second]
    cosine, sine = cosine[:, None], sine[:, None]
    found[..., first] = (left * cosine).addcmul_(right, sine, value=-1)
    found[..., second] = (right * cosine).addcmul_(left, sine)
    found[..., 2 * half :] = x[..., 2 * half :]
    return found
