"""What an event is worth: how good its text is, and what its owner did about it.

    quality  = (score - 50) / 50                        -1 .. 1; without a score 0
    bonus    = by feedback type, below
    priority = weight * (quality + bonus)               a minor correction weighs a quarter
    reward   = priority clipped to -1 .. 1

A correction counts as the correction, whatever the type of the event says: its score is that of the corrected text,
which is 100 unless its validator finds a fault in it, and its bonus that of `user_correction`. It is minor where prose
was changed in nothing but white space, case or closing punctuation.
"""

from dataclasses import dataclass
from datetime import datetime

from nightschool_hookspecs import Event, Peers, RewardScore, hookimpl
from nightschool_hookspecs.worth import FeedbackWorth


@dataclass(frozen=True, kw_only=True)
class RewardPlain(FeedbackWorth):
    """`[plugins.reward_plain]`"""

    @hookimpl
    def nightschool_score_reward(
        self, event: Event, difficulty: float, peers: Peers, now: datetime, correction_score: float | None
    ) -> RewardScore:
        priority = self.weight(event) * (self._quality(event, correction_score) + self.bonus(event))
        return RewardScore(priority=priority, reward=min(1.0, max(-1.0, priority)))

    def _quality(self, event: Event, correction_score: float | None) -> float:
        score = self.score(event, correction_score)
        return 0.0 if score is None else (score - 50) / 50


@hookimpl
def nightschool_register_settings() -> type[RewardPlain]:
    return RewardPlain
