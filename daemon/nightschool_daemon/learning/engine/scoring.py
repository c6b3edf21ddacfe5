"""How likely a network finds answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from nightschool_daemon.learning.engine.examples import Example, passes
from nightschool_daemon.learning.engine.methods import answer_sums as summed
from nightschool_daemon.learning.engine.network import Network

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENS_A_PASS = 2048


def answer_sums(network: Network, examples: Sequence[Example]) -> list[NDArray[np.float32]]:
    """Log-probability of each whole answer in nats, shape (answers,) of each example. A prompt is computed once."""
    # passes have them in this order
    order = sorted(range(len(examples)), key=lambda number: len(examples[number]))
    sums: list[NDArray[np.float32]] = []
    with torch.no_grad():
        for part in passes(examples, TOKENS_A_PASS):
            layout = network.lay_out([one.branches() for one in part])
            values = network.log_probabilities(layout)
            of_part = summed(values, layout.answer_of, layout.answers).cpu().numpy()
            sums += np.split(of_part, np.cumsum([len(one.answers) for one in part])[:-1])
    found = dict(zip(order, sums, strict=True))
    return [found[number] for number in range(len(examples))]
