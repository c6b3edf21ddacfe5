"""Hooks of the intake: from a file in the feedback directory to an event in the ledger."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Chunk, Event, FeedbackFile, ParsedFeedback, Refusal
from nightschool_hookspecs.services import Retrieve


@hookspec(firstresult=True)
def nightschool_parse_feedback(file: FeedbackFile) -> ParsedFeedback | None:
    """Read a feedback file into events.

    Called once for every file found, in the daemon, again while it grows. Read from `file.path` in
    bounded memory. A bad record goes to `ParsedFeedback.refused`, the others are still taken. None:
    not a format of yours, the next parser is asked; where all say None, the file is refused with the
    list of formats. The first answer counts.
    """


@hookspec(firstresult=True)
def nightschool_classify_event(event: Event) -> str | None:
    """Name the artifact type of an event that came without one.

    Called once for each such event, in the daemon, before admission. The name matches
    `[a-z0-9_][a-z0-9_-]{0,63}`. None: no opinion; where all say None, it is `other`. The first answer
    counts.
    """


@hookspec
def nightschool_validate_event(event: Event) -> Refusal | None:
    """Refuse an event, or let it in.

    Called once for each parsed event, in the daemon, after classification and before it is stored.
    None: no objection. One refusal is enough; the first one is written beside the record in
    `rejected/`. A plugin that fails here is asked on whatever its strikes: feedback waits until it is
    mended, rather than getting in unseen.
    """


@hookspec(firstresult=True)
def nightschool_retrieve_context(event: Event, query: str, retrieve: Retrieve) -> tuple[Chunk, ...] | None:
    """Fetch the chunks that go into the prompt of an event.

    Called once for each event on either side of the split that was not withdrawn, before anything scores it, in the
    worker that builds the dataset, with the event's own prompt as `query`; and again with others where
    `nightschool_vary_context` looks for texts. Answer with what an application would retrieve: a model is to learn
    from the prompts that it is asked. None: no opinion; where all say None, the event's own chunks are used. The first
    answer counts.
    """


@hookspec
def nightschool_after_event_accepted(event: Event) -> None:
    """Observe an event that is now durable in the ledger.

    Called once for each new or changed event, in the daemon, after its transaction.
    """
