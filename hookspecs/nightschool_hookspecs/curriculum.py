"""Hooks of the curriculum: how hard an event is, and which examples are seen when."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Event, LearnedExample, Stretch, TrainingExample, TrainingSoFar
from nightschool_hookspecs.services import Store


@hookspec(firstresult=True)
def nightschool_score_difficulty(event: Event) -> float | None:
    """Score how hard an event is, from 0 (easy) to 1 (hard).

    Called for every event of a specialty when a run selects, in the worker. `event.context.chunks` are the texts
    that `nightschool_retrieve_context` gave for it. None: no opinion; the first answer counts. Where all say None,
    it is 0.5.
    """


@hookspec(firstresult=True)
def nightschool_arrange_examples(
    examples: tuple[TrainingExample, ...], store: Store, seed: int
) -> tuple[TrainingExample, ...] | None:
    """Put the examples of a run into the order in which its first epoch sees them.

    Called once in a run, in the worker, after augmentation. Examples may be left out, never added. The
    same order for the same seed. None: no opinion; the first answer counts. Where all say None, the
    order of selection stays.
    """


@hookspec(firstresult=True)
def nightschool_arrange_stretch(
    examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int
) -> Stretch | None:
    """Choose what a training learns from until it is evaluated again.

    Called before each epoch, and within one as often as a stretch was shorter than what was left of it, in
    the worker that trains, and where a training is only planned. An epoch has as many places as there are
    examples: a stretch takes at most those that are `training.left`, and where it leaves some a multiple of
    `training.batch_size`, so that no curriculum makes a training or a batch smaller. After it the loss is
    taken, of the same examples all along. The same answer for the same arguments: a training that was killed
    goes on from its checkpoint and asks again.

    No training is stopped early before an epoch has seen every example. None: no opinion; the first answer
    counts. Where all say None, the rest of the epoch sees every example once: the first in the order of
    `nightschool_arrange_examples`, later ones shuffled.
    """
