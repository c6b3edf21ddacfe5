"""Guards what was learned before: corrections that the incumbent knows must not be forgotten.

A correction is known where the answer scores above 70. Of those that the incumbent, or a version that it came from, has
learned

    forgotten, regained   corrections that only the incumbent, that only the candidate knows
    p                     P(X >= forgotten), X ~ binomial(forgotten + regained, 1/2)      (exact McNemar test)
    held                  forgotten - regained <= 5 % of the corrections asked, or p > 0.1

so that a single slip, which happens to any model, breaks nothing. The same is asked of tonight's lesson by itself,
where the candidate is asked it: the incumbent never learned it, so that what the candidate can do of it makes up for
nothing that was forgotten.
"""

from dataclasses import dataclass

from nightschool_hookspecs import Exam, GuardResult, ItemRole, Sitting, hookimpl
from nightschool_hookspecs.paired import compare_abilities


@dataclass(frozen=True, kw_only=True)
class GuardRegression:
    """`[plugins.guard_regression]`"""

    known_score: float = 70.0
    """0..100; a correction is known above it."""
    tolerated_share: float = 0.05
    level: float = 0.1
    """More forgotten corrections break the guard where chance makes so many this rarely."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        kinds = (
            (self._known(exam, ItemRole.LEARNED), "corrections that were learned before", "forgotten", "regained"),
            (self._known(exam, ItemRole.LESSON), "corrections of tonight's lesson", "lost", "gained"),
        )
        held, sentences = True, []
        for pairs, corrections, lost, gained in kinds:
            if pairs:
                found = compare_abilities(pairs, tolerated=self.tolerated_share * len(pairs), level=self.level)
                held = held and found.held
                sentences.append(
                    f"Of {len(pairs)} {corrections}, {found.lost} were {lost} and {found.gained} {gained}."
                )
        return GuardResult(guard="regression", held=held, reason=" ".join(sentences)) if sentences else None

    def _known(self, exam: Exam, role: ItemRole) -> list[tuple[bool, bool]]:
        """Whether incumbent and candidate know each correction. A server that failed the incumbent says nothing."""
        scores = {
            (answer.sitting, answer.item_id): answer.score
            for answer in exam.answers
            if answer.sitting is Sitting.CANDIDATE or not answer.failed
        }
        learned = [item.id for item in exam.items if item.role is role]
        both = [(scores.get((Sitting.INCUMBENT, one)), scores.get((Sitting.CANDIDATE, one))) for one in learned]
        return [
            (before > self.known_score, after > self.known_score)
            for before, after in both
            if before is not None and after is not None
        ]


@hookimpl
def nightschool_register_settings() -> type[GuardRegression]:
    return GuardRegression
