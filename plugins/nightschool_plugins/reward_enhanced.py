"""What an event is worth: how good its text is, what its owner did about it, its age, its difficulty, how common it is.

    validation = tanh((score - 50) / 50)                 without a score 0
    bonus      = by feedback type, below; of an unknown type 0
    decay      = 0.95 ** age_days                        of a correction at least 0.2; a future time counts as age 0
    difficulty = 1 + 1.5 * difficulty of the event       0..1
    balance    = sqrt(r(artifact type) * r(near-duplicates) * r(difficulty bin)), clipped to 0.5 .. 2
    r(kind)    = mean count of a kind / count of this one
    priority   = weight * (validation + bonus) * decay * difficulty * balance
    reward     = priority clipped to -1 .. 1

The priority is not clipped, or good events would all be worth the same. Inside one specialty the artifact type is a
constant, so near-duplicates and difficulties are balanced too: easy cases are the ones that come too often.

A correction counts as the correction, whatever the type of the event says: its score is that of the corrected text,
which is 100 unless its validator finds a fault in it, and its bonus that of `user_correction`. It is minor, and weighs
a quarter, where prose was changed in nothing but white space, case or closing punctuation. An event whose clock was
wrong counts as fresh, since its age is not known.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from nightschool_hookspecs import Event, Peers, RewardScore, hookimpl
from nightschool_hookspecs.worth import FeedbackWorth

UNKNOWN_DIFFICULTY = 0.5


@dataclass(frozen=True, kw_only=True)
class RewardEnhanced(FeedbackWorth):
    """`[plugins.reward_enhanced]`"""

    middle_score: float = 50.0
    """0..100, the validation score of an answer that is neither good nor bad."""
    score_scale: float = 50.0
    """Points above the middle at which the validation is tanh(1), 0.76."""
    daily_decay: float = 0.95
    """What is left of a priority after a day. 1: age does not count."""
    correction_floor: float = 0.2
    """Share of its fresh weight that a correction keeps, or it would be forgotten by arithmetic."""
    difficulty_weight: float = 1.5
    """How much more the hardest event is worth than the easiest, as a multiple of it."""
    harder_from: tuple[float, ...] = (0.3, 0.7)
    """Difficulties at which the second bin and those after it begin."""
    lowest_balance: float = 0.5
    largest_balance: float = 2.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.bonuses().values())):
            raise ValueError(f"{', '.join(self.bonuses())} must be finite numbers")
        if not (0 <= self.correction_score <= 100 and 0 <= self.middle_score <= 100):
            raise ValueError("correction_score and middle_score must lie within 0..100")
        if not (0 < self.score_scale < math.inf and 0 < self.largest_weight < math.inf):
            raise ValueError("score_scale and largest_weight must be finite and above 0")
        if not (0 <= self.minor_correction <= 1 and 0 <= self.correction_floor <= 1):
            raise ValueError("minor_correction and correction_floor must lie within 0..1")
        if not 0 < self.daily_decay <= 1:
            raise ValueError("daily_decay must be above 0 and at most 1")
        if not 0 <= self.difficulty_weight < math.inf:
            raise ValueError("difficulty_weight must be finite and not negative")
        if not all(low < high for low, high in pairwise((0.0, *self.harder_from, 1.0))):
            raise ValueError("harder_from must ascend between 0 and 1")
        if not 0 < self.lowest_balance <= 1 <= self.largest_balance < math.inf:
            raise ValueError("0 < lowest_balance <= 1 <= largest_balance is needed")

    @hookimpl
    def nightschool_score_reward(
        self, event: Event, difficulty: float, peers: Peers, now: datetime, correction_score: float | None
    ) -> RewardScore:
        difficulty = UNKNOWN_DIFFICULTY if math.isnan(difficulty) else min(1.0, max(0.0, difficulty))
        priority = (
            self.weight(event)
            * (self._validation(event, correction_score) + self.bonus(event))
            * self._decay(event, now)
            * (1 + self.difficulty_weight * difficulty)
            * self._balance(difficulty, peers)
        )
        return RewardScore(priority=priority, reward=min(1.0, max(-1.0, priority)))

    def _validation(self, event: Event, correction_score: float | None) -> float:
        score = self.score(event, correction_score)
        return 0.0 if score is None else math.tanh((score - self.middle_score) / self.score_scale)

    def _decay(self, event: Event, now: datetime) -> float:
        if event.metadata.clock_flag:
            return 1.0
        age_days = max(0.0, (now - event.timestamp) / timedelta(days=1))
        decay = math.pow(self.daily_decay, age_days)
        return max(self.correction_floor, decay) if event.is_correction else decay

    def _balance(self, difficulty: float, peers: Peers) -> float:
        rarity = (
            _rarity(peers.count_of_type, peers.mean_count)
            * _rarity(peers.count_of_group, peers.mean_count_of_group)
            * self._rarity_of_difficulty(difficulty, peers.difficulties)
        )
        return min(self.largest_balance, max(self.lowest_balance, math.sqrt(rarity)))

    def _rarity_of_difficulty(self, difficulty: float, ascending: Sequence[float]) -> float:
        starts = [bisect_left(ascending, low) for low in self.harder_from]
        counts = [after - start for start, after in pairwise((0, *starts, len(ascending)))]
        filled = sum(count > 0 for count in counts)
        mean_count = len(ascending) / filled if filled else 0.0
        return _rarity(counts[bisect_right(self.harder_from, difficulty)], mean_count)


def _rarity(count: int, mean_count: float) -> float:
    """How often the count goes into the mean; 1 where the mean is not known."""
    return mean_count / max(1, count) if 0 < mean_count < math.inf else 1.0


@hookimpl
def nightschool_register_settings() -> type[RewardEnhanced]:
    return RewardEnhanced
