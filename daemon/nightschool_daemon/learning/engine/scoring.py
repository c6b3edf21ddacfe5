"""How likely a network finds answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from nightschool_daemon.learning.engine.examples import Answer, Example, passes
from nightschool_daemon.learning.engine.layout import lay_out
from nightschool_daemon.learning.engine.methods import answer_sums as summed
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENS_A_PASS = 2048


def answer_sums(network: Network, rows: Sequence[Row]) -> NDArray[np.float32]:
    """Log-probability of each whole answer in nats, shape (rows,)."""
    examples = [Example(prompt=row.prompt, answers=(Answer(tokens=row.completion),)) for row in rows]
    # passes have them in this order
    order = sorted(range(len(examples)), key=lambda number: len(examples[number]))
    sums = []
    with torch.no_grad():
        for part in passes(examples, TOKENS_A_PASS):
            layout = lay_out([one.branches() for one in part], network.bench.device)
            values = network.log_probabilities(layout)
            sums.append(summed(values, layout.answer_of, layout.answers).cpu().numpy())
    found = np.zeros(len(rows), np.float32)
    found[order] = np.concatenate(sums)
    return found
