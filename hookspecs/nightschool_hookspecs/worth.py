"""What rewards have in common: what its owner did about an answer, and the weight that an application gave it."""

import math
from dataclasses import dataclass

from nightschool_hookspecs.corrections import is_minor
from nightschool_hookspecs.records import Event, FeedbackType


@dataclass(frozen=True, kw_only=True)
class FeedbackWorth:
    """Settings of a plugin that scores rewards. Its own class inherits them.

    A correction counts as the correction, whatever the type of the event says.
    """

    success: float = 0.3
    explicit_positive: float = 0.4
    user_correction: float = 0.5
    validation_failure: float = -0.5
    explicit_negative: float = -1.0
    correction_score: float = 100.0
    """0..100, what a corrected text counts as in which no validator finds a fault."""
    minor_correction: float = 0.25
    """Factor on the weight of a minor correction."""
    largest_weight: float = 10.0
    """Bound of the weight that an application may give an event."""

    def bonus(self, event: Event) -> float:
        """By the type of the feedback; 0 for one that is not known."""
        kind = FeedbackType.USER_CORRECTION if event.is_correction else event.feedback_type
        return self.bonuses().get(kind, 0.0)

    def bonuses(self) -> dict[FeedbackType, float]:
        """Each type's."""
        return {
            FeedbackType.SUCCESS: self.success,
            FeedbackType.EXPLICIT_POSITIVE: self.explicit_positive,
            FeedbackType.USER_CORRECTION: self.user_correction,
            FeedbackType.VALIDATION_FAILURE: self.validation_failure,
            FeedbackType.EXPLICIT_NEGATIVE: self.explicit_negative,
        }

    def score(self, event: Event, correction_score: float | None) -> float | None:
        """0..100, of the corrected text where there is one; None where it is not known.

        `correction_score`: what a validator makes of that text; None: nobody has looked.
        """
        if event.is_correction:
            found = 100.0 if correction_score is None else correction_score
            return min(self.correction_score, _within(found, 0.0, 100.0))
        score = event.validation_score
        return None if score is None or math.isnan(score) else _within(score, 0.0, 100.0)

    def weight(self, event: Event) -> float:
        """What the application gave, within its bound; a minor correction weighs less."""
        given = event.metadata.weight
        weight = 1.0 if math.isnan(given) else _within(given, 0.0, self.largest_weight)
        return weight * self.minor_correction if is_minor(event) else weight


def _within(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))
