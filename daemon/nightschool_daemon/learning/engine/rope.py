"""Rotary position embedding as llama.cpp turns it (`ggml_compute_forward_rope`, YaRN: arXiv 2309.00071)."""

from __future__ import annotations

import math

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
    # on the CPU: Apple's MPS has no 64-bit floats
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
    dimensions = 2 * cosine.shape[-1]
    cosine, sine = cosine[:, None], sine[:, None]
    part, rest = x[..., :dimensions].float(), x[..., dimensions:]
    if pairing is Pairing.HALVES:
        first, second = part.chunk(2, dim=-1)
        found = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    else:
        first, second = part[..., 0::2], part[..., 1::2]
        found = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1).flatten(-2)
    return found.to(x.dtype) if rest.shape[-1] == 0 else torch.cat((found.to(x.dtype), rest), dim=-1)
