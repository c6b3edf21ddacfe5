"""Pairs of a better and a worse answer that the feedback itself shows.

A correction stands over the answer it corrects, with margin 0. Of several answers to one prompt, a
liked one stands over a disliked one; where both have scores, over one that is more than 10 points
worse, with margin = gap / 100.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations

from nightschool_hookspecs import Event, FeedbackType, Message, PreferencePair, ScoredEvent, hookimpl

LIKED = frozenset({FeedbackType.SUCCESS, FeedbackType.EXPLICIT_POSITIVE})
DISLIKED = frozenset({FeedbackType.VALIDATION_FAILURE, FeedbackType.EXPLICIT_NEGATIVE})


@dataclass(frozen=True, kw_only=True)
class PreferenceCorrections:
    """`[plugins.preference_corrections]`"""

    smallest_gap: float = 10.0
    """Points of 0..100 that two scored answers must be apart."""

    @hookimpl
    def nightschool_build_preference_pairs(self, events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...]:
        strong = [scored.event for scored in events if not scored.event.metadata.weak]
        by_prompt: dict[tuple[Message, ...], list[Event]] = {}
        for event in strong:
            by_prompt.setdefault(event.conversation, []).append(event)
        among = (pair for answers in by_prompt.values() for pair in self._among(answers))
        return tuple(_once([*_corrections(strong), *among]))

    def _among(self, answers: list[Event]) -> Iterator[PreferencePair]:
        for better, worse in permutations(answers, 2):
            margin = self._margin(better, worse)
            if margin is not None and better.ai_output and worse.ai_output and better.ai_output != worse.ai_output:
                yield _pair(better, better.ai_output, worse.ai_output, margin)

    def _margin(self, better: Event, worse: Event) -> float | None:
        """By how much one model answer is better than another; None where it is not."""
        if better.validation_score is not None and worse.validation_score is not None:
            gap = better.validation_score - worse.validation_score
            return gap / 100 if gap > self.smallest_gap else None
        liked = better.feedback_type in LIKED and not better.is_correction
        return 0.0 if liked and worse.feedback_type in DISLIKED else None


def _corrections(events: Iterable[Event]) -> Iterator[PreferencePair]:
    for event in events:
        if event.corrected_output and event.ai_output and event.corrected_output != event.ai_output:
            yield _pair(event, event.corrected_output, event.ai_output, 0.0)


def _pair(event: Event, chosen: str, rejected: str, margin: float) -> PreferencePair:
    return PreferencePair(
        event_id=event.key,
        messages=event.conversation,
        chosen=chosen,
        rejected=rejected,
        margin=margin,
    )


def _once(pairs: Iterable[PreferencePair]) -> Iterator[PreferencePair]:
    seen: set[tuple[tuple[Message, ...], str, str]] = set()
    for pair in pairs:
        key = (pair.messages, pair.chosen, pair.rejected)
        if key not in seen:
            seen.add(key)
            yield pair


@hookimpl
def nightschool_register_settings() -> type[PreferenceCorrections]:
    return PreferenceCorrections
