"""Hook of replay: what a run learns again beside its lesson, so that it is not forgotten."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Replay, ScoredEvent, TrainingExample
from nightschool_hookspecs.services import Recall

LARGEST_SHARE = 0.25
"""What is replayed is at most so much of all examples of a run, and of their loss."""


@hookspec(firstresult=True)
def nightschool_replay_examples(
    examples: tuple[TrainingExample, ...], earlier: tuple[ScoredEvent, ...], recall: Recall, seed: int
) -> Replay | None:
    """Choose what is learned again beside the lesson.

    Called once in a run that learns from wanted answers, and for each of its trial candidates and in a plan too, in
    the worker, with the examples of the lesson in their order, variants among them; not in a rebuild, which learns
    nothing. `earlier` has what the model in use has
    learned and tonight's lesson has nothing of: of each group of prompts the latest correction, demonstration or
    preference. `recall` tells what the base itself answers to prompts. The host builds the examples of `Replay.events`
    as it does all others, and lets an answer weigh no more in the loss than the mean example of the lesson. It leaves
    out answers to what is close to any prompt of the specialty, those of the exam among them, and whatever goes
    beyond a quarter of the examples or of the loss. Such examples are in no measurement of the lesson. None: no
    opinion; the first answer counts. Where all say None, nothing is replayed.
    """
