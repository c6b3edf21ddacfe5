"""Guards what was learned before: corrections that the incumbent knows must not be forgotten.

A correction is known where the answer scores above 70, or where a relative score, as that of `evaluation_judge`, finds
it as good as the correction or better. Of those that the incumbent, or a version that it came from, has learned

    forgotten, regained   corrections that only the incumbent, that only the candidate knows
    p                     P(X >= forgotten), X ~ binomial(forgotten + regained, 1/2)      (exact McNemar test)
    held                  forgotten - regained <= 5 % of the corrections asked, or p > 0.1

so that a single slip, which happens to any model, breaks nothing. Slips of many nights would add up, each held beside
the one before. So the candidate is compared by the same rule with how each correction was answered when a version that
had learned it was first asked; where that does not hold, it must have forgotten no more than it regained beside the
incumbent: what went in earlier nights stops no candidate, but nothing further may go.

Of equal models that know nine in ten corrections surely and each other one by chance, 1 in 800 is turned down where 20
corrections are asked and 1 in 70 where 100 are; with four in five, 1 in 65 and 1 in 15 (by simulation, as what
follows). Where each candidate had forgotten another 5 % of 100 corrections, and all are asked of what would come into
use, 93 would hold after ten nights. Beside the incumbent alone it would be 80, and 63 where 20 are asked a night and
all once a week. Where each had forgotten 15 % it would be 98, in place of 31.

The same is asked of tonight's lesson by itself, where the candidate is asked it: the incumbent never learned it, so
that what the candidate can do of it makes up for nothing that was forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nightschool_hookspecs import (
    GOOD_SCORE,
    Exam,
    ExamAnswer,
    FirstScore,
    GuardResult,
    ItemRole,
    Sitting,
    hookimpl,
    is_good,
)
from nightschool_hookspecs.paired import Losses, compare_abilities


@dataclass(frozen=True, kw_only=True)
class GuardRegression:
    """`[plugins.guard_regression]`"""

    known_score: float = GOOD_SCORE
    """0..100; a correction is known above it. Relative scores are not held to it: of these it is known from 50 on."""
    tolerated_share: float = 0.05
    level: float = 0.1
    """More forgotten corrections break the guard where chance makes so many this rarely."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        incumbent = {
            one.item_id: one
            for one in exam.answers
            # a server that failed the incumbent says nothing
            if one.sitting is Sitting.INCUMBENT and not one.failed
        }
        of_event = {one.event_id: one for one in exam.first_scores}
        first = {item.id: of_event[item.event_id] for item in exam.items if item.event_id in of_event}
        learned, lost_of_learned = self._compared(exam, ItemRole.LEARNED, incumbent)
        lesson, lost_of_lesson = self._compared(exam, ItemRole.LESSON, incumbent)
        since, lost_since = self._compared(exam, ItemRole.LEARNED, first)
        told = (
            (learned, f"corrections that were learned before, {_told(lost_of_learned, 'forgotten', 'regained')}"),
            (
                since,
                f"that were asked before, {_told(lost_since, 'forgotten', 'regained')} since the first time",
            ),
            (lesson, f"corrections of tonight's lesson, {_told(lost_of_lesson, 'lost', 'gained')}"),
        )
        sentences = [f"Of {count} {sentence}." for count, sentence in told if count]
        goes_no_further = lost_of_learned.lost <= lost_of_learned.gained
        held = lost_of_learned.held and lost_of_lesson.held and (lost_since.held or goes_no_further)
        return GuardResult(guard="regression", held=held, reason=" ".join(sentences)) if sentences else None

    def _compared(
        self, exam: Exam, role: ItemRole, before: Mapping[str, ExamAnswer | FirstScore]
    ) -> tuple[int, Losses]:
        """How many corrections of a role have a score from before, by their ids, and what the candidate lost of it."""
        asked = frozenset(item.id for item in exam.items if item.role is role)
        pairs = [
            (is_good(before[one.item_id], self.known_score), is_good(one, self.known_score))
            for one in exam.answers
            if one.sitting is Sitting.CANDIDATE and one.item_id in before and one.item_id in asked
        ]
        return len(pairs), compare_abilities(pairs, tolerated=self.tolerated_share * len(pairs), level=self.level)


def _told(found: Losses, lost: str, gained: str) -> str:
    return f"{found.lost} were {lost} and {found.gained} {gained}"


@hookimpl
def nightschool_register_settings() -> type[GuardRegression]:
    return GuardRegression
