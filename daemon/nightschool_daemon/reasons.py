"""Why a run was started, as it stands in the ledger, and why it learned nothing from an event."""

from nightschool_hookspecs.records import RunInfo

FRESH_FEEDBACK = "fresh feedback"
FIRST_CORRECTIONS = "the first corrections can be shown as examples"
ASKED = "asked for"
BY_HAND = "a training by hand"
RETRAIN = "the base has new weights"
REBUILD = "the base has a new template or new parameters"

OVER_BUDGET = "it did not fit into this night's budget"
"""Of an event that has its turn another night."""
OTHER_KIND = "it is nothing that the method learns from"
"""Of an event that was a candidate, and of which no training had a use."""


def is_by_hand(info: RunInfo) -> bool:
    """Whether it is a training by hand, or stands for one: it has no exam, and no nights before or behind it."""
    return info.reason == BY_HAND
