"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) without weight decay, by torch's fused kernel.

So it is Adam (Kingma & Ba 2015, arXiv 1412.6980), as TRL's trainers have it by default: what is trained begins at
nothing, or beside nothing, and is to become something.
`torch.optim` loads torch's compiler with the first optimiser: 160 MB of memory, and a second or two, for nothing that
is used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BETAS = 0.9, 0.999
EPSILON = 1e-8


class Adam:
    """Steps along the mean of past gradients, by the root of their mean square; no weight decay."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = tuple(parameters)
        self._moments = tuple(
            {
                "exp_avg": torch.zeros_like(one, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(one, requires_grad=False),
                "step": torch.zeros((), dtype=torch.float32, device=one.device),
            }
            for one in self._parameters
        )

    def step(self, rate: float) -> None:
        """Step by the gradients that there are, and forget them."""
        known = [pair for pair in zip(self._parameters, self._moments, strict=True) if pair[0].grad is not None]
        torch.ops.aten._fused_adamw_(
            [one.detach() for one, _ in known],
            [one.grad for one, _ in known],
            [of["exp_avg"] for _, of in known],
            [of["exp_avg_sq"] for _, of in known],
            [],
            [of["step"].add_(1) for _, of in known],
            lr=rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
        for one, _ in known:
            one.grad = None

    def moments(self) -> dict[str, Tensor]:
        """What is remembered of each parameter: `<number>.exp_avg`, `.exp_avg_sq`, `.step`."""
        return {f"{number}.{key}": value for number, of in enumerate(self._moments) for key, value in of.items()}

    def remember(self, moments: Mapping[str, Tensor]) -> None:
        """Take over what an optimiser of the same parameters remembered. Raises `ValueError` where it is of others."""
        self.require_fit(moments)
        for name, one in self.moments().items():
            one.copy_(moments[name])

    def require_fit(self, moments: Mapping[str, Tensor]) -> None:
        """Raise `ValueError` where these are of other parameters."""
        own = self.moments()
        if {name: one.shape for name, one in own.items()} != {name: one.shape for name, one in moments.items()}:
            raise ValueError("it remembers other parameters than are trained")
