"""The losses: supervised fine-tuning, DPO with margins, KTO. All over log-probabilities of whole answers, in nats.

SFT is a weighted mean over answer tokens. DPO: Rafailov et al. 2023, arXiv 2305.18290, with the margin as offset as in
ODPO (Amini et al. 2024, arXiv 2402.10571): the better answer must win by at least the margin. KTO: Ethayarajh et al.
2024, arXiv 2402.01306, for answers that were liked or disliked alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """Sums of log-probabilities for P pairs, each of shape (P,)."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    """Under the base, without gradient."""
    reference_rejected: Tensor


def sft_loss(token_log_probabilities: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the answer tokens' losses. Shapes (M,)."""
    return -(token_log_probabilities * weights).sum()


def dpo_losses(scores: PairScores, margins: Tensor, beta: float) -> Tensor:
    """Loss of each pair, shape (P,): `-log sigmoid(beta * (change of chosen - change of rejected) - margin)`."""
    chosen = scores.chosen - scores.reference_chosen
    rejected = scores.rejected - scores.reference_rejected
    return -functional.logsigmoid(beta * (chosen - rejected) - margins)


def kto_losses(policy: Tensor, reference: Tensor, liked: Tensor, divergence: float, beta: float) -> Tensor:
    """Loss of each answer, shape (A,): it is near 0 where a liked one gained, or a disliked one lost, much.

    `liked` is boolean; `divergence` estimates how far the model is from its base in nats an answer, at least 0.
    """
    gained = beta * (policy - reference - divergence)
    return 1 - torch.sigmoid(torch.where(liked, gained, -gained))


def kto_weights(liked: int, disliked: int) -> tuple[float, float]:
    """Weights of liked and disliked answers that make both count alike, the rarer kind at 1 (KTO, section 4.2)."""
    if not liked or not disliked:
        return 1.0, 1.0
    return (1.0, liked / disliked) if liked < disliked else (disliked / liked, 1.0)


def sums_by_answer(token_log_probabilities: Tensor, answer_of: Tensor, answers: int) -> Tensor:
    """Sum the tokens of each answer: shapes (M,), (M,) to (answers,)."""
    sums = torch.zeros(answers, device=token_log_probabilities.device)
    return sums.index_add(0, answer_of, token_log_probabilities)
