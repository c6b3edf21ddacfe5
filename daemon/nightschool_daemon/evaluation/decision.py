"""What an exam and its verdict are enough for, by one rule for whoever asks."""

from collections.abc import Sequence

from nightschool_daemon.config import PromotionMode, Settings
from nightschool_daemon.reasons import REBUILD
from nightschool_hookspecs.records import GuardResult, Outcome


def is_good_enough(outcome: Outcome, mode: PromotionMode, run_reason: str) -> bool:
    """Whether a candidate is to be put into use, or to wait for approval.

    A rebuild, which the user's own change of the base asked for, is good enough unless it is worse.
    """
    return (
        outcome is Outcome.PROVEN
        or (outcome is Outcome.PROVISIONAL and mode is PromotionMode.PROVISIONAL)
        or (outcome is not Outcome.WORSE and run_reason == REBUILD)
    )


def unseen(guards: Sequence[GuardResult]) -> tuple[GuardResult, ...]:
    """Those that could not look at what a candidate has to wait for."""
    return tuple(one for one in guards if not one.looked and not one.dispensable)


def items_needed(settings: Settings) -> int:
    """How many prompts an exam needs to be worth its while."""
    return 1 if settings.promotion.promote is PromotionMode.PROVISIONAL else max(1, settings.exam.min_items)
