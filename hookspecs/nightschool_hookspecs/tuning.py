"""Hooks of tuning: with which hyperparameters a run trains."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Hyperparameters, Specialty
from nightschool_hookspecs.services import Store


@hookspec(firstresult=True)
def nightschool_suggest_hyperparameters(
    specialty: Specialty, examples: int, store: Store, seed: int
) -> Hyperparameters | None:
    """Suggest the hyperparameters of a training.

    Called once in a run, and for each of its trial candidates, in the worker that builds the dataset, with the number
    of examples of the lesson, without what is learned beside it. None: no opinion; the first answer counts. Where all
    say None, the defaults of the record hold.
    """
