"""Why a run was started, as it stands in the ledger."""

FRESH_FEEDBACK = "fresh feedback"
FIRST_CORRECTIONS = "the first corrections can be shown as examples"
ASKED = "asked for"
BY_HAND = "a training by hand"
RETRAIN = "the base has new weights"
REBUILD = "the base has a new template or new parameters"
