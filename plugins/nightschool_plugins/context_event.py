"""The texts that an application retrieved for an event are those that stand in its prompt."""

from nightschool_hookspecs import Chunk, Event, Retrieve, hookimpl


@hookimpl
def nightschool_retrieve_context(event: Event, query: str, retrieve: Retrieve) -> tuple[Chunk, ...]:
    return event.context.chunks
