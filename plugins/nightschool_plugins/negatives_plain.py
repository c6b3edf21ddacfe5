"""Which events weigh more because the model failed at them.

factor = (1.5 if the answer failed validation or was disliked, else 1) + 0.25 per retry, at most 3
"""

from dataclasses import dataclass

from nightschool_hookspecs import Event, Measure, ScoredEvent, hookimpl


@dataclass(frozen=True, kw_only=True)
class NegativesPlain:
    """`[plugins.negatives_plain]`"""

    failed: float = 1.5
    per_retry: float = 0.25
    largest: float = 3.0

    def __post_init__(self) -> None:
        if not (self.failed >= 1 and self.per_retry >= 0 and self.largest >= 1):
            raise ValueError("failed and largest must be 1 or more, per_retry 0 or more")

    @hookimpl
    def nightschool_select_negatives(
        self, events: tuple[ScoredEvent, ...], measure: Measure, seed: int
    ) -> tuple[tuple[str, float], ...]:
        factors = ((one.event.key, self._factor(one.event)) for one in events)
        return tuple((key, factor) for key, factor in factors if factor > 1)

    def _factor(self, event: Event) -> float:
        failed = self.failed if event.feedback_type.is_dislike else 1.0
        return min(self.largest, failed + self.per_retry * max(0, event.retries))


@hookimpl
def nightschool_register_settings() -> type[NegativesPlain]:
    return NegativesPlain
