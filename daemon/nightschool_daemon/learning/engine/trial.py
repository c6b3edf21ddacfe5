"""What goes through a few layers where a training is tried out before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.forms import Form
from nightschool_daemon.learning.engine.layout import Layout
from nightschool_daemon.learning.engine.network import Block, Network

PROBED_TOKENS = 2048
"""A wider pass is not tried out but extrapolated."""


@contextmanager
def beside(network: Network, form: Form) -> Iterator[None]:
    """With this form beside the network, and no gradient left behind."""
    held, network.form = network.form, form
    try:
        yield
    finally:
        network.form = held
        for one in form.parameters.values():
            one.grad = None


def shortened(example: Example, tokens: int) -> Example:
    """One of so many tokens that branches as this one does."""
    share = tokens / len(example)
    answers = tuple(Answer(tokens=(0,) * max(1, int(len(one.tokens) * share))) for one in example.answers)
    return Example(prompt=(0,) * max(1, tokens - sum(len(one.tokens) for one in answers)), answers=answers)


def laid_out(network: Network, examples: Sequence[Example]) -> Layout:
    """A pass over these."""
    return network.lay_out([one.branches() for one in examples])


def is_windowed(network: Network, block: Block, longest: int) -> bool:
    """Whether a layer's window hides anything from rows of so many tokens; where not, it is like those without."""
    return network.architecture.is_local(block.number) and longest > network.architecture.window


def states(network: Network, layout: Layout) -> Tensor:
    """What goes into a layer in such a pass, shape (tokens, width)."""
    width = network.architecture.width
    return torch.zeros(layout.ids.shape[0], width, device=network.bench.device, requires_grad=True)
