"""Hooks of delivery: in which form a lesson gets into Ollama."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import DeliveryPlan, DeliveryTarget


@hookspec
def nightschool_choose_delivery(target: DeliveryTarget) -> DeliveryPlan | None:
    """Say how this plugin would deliver a lesson, and what it costs.

    Called once in a run, in the worker, after training. None: the server does not take this form, or
    it does not keep the lesson. Of all plans the one that adds the fewest bytes a version is carried
    out, unless the configuration names a form.
    """
