"""Feedback as a question that a model may be asked."""

from nightschool_hookspecs.records import Event, ExamItem, ItemRole


def bare_question(event: Event, artifact_type: str, group: str = "") -> ExamItem:
    """The prompt as it was put, without what was wanted: it counts for nobody. `artifact_type`: where it has none."""
    return ExamItem(
        id=event.key,
        event_id=event.key,
        artifact_type=event.artifact_type or artifact_type,
        role=ItemRole.GUARD,
        messages=event.conversation,
        group=group,
        tests=event.metadata.tests,
        schema=event.metadata.schema,
    )
