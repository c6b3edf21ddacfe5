"""Delivers a lesson as one whole file: the way that most servers take.

Each touched tensor has the narrowest type in which the lesson is kept: rounded back to four bits most of a small one
is lost. Every version is a whole model on disk.
"""

from nightschool_hookspecs import DeliveryForm, DeliveryPlan, DeliveryTarget, hookimpl


@hookimpl
def nightschool_choose_delivery(target: DeliveryTarget) -> DeliveryPlan | None:
    if not target.server.fused:
        return None
    return DeliveryPlan(
        form=DeliveryForm.FUSED,
        version_bytes=target.header_bytes + sum(one.delivered_bytes for one in target.tensors),
        shared_bytes=0,
        reason="One file that every server takes, a whole model a version.",
    )
