"""Hooks of delivery: in which form a lesson gets into Ollama."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import DeliveryPlan, DeliveryTarget


@hookspec
def nightschool_choose_delivery(target: DeliveryTarget) -> DeliveryPlan | None:
    """Say how this plugin would deliver a lesson, and what it costs.

    Called in the worker: after training, before each attempt to write the lesson, and where a training is
    planned. None: the server does not take this form, or it does not keep the lesson. Of all plans the
    one that adds the fewest bytes a version is carried out, unless the configuration names a form;
    none beyond `delivery.max_version_mb`.
    """
