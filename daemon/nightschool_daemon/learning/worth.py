"""What an event says, and why nothing can be learned from it."""

from nightschool_daemon.jobs import LeftOut
from nightschool_hookspecs.records import Event


def objection_to(event: Event) -> str | None:
    """Why nothing can be learned from an event; None where something can."""
    if event.metadata.deleted:
        return "it was withdrawn"
    if event.metadata.weak:
        return "it is a weak signal, which is no target by itself"
    if not (event.target or "").strip():
        return "it has no answer worth learning"
    return None


def is_dislike(event: Event) -> bool:
    """Whether all that it says of an answer is that it was bad."""
    return is_usable(event) and event.feedback_type.is_dislike and event.target is None


def is_usable(event: Event) -> bool:
    """Neither withdrawn nor half-hearted."""
    return not (event.metadata.deleted or event.metadata.weak)


def is_better_known(event: Event) -> bool:
    """Whether it says what a better answer is."""
    return event.is_correction or event.metadata.demonstration or event.metadata.preference


def as_left_out(event: Event, reason: str) -> LeftOut:
    """It is not learned from, for this reason."""
    return LeftOut(event_id=event.key, reason=reason)
