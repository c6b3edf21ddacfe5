"""Guards that answers do not run in circles.

An answer repeats itself where it has 12 words or more and, of its sequences of 4 words, more than half came before in
it. On the items that both sat

    only = items where the candidate's answer alone repeats itself
    p    = P(X >= only), X ~ binomial(items where one of the two does, 1/2)      (exact McNemar test)
    held   the candidate's share of such answers <= incumbent's worse sitting + 0.02, or p > 0.1

so that a list or a table, whose wanted answer repeats itself too, breaks nothing: the incumbent's does as well.
"""

from dataclasses import dataclass

from nightschool_hookspecs import Exam, GuardResult, Sitting, hookimpl


@dataclass(frozen=True, kw_only=True)
class GuardRepetition:
    """`[plugins.guard_repetition]`"""

    words: int = 4
    """Of a sequence."""
    fewest_words: int = 12
    """Shorter answers do not repeat themselves."""
    largest_share: float = 0.5
    """Of sequences that came before."""
    tolerated_share: float = 0.02
    level: float = 0.1
    """More such answers than the incumbent's break the guard where chance makes so many this rarely."""

    def __post_init__(self) -> None:
        if self.words < 1 or self.fewest_words < self.words:
            raise ValueError("words must be 1 or more, and fewest_words as many or more")
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam) -> GuardResult | None:
        circles = {(one.sitting, one.item_id): self.repeats(one.text) for one in exam.answers if not one.failed}
        sat = [item.id for item in exam.items if all((sitting, item.id) in circles for sitting in Sitting)]
        if not sat:
            return None
        shares = {sitting: sum(circles[sitting, one] for one in sat) / len(sat) for sitting in Sitting}
        candidate = shares[Sitting.CANDIDATE]
        bound = max(shares[Sitting.INCUMBENT], shares[Sitting.INCUMBENT_AGAIN]) + self.tolerated_share
        pairs = [(circles[Sitting.CANDIDATE, one], circles[Sitting.INCUMBENT, one]) for one in sat]
        return GuardResult(
            guard="repetition",
            held=candidate <= bound or _chance_of(pairs) > self.level,
            reason=f"{candidate:.0%} of the candidate's answers run in circles; "
            f"the incumbent's share is {shares[Sitting.INCUMBENT]:.0%}.",
        )

    def repeats(self, text: str) -> bool:
        """Whether most of an answer came before in it."""
        words = text.split()
        if len(words) < self.fewest_words:
            return False
        sequences = [tuple(words[start : start + self.words]) for start in range(len(words) - self.words + 1)]
        return 1 - len(set(sequences)) / len(sequences) > self.largest_share


def _chance_of(pairs: list[tuple[bool, bool]]) -> float:
    """How likely so many answers of the candidate alone repeat themselves where both are equally good."""
    from scipy import stats

    differing = [candidate for candidate, incumbent in pairs if candidate != incumbent]
    return float(stats.binom.sf(sum(differing) - 1, len(differing), 0.5)) if differing else 1.0


@hookimpl
def nightschool_register_settings() -> type[GuardRepetition]:
    return GuardRepetition
