"""What is trained beside the frozen base: LoRA, group-wise LoRA, added neurons.

LoRA: Hu et al. 2021, arXiv 2106.09685. Group-wise LoRA: QA-LoRA, Xu et al. 2023, arXiv 2309.14717: A sees sums over
groups of inputs, so that the delta is constant within a group and fits the minimum of a quantised block. Added
neurons: a parallel adapter (He et al. 2022, arXiv 2110.04366) that is delivered by widening the feed-forward block.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nightschool_daemon.learning.engine.architecture import Activation, Architecture
from nightschool_hookspecs.records import TrainedForm
from nightschool_hookspecs.services import TrainingError

GROUP = 32
"""Inputs that share a delta in group-wise LoRA: the weights of a block that has one minimum."""


def group_of(form: TrainedForm) -> int:
    """How many inputs share a delta in a form of LoRA."""
    return GROUP if form is TrainedForm.GROUPED else 1


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer of the file."""

    name: str
    """Its tensor without `.weight`: `blk.0.attn_q`."""
    rows: int
    columns: int

    @property
    def part(self) -> str:
        """Its name within the block: `attn_q`."""
        return self.name.rsplit(".", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A layer's input, and how it was made: where the sources are kept anyway, it need not be kept itself."""

    value: Tensor
    """Shape (tokens, columns)."""
    make: Callable[..., Tensor]
    sources: tuple[Tensor, ...]

    @classmethod
    def by(cls, make: Callable[..., Tensor], *sources: Tensor) -> Self:
        """What `make` makes of `sources`.

        A tensor that is computed on the way belongs into these: one that `make` held by itself would be kept without
        being counted. What lives as long as the pass anyway, as its layout does, it may hold.
        """
        return cls(value=make(*sources), make=make, sources=sources)

    @classmethod
    def of(cls, value: Tensor) -> Self:
        """An input that is kept."""
        return cls(value=value, make=lambda kept: kept, sources=(value,))


class Form(ABC):
    """Trainable parameters, and what they add to the forward pass. Parameters are 32-bit floats."""

    parameters: dict[str, Tensor]
    is_training: bool = False
    """Whether dropout is applied."""

    @abstractmethod
    def added(self, name: str, x: Made, found: Tensor) -> Tensor:
        """What a linear layer gives: `found`, shape (tokens, rows), with what it gains. It is written into `found`."""

    @abstractmethod
    def feed_forward(self, layer: int, x: Tensor) -> Tensor | None:
        """What a feed-forward block's output gains, shape (tokens, width); None where it is left alone."""

    def on(self, device: torch.device) -> Self:
        """Move the parameters to a device."""
        self.parameters = {
            name: one.detach().to(device).requires_grad_(one.requires_grad) for name, one in self.parameters.items()
        }
        return self

    def trained(self) -> list[Tensor]:
        """The parameters that are trained."""
        return [one for one in self.parameters.values() if one.requires_grad]

    def size(self) -> int:
        """How many parameters are trained."""
        return sum(one.numel() for one in self.trained())

    def freeze_below(self, block: int) -> Self:
        """Train the blocks from this one on alone. What the others hold stays and counts, and the way back ends there.

        Called again with a lower block, more of them are trained.
        """
        for name, one in self.parameters.items():
            one.requires_grad_(block_of(name) >= block)
        return self

    def copy(self) -> dict[str, Tensor]:
        """The parameters as they are now."""
        return {name: one.detach().clone() for name, one in self.parameters.items()}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Set the parameters. Raises `TrainingError` where they do not fit."""
        fits = {name: tuple(one.shape) for name, one in self.parameters.items()}
        if fits != {name: tuple(one.shape) for name, one in values.items()}:
            raise TrainingError("What was trained earlier does not fit this base or these settings.")
        with torch.no_grad():
            for name, one in self.parameters.items():
                one.copy_(values[name])


class _LowRankProduct(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
    """`found + scale * (x A^T) B^T`, in the place of `found`. On the way back `make` makes `x` again, of `sources`."""

    @staticmethod
    def forward(
        ctx: Any,
        found: Tensor,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        scale: float,
        make: Callable[..., Tensor],
        *sources: Tensor,
    ) -> Tensor:
        inner = x @ down.t()
        ctx.scale, ctx.make, ctx.others = scale, make, len(sources)
        ctx.save_for_backward(inner, down, up, *sources)
        ctx.mark_dirty(found)
        return found.addmm_(inner, up.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        inner, down, up, *sources = ctx.saved_tensors
        gradient = grad_outputs[0]
        to_inner = (gradient @ up) * ctx.scale
        to_x = to_inner @ down if ctx.needs_input_grad[1] else None
        to_down = to_up = None
        if ctx.needs_input_grad[2]:
            to_down, to_up = to_inner.t() @ ctx.make(*sources), (gradient.t() @ inner) * ctx.scale
        return (gradient, to_x, to_down, to_up, *[None] * (2 + ctx.others))


class LowRank(Form):
    """LoRA on chosen linear layers: `scale * (x A^T) B^T`. B begins at zero, so training starts from the base."""

    def __init__(
        self,
        linears: Collection[Linear],
        *,
        rank: int,
        alpha: float,
        group: int,
        generator: torch.Generator,
        dropout: float = 0.0,
    ) -> None:
        self.rank, self.alpha, self.group, self._dropout = rank, alpha, group, dropout
        self.scale = alpha / rank
        self.parameters = {}
        for one in linears:
            inputs = one.columns // group
            if inputs * group != one.columns:
                raise TrainingError(f"{one.name} has {one.columns} inputs, which are no whole groups of {group}.")
            bound = 1 / math.sqrt(inputs)
            down = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
            self.parameters[f"{one.name}.lora_a"] = down.requires_grad_()
            self.parameters[f"{one.name}.lora_b"] = torch.zeros(one.rows, rank).requires_grad_()

    def added(self, name: str, x: Made, found: Tensor) -> Tensor:
        down = self.parameters.get(f"{name}.lora_a")
        if down is None:
            return found
        up = self.parameters[f"{name}.lora_b"]
        if self._dropout and self.is_training:
            x = Made.of(torch.nn.functional.dropout(x.value, self._dropout))
        if self.group > 1:
            x = Made.of(x.value.view(x.value.shape[0], -1, self.group).sum(-1) / math.sqrt(self.group))
        down, up = (one.to(x.value.dtype) for one in (down, up))
        sources = (one.detach() for one in x.sources)
        gained: Tensor = _LowRankProduct.apply(found, x.value, down, up, self.scale, x.make, *sources)
        return gained

    def feed_forward(self, layer: int, x: Tensor) -> Tensor | None:
        return None

    def low_rank(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name of the linear layer, A of shape (rank, columns), B of shape (rows, rank): plain LoRA in any case."""
        for key, down in self.parameters.items():
            if key.endswith(".lora_a"):
                name = key.removesuffix(".lora_a")
                whole = down.detach()
                if self.group > 1:
                    whole = whole.repeat_interleave(self.group, dim=1) / math.sqrt(self.group)
                yield name, whole, self.parameters[f"{name}.lora_b"].detach()


class FixedLowRank(Form):
    """Low-rank additions that are not trained: an adapter that is compared with what was made of it."""

    def __init__(
        self, factors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32], float]], device: torch.device
    ) -> None:
        """Name of the linear layer -> A of shape (rank, columns), B of shape (rows, rank), scale."""
        self.parameters = {}
        self._factors = {
            name: (torch.from_numpy(down).to(device), torch.from_numpy(up).to(device) * scale)
            for name, (down, up, scale) in factors.items()
        }

    def added(self, name: str, x: Made, found: Tensor) -> Tensor:
        if name not in self._factors:
            return found
        down, up = (one.to(x.value.dtype) for one in self._factors[name])
        return found.addmm_(x.value @ down.t(), up.t())

    def feed_forward(self, layer: int, x: Tensor) -> Tensor | None:
        return None


class Neurons(Form):
    """Added feed-forward units. Gate and up begin at the spread of the base's own rows, down at zero."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        count: int,
        spread: Callable[[str], float],
        generator: torch.Generator,
    ) -> None:
        self.count = count
        self._activation = activation(architecture.family.activation)
        self.parameters = {}
        for layer in range(architecture.layers):
            shape = (count, architecture.width)
            for part in ("gate", "up"):
                name = f"blk.{layer}.ffn_{part}"
                values = torch.empty(shape).normal_(std=spread(name), generator=generator)
                self.parameters[name] = values.requires_grad_()
            self.parameters[f"blk.{layer}.ffn_down"] = torch.zeros(architecture.width, count).requires_grad_()

    def added(self, name: str, x: Made, found: Tensor) -> Tensor:
        return found

    def feed_forward(self, layer: int, x: Tensor) -> Tensor | None:
        gate, up, down = (self.parameters[f"blk.{layer}.ffn_{part}"].to(x.dtype) for part in ("gate", "up", "down"))
        return (self._activation(x @ gate.t()) * (x @ up.t())) @ down.t()


class _Gated(torch.autograd.Function):  # type: ignore[misc]  # as above
    """`activation(gate) * up`, of which gate and up alone are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(gate, up)
        return activation(kind)(gate) * up

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        (gradient,) = grad_outputs
        to_up = gradient * activation(ctx.kind)(gate)
        outer = gradient * up
        if ctx.kind is Activation.SILU:
            return torch.ops.aten.silu_backward(outer, gate), to_up, None
        return torch.ops.aten.gelu_backward(outer, gate, approximate="tanh"), to_up, None


def gated(gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
    """What goes into the last matrix of a feed-forward block, shape (tokens, units)."""
    found: Tensor = _Gated.apply(gate, up, kind)
    return found


def block_of(name: str) -> int:
    """`blk.3.ffn_up` to 3."""
    return int(name.split(".")[1])


def activation(kind: Activation) -> Callable[[Tensor], Tensor]:
    """The gate's function."""
    if kind is Activation.SILU:
        silu: Callable[[Tensor], Tensor] = torch.nn.functional.silu
        return silu
    return lambda x: torch.nn.functional.gelu(x, approximate="tanh")
