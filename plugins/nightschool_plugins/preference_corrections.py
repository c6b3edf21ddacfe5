"""Pairs of a better and a worse answer that the feedback itself shows.

A correction stands over the answer it corrects. Of several answers to one prompt, a liked one stands over a disliked
one; where both have scores, over one that is more than 10 points worse, with margin = gap / 100.

A correction's margin is gap / 100, too, where its validator finds it more than 10 points better than the answer was.
Where no gap is seen, or one the other way round, or a side has no score, the pair counts all the same, with margin 0:
other than between two answers a person said which one is better, and that stands over what a validator finds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nightschool_hookspecs import Event, Message, PreferencePair, ScoredEvent, hookimpl
from nightschool_hookspecs.pairing import PairingSettings


@dataclass(frozen=True, kw_only=True)
class PreferenceCorrections(PairingSettings):
    """`[plugins.preference_corrections]`"""

    @hookimpl
    def nightschool_build_preference_pairs(self, events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...]:
        strong = [scored for scored in events if not scored.event.metadata.weak]
        by_prompt: dict[tuple[Message, ...], list[Event]] = {}
        for scored in strong:
            by_prompt.setdefault(scored.event.conversation, []).append(scored.event)
        among = (pair for answers in by_prompt.values() for pair in self._among(answers))
        return tuple(_once([*self._corrections(strong), *among]))

    def _corrections(self, events: Iterable[ScoredEvent]) -> Iterator[PreferencePair]:
        for scored in events:
            event = scored.event
            if event.corrected_output and event.ai_output and event.corrected_output != event.ai_output:
                yield _pair(event, event.corrected_output, event.ai_output, self._margin(scored))

    def _margin(self, corrected: ScoredEvent) -> float:
        """Of a correction over the answer it corrects."""
        better, worse = corrected.correction_score, corrected.event.validation_score
        if better is None or worse is None or better - worse <= self.smallest_gap:
            return 0.0
        return (better - worse) / 100

    def _among(self, answers: list[Event]) -> Iterator[PreferencePair]:
        """Each answer over a few worse ones: all pairs of a prompt that was answered often would be too many."""
        scored = ((one.validation_score, one) for one in answers if one.validation_score is not None)
        unscored = [one for one in answers if one.validation_score is None]
        disliked = [one for one in answers if one.feedback_type.is_dislike]
        unscored_disliked = [one for one in unscored if one.feedback_type.is_dislike]
        for better, worse, margin in self.pair_up(scored):
            yield from _over(better, worse, margin)
        for better in answers:
            if better.feedback_type.is_like and not better.is_correction:
                others = disliked if better.validation_score is None else unscored_disliked
                for worse in self.spread(others):
                    yield from _over(better, worse, 0.0)


def _over(better: Event, worse: Event, margin: float) -> Iterator[PreferencePair]:
    if better.ai_output and worse.ai_output and better.ai_output != worse.ai_output:
        yield _pair(better, better.ai_output, worse.ai_output, margin, worse.key)


def _pair(event: Event, chosen: str, rejected: str, margin: float, worse_key: str = "") -> PreferencePair:
    return PreferencePair(
        event_id=event.key,
        messages=event.conversation,
        chosen=chosen,
        rejected=rejected,
        margin=margin,
        worse_event_id=worse_key,
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
