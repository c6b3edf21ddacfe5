"""Answers of a model that were liked or disliked by themselves.

A thumb, a passed or a failed check says whether an answer was good, not what would have been better. Corrected answers
and answers that a person wrote are no such labels, nor are weak signals.
"""

from collections.abc import Iterable, Iterator

from nightschool_hookspecs import Event, LabelledAnswer, ScoredEvent, hookimpl


@hookimpl
def nightschool_label_answers(events: tuple[ScoredEvent, ...]) -> tuple[LabelledAnswer, ...]:
    return tuple(_labels(scored.event for scored in events if not scored.event.metadata.weak))


def _labels(events: Iterable[Event]) -> Iterator[LabelledAnswer]:
    for event in events:
        said = event.feedback_type
        is_written_by_hand = event.is_correction or event.metadata.demonstration
        if event.ai_output and not is_written_by_hand and (said.is_like or said.is_dislike):
            yield LabelledAnswer(
                event_id=event.key,
                messages=event.conversation,
                answer=event.ai_output,
                liked=said.is_like,
            )
