"""Hooks of tuning: with which hyperparameters a run trains."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import Hyperparameters, HyperparameterSearch, SearchTask, Specialty
from nightschool_hookspecs.services import Store, TryOut


@hookspec(firstresult=True)
def nightschool_suggest_hyperparameters(
    specialty: Specialty, examples: int, store: Store, seed: int
) -> Hyperparameters | None:
    """Suggest the hyperparameters of a training.

    Called once in a run, and for each of its trial candidates, in the worker that builds the dataset, with the number
    of examples of the lesson, without what is learned beside it. None: no opinion; the first answer counts. Where all
    say None, the defaults of the record hold.
    """


@hookspec(firstresult=True)
def nightschool_search_hyperparameters(
    task: SearchTask, try_out: TryOut, store: Store, seed: int
) -> HyperparameterSearch | None:
    """Search for better hyperparameters than the suggested ones by trying some out, or tell what a search found.

    Called once in a run that learns wanted answers, before it trains, in the child process that will; not where it
    is examined by cross-fitting, as that asks what would be measured. A run that was killed asks again: keep in
    `task.directory` what need not be tried twice. Answer with the form, the layers and the `max_length` that are
    given, and with what is `task.fixed`. None: what is given holds; the first answer counts.

    Called too where a training is only planned (`task.is_rehearsal`): try nothing out, and let `reason`
    say what a run would search for.
    """
