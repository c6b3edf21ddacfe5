"""What an event is worth: how good its text is, and what its owner did about it.

    quality  = (score - 50) / 50                        -1 .. 1; without a score 0
    bonus    = by feedback type, below
    priority = weight * (quality + bonus)               a minor correction weighs a quarter
    reward   = priority clipped to -1 .. 1

A correction counts as the correction, whatever the type of the event says: its score is that of the
corrected text, and its bonus that of `user_correction`. It is minor where prose was changed in nothing but white
space, case or closing punctuation.
"""

import math
from dataclasses import dataclass
from datetime import datetime

from nightschool_hookspecs import Event, FeedbackType, Peers, RewardScore, hookimpl, is_minor


@dataclass(frozen=True, kw_only=True)
class RewardPlain:
    """`[plugins.reward_plain]`"""

    success: float = 0.3
    explicit_positive: float = 0.4
    user_correction: float = 0.5
    validation_failure: float = -0.5
    explicit_negative: float = -1.0
    correction_score: float = 100.0
    """0..100, what a corrected text counts as."""
    minor_correction: float = 0.25
    """Factor on the weight of a minor correction."""
    largest_weight: float = 10.0
    """Bound of the weight that an application may give an event."""

    @hookimpl
    def nightschool_score_reward(self, event: Event, difficulty: float, peers: Peers, now: datetime) -> RewardScore:
        priority = self._weight(event) * (self._quality(event) + self._bonus(event))
        return RewardScore(priority=priority, reward=_clip(priority, -1.0, 1.0))

    def _quality(self, event: Event) -> float:
        score = self.correction_score if event.is_correction else event.validation_score
        return 0.0 if score is None or math.isnan(score) else (_clip(score, 0.0, 100.0) - 50) / 50

    def _bonus(self, event: Event) -> float:
        if event.is_correction:
            return self.user_correction
        return {
            FeedbackType.SUCCESS: self.success,
            FeedbackType.EXPLICIT_POSITIVE: self.explicit_positive,
            FeedbackType.USER_CORRECTION: self.user_correction,
            FeedbackType.VALIDATION_FAILURE: self.validation_failure,
            FeedbackType.EXPLICIT_NEGATIVE: self.explicit_negative,
        }[event.feedback_type]

    def _weight(self, event: Event) -> float:
        weight = event.metadata.weight
        given = 1.0 if math.isnan(weight) else _clip(weight, 0.0, self.largest_weight)
        return given * self.minor_correction if is_minor(event) else given


def _clip(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


@hookimpl
def nightschool_register_settings() -> type[RewardPlain]:
    return RewardPlain
