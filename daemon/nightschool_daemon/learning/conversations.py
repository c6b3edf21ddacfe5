"""What was said before the prompt of an event."""

from nightschool_daemon.wording import fold
from nightschool_hookspecs.records import Event, Role


def earlier_turns(event: Event) -> tuple[str, ...]:
    """What the user said before in its conversation, folded."""
    return tuple(fold(one.content) for one in event.context.messages if one.role is Role.USER)
