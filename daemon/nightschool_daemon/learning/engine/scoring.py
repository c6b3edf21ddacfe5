"""How likely a network finds answers, and which token it finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nightschool_daemon.learning.engine.examples import Example, passes
from nightschool_daemon.learning.engine.layout import Branches
from nightschool_daemon.learning.engine.methods import sums_by_answer
from nightschool_daemon.learning.engine.network import Network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENS_A_PASS = 2048


def answer_sums(network: Network, examples: Sequence[Example]) -> list[NDArray[np.float32]]:
    """Log-probability of each whole answer in nats, shape (answers,) of each example. A prompt is computed once."""
    found = sums_of(network, examples, TOKENS_A_PASS)
    return [found[one].cpu().numpy() for one in examples]


def sums_of(
    network: Network, examples: Sequence[Example], tokens_a_pass: int, *, padded: bool = True
) -> dict[Example, Tensor]:
    """The same on the network's device, without gradient. `padded`: as for `passes`."""
    found: dict[Example, Tensor] = {}
    with torch.no_grad():
        for part in passes(examples, tokens_a_pass, padded=padded):
            layout = network.lay_out([one.branches() for one in part])
            sums = sums_by_answer(network.log_probabilities(layout), layout.answer_of, layout.answers)
            found |= zip(part, sums.split([len(one.answers) for one in part]), strict=True)
    return found


@dataclass(frozen=True, kw_only=True)
class _Text:
    number: int
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


def likeliest(network: Network, texts: Sequence[tuple[int, ...]]) -> list[int]:
    """The token that the network finds likeliest behind each text."""
    found = [0] * len(texts)
    numbered = [_Text(number=number, ids=ids) for number, ids in enumerate(texts)]
    with torch.no_grad():
        for part in passes(numbered, TOKENS_A_PASS):
            # any token stands for the one that is asked for: what comes before it does not see it
            layout = network.lay_out([Branches(stem=one.ids, answers=((0,),)) for one in part])
            best = network.logits(layout, layout.sources).argmax(-1).tolist()
            for one, token in zip(part, best, strict=True):
                found[one.number] = token
    return found
