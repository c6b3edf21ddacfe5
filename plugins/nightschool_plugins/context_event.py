"""The texts that an application retrieved for an event are those that stand in its prompt.

So a model learns from the prompts that it is asked: an application that retrieved nothing will retrieve nothing when
the model serves it either, and nothing is looked for in its place. A query in other words than the event's, as a
variant of its prompt has, is put to the texts that all events of the training side brought along.
"""

from dataclasses import dataclass

from nightschool_hookspecs import Chunk, Event, Retrieve, hookimpl


@dataclass(frozen=True, kw_only=True)
class ContextEvent:
    """`[plugins.context_event]`"""

    most_found: int = 16
    """Texts that a query in other words finds at most."""

    def __post_init__(self) -> None:
        if self.most_found < 0:
            raise ValueError("most_found must be 0 or more")

    @hookimpl
    def nightschool_retrieve_context(self, event: Event, query: str, retrieve: Retrieve) -> tuple[Chunk, ...]:
        if query == event.input_data:
            return event.context.chunks
        return retrieve(query, limit=self.most_found)


@hookimpl
def nightschool_register_settings() -> type[ContextEvent]:
    return ContextEvent
