"""The stages whose hooks there are, in the order of the loop."""

import inspect
import types

from nightschool_hookspecs import (
    augmentation,
    batching,
    curriculum,
    delivery,
    evaluation,
    intake,
    lifecycle,
    preference,
    replay,
    reward,
    selection,
    similarity,
    training,
    tuning,
)

STAGES: tuple[types.ModuleType, ...] = (
    intake,
    reward,
    similarity,
    batching,
    selection,
    curriculum,
    augmentation,
    replay,
    preference,
    tuning,
    training,
    delivery,
    evaluation,
    lifecycle,
)


def is_observer(hook: str) -> bool:
    """Whether a hook observes, by its verb."""
    return hook.startswith(("nightschool_before_", "nightschool_after_"))


def signature_of(hook: str) -> inspect.Signature:
    """The declared signature of a hook, for documentation and its tests."""
    for stage in STAGES:
        if hasattr(stage, hook):
            return inspect.signature(getattr(stage, hook))
    raise KeyError(hook)
