"""Delivers a lesson as two shards: the touched tensors, and one shard that all versions share.

Each touched tensor has the narrowest type in which the lesson is kept: rounded back to four bits most of a small one
is lost.
"""

from nightschool_hookspecs import DeliveryForm, DeliveryPlan, DeliveryTarget, hookimpl


@hookimpl
def nightschool_choose_delivery(target: DeliveryTarget) -> DeliveryPlan | None:
    if not target.server.split:
        return None
    return DeliveryPlan(
        form=DeliveryForm.SPLIT,
        version_bytes=target.header_bytes + sum(one.delivered_bytes for one in target.tensors if one.touched),
        shared_bytes=sum(one.bytes for one in target.tensors if not one.touched),
        reason="The server takes split files, so that versions share what no lesson touches.",
    )
