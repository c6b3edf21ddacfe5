"""Root mean square norm (Zhang & Sennrich 2019, arXiv 1910.07467) of which the input and a factor a row are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """`x / sqrt(mean(x ** 2) + epsilon) * weight` over the last dimension, by 32-bit floats, in `dtype`.

    `weight` is frozen, of shape (size,).
    """
    if x.device.type != "cpu":
        # there torch has it in one kernel
        return functional.rms_norm(x.float(), (x.shape[-1],), weight, epsilon).to(dtype)
    found: Tensor = _RmsNorm.apply(x, weight, epsilon, dtype)
    return found


class _RmsNorm(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = inverse.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide = x.float()
        to_normed = grad_outputs[0] * weight
        along = (to_normed * wide).sum(-1, keepdim=True)
        factor = inverse.pow(3).mul_(along).div_(x.shape[-1])
        return to_normed.mul_(inverse).addcmul_(wide, factor, value=-1).to(x.dtype), None, None, None
